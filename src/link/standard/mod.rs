//! What any ground station can do without knowing us: commands, parameters, texts and files, by MAVLink's standard messages.

pub mod command;
pub mod ftp;
pub mod param;
pub mod text;

use mavlink_core::types::CharArray;

/// The text in a field of fixed length: up to the first zero, as far as it is UTF-8.
#[must_use]
pub fn text_of<const N: usize>(field: &CharArray<N>) -> &str {
    let bytes: &[u8; N] = field;
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(N);
    match std::str::from_utf8(&bytes[..len]) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}
