//! The language model on the CPU: GGUF files of the llama and Qwen2 architectures, int4 weights, keys and values in the caller's cache.
//!
//! # Why
//! UHR-BAT needs what no runtime offers together: rows given in place of ids, the attention of one layer, and memory that never grows. A
//! prompt goes through in chunks of rows; every buffer is made at load, and no call after that allocates.

mod embeddings;
mod gguf;
mod llama;
mod rope;

use std::path::PathBuf;

use half::f16;

use crate::arena::{Full, KvCache};
use crate::config::ImportanceRows;
use crate::engine::tensorrt::ShimError;
use crate::units::Bytes;

pub use embeddings::{Embed, Embeddings};
pub use gguf::Gguf;
pub use llama::Llama;

/// What a decoder file or a call got wrong, with wanted and found.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("{path}: {key}: wanted {wanted}, found {found}")]
    Key { path: PathBuf, key: String, wanted: String, found: String },
    #[error("{path}: tensor {tensor}: wanted {wanted}, found {found}")]
    Tensor { path: PathBuf, tensor: String, wanted: String, found: String },
    #[error(transparent)]
    Full(#[from] Full),
    #[error("token id {found}: wanted one below {vocab}")]
    Id { found: u32, vocab: usize },
    #[error("{what}: wanted {wanted} values, found {found}")]
    Length { what: &'static str, wanted: usize, found: usize },
    #[error("importance at layer {layer}: wanted finite scores, found {found} at token {token}")]
    NotFinite { layer: usize, token: usize, found: f32 },
    #[error("logits: wanted a finite one, found none")]
    NoLogit,
    #[error("tensorrt decoder, {doing}: {source}")]
    Device { doing: &'static str, source: ShimError },
    #[error("interface layer {found}: wanted 1 to {layers}")]
    Layer { found: usize, layers: usize },
    #[error("interface layer {found}: wanted {wanted}, which the anchor pass's engine is of")]
    EngineLayer { wanted: usize, found: usize },
}

/// Which values of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// 2i and 2i + 1.
    Adjacent,
    /// i and i + half of what is rotated.
    Halves,
}

/// Sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderShape {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
}

impl DecoderShape {
    /// Values of a position's keys in a layer.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// A run of input positions.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// Through the embedding table.
    Ids(&'a [u32]),
    /// As given, `[n, hidden]`.
    Rows(&'a [f16]),
}

impl Segment<'_> {
    /// Positions, for rows of `hidden` values.
    #[must_use]
    pub fn len(&self, hidden: usize) -> usize {
        match self {
            Self::Ids(ids) => ids.len(),
            Self::Rows(rows) => rows.len() / hidden,
        }
    }
}

/// Prompt to logits, and the attention that importance is read from. Nothing here allocates.
pub trait Decoder: Send {
    fn id(&self) -> &str;
    fn shape(&self) -> &DecoderShape;
    fn weights(&self) -> Bytes;
    fn workspace(&self) -> Bytes;
    /// Whether keys and values stand in the caller's cache, which otherwise only counts positions.
    fn caches(&self) -> bool {
        true
    }
    /// Importance (Eq. 2): runs layers 1 to L−1 over the segments, layer L as far as its attention, and writes for each position of segment
    /// `image` the mean over heads and over the rows after the image; `looked_at`: L, and which of the rows. `scores`: `[positions of the image]`.
    fn attend(
        &mut self,
        kv: &mut KvCache,
        segments: &[Segment<'_>],
        image: usize,
        looked_at: (usize, ImportanceRows),
        scores: &mut [f32],
    ) -> Result<(), DecoderError>;
    /// Starts a sequence; the last position's logits stand in [`Self::logits`] afterwards.
    fn prefill(&mut self, kv: &mut KvCache, segments: &[Segment<'_>]) -> Result<(), DecoderError>;
    /// One more token.
    fn step(&mut self, kv: &mut KvCache, token: u32) -> Result<(), DecoderError>;
    /// `[vocab]`.
    fn logits(&self) -> &[f32];
}

/// The first position that looks at the image in the pass for importance, of `total`; the others follow it. `end`: of the image.
pub(in crate::engine) fn first_looking(rows: ImportanceRows, end: usize, total: usize) -> usize {
    match rows {
        ImportanceRows::AllText => end,
        ImportanceRows::LastToken => end.max(total - 1),
    }
}

/// What is no number never reaches a sort.
///
/// # Errors
/// The first score that isn't finite, with the layer that it was read from.
pub(in crate::engine) fn finite(layer: usize, scores: &[f32]) -> Result<(), DecoderError> {
    match scores.iter().position(|score| !score.is_finite()) {
        Some(token) => Err(DecoderError::NotFinite { layer, token, found: scores[token] }),
        None => Ok(()),
    }
}

/// The largest logit's place; equal ones → the lowest. `None` where no logit is finite.
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let better = |best: (usize, f32), (place, &value): (usize, &f32)| if value > best.1 { (place, value) } else { best };
    let (place, best) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better);
    u32::try_from(place).ok().filter(|_| best.is_finite())
}

#[cfg(test)]
mod tests {
    use super::argmax;

    #[test]
    fn the_largest_logit() {
        let cases: [(&[f32], Option<u32>); 5] = [
            (&[1.0, 3.0, 3.0], Some(1)),
            (&[f32::NAN, -1.0], Some(1)),
            (&[f32::NAN, f32::NEG_INFINITY], None),
            (&[f32::INFINITY, 0.0], None),
            (&[], None),
        ];
        cases.iter().for_each(|(logits, wanted)| assert_eq!(argmax(logits), *wanted));
    }
}
