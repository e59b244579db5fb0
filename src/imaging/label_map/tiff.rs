//! TIFF: grey samples of 8, 16 or 32 bits in the file's first directory; a row of strips or tiles at a time.

use std::fs::File;
use std::io::BufReader;

use tiff::ColorType;
use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits as TiffLimits};
use tiff::tags::Tag;

use super::{Header, Refusal, Sink, Stop, labels};
use crate::imaging::Limits;
use crate::units::Bytes;

/// Of a directory's entries and of what a chunk is decompressed from: a bound on what a header alone can ask for.
const DIRECTORY: usize = 4 << 20;

fn open(file: BufReader<File>, chunk: u64) -> Result<Decoder<BufReader<File>>, String> {
    let mut limits = TiffLimits::default();
    limits.decoding_buffer_size = usize::try_from(chunk).unwrap_or(usize::MAX);
    limits.intermediate_buffer_size = limits.decoding_buffer_size;
    limits.ifd_value_size = DIRECTORY;
    Decoder::new(file).map(|decoder| decoder.with_limits(limits)).map_err(|error| error.to_string())
}

pub fn header(file: BufReader<File>, limits: &Limits) -> Result<Header, Refusal> {
    let broken = |error: tiff::TiffError| Refusal::Broken(error.to_string());
    let mut decoder = open(file, limits.whole.0).map_err(Refusal::Broken)?;
    let (width, height) = decoder.dimensions().map_err(broken)?;
    let colours = decoder.colortype().map_err(broken)?;
    if !matches!(colours, ColorType::Gray(8 | 16 | 32)) {
        return Err(Refusal::Unsupported { what: "samples", wanted: "one grey band of 8, 16 or 32 bits", found: format!("{colours:?}") });
    }
    if decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).map_err(broken)? == Some(0) {
        return Err(Refusal::Unsupported { what: "photometric interpretation", wanted: "0 is black", found: "0 is white".into() });
    }
    if decoder.find_tag_unsigned::<u16>(Tag::SampleFormat).map_err(broken)? == Some(3) {
        return Err(Refusal::Unsupported { what: "samples", wanted: "whole numbers", found: "floating point".into() });
    }
    let (chunk_width, mut chunk_height) = decoder.chunk_dimensions();
    if decoder.get_chunk_type() == ChunkType::Strip {
        // All rows in one strip is often written as 2³² − 1 of them.
        chunk_height = chunk_height.min(height);
    }
    // A row of chunks as labels, and one chunk decoded from as many bytes again.
    let product = |sides: (u32, u32), bytes: u64| u64::from(sides.0).saturating_mul(u64::from(sides.1)).saturating_mul(bytes);
    let band = product((width, chunk_height.min(height)), 4);
    let chunk = product((chunk_width, chunk_height), u64::from(colours.bit_depth() / 8) * 2);
    Ok(Header { width, height, held: ("a row of TIFF strips or tiles", band.saturating_add(chunk)) })
}

pub fn rows(file: BufReader<File>, (width, height): (u32, u32), held: Bytes, sink: &mut Sink<'_>) -> Result<(), Stop> {
    let text = |error: tiff::TiffError| Stop::Broken(error.to_string());
    let mut decoder = open(file, held.0)?;
    if decoder.dimensions().map_err(text)? != (width, height) {
        return Err("the header changed".to_owned().into());
    }
    let (chunk_width, chunk_height) = decoder.chunk_dimensions();
    let sample = usize::from(decoder.colortype().map_err(text)?.bit_depth() / 8);
    let across = width.div_ceil(chunk_width.max(1));
    let down = height.div_ceil(chunk_height.max(1));
    let count = match decoder.get_chunk_type() {
        ChunkType::Strip => decoder.strip_count(),
        ChunkType::Tile => decoder.tile_count(),
    };
    if u64::from(count.map_err(text)?) != u64::from(across) * u64::from(down) {
        return Err("strips or tiles are missing".to_owned().into());
    }
    let wide = width as usize;
    let mut band = vec![0; wide * chunk_height.min(height) as usize];
    let mut decoded = DecodingResult::U8(Vec::new());
    for chunk_row in 0..down {
        let mut tall = 0;
        for column in 0..across {
            let chunk = chunk_row * across + column;
            let (chunk_wide, chunk_tall) = decoder.chunk_data_dimensions(chunk);
            decoder.read_chunk_to_buffer(&mut decoded, chunk, chunk_wide as usize * sample).map_err(text)?;
            tall = chunk_tall as usize;
            let left = (column * chunk_width) as usize;
            for y in 0..tall {
                let row = &mut band[y * wide + left..][..chunk_wide as usize];
                copy(&decoded, y * row.len(), row).map_err(|stop| match stop {
                    Stop::Label { x, found } => Stop::Label { x: left + x, found },
                    broken @ Stop::Broken(_) => broken,
                })?;
            }
        }
        band.chunks_exact(wide).take(tall).for_each(&mut *sink);
    }
    Ok(())
}

/// A row of a chunk, from its sample `start` on.
fn copy(chunk: &DecodingResult, start: usize, row: &mut [u32]) -> Result<(), Stop> {
    fn part<T: Copy + Into<i128>>(values: &[T], start: usize, row: &mut [u32]) -> Result<(), Stop> {
        let values = values.get(start..start + row.len()).ok_or_else(|| "a strip or tile is short".to_owned())?;
        labels(values.iter().copied(), row)
    }
    match chunk {
        DecodingResult::U8(values) => part(values, start, row),
        DecodingResult::U16(values) => part(values, start, row),
        DecodingResult::U32(values) => part(values, start, row),
        DecodingResult::I8(values) => part(values, start, row),
        DecodingResult::I16(values) => part(values, start, row),
        DecodingResult::I32(values) => part(values, start, row),
        _ => Err("samples that are no whole numbers of 8 to 32 bits".to_owned().into()),
    }
}
