//! GGUF bytes → a decoder, and one token through it.

use std::sync::Arc;

use uhr_edge::arena::KvCache;
use uhr_edge::engine::decoder::Llama;
use uhr_edge::engine::{Decoder, Segment};
use uhr_edge::kernels::Pool;
use uhr_edge::units::Tokens;

pub fn run(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Ok(mut decoder) = Llama::load(file.path(), Tokens(4), Arc::new(Pool::new(1))) else { return };
    let mut kv = KvCache::new(decoder.shape().layers, decoder.shape().kv_width(), Tokens(4));
    let _ = decoder.prefill(&mut kv, &[Segment::Ids(&[0])]);
}
