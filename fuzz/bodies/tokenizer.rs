//! tokenizer.json → a tokenizer, and a question through it.

use uhr_edge::engine::Tokenizer;

pub fn run(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Ok(tokenizer) = Tokenizer::load(file.path(), 1 << 16) else { return };
    let _ = tokenizer.encode_text("is there a red ship?");
}
