//! A frame as tiles of every scale, for people who look at it: one pass of the row decoder writes all levels into one file.
//!
//! Levels: 0 is the coarsest, in which the frame fits one tile; the last is the frame itself. A level has half the sides of the next, rounded up.
//! Tiles are JPEGs of [`TILE`] pixels a side, less at the right and lower edge. The EXIF orientation is applied.
//!
//! # Why
//! A viewer asks for any tile at any time, and a JPEG or a compressed TIFF can only be read from its top. What is held while the levels are made is a row
//! of tiles a level, twice that of the finest in all ([`zoom_bytes`]), whatever the frame's format.

mod folder;
mod levels;
mod pack;
mod shape;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

pub use folder::ZoomFolder;
pub use pack::Pack;
pub use shape::{TILE, ZoomShape};

use crate::imaging::ImagingError;
use crate::imaging::decode::{self, Batch, MOST_ROWS, Scratch, decoder_bytes};
use crate::imaging::source::{FrameSource, Limits};
use crate::kernels::{GROUP, Isa};
use crate::units::{Bytes, Px};
use levels::{Levels, Turn};
use pack::PackWriter;

/// Why a frame has no tiles, with wanted and found.
#[derive(Debug, thiserror::Error)]
pub enum ZoomError {
    #[error(transparent)]
    Imaging(#[from] ImagingError),
    #[error("{path}: cannot be written or read: {source}")]
    File { path: std::path::PathBuf, source: std::io::Error },
    #[error("{path}: wanted a pack of tiles with {wanted}, found {found}")]
    Pack { path: std::path::PathBuf, wanted: &'static str, found: String },
    #[error("tiles of the frame: wanted more than {wanted}, the folder may hold {allowed}")]
    Full { wanted: Bytes, allowed: Bytes },
    #[error("a tile of {width} x {height} px was not encoded: {reason}")]
    Encode { width: usize, height: usize, reason: String },
    #[error("stopped before all tiles were made")]
    Stopped,
}

/// Most that [`prepare`] and [`thumbnail`] hold for frames of at most `max_side` pixels a side, beside what a picture that isn't decoded by rows is
/// admitted for.
#[must_use]
pub fn zoom_bytes(max_side: Px) -> Bytes {
    let side = max_side.get();
    let shape = ZoomShape::new(side, side);
    let bands: usize = (0..shape.levels()).map(|level| TILE * shape.size(level).0 * 3).sum();
    // The row at hand and as it is mirrored, a tile with its encoder's planes and its bytes, and what is written together.
    let rest = 2 * MOST_ROWS * side * 3 + TILE * TILE * 16 + pack::BUFFER;
    Bytes::of::<u8>(bands + rest + Batch::len(side))
        + Scratch::bytes(side, SEGMENT)
        + Bytes(shape.tiles() as u64 * pack::ENTRY as u64 * 2)
        + decoder_bytes(max_side)
}

/// Pixels of a row that are unpacked at once.
const SEGMENT: usize = 256;

/// Makes the tiles of `source` in `folder`. `progress` is told the share done and may stop the work.
///
/// # Errors
/// A file that doesn't decode, changed or is gone, a folder that is full or can't be written; nothing is left behind then.
pub fn prepare(
    source: &FrameSource,
    limits: &Limits,
    folder: &ZoomFolder,
    isa: Isa,
    progress: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<(), ZoomError> {
    let begun = Instant::now();
    let (width, height) = source.size();
    let shape = ZoomShape::new(width.get(), height.get());
    let mut writer = PackWriter::new(folder, source.id(), source.digest, shape)?;
    let finest = source.stored.0.get().max(source.stored.1.get());
    walk(source, limits, finest, isa, &|_| true, progress, &mut |level, x, y, jpeg| writer.put(level, x, y, jpeg))?;
    writer.finish(begun.elapsed())
}

/// The coarsest level of `source` alone, at most [`TILE`] pixels a side: a JPEG. The file is decoded once, reduced where its format allows that.
///
/// # Errors
/// As [`prepare`].
pub fn thumbnail(source: &FrameSource, limits: &Limits, isa: Isa) -> Result<Vec<u8>, ZoomError> {
    let mut found = Vec::new();
    walk(source, limits, TILE, isa, &|level| level == 0, &mut |_| ControlFlow::Continue(()), &mut |_, _, _, jpeg| {
        found = jpeg.to_vec();
        Ok(())
    })?;
    Ok(found)
}

/// One pass over the rows: every tile of the levels that are `stored` goes to `put`, by level, column and row as seen.
fn walk(
    source: &FrameSource,
    limits: &Limits,
    finest: usize,
    isa: Isa,
    stored: &dyn Fn(usize) -> bool,
    progress: &mut dyn FnMut(f64) -> ControlFlow<()>,
    put: &mut dyn FnMut(usize, usize, usize, &[u8]) -> Result<(), ZoomError>,
) -> Result<(), ZoomError> {
    let mut rows = decode::open(source, limits, finest, [0; 3])?;
    let (width, height) = rows.size();
    let mut levels = Levels::new(width, height, Turn::of(source.orientation), stored);
    let mut batch = Batch::new(width);
    let mut scratch = Scratch::new(width, SEGMENT.min(width));
    let mut group = vec![0; GROUP * width * 3];
    let mut seen = 0;
    while seen < height {
        rows.next(&mut batch).map_err(|fault| source.broken(seen, fault))?;
        for first in (0..batch.rows).step_by(GROUP) {
            let own = first..batch.rows.min(first + GROUP);
            let group = &mut group[..own.len() * width * 3];
            batch.rgb(isa, own, width, &mut scratch, group);
            for row in group.chunks_exact(width * 3) {
                levels.take(row, put)?;
            }
        }
        seen += batch.rows;
        if progress(seen as f64 / height as f64).is_break() {
            return Err(ZoomError::Stopped);
        }
    }
    rows.finish().map_err(|fault| source.broken(seen, fault))?;
    Ok(())
}

fn file_error(path: &Path, source: std::io::Error) -> ZoomError {
    ZoomError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
