//! What a JPEG's segments say before its first scan.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::imaging::ImagingError;
use crate::imaging::source::Header;

/// Walks the segments (ITU-T T.81, B.1.1.4) to the frame header, and on to the first scan.
pub fn header(path: &Path, file: &mut BufReader<File>) -> Result<Header, ImagingError> {
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
        if ![1, 3, 4].contains(&components) {
            return unsupported("JPEG colours", "1, 3 or 4 components", format!("{components}"));
        }
        let dropped = (components == 4).then(|| "CMYK made RGB without a colour profile".to_owned()).into_iter().collect();
        let mut found = Header { width, height, whole: None, dropped };
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
