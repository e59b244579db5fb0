//! What a file's header says, before any pixel is decoded.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::config::Digest;
use crate::imaging::ImagingError;
use crate::imaging::decode::Fault;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
}

/// A picture file whose header was read and admitted.
#[derive(Clone, Debug)]
pub struct FrameSource {
    pub path: PathBuf,
    pub format: Format,
    /// As stored, before the orientation.
    pub stored: (Px, Px),
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
    /// What of the file doesn't reach the views, for the receipt.
    pub dropped: Vec<&'static str>,
    pub digest: Digest,
}

struct Header {
    width: u32,
    height: u32,
    /// Why it is decoded whole, and what that holds.
    whole: Option<(&'static str, u64)>,
    dropped: Vec<&'static str>,
}

impl FrameSource {
    /// Reads the header and the digest of the whole file.
    ///
    /// # Errors
    /// Whatever is wrong or too large, before anything of the picture's size is allocated.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, ImagingError> {
        let read = |source| ImagingError::Read { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(read)?);
        let mut magic = Vec::new();
        (&mut file).take(8).read_to_end(&mut magic).map_err(read)?;
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let (format, header) = match magic[..] {
            [0xff, 0xd8, 0xff, ..] => (Format::Jpeg, jpeg_header(path, &mut file)?),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'] => (Format::Png, png_header(path, &mut file)?),
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
        let exif = match format {
            Format::Jpeg => exif::Reader::new().read_from_container(&mut file).ok(),
            Format::Png => {
                let mut chunks = Chunks::default();
                // A file that breaks off is found out when its rows are decoded.
                let _ = png_chunks(&mut file, &mut chunks);
                dropped.extend(chunks.transparency.then_some(ALPHA));
                chunks.exif.and_then(|bytes| exif::Reader::new().read_raw(bytes).ok())
            }
        };
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let digest = Digest::of(&mut file).map_err(read)?;
        Ok(Self {
            path: path.to_owned(),
            format,
            stored: (Px(width), Px(height)),
            orientation: orientation(exif.as_ref()),
            dropped,
            digest,
        })
    }

    /// Width and height as seen, with the orientation applied.
    #[must_use]
    pub fn size(&self) -> (Px, Px) {
        if self.orientation >= 5 { (self.stored.1, self.stored.0) } else { self.stored }
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

/// 1 where the file has none, or one that can't be read: a picture without the tag is upright by definition.
fn orientation(exif: Option<&exif::Exif>) -> u8 {
    let field = exif.and_then(|exif| exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY));
    let value = field.and_then(|field| field.value.get_uint(0)).unwrap_or(1);
    u8::try_from(value).ok().filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

const ALPHA: &str = "transparency dropped";
const DEPTH: &str = "16-bit samples cut to their upper 8";

/// What of a PNG's chunks matters beside the pixels.
#[derive(Default)]
struct Chunks {
    exif: Option<Vec<u8>>,
    /// A tRNS chunk: a colour or palette entries that are see-through.
    transparency: bool,
}

/// Walks the chunks. An eXIf chunk counts where it is no larger than a JPEG's could be: a chunk may claim 2 GiB.
fn png_chunks(file: &mut BufReader<File>, chunks: &mut Chunks) -> std::io::Result<()> {
    file.seek_relative(8)?;
    loop {
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, name @ ..] = head;
        let len = u32::from_be_bytes([a, b, c, d]);
        match &name {
            b"IEND" => return Ok(()),
            b"eXIf" if len <= u32::from(u16::MAX) => {
                let mut bytes = vec![0; len as usize];
                file.read_exact(&mut bytes)?;
                chunks.exif = Some(bytes);
                file.seek_relative(4)?;
                continue;
            }
            b"tRNS" => chunks.transparency = true,
            _ => {}
        }
        file.seek_relative(i64::from(len) + 4)?;
    }
}

/// Walks the segments (ITU-T T.81, B.1.1.4) to the frame header, and on to the first scan.
fn jpeg_header(path: &Path, file: &mut BufReader<File>) -> Result<Header, ImagingError> {
    let broken = |reason: &str| ImagingError::Broken { path: path.to_owned(), rows: 0, wanted: 0, reason: reason.into() };
    let ended = |_| broken("the file ends before its frame header");
    let byte = |file: &mut BufReader<File>| {
        let mut byte = [0];
        file.read_exact(&mut byte).map(|()| byte[0])
    };
    let mut word = [0; 2];
    file.read_exact(&mut word).map_err(ended)?;
    let mut header: Option<(Header, u64)> = None;
    loop {
        if byte(file).map_err(ended)? != 0xff {
            return Err(broken("wanted a marker before the frame header"));
        }
        let mut marker = 0xff;
        while marker == 0xff {
            marker = byte(file).map_err(ended)?;
        }
        if marker == 0x01 || (0xd0..=0xd8).contains(&marker) {
            continue;
        }
        file.read_exact(&mut word).map_err(ended)?;
        let len = u16::from_be_bytes(word);
        if marker == 0xda
            && let Some((mut header, components)) = header
        {
            // A first scan of fewer components than the frame's: libjpeg gathers all scans before the first row.
            if header.whole.is_none() && u64::from(byte(file).map_err(ended)?) < components {
                header.whole = Some(("a JPEG of several scans", coefficients(&header, components)));
            }
            return Ok(header);
        }
        let frame = (0xc0..=0xcf).contains(&marker) && ![0xc4, 0xc8, 0xcc].contains(&marker);
        if marker == 0xda || marker == 0xd9 || len < 2 || (frame && len < 8) {
            return Err(broken("wanted a frame header before the first scan"));
        }
        if !frame {
            file.seek_relative(i64::from(len) - 2).map_err(ended)?;
            continue;
        }
        let mut sof = [0; 6];
        file.read_exact(&mut sof).map_err(ended)?;
        let unsupported = |what, wanted, found| Err(ImagingError::Unsupported { path: path.to_owned(), what, wanted, found });
        let (height, width) = (u32::from(u16::from_be_bytes([sof[1], sof[2]])), u32::from(u16::from_be_bytes([sof[3], sof[4]])));
        let components = u64::from(sof[5]);
        if marker > 0xc2 {
            return unsupported("JPEG process", "baseline, extended or progressive Huffman", format!("frame type SOF{}", marker - 0xc0));
        }
        if sof[0] != 8 {
            return unsupported("JPEG precision", "8 bits", format!("{} bits", sof[0]));
        }
        if components == 4 {
            return unsupported("JPEG colours", "grey, YCbCr or RGB", "CMYK or YCCK (4 components)".into());
        }
        if ![1, 3].contains(&components) {
            return unsupported("JPEG colours", "1 or 3 components", format!("{components}"));
        }
        let mut found = Header { width, height, whole: None, dropped: Vec::new() };
        found.whole = (marker == 0xc2).then(|| ("a progressive JPEG", coefficients(&found, components)));
        header = Some((found, components));
        file.seek_relative(i64::from(len) - 8).map_err(ended)?;
    }
}

/// What libjpeg holds of a picture whose scans it gathers: two bytes a coefficient, sides in whole blocks of up to 32 pixels (4 × 8).
fn coefficients(header: &Header, components: u64) -> u64 {
    let blocks = |side: u32| u64::from(side.next_multiple_of(32));
    blocks(header.width) * blocks(header.height) * components * 2
}

/// The IHDR chunk (PNG, third edition, 11.2.1).
fn png_header(path: &Path, file: &mut BufReader<File>) -> Result<Header, ImagingError> {
    let mut head = [0; 29];
    let ended = |_| ImagingError::Broken { path: path.to_owned(), rows: 0, wanted: 0, reason: "the file ends before its header".into() };
    file.read_exact(&mut head).map_err(ended)?;
    if &head[12..16] != b"IHDR" {
        return Err(ImagingError::NotAnImage { path: path.to_owned(), found: "a PNG that doesn't start with IHDR".into() });
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (width, height) = (word(16), word(20));
    // Decoded to at most four channels of two bytes.
    let whole = (head[28] != 0).then(|| ("an interlaced PNG", u64::from(width) * u64::from(height) * 8));
    let dropped = [(head[24] == 16, DEPTH), (matches!(head[25], 4 | 6), ALPHA)];
    let dropped = dropped.into_iter().filter_map(|(there, what)| there.then_some(what)).collect();
    Ok(Header { width, height, whole, dropped })
}
