//! TIFF: uncompressed strips by rows, all else a strip or a row of tiles at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use crate::imaging::decode::batch::{BATCH, Batch};
use crate::imaging::decode::{Fault, Rows};
use crate::imaging::source::tiff::{Reader, TiffPlan, open};

pub struct TiffRows {
    from: From,
    plan: TiffPlan,
    given: usize,
    fault: Option<Fault>,
}

enum From {
    Plain { file: File, row: Vec<u8> },
    Chunks { reader: Box<Reader>, chunk: Vec<u8>, band: Vec<u8>, rows: std::ops::Range<usize> },
}

impl TiffRows {
    /// `most`: bytes a chunk may have, as admitted.
    pub fn open(file: File, plan: &TiffPlan, most: u64) -> Result<Self, Fault> {
        let from = if plan.plain.is_some() {
            From::Plain { file, row: vec![0; plan.width * plan.bytes * if plan.planar { 1 } else { plan.stored }] }
        } else {
            let mut reader = open(BufReader::with_capacity(1 << 16, file), most).map_err(fault)?;
            let size = reader.dimensions().map_err(fault)?;
            if (size.0 as usize, size.1 as usize) != (plan.width, plan.height) {
                return Err(Fault::new(format!("the header changed to {} x {}", size.0, size.1)));
            }
            From::Chunks { reader: Box::new(reader), chunk: Vec::new(), band: vec![0; plan.width * plan.chunk.1 * 3], rows: 0..0 }
        };
        Ok(Self { from, plan: plan.clone(), given: 0, fault: None })
    }

    fn row(&mut self, number: usize, out: &mut [u8]) -> Result<(), Fault> {
        let plan = &self.plan;
        match &mut self.from {
            From::Plain { file, row } => plain_row(file, plan, number, row, out),
            From::Chunks { reader, chunk, band, rows } => {
                if !rows.contains(&number) {
                    let first = number / plan.chunk.1;
                    *rows = 0..0;
                    chunks(reader, plan, first, chunk, band)?;
                    *rows = first * plan.chunk.1..((first + 1) * plan.chunk.1).min(plan.height);
                }
                let at = (number - rows.start) * plan.width * 3;
                out.copy_from_slice(&band[at..at + plan.width * 3]);
                Ok(())
            }
        }
    }
}

impl Rows for TiffRows {
    fn size(&self) -> (usize, usize) {
        (self.plan.width, self.plan.height)
    }

    fn next(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        batch.rows = 0;
        let width = self.plan.width;
        while batch.rows < BATCH.min(self.plan.height - self.given) {
            if let Err(fault) = self.row(self.given + batch.rows, batch.rgb_row(batch.rows, width)) {
                if batch.rows == 0 {
                    return Err(fault);
                }
                self.fault = Some(fault);
                break;
            }
            batch.rows += 1;
        }
        self.given += batch.rows;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.fault.take().map_or(Ok(()), Err)
    }
}

/// A row of uncompressed strips.
fn plain_row(file: &mut File, plan: &TiffPlan, number: usize, row: &mut [u8], out: &mut [u8]) -> Result<(), Fault> {
    let offsets = plan.plain.as_deref().unwrap_or_default();
    let (strip, inside) = (number / plan.chunk.1, number % plan.chunk.1);
    let per_band = plan.height.div_ceil(plan.chunk.1);
    let mut read = |band: usize, row: &mut [u8]| {
        let offset = offsets.get(band * per_band + strip).copied().unwrap_or(u64::MAX);
        let start = offset.saturating_add(inside as u64 * row.len() as u64);
        file.seek(SeekFrom::Start(start.min(i64::MAX as u64)))
            .and_then(|_| file.read_exact(row))
            .map_err(|error| Fault { ended: error.kind() == std::io::ErrorKind::UnexpectedEof, reason: error.to_string() })
    };
    // The upper byte of a sample of two.
    let upper = if plan.bytes == 2 && !plan.big_endian { 1 } else { 0 };
    if !plan.planar {
        read(0, row)?;
    }
    for (channel, &band) in plan.bands.iter().enumerate() {
        let step = if plan.planar {
            read(band, row)?;
            plan.bytes
        } else {
            plan.bytes * plan.stored
        };
        let first = if plan.planar { upper } else { band * plan.bytes + upper };
        let samples = row.iter().skip(first).step_by(step);
        out.iter_mut().skip(channel).step_by(3).zip(samples).for_each(|(out, &sample)| *out = sample);
    }
    Ok(())
}

/// Row `row` of chunks into `band` `[chunk rows][width, 3]`.
fn chunks(reader: &mut Reader, plan: &TiffPlan, row: usize, chunk: &mut Vec<u8>, band: &mut [u8]) -> Result<(), Fault> {
    let across = if plan.strips { 1 } else { plan.width.div_ceil(plan.chunk.0) };
    let down = plan.height.div_ceil(plan.chunk.1);
    // The reader gives samples in the machine's own order.
    let upper = if plan.bytes == 2 && cfg!(target_endian = "little") { 1 } else { 0 };
    for column in 0..across {
        let left = column * plan.chunk.0;
        for (channel, &wanted) in plan.bands.iter().enumerate() {
            if plan.planar || channel == 0 {
                let plane = if plan.planar { wanted } else { 0 };
                let number = u32::try_from((plane * down + row) * across + column).map_err(|_| Fault::new("too many strips or tiles"))?;
                let wide = reader.chunk_data_dimensions(number).0 as usize;
                let len = reader.image_chunk_buffer_layout(number).map_err(fault)?.len;
                if wide != plan.chunk.0.min(plan.width - left) || wide == 0 {
                    return Err(Fault::new("a strip or tile of another width"));
                }
                chunk.resize(len, 0);
                reader.read_chunk_bytes(number, chunk).map_err(fault)?;
            }
            let wide = plan.chunk.0.min(plan.width - left);
            let stride = wide * plan.samples * plan.bytes;
            let first = if plan.planar { upper } else { wanted * plan.bytes + upper };
            for (row, out) in chunk.chunks_exact(stride).zip(band.chunks_exact_mut(plan.width * 3)) {
                let samples = row.iter().skip(first).step_by(plan.samples * plan.bytes);
                out[left * 3..(left + wide) * 3].iter_mut().skip(channel).step_by(3).zip(samples).for_each(|(out, &sample)| *out = sample);
            }
        }
    }
    Ok(())
}

fn fault(error: tiff::TiffError) -> Fault {
    let ended = matches!(&error, tiff::TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof);
    Fault { ended, reason: error.to_string() }
}
