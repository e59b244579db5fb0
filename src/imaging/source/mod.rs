//! What a file's header says, before any pixel is decoded.

mod jpeg;
mod png;
pub mod tiff;
mod webp;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::config::{Bands, Digest};
use crate::geometry::{Rect, Side, stored};
use crate::imaging::ImagingError;
use crate::imaging::decode::Fault;
use crate::imaging::geotag::{Geotag, exif as exif_tags, xmp};
use crate::imaging::source::tiff::TiffPlan;
use crate::units::{Bytes, FrameId, Px};

/// The largest frame that is admitted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_side: Px,
    pub max_pixels: u64,
    /// What a picture that can't be decoded by rows may hold.
    pub whole: Bytes,
}

impl Limits {
    /// Refuses a size beyond them; `path` is for the message.
    pub fn admit(&self, path: &Path, width: u32, height: u32) -> Result<(), ImagingError> {
        let Self { max_side, max_pixels, .. } = *self;
        if width.max(height) > max_side.0 || u64::from(width) * u64::from(height) > max_pixels {
            return Err(ImagingError::TooLarge { path: path.to_owned(), max_side, max_pixels, width, height });
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub enum Format {
    Jpeg,
    Png,
    /// And BigTIFF.
    Tiff(Box<TiffPlan>),
    WebP,
}

impl Format {
    fn name(&self) -> &'static str {
        match self {
            Self::Jpeg => "a JPEG",
            Self::Png => "a PNG",
            Self::Tiff(_) => "a TIFF",
            Self::WebP => "a WebP picture",
        }
    }
}

/// How a frame is to be read, beside the limits it must keep to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Of a TIFF with bands; by default the first three, or the first where there are fewer.
    pub bands: Option<Bands>,
    /// A picture by rows that ends early gives the rows it has.
    pub allow_truncated: bool,
}

/// A picture file whose header was read and admitted.
#[derive(Clone, Debug)]
pub struct FrameSource {
    pub path: PathBuf,
    pub format: Format,
    /// The format and, where it can't be decoded by rows, what of it: how long its decoding takes depends on that.
    pub kind: &'static str,
    /// As stored, before the orientation.
    pub stored: (Px, Px),
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
    /// What of the file doesn't reach the views, for the receipt.
    pub dropped: Vec<String>,
    /// Where it was taken, where the file says so.
    pub geotag: Option<Geotag>,
    pub allow_truncated: bool,
    pub digest: Digest,
}

pub struct Header {
    width: u32,
    height: u32,
    /// Why it is decoded whole, and what that holds.
    whole: Option<(&'static str, u64)>,
    dropped: Vec<String>,
}

impl FrameSource {
    /// Reads the header and the digest of the whole file.
    ///
    /// # Errors
    /// Whatever is wrong or too large, before anything of the picture's size is allocated.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, ImagingError> {
        Self::open_as(path, limits, &Reading::default())
    }

    /// As [`Self::open`], with other bands, or of a file that may end early.
    pub fn open_as(path: &Path, limits: &Limits, reading: &Reading) -> Result<Self, ImagingError> {
        let read = |source| ImagingError::Read { path: path.to_owned(), source };
        // A pipe or a device would wait for ever, or never end.
        if !std::fs::metadata(path).map_err(read)?.is_file() {
            return Err(ImagingError::NotAnImage { path: path.to_owned(), found: "what is no regular file".into() });
        }
        let start = || File::open(path).map(BufReader::new).map_err(read);
        let mut file = start()?;
        let mut magic = Vec::new();
        (&mut file).take(12).read_to_end(&mut magic).map_err(read)?;
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let (mut turned, mut geotag) = (None, None);
        let (format, header) = match magic[..] {
            [0xff, 0xd8, 0xff, ..] => (Format::Jpeg, jpeg::header(path, &mut file)?),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => (Format::Png, png::header(path, &mut file)?),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => {
                let (header, plan, orientation, place) = tiff::header(path, start()?, limits, reading.bands)?;
                (turned, geotag) = (Some(orientation), place);
                (Format::Tiff(Box::new(plan)), header)
            }
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => (Format::WebP, webp::header(path, start()?)?),
            [] => return Err(ImagingError::NotAnImage { path: path.to_owned(), found: "an empty file".into() }),
            _ => return Err(ImagingError::NotAnImage { path: path.to_owned(), found: format!("a file that starts {magic:02x?}") }),
        };
        let Header { width, height, whole, .. } = header;
        if width == 0 || height == 0 {
            let found = format!("{width} x {height}");
            return Err(ImagingError::Unsupported { path: path.to_owned(), what: "size", wanted: "1 x 1 or more", found });
        }
        limits.admit(path, width, height)?;
        if let Some((what, bytes)) = whole
            && bytes > limits.whole.0
        {
            return Err(ImagingError::Memory { path: path.to_owned(), what, wanted: Bytes(bytes), allowed: limits.whole });
        }
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let mut dropped = header.dropped;
        let exif = match &format {
            Format::Jpeg => tags(|reader| reader.read_from_container(&mut file)),
            Format::Png => {
                let mut chunks = png::Chunks::default();
                // A file that breaks off is found out when its rows are decoded.
                let _ = png::chunks(&mut file, &mut chunks);
                dropped.extend(chunks.transparency.then(|| ALPHA.to_owned()));
                chunks.exif.and_then(|bytes| tags(|reader| reader.read_raw(bytes)))
            }
            // Its directory was read with the header: a reader of EXIF would read the whole file.
            Format::Tiff(_) => None,
            Format::WebP => webp::exif(start()?).and_then(|bytes| tags(|reader| reader.read_raw(bytes))),
        };
        if let Some(exif) = &exif {
            let mut place = Geotag::default();
            exif_tags::read(exif, &mut place);
            if matches!(format, Format::Jpeg) {
                xmp::read(&mut start()?, &mut place);
            }
            if place != Geotag::default() {
                geotag = Some(place.with_camera(width.into(), height.into()));
            }
        }
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let digest = Digest::of(&mut file).map_err(read)?;
        let kind = whole.map_or_else(|| format.name(), |(what, _)| what);
        Ok(Self {
            path: path.to_owned(),
            format,
            kind,
            stored: (Px(width), Px(height)),
            orientation: turned.unwrap_or_else(|| orientation(exif.as_ref())),
            dropped,
            geotag,
            allow_truncated: reading.allow_truncated,
            digest,
        })
    }

    /// Width and height as seen, with the orientation applied.
    #[must_use]
    pub fn size(&self) -> (Px, Px) {
        if self.orientation >= 5 { (self.stored.1, self.stored.0) } else { self.stored }
    }

    /// Whether the file still has the bytes that were admitted.
    ///
    /// # Errors
    /// A file that changed, or is gone.
    pub fn unchanged(&self) -> Result<(), ImagingError> {
        let read = |source| ImagingError::Read { path: self.path.clone(), source };
        let found = Digest::of(File::open(&self.path).map_err(read)?).map_err(read)?;
        if found != self.digest {
            return Err(ImagingError::Changed { path: self.path.clone(), wanted: self.digest.to_string(), found: found.to_string() });
        }
        Ok(())
    }

    /// Latitude and longitude of the corners of a rectangle of the frame as seen, clockwise from the upper left, and the largest of their errors in
    /// metres. `None` where the file doesn't tell, or a corner is not on the ground.
    #[must_use]
    pub fn corners(&self, rect: Rect) -> Option<([[f64; 2]; 4], f64)> {
        let ground = self.geotag.as_ref()?.ground?;
        let size = (f64::from(self.stored.0.0), f64::from(self.stored.1.0));
        let (right, low) = (rect.x + rect.w, rect.y + rect.h);
        let (mut corners, mut worst) = ([[0.0; 2]; 4], 0.0_f64);
        for (corner, seen) in corners.iter_mut().zip([(rect.x, rect.y), (right, rect.y), (right, low), (rect.x, low)]) {
            let (x, y) = stored(self.orientation, size, seen);
            let (place, error) = ground.locate(x, y)?;
            *corner = [place.lat, place.lon];
            worst = worst.max(error);
        }
        Some((corners, worst))
    }

    /// Where the end of the stored rows is seen.
    #[must_use]
    pub fn last_rows(&self) -> Side {
        match self.orientation {
            3 | 4 => Side::Top,
            5 | 8 => Side::Right,
            6 | 7 => Side::Left,
            _ => Side::Bottom,
        }
    }

    pub(super) fn broken(&self, rows: usize, fault: Fault) -> ImagingError {
        let reason = if fault.ended { format!("the file ends early: {}", fault.reason) } else { fault.reason };
        ImagingError::Broken { path: self.path.clone(), rows, wanted: self.stored.1.get(), reason }
    }

    #[must_use]
    pub fn id(&self) -> FrameId {
        FrameId(*self.digest.0.first_chunk().expect("a digest has 32 bytes"))
    }
}

/// The tags that can be read: what editors leave behind (directories that go on where they shouldn't) costs a tag, not the orientation and the place.
fn tags(read: impl FnOnce(&exif::Reader) -> Result<exif::Exif, exif::Error>) -> Option<exif::Exif> {
    let mut reader = exif::Reader::new();
    reader.continue_on_error(true);
    read(&reader).or_else(|error| error.distill_partial_result(|_| ())).ok()
}

/// 1 where the file has none, or one that can't be read: a picture without the tag is upright by definition.
fn orientation(exif: Option<&exif::Exif>) -> u8 {
    let field = exif.and_then(|exif| exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY));
    let value = field.and_then(|field| field.value.get_uint(0)).unwrap_or(1);
    u8::try_from(value).ok().filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

const ALPHA: &str = "transparency dropped";
const DEPTH: &str = "16-bit samples cut to their upper 8";
