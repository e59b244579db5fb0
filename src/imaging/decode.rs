//! Rows of a picture, top to bottom, as RGB.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::imaging::source::{Format, FrameSource, Limits};
use crate::imaging::{ImagingError, libjpeg};
use crate::units::{Bytes, Px};

/// Upper bound of what a decoder holds for rows of `side` pixels: libjpeg's context of up to 3 × 16 rows in up to 3 components, or
/// zlib's window and two rows of a 16-bit RGBA picture.
#[must_use]
pub fn decoder_bytes(side: Px) -> Bytes {
    Bytes(u64::from(side.0) * 3 * 64 + (1 << 20))
}

/// Calls `row` with each row `[width, 3]`. Returns when all have come.
///
/// # Errors
/// A file that ends early or doesn't decode; never a grey rest.
pub fn rows(source: &FrameSource, limits: &Limits, row: &mut dyn FnMut(&[u8])) -> Result<(), ImagingError> {
    let file = File::open(&source.path).map_err(|error| ImagingError::Read { path: source.path.clone(), source: error })?;
    let mut done = 0;
    let mut counted = |bytes: &[u8]| {
        row(bytes);
        done += 1;
    };
    let outcome = match source.format {
        Format::Jpeg => jpeg(file, source, &mut counted),
        Format::Png => png(file, source, limits, &mut counted),
    };
    let wanted = source.stored.1.get();
    let broken = |reason: String| ImagingError::Broken { path: source.path.clone(), rows: done, wanted, reason };
    outcome.map_err(broken)?;
    if done == wanted { Ok(()) } else { Err(broken("the picture ends".into())) }
}

/// Bytes of a file whose end, reached while more is wanted, is an error: libjpeg would fill up with grey.
struct NoEnd<'a, R> {
    bytes: R,
    ended: &'a Cell<bool>,
}

impl<R: BufRead> Read for NoEnd<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.bytes.read(out)
    }
}

impl<R: BufRead> BufRead for NoEnd<'_, R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        let bytes = self.bytes.fill_buf()?;
        self.ended.set(bytes.is_empty());
        if bytes.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    }
    fn consume(&mut self, len: usize) {
        self.bytes.consume(len);
    }
}

fn jpeg(file: File, source: &FrameSource, row: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    let ended = Cell::new(false);
    // libjpeg leaves by unwinding.
    let work = || -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let reader = NoEnd { bytes: BufReader::with_capacity(1 << 16, file), ended: &ended };
        let picture = mozjpeg::Decompress::builder().with_err(libjpeg::strict()).from_reader(reader).map_err(text)?;
        let mut started = picture.rgb().map_err(text)?;
        if (started.width(), started.height()) != (source.stored.0.get(), source.stored.1.get()) {
            return Err(format!("the header changed to {} x {}", started.width(), started.height()));
        }
        let mut line = vec![0_u8; started.width() * 3];
        for _ in 0..started.height() {
            row(started.read_scanlines_into(&mut line).map_err(text)?);
        }
        started.finish().map_err(text)
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        _ if ended.get() => Err("the file ends early".into()),
        Ok(outcome) => outcome,
        Err(cause) => Err(cause.downcast_ref::<String>().cloned().unwrap_or_else(|| "the JPEG decoder gave up".into())),
    }
}

fn png(file: File, source: &FrameSource, limits: &Limits, row: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    let text = |error: png::DecodingError| error.to_string();
    let bytes = usize::try_from(decoder_bytes(limits.max_side).0).unwrap_or(usize::MAX);
    let mut decoder = png::Decoder::new_with_limits(BufReader::with_capacity(1 << 16, file), png::Limits { bytes });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(text)?;
    let (width, height) = (source.stored.0.get(), source.stored.1.get());
    let channels = reader.output_color_type().0.samples();
    if (reader.info().width as usize, reader.info().height as usize) != (width, height) {
        return Err(format!("the header changed to {} x {}", reader.info().width, reader.info().height));
    }
    let mut line = vec![0_u8; width * 3];
    let mut emit = |pixels: &[u8]| {
        for (out, pixel) in line.chunks_exact_mut(3).zip(pixels.chunks_exact(channels)) {
            match *pixel {
                [grey] | [grey, _] => out.fill(grey),
                [r, g, b, ..] => out.copy_from_slice(&[r, g, b]),
                [] => {}
            }
        }
        row(&line);
    };
    if reader.info().interlaced {
        let mut whole = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
        reader.next_frame(&mut whole).map_err(text)?;
        whole.chunks_exact(width * channels).for_each(&mut emit);
        return Ok(());
    }
    while let Some(pixels) = reader.next_row().map_err(text)? {
        emit(pixels.data());
    }
    Ok(())
}
