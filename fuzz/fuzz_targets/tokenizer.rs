//! tokenizer.json → a tokenizer, and a question through it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uhr_edge::engine::Tokenizer;

// Panics of the library that the loader catches are no findings; others end the run all the same.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Ok(tokenizer) = Tokenizer::load(file.path(), 1 << 16) else { return };
    let _ = tokenizer.encode_text("is there a red ship?");
});
