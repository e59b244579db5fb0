//! From a picture's file to the views of its pyramid: rows as they are decoded, all views in one pass, the frame never whole.
//!
//! Units: pixels; samples are 8 bits, RGB. Grey becomes three equal channels and the EXIF orientation is applied; alpha and the
//! lower half of 16-bit samples are dropped, which [`FrameSource::dropped`] says.
//!
//! # Why
//! A frame of 150 megapixels is 450 MB as pixels and its views are 77 MB; what is held while decoding is two batches of rows and the few rows a
//! view's filter spans. One thread decodes a batch while all others filter the one before. What can't be decoded by rows (progressive JPEG, interlaced PNG, WebP, large strips or tiles) is admitted against the memory left, or refused with the figure.

mod decode;
mod end;
mod fit;
mod geotag;
mod label_map;
mod libjpeg;
mod pass;
mod pyramid;
mod resample;
mod source;
mod zoom;

use std::path::PathBuf;

pub use decode::decoder_bytes;
pub use end::has_end;
pub use fit::fit;
pub use geotag::Geotag;
pub use label_map::{LabelMap, LabelMapError};
pub use pyramid::{Pyramid, Timing};
pub use source::{Format, FrameSource, Limits, Reading};
pub use zoom::{Pack, TILE, ZoomError, ZoomFolder, ZoomShape, prepare, thumbnail, zoom_bytes};

use crate::units::{Bytes, Px};

/// Why a frame was not taken in, with wanted and found.
#[derive(Debug, thiserror::Error)]
pub enum ImagingError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: wanted a JPEG, PNG, TIFF or WebP picture, found {found}")]
    NotAnImage { path: PathBuf, found: String },
    #[error("{path}: {what}: wanted {wanted}, found {found}")]
    Unsupported { path: PathBuf, what: &'static str, wanted: &'static str, found: String },
    #[error("{path}: wanted at most {max_side} a side and {max_pixels} pixels, found {width} x {height}")]
    TooLarge { path: PathBuf, max_side: Px, max_pixels: u64, width: u32, height: u32 },
    #[error("{path}: {what} is decoded whole: wanted {wanted}, the profile leaves {allowed}")]
    Memory { path: PathBuf, what: &'static str, wanted: Bytes, allowed: Bytes },
    #[error("{path}: bands: wanted band {wanted}, found {found}")]
    Bands { path: PathBuf, wanted: u16, found: String },
    #[error("{path}: the file changed since it was taken in: wanted sha256 {wanted}, found {found}")]
    Changed { path: PathBuf, wanted: String, found: String },
    #[error("{path}: broken after {rows} of {wanted} rows: {reason}")]
    Broken { path: PathBuf, rows: usize, wanted: usize, reason: String },
}

impl ImagingError {
    /// 1 failed or refused, 5 bad or hostile input.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. } | Self::Memory { .. } | Self::Changed { .. } => 1,
            Self::NotAnImage { .. } | Self::Unsupported { .. } | Self::TooLarge { .. } | Self::Bands { .. } | Self::Broken { .. } => 5,
        }
    }
}
