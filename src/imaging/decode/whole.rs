//! Pictures that are decoded whole, within the memory that was admitted: WebP.

use std::fs::File;
use std::io::BufReader;

use crate::imaging::decode::batch::{BATCH, Batch};
use crate::imaging::decode::png::spread;
use crate::imaging::decode::{Fault, Rows};
use crate::imaging::source::FrameSource;

/// All pixels of a picture, three or four channels each.
pub struct WholeRows {
    pixels: Vec<u8>,
    channels: usize,
    width: usize,
    height: usize,
    given: usize,
}

impl WholeRows {
    pub fn webp(file: File, source: &FrameSource, most: usize) -> Result<Self, Fault> {
        let mut decoder = image_webp::WebPDecoder::new(BufReader::new(file)).map_err(fault)?;
        decoder.set_memory_limit(most);
        let (width, height) = decoder.dimensions();
        if (width, height) != (source.stored.0.0, source.stored.1.0) {
            return Err(Fault::new(format!("the header changed to {width} x {height}")));
        }
        let mut pixels = vec![0; decoder.output_buffer_size().ok_or_else(|| Fault::new("the picture is too large"))?];
        decoder.read_image(&mut pixels).map_err(fault)?;
        let channels = if decoder.has_alpha() { 4 } else { 3 };
        Ok(Self { pixels, channels, width: width as usize, height: height as usize, given: 0 })
    }
}

impl Rows for WholeRows {
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn next(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        batch.rows = BATCH.min(self.height - self.given);
        let stride = self.width * self.channels;
        for row in 0..batch.rows {
            spread(&self.pixels[(self.given + row) * stride..][..stride], self.channels, batch.rgb_row(row, self.width));
        }
        self.given += batch.rows;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

fn fault(error: image_webp::DecodingError) -> Fault {
    Fault::new(error.to_string())
}
