//! What a PNG's chunks say.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::imaging::ImagingError;
use crate::imaging::source::{ALPHA, DEPTH, Header};

/// What of a PNG's chunks matters beside the pixels.
#[derive(Default)]
pub struct Chunks {
    pub exif: Option<Vec<u8>>,
    /// A tRNS chunk: a colour or palette entries that are see-through.
    pub transparency: bool,
}

/// Walks the chunks. An eXIf chunk counts where it is no larger than a JPEG's could be: a chunk may claim 2 GiB.
pub fn chunks(file: &mut BufReader<File>, found: &mut Chunks) -> std::io::Result<()> {
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
                found.exif = Some(bytes);
                file.seek_relative(4)?;
                continue;
            }
            b"tRNS" => found.transparency = true,
            _ => {}
        }
        file.seek_relative(i64::from(len) + 4)?;
    }
}

/// The IHDR chunk (PNG, third edition, 11.2.1).
pub fn header(path: &Path, file: &mut BufReader<File>) -> Result<Header, ImagingError> {
    let mut head = [0; 29];
    let ended = |_| ImagingError::Broken { path: path.to_owned(), rows: 0, wanted: 0, reason: "the file ends before its header".into() };
    file.read_exact(&mut head).map_err(ended)?;
    if &head[12..16] != b"IHDR" {
        return Err(ImagingError::NotAnImage { path: path.to_owned(), found: "a PNG that doesn't start with IHDR".into() });
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (width, height) = (word(16), word(20));
    // Decoded to at most four channels of two bytes.
    let whole = (head[28] != 0).then(|| ("an interlaced PNG", u64::from(width).saturating_mul(u64::from(height)).saturating_mul(8)));
    let dropped = [(head[24] == 16, DEPTH), (matches!(head[25], 4 | 6), ALPHA)];
    let dropped = dropped.into_iter().filter(|(there, _)| *there).map(|(_, what)| what.to_owned()).collect();
    Ok(Header { width, height, whole, dropped })
}
