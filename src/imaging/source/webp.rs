//! What a WebP's header says.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image_webp::WebPDecoder;

use crate::imaging::ImagingError;
use crate::imaging::source::{ALPHA, Header};

/// Most that its EXIF data may be: as much as a JPEG's.
const EXIF: usize = 1 << 16;

pub fn header(path: &Path, file: BufReader<File>) -> Result<Header, ImagingError> {
    let len = file.get_ref().metadata().map_or(0, |data| data.len());
    let broken =
        |error: image_webp::DecodingError| ImagingError::Broken { path: path.to_owned(), rows: 0, wanted: 0, reason: error.to_string() };
    let decoder = WebPDecoder::new(file).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if decoder.is_animated() {
        return Err(ImagingError::Unsupported { path: path.to_owned(), what: "WebP", wanted: "one picture", found: "an animation".into() });
    }
    // The pixels, the decoder's own planes or pixels of four bytes, and the file's data.
    let whole = Some(("a WebP picture", u64::from(width) * u64::from(height) * 8 + len));
    let dropped = decoder.has_alpha().then(|| ALPHA.to_owned()).into_iter().collect();
    Ok(Header { width, height, whole, dropped })
}

/// The EXIF chunk, where there is one of a sane size.
pub fn exif(file: BufReader<File>) -> Option<Vec<u8>> {
    let mut decoder = WebPDecoder::new(file).ok()?;
    decoder.set_memory_limit(EXIF);
    decoder.exif_metadata().ok().flatten()
}
