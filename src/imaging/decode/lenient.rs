//! A picture that ends early, by leave of its reader: the rows it has, then padding.

use crate::imaging::decode::batch::{BATCH, Batch};
use crate::imaging::decode::{Fault, Rows};
use crate::kernels::GROUP;

pub struct Lenient {
    rows: Box<dyn Rows>,
    pad: [u8; 3],
    /// Rows of the picture that were there.
    there: usize,
    given: usize,
    ended: bool,
}

impl Lenient {
    pub fn new(rows: Box<dyn Rows>, pad: [u8; 3]) -> Self {
        Self { rows, pad, there: 0, given: 0, ended: false }
    }
}

impl Rows for Lenient {
    fn size(&self) -> (usize, usize) {
        self.rows.size()
    }

    fn next(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let (width, height) = self.rows.size();
        if !self.ended {
            match self.rows.next(batch) {
                Ok(()) => self.there += batch.rows,
                // A picture without any row is no picture.
                Err(fault) if !fault.ended || self.there == 0 => return Err(fault),
                Err(_) => batch.rows = 0,
            }
            // What ends inside a group of rows is RGB by rows: planes come in whole blocks.
            self.ended = batch.rows == 0 || (!batch.rows.is_multiple_of(GROUP) && self.there < height);
        }
        if self.ended {
            let own = self.there.saturating_sub(self.given);
            batch.rows = if own > 0 { own.next_multiple_of(GROUP) } else { BATCH }.min(height - self.given);
            for row in own..batch.rows {
                batch.rgb_row(row, width).as_chunks_mut::<3>().0.fill(self.pad);
            }
        }
        self.given += batch.rows;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        match self.rows.finish() {
            // All rows were there; only the end marker isn't.
            Err(fault) if fault.ended => Ok(()),
            outcome => outcome,
        }
    }

    fn missing(&self) -> usize {
        self.given - self.there
    }
}
