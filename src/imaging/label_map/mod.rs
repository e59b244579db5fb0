//! Label maps from files: one number a pixel of the picture as it is seen, 0 = background.
//!
//! Read are PNG (grey or palette indices, up to 16 bits), TIFF (grey, 8, 16 or 32 bits, in strips or tiles) and npy (two dimensions, integers). A map's own
//! orientation tag is not looked at: its rows are the rows that are seen.
//!
//! # Why
//! A map of a 150-megapixel frame is 600 MB as numbers, so it goes by in rows; what a file makes its decoder hold (an interlaced PNG, a TIFF's strip) is
//! admitted against the memory left, or refused with the figure. A label that isn't a whole number from 0 is an error with its place, never another label.

mod npy;
mod png;
mod tiff;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::config::Digest;
use crate::imaging::{Limits, decoder_bytes};
use crate::units::{Bytes, Px};

/// The largest label: one number is left for tokens of padding.
const MOST: u32 = u32::MAX - 1;

/// Why a label map was not taken, with wanted and found.
#[derive(Debug, thiserror::Error)]
pub enum LabelMapError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: label map: {what}: wanted {wanted}, found {found}")]
    Unsupported { path: PathBuf, what: &'static str, wanted: &'static str, found: String },
    #[error("{path}: label map: wanted at most {max_side} a side and {max_pixels} pixels, found {width} x {height}")]
    TooLarge { path: PathBuf, max_side: Px, max_pixels: u64, width: u32, height: u32 },
    #[error("{path}: label map: wanted {wanted}, found {width} x {height}")]
    Size { path: PathBuf, wanted: String, width: u32, height: u32 },
    #[error("{path}: label map: {what}: wanted {wanted}, the profile leaves {allowed}")]
    Memory { path: PathBuf, what: &'static str, wanted: Bytes, allowed: Bytes },
    #[error("{path}: label map: broken after {rows} of {wanted} rows: {reason}")]
    Broken { path: PathBuf, rows: usize, wanted: u32, reason: String },
    #[error("{path}: label map: pixel ({x}, {y}): wanted a label of 0 to {MOST}, found {found}")]
    Label { path: PathBuf, x: usize, y: usize, found: i128 },
}

impl LabelMapError {
    /// 1 failed or refused, 5 bad or hostile input.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Read { .. } | Self::Memory { .. }) { 1 } else { 5 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Tiff,
    Npy,
}

/// A file whose header was read and admitted.
#[derive(Clone, Debug)]
pub struct LabelMap {
    path: PathBuf,
    format: Format,
    width: u32,
    height: u32,
    /// What decoding holds beside a row.
    held: Bytes,
}

/// What keeps a reader from the next row.
enum Stop {
    Broken(String),
    Label { x: usize, found: i128 },
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

/// What a header says.
struct Header {
    width: u32,
    height: u32,
    /// What decoding holds, and why where it is more than some rows.
    held: (&'static str, u64),
}

/// Takes one row after another.
type Sink<'a> = dyn FnMut(&[u32]) + 'a;

impl LabelMap {
    /// Reads the header.
    ///
    /// # Errors
    /// Whatever is wrong or too large, before anything in proportion is allocated.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, LabelMapError> {
        let read = |source| LabelMapError::Read { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(read)?);
        let mut magic = Vec::new();
        (&mut file).take(8).read_to_end(&mut magic).map_err(read)?;
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let (format, header) = match magic[..] {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'] => (Format::Png, png::header(file, limits)),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => (Format::Tiff, tiff::header(file, limits)),
            [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => (Format::Npy, npy::header(file)),
            _ => {
                let found = if magic.is_empty() { "an empty file".into() } else { format!("a file that starts {magic:02x?}") };
                return Err(LabelMapError::Unsupported { path: path.to_owned(), what: "format", wanted: "PNG, TIFF or npy", found });
            }
        };
        let Header { width, height, held: (what, held) } = header.map_err(|refusal| refusal.at(path))?;
        let Limits { max_side, max_pixels, whole } = *limits;
        if width == 0 || height == 0 {
            return Err(LabelMapError::Size { path: path.to_owned(), wanted: "1 x 1 or more".into(), width, height });
        }
        if width.max(height) > max_side.0 || u64::from(width) * u64::from(height) > max_pixels {
            return Err(LabelMapError::TooLarge { path: path.to_owned(), max_side, max_pixels, width, height });
        }
        if held > whole.0 {
            return Err(LabelMapError::Memory { path: path.to_owned(), what, wanted: Bytes(held), allowed: whole });
        }
        Ok(Self { path: path.to_owned(), format, width, height, held: Bytes(held) })
    }

    /// SHA-256 of the file.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn digest(&self) -> Result<Digest, LabelMapError> {
        let read = |source| LabelMapError::Read { path: self.path.clone(), source };
        Digest::of(File::open(&self.path).map_err(read)?).map_err(read)
    }

    /// Upper bound of what reading holds of maps `max_side` wide, beside what is admitted.
    #[must_use]
    pub fn bytes(max_side: Px) -> Bytes {
        decoder_bytes(max_side) + Bytes(u64::from(max_side.0) * 12 + (1 << 16))
    }

    #[must_use]
    pub fn size(&self) -> (Px, Px) {
        (Px(self.width), Px(self.height))
    }

    /// Refuses a map of another size than `width` × `height`, that of the frame as it is seen.
    pub fn fits(&self, width: Px, height: Px) -> Result<(), LabelMapError> {
        if self.size() == (width, height) {
            return Ok(());
        }
        Err(self.wrong_size(format!("the frame's own size as it is seen, {} x {}", width.0, height.0)))
    }

    /// Refuses a map that isn't a square.
    pub fn square(&self) -> Result<(), LabelMapError> {
        if self.width == self.height { Ok(()) } else { Err(self.wrong_size("a square, as a view is".into())) }
    }

    fn wrong_size(&self, wanted: String) -> LabelMapError {
        LabelMapError::Size { path: self.path.clone(), wanted, width: self.width, height: self.height }
    }

    /// Calls `row` with each row, `[width]`. Returns when all have come.
    ///
    /// # Errors
    /// A file that ends early or doesn't decode, or that changed since it was opened; a label below 0 or too large.
    pub fn rows(&self, limits: &Limits, row: &mut Sink<'_>) -> Result<(), LabelMapError> {
        let read = |source| LabelMapError::Read { path: self.path.clone(), source };
        let file = BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(read)?);
        let mut rows = 0;
        let mut counted = |labels: &[u32]| {
            rows += 1;
            row(labels);
        };
        let size = (self.width, self.height);
        let outcome = match self.format {
            Format::Png => png::rows(file, size, limits, &mut counted),
            Format::Tiff => tiff::rows(file, size, self.held, &mut counted),
            Format::Npy => npy::rows(file, size, &mut counted),
        };
        let broken = |reason| LabelMapError::Broken { path: self.path.clone(), rows, wanted: self.height, reason };
        match outcome {
            Ok(()) if rows == self.height as usize => Ok(()),
            Ok(()) => Err(broken("the map ends".into())),
            Err(Stop::Broken(reason)) => Err(broken(reason)),
            Err(Stop::Label { x, found }) => Err(LabelMapError::Label { path: self.path.clone(), x, y: rows, found }),
        }
    }
}

/// A header that isn't taken, before the path is known.
enum Refusal {
    Broken(String),
    Unsupported { what: &'static str, wanted: &'static str, found: String },
}

impl Refusal {
    fn at(self, path: &Path) -> LabelMapError {
        let path = path.to_owned();
        match self {
            Self::Broken(reason) => LabelMapError::Broken { path, rows: 0, wanted: 0, reason },
            Self::Unsupported { what, wanted, found } => LabelMapError::Unsupported { path, what, wanted, found },
        }
    }
}

/// Numbers of a row as labels.
fn labels<T: Copy + Into<i128>>(values: impl Iterator<Item = T>, row: &mut [u32]) -> Result<(), Stop> {
    for (x, (label, value)) in row.iter_mut().zip(values).enumerate() {
        let found: i128 = value.into();
        *label = u32::try_from(found).ok().filter(|label| *label <= MOST).ok_or(Stop::Label { x, found })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
