//! A file as memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

/// Maps the file for reading.
///
/// # Errors
/// When it can't be opened or mapped.
pub fn map_file(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and private to this process's view; a package's files are not to be changed while in use, which the
    // digest check at load and the docs say. A truncation by another process would end this one, not corrupt it.
    unsafe { Mmap::map(&file) }
}
