//! Picture layers, compressed: a token's footprints are thousands of like numbers.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

/// Most that layers may be when they are taken apart again.
const MOST: u64 = 64 << 20;

/// # Errors
/// None that a buffer in memory has; what the encoder says.
pub fn deflated(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// `None`: not what [`deflated`] made, or larger than 64 MiB.
#[must_use]
pub fn inflated(layers: &[u8]) -> Option<String> {
    let mut text = String::new();
    ZlibDecoder::new(layers).take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_back_and_damage_is_found() {
        let text = "[1,2,3],".repeat(1_000);
        let layers = deflated(&text).unwrap();
        assert!(layers.len() < 200);
        assert_eq!(inflated(&layers).as_deref(), Some(&text[..]));
        assert_eq!(inflated(&layers[..layers.len() / 2]), None);
        assert_eq!(inflated(b"no layers"), None);
    }
}
