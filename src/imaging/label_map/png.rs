//! PNG: grey samples or palette indices as they are stored, by rows; interlaced ones whole.

use std::fs::File;
use std::io::BufReader;

use png::{BitDepth, ColorType, Decoder, Reader, Transformations};

use super::{Header, Refusal, Sink, Stop, labels};
use crate::imaging::{Limits, decoder_bytes};

fn open(file: BufReader<File>, limits: &Limits) -> Result<Reader<BufReader<File>>, String> {
    let bytes = usize::try_from(decoder_bytes(limits.max_side).0).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new_with_limits(file, png::Limits { bytes });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // A palette's indices and the values of few bits are the labels: nothing is expanded.
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.read_info().map_err(|error| error.to_string())
}

pub fn header(file: BufReader<File>, limits: &Limits) -> Result<Header, Refusal> {
    let reader = open(file, limits).map_err(Refusal::Broken)?;
    let info = reader.info();
    if !matches!(info.color_type, ColorType::Grayscale | ColorType::Indexed) {
        let found = format!("{:?}", info.color_type);
        return Err(Refusal::Unsupported { what: "colours", wanted: "grey or palette indices", found });
    }
    let (width, height) = (info.width, info.height);
    let whole = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(2);
    let held = if info.interlaced { ("an interlaced PNG is decoded whole", whole) } else { ("a row", u64::from(width) * 2) };
    Ok(Header { width, height, held })
}

pub fn rows(file: BufReader<File>, (width, height): (u32, u32), limits: &Limits, sink: &mut Sink<'_>) -> Result<(), Stop> {
    let mut reader = open(file, limits)?;
    let (info, depth) = (reader.info(), reader.info().bit_depth);
    if (info.width, info.height) != (width, height) || !matches!(info.color_type, ColorType::Grayscale | ColorType::Indexed) {
        return Err("the header changed".to_owned().into());
    }
    let mut row = vec![0; width as usize];
    if info.interlaced {
        let line = reader.output_line_size(width).ok_or_else(|| "the picture is too large".to_owned())?;
        let mut whole = vec![0; reader.output_buffer_size().ok_or_else(|| "the picture is too large".to_owned())?];
        reader.next_frame(&mut whole).map_err(|error| error.to_string())?;
        for packed in whole.chunks_exact(line.max(1)) {
            unpack(packed, depth, &mut row)?;
            sink(&row);
        }
        return Ok(());
    }
    while let Some(packed) = reader.next_row().map_err(|error| error.to_string())? {
        unpack(packed.data(), depth, &mut row)?;
        sink(&row);
    }
    Ok(())
}

/// Samples of 1 to 16 bits, the leftmost in the high bits (PNG, third edition, 7.2).
fn unpack(packed: &[u8], depth: BitDepth, row: &mut [u32]) -> Result<(), Stop> {
    let bits = match depth {
        BitDepth::One => 1,
        BitDepth::Two => 2,
        BitDepth::Four => 4,
        BitDepth::Eight => return labels(packed.iter().copied(), row),
        BitDepth::Sixteen => return labels(packed.as_chunks::<2>().0.iter().map(|&pair| u16::from_be_bytes(pair)), row),
    };
    let each = 8 / bits;
    for (values, &byte) in row.chunks_mut(each).zip(packed) {
        let values = values.iter_mut().enumerate();
        values.for_each(|(at, value)| *value = u32::from(byte) >> (8 - bits * (at + 1)) & ((1 << bits) - 1));
    }
    Ok(())
}
