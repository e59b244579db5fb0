//! PNG by rows; an interlaced one whole.

use std::fs::File;
use std::io::BufReader;

use crate::imaging::decode::batch::{BATCH, Batch};
use crate::imaging::decode::{Fault, Rows, decoder_bytes};
use crate::imaging::source::{FrameSource, Limits};

pub struct PngRows {
    reader: png::Reader<BufReader<File>>,
    channels: usize,
    width: usize,
    height: usize,
    given: usize,
    /// All pixels of an interlaced picture.
    whole: Option<Vec<u8>>,
}

impl PngRows {
    pub fn open(file: File, source: &FrameSource, limits: &Limits) -> Result<Self, Fault> {
        let bytes = usize::try_from(decoder_bytes(limits.max_side).0).unwrap_or(usize::MAX);
        let mut decoder = png::Decoder::new_with_limits(BufReader::with_capacity(1 << 16, file), png::Limits { bytes });
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let reader = decoder.read_info().map_err(fault)?;
        let (width, height) = (source.stored.0.get(), source.stored.1.get());
        if (reader.info().width as usize, reader.info().height as usize) != (width, height) {
            return Err(Fault::new(format!("the header changed to {} x {}", reader.info().width, reader.info().height)));
        }
        let channels = reader.output_color_type().0.samples();
        Ok(Self { reader, channels, width, height, given: 0, whole: None })
    }
}

impl Rows for PngRows {
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn next(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let Self { reader, channels, width, height, given, whole } = self;
        if reader.info().interlaced && whole.is_none() {
            let mut pixels = vec![0; reader.output_buffer_size().ok_or_else(|| Fault::new("the picture is too large"))?];
            reader.next_frame(&mut pixels).map_err(fault)?;
            *whole = Some(pixels);
        }
        let rows = BATCH.min(*height - *given);
        for row in 0..rows {
            let out = batch.rgb_row(row, *width);
            match whole {
                Some(pixels) => spread(&pixels[(*given + row) * *width * *channels..][..*width * *channels], *channels, out),
                None => {
                    let pixels =
                        reader.next_row().map_err(fault)?.ok_or_else(|| Fault { ended: true, reason: "the picture ends".into() })?;
                    spread(pixels.data(), *channels, out);
                }
            }
        }
        batch.rows = rows;
        *given += rows;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        match self.whole {
            Some(_) => Ok(()),
            // Reads the rest of the image data, with its checksums.
            None => self.reader.next_row().map(|_| ()).map_err(fault),
        }
    }
}

/// One, two (grey and alpha), three or four channels a pixel → RGB.
pub fn spread(pixels: &[u8], channels: usize, out: &mut [u8]) {
    if channels == 3 {
        return out.copy_from_slice(&pixels[..out.len()]);
    }
    for (out, pixel) in out.as_chunks_mut::<3>().0.iter_mut().zip(pixels.chunks_exact(channels)) {
        match *pixel {
            [grey] | [grey, _] => *out = [grey; 3],
            [r, g, b, ..] => *out = [r, g, b],
            [] => {}
        }
    }
}

fn fault(error: png::DecodingError) -> Fault {
    Fault::new(error.to_string())
}
