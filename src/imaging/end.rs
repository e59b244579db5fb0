//! Whether a picture's file has its end: one that is still being written lacks it.

use std::fs::File;
use std::io::{BufReader, Read, Result, Seek, SeekFrom};
use std::path::Path;

use tiff::decoder::Decoder;
use tiff::tags::Tag;

/// The end is looked for in so many last bytes: cameras put padding and previews after a picture.
const TAIL: u64 = 1 << 16;

/// Whether the file at `path` ends as its format does: a JPEG's and a PNG's end marker, all bytes that a WebP's header or a TIFF's directory speaks of.
/// What is no picture is whole as it is: it will be refused for that.
///
/// # Errors
/// A file that can't be read.
pub fn has_end(path: &Path) -> Result<bool> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut head = Vec::new();
    (&mut file).take(12).read_to_end(&mut head)?;
    let mut tail_has = |marker: &[u8]| -> Result<bool> {
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        (&mut file).take(TAIL).read_to_end(&mut tail)?;
        Ok(tail.windows(marker.len()).any(|window| window == marker))
    };
    match head[..] {
        [0xff, 0xd8, 0xff, ..] => tail_has(&[0xff, 0xd9]),
        [0x89, b'P', b'N', b'G', ..] => tail_has(b"IEND\xaeB\x60\x82"),
        [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P'] => Ok(u64::from(u32::from_le_bytes([a, b, c, d])) + 8 <= len),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(last_byte(file).is_some_and(|last| last <= len)),
        // Too short to say what it is.
        _ if head.len() < 12 => Ok(false),
        _ => Ok(true),
    }
}

/// Where the last strip or tile of a TIFF's first picture ends; `None` while its directory isn't there.
fn last_byte(mut file: File) -> Option<u64> {
    file.seek(SeekFrom::Start(0)).ok()?;
    let mut decoder = Decoder::new(BufReader::new(file)).ok()?;
    let mut pairs = |offsets, lengths| {
        let offsets = decoder.get_tag_u64_vec(offsets).ok()?;
        let lengths = decoder.get_tag_u64_vec(lengths).ok()?;
        offsets.into_iter().zip(lengths).map(|(offset, length)| offset.saturating_add(length)).max()
    };
    pairs(Tag::StripOffsets, Tag::StripByteCounts).or_else(|| pairs(Tag::TileOffsets, Tag::TileByteCounts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_has_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut png = Vec::new();
        png::Encoder::new(&mut png, 1, 1).write_header().unwrap().write_image_data(&[7]).unwrap();
        let mut tiff = std::io::Cursor::new(Vec::new());
        let mut encoder = tiff::encoder::TiffEncoder::new(&mut tiff).unwrap();
        encoder.write_image::<tiff::encoder::colortype::Gray8>(40, 40, &[9; 1_600]).unwrap();
        let tiff = tiff.into_inner();
        let mut jpeg = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
        encoder.encode(&[1; 64 * 3], 8, 8, jpeg_encoder::ColorType::Rgb).unwrap();
        let padded = [&jpeg[..], &[0; 512]].concat();
        let webp = [b"RIFF", &20_u32.to_le_bytes()[..], b"WEBP", &[0; 16]].concat();
        for (name, bytes) in [("png", &png), ("tiff", &tiff), ("jpeg", &jpeg), ("webp", &webp)] {
            std::fs::write(&path, bytes).unwrap();
            assert!(has_end(&path).unwrap(), "{name}");
            std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
            assert!(!has_end(&path).unwrap(), "{name} cut");
        }
        for (bytes, wanted) in [(&padded[..], true), (b"", false), (b"a text that is no picture", true)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(has_end(&path).unwrap(), wanted);
        }
        assert!(has_end(&folder.path().join("none")).is_err());
    }
}
