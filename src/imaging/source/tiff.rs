//! What a TIFF's first directory says.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use tiff::ColorType;
use tiff::decoder::{ChunkType, Decoder, Limits as TiffLimits};
use tiff::tags::{CompressionMethod, PhotometricInterpretation, PlanarConfiguration, SampleFormat, Tag};

use crate::imaging::ImagingError;
use crate::imaging::geotag::{Geotag, geotiff};
use crate::imaging::source::{ALPHA, Bands, DEPTH, Header, Limits};

/// Most that an entry of a directory may hold: offsets of half a million strips.
const ENTRY: usize = 4 << 20;

/// A row of chunks that needs no admission of its own.
const SMALL: u64 = 1 << 20;

pub type Reader = Decoder<BufReader<File>>;

/// How the samples of a TIFF lie in its file.
#[derive(Clone, Debug)]
pub struct TiffPlan {
    pub width: usize,
    pub height: usize,
    /// Bytes a sample: 1 or 2.
    pub bytes: usize,
    /// Samples of a pixel that a chunk gives, and those that the file has.
    pub samples: usize,
    pub stored: usize,
    /// A chunk holds one band.
    pub planar: bool,
    /// Red, green, blue: bands from 0.
    pub bands: [usize; 3],
    pub chunk: (usize, usize),
    pub strips: bool,
    /// Uncompressed strips: where each begins, and how many rows it has. Read by rows.
    pub plain: Option<Vec<u64>>,
    pub big_endian: bool,
}

impl TiffPlan {
    /// Bytes of a decoded row of chunks, and of one chunk while it is decoded.
    fn held(&self) -> u64 {
        let (width, tall) = (self.width as u64, self.chunk.1.min(self.height) as u64);
        let sample = self.samples as u64 * self.bytes as u64;
        let chunk = (self.chunk.0.min(self.width) as u64).saturating_mul(tall).saturating_mul(sample);
        width.saturating_mul(tall).saturating_mul(3).saturating_add(chunk.saturating_mul(2))
    }
}

/// Opens the first directory; the others are never read.
pub fn open(file: BufReader<File>, most: u64) -> Result<Reader, tiff::TiffError> {
    let mut limits = TiffLimits::default();
    limits.decoding_buffer_size = usize::try_from(most).unwrap_or(usize::MAX);
    limits.intermediate_buffer_size = limits.decoding_buffer_size;
    limits.ifd_value_size = ENTRY;
    Ok(Decoder::new(file)?.with_limits(limits))
}

/// Header, plan, orientation and coordinates.
pub fn header(
    path: &Path,
    file: BufReader<File>,
    limits: &Limits,
    wanted: Option<Bands>,
) -> Result<(Header, TiffPlan, u8, Option<Geotag>), ImagingError> {
    let broken = |error: tiff::TiffError| match error {
        tiff::TiffError::UnsupportedError(error) => ImagingError::Unsupported {
            path: path.to_owned(),
            what: "TIFF",
            wanted: "8 or 16 bits, grey, RGB or bands",
            found: error.to_string(),
        },
        error => ImagingError::Broken { path: path.to_owned(), rows: 0, wanted: 0, reason: error.to_string() },
    };
    let unsupported = |what, wanted, found| Err(ImagingError::Unsupported { path: path.to_owned(), what, wanted, found });
    let mut decoder = open(file, limits.whole.0).map_err(broken)?;
    let (width, height) = decoder.dimensions().map_err(broken)?;
    limits.admit(path, width, height)?;
    let colours = decoder.colortype().map_err(broken)?;
    let number = |decoder: &mut Reader, tag| decoder.find_tag_unsigned::<u16>(tag).map_err(broken);
    let format = number(&mut decoder, Tag::SampleFormat).unwrap_or(None);
    if format.is_some_and(|format| format != SampleFormat::Uint.to_u16()) {
        return unsupported("TIFF samples", "whole numbers from 0", format!("sample format {}", format.unwrap_or(0)));
    }
    let depth = colours.bit_depth();
    if ![8, 16].contains(&depth) {
        return unsupported("TIFF samples", "8 or 16 bits", format!("{depth} bits"));
    }
    let compression = number(&mut decoder, Tag::Compression)?.unwrap_or(1);
    let known = [CompressionMethod::None, CompressionMethod::LZW, CompressionMethod::Deflate, CompressionMethod::OldDeflate];
    let known = known.iter().chain(&[CompressionMethod::ModernJPEG, CompressionMethod::PackBits]);
    if !known.into_iter().any(|method| method.to_u16() == compression) {
        return unsupported("TIFF compression", "none, LZW, deflate, JPEG or PackBits", format!("{compression}"));
    }
    if !matches!(
        colours,
        ColorType::Gray(_)
            | ColorType::GrayA(_)
            | ColorType::RGB(_)
            | ColorType::RGBA(_)
            | ColorType::YCbCr(_)
            | ColorType::Multiband { .. }
    ) {
        return unsupported("TIFF colours", "grey, RGB, YCbCr or bands", format!("{colours:?}"));
    }
    let stored = usize::from(number(&mut decoder, Tag::SamplesPerPixel)?.unwrap_or(1));
    let planar = number(&mut decoder, Tag::PlanarConfiguration)? == Some(PlanarConfiguration::Planar.to_u16()) && stored > 1;
    let white = number(&mut decoder, Tag::PhotometricInterpretation)? == Some(PhotometricInterpretation::WhiteIsZero.to_u16());
    let strips = decoder.get_chunk_type() == ChunkType::Strip;
    let (chunk_width, chunk_height) = decoder.chunk_dimensions();
    let plain = strips && compression == CompressionMethod::None.to_u16() && !white && !matches!(colours, ColorType::YCbCr(_));
    let offsets = if plain { Some(decoder.get_tag_u64_vec(Tag::StripOffsets).map_err(broken)?) } else { None };
    // The reader drops what is beyond a pixel's colours; by rows, or a band a chunk, all are there.
    let samples = if plain || planar { stored } else { usize::from(colours.num_samples()) };
    let bands = match wanted {
        Some(bands) => bands.rgb(),
        None if samples >= 3 => [1, 2, 3],
        None => [1, 1, 1],
    };
    if let Some(&band) = bands.iter().find(|&&band| usize::from(band) > samples) {
        let found = if samples < stored { format!("{samples} that can be read of {stored}") } else { format!("{samples}") };
        return Err(ImagingError::Bands { path: path.to_owned(), wanted: band, found });
    }
    let plan = TiffPlan {
        width: width as usize,
        height: height as usize,
        bytes: usize::from(depth / 8),
        samples: if planar { 1 } else { samples },
        stored,
        planar,
        bands: bands.map(|band| usize::from(band) - 1),
        chunk: (chunk_width as usize, (chunk_height as usize).min(height as usize)),
        strips,
        plain: offsets,
        big_endian: decoder.byte_order() == tiff::tags::ByteOrder::BigEndian,
    };
    let mut dropped = Vec::new();
    if depth == 16 {
        dropped.push(DEPTH.to_owned());
    }
    let left: Vec<String> =
        (1..=stored).filter(|band| !bands.iter().any(|own| usize::from(*own) == *band)).map(|band| band.to_string()).collect();
    let alpha = matches!(colours, ColorType::RGBA(_) | ColorType::GrayA(_)) && wanted.is_none();
    if alpha {
        dropped.push(ALPHA.to_owned());
    } else if !left.is_empty() {
        dropped.push(format!("bands {} of {stored} dropped", left.join(", ")));
    }
    let held = plan.held();
    let whole = (plan.plain.is_none() && held > SMALL).then_some((if strips { "a TIFF strip" } else { "a row of TIFF tiles" }, held));
    let orientation = number(&mut decoder, Tag::Orientation).unwrap_or(None).and_then(|value| u8::try_from(value).ok());
    let geotag = geotiff::read(&mut decoder);
    Ok((Header { width, height, whole, dropped }, plan, orientation.filter(|value| (1..=8).contains(value)).unwrap_or(1), geotag))
}
