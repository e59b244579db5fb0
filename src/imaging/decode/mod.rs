//! Rows of a picture, top to bottom, a batch at a time.
//!
//! # Why
//! Decoding is one thread's work and the filter's is everybody's, so a decoder fills one batch while the filter reads the other. What of decoding can be
//! shared out (a JPEG's chroma upsampling and colours) is left to [`Batch::pack`].

mod batch;
mod jpeg;
mod lenient;
mod png;
mod tiff;
mod whole;

use std::fs::File;

pub use batch::{Batch, MOST_ROWS, Scratch};

use crate::imaging::ImagingError;
use crate::imaging::source::{Format, FrameSource, Limits};
use crate::units::{Bytes, Px};

/// Why a decoder stopped.
#[derive(Debug)]
pub struct Fault {
    /// The data end before the picture does.
    pub ended: bool,
    pub reason: String,
}

impl Fault {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { ended: false, reason: reason.into() }
    }
}

/// A decoder of one picture.
pub trait Rows: Send {
    /// Width and height of the rows that come. Less than the picture's where the decoder reduces it.
    fn size(&self) -> (usize, usize);

    /// Fills `batch` with the next rows: a whole number of groups, or the picture's last ones.
    ///
    /// # Errors
    /// Data that end early or don't decode; never a grey rest. Rows before the fault have been given.
    fn next(&mut self, batch: &mut Batch) -> Result<(), Fault>;

    /// Reads on to the end of the picture, after its last row.
    fn finish(&mut self) -> Result<(), Fault>;

    /// Rows at the end that the file didn't have, once all have come.
    fn missing(&self) -> usize {
        0
    }
}

/// Upper bound of what a decoder holds for rows of `side` pixels: libjpeg's context of up to 3 × 16 rows in up to 3 components, or
/// zlib's window and two rows of a 16-bit RGBA picture.
#[must_use]
pub fn decoder_bytes(side: Px) -> Bytes {
    Bytes(u64::from(side.0) * 3 * 64 + (1 << 20))
}

/// Opens the picture for views of at most `finest` pixels a side. `pad`: the colour of rows that a file lacks, where its reader allows that.
pub fn open(source: &FrameSource, limits: &Limits, finest: usize, pad: [u8; 3]) -> Result<Box<dyn Rows>, ImagingError> {
    let file = File::open(&source.path).map_err(|error| ImagingError::Read { path: source.path.clone(), source: error })?;
    let most = usize::try_from(limits.whole.0).unwrap_or(usize::MAX);
    let rows: Result<Box<dyn Rows>, Fault> = match &source.format {
        Format::Jpeg => jpeg::JpegRows::open(file, source, finest).map(|rows| Box::new(rows) as _),
        Format::Png => png::PngRows::open(file, source, limits).map(|rows| Box::new(rows) as _),
        Format::Tiff(plan) => tiff::TiffRows::open(file, plan, limits.whole.0).map(|rows| Box::new(rows) as _),
        Format::WebP => whole::WholeRows::webp(file, source, most).map(|rows| Box::new(rows) as _),
    };
    let rows = rows.map_err(|fault| source.broken(0, fault))?;
    let by_rows = match &source.format {
        Format::Jpeg => true,
        Format::Tiff(plan) => plan.strips,
        Format::Png | Format::WebP => false,
    };
    Ok(if source.allow_truncated && by_rows { Box::new(lenient::Lenient::new(rows, pad)) } else { rows })
}
