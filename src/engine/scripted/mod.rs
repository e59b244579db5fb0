//! Engines without a model: seeded functions of their inputs, in the shapes a real package has.
//!
//! # Why
//! Paths around the engines (budgets, arenas, receipts, the daemon) are tried in milliseconds, and every answer can be foretold.
//! Nothing here looks at a picture with understanding; the receipt names these engines.

use half::f16;

use crate::arena::KvCache;
use crate::config::ImportanceRows;
use crate::engine::decoder::{DecoderError, DecoderShape};
use crate::engine::onnx::EncoderShape;
use crate::engine::{Decoder, EngineError, Projector, Segment, VisionEncoder};
use crate::kernels::Pool;
use crate::units::{Bytes, Tokens};

const ID: &str = "scripted";

/// A token's features are sines of its patch's mean colour, each with its own frequency.
pub struct ScriptedEncoder {
    shape: EncoderShape,
}

impl ScriptedEncoder {
    #[must_use]
    pub fn new(shape: EncoderShape) -> Self {
        Self { shape }
    }
}

impl VisionEncoder for ScriptedEncoder {
    fn id(&self) -> &str {
        ID
    }

    fn bytes(&self) -> Bytes {
        Bytes(0)
    }

    fn encode(&mut self, tiles: &[f32], out: &mut [f16], pool: &Pool) -> Result<(), EngineError> {
        let (side, patch, dim) = (self.shape.tile.get(), self.shape.patch.get(), self.shape.feature_dim);
        let (plane, grid) = (side * side, side / patch);
        let count = tiles.len() / (3 * plane);
        if out.len() != count * grid * grid * dim {
            return Err(EngineError::Length { engine: ID, what: "features", wanted: count * grid * grid * dim, found: out.len() });
        }
        pool.pieces(out, grid * grid * dim, &|tile, features| {
            let tile = &tiles[tile * 3 * plane..(tile + 1) * 3 * plane];
            for (token, row) in features.chunks_exact_mut(dim).enumerate() {
                let corner = token / grid * patch * side + token % grid * patch;
                let mean = [0, 1, 2].map(|channel| {
                    let rows = (0..patch).flat_map(|y| &tile[channel * plane + corner + y * side..][..patch]);
                    rows.sum::<f32>() / (patch * patch) as f32
                });
                for (j, value) in row.iter_mut().enumerate() {
                    *value = f16::from_f32((mean[j % 3] * (1.0 + j as f32 * 0.37)).sin());
                }
            }
        });
        Ok(())
    }
}

/// Repeats or cuts the features to the decoder's width.
pub struct ScriptedProjector {
    pub chunk: Tokens,
    pub feature_dim: usize,
    pub hidden: usize,
}

impl Projector for ScriptedProjector {
    fn id(&self) -> &str {
        ID
    }

    fn bytes(&self) -> Bytes {
        Bytes(0)
    }

    fn chunk(&self) -> Tokens {
        self.chunk
    }

    fn project(&mut self, features: &[f16], out: &mut [f32]) -> Result<(), EngineError> {
        let rows = features.len() / self.feature_dim;
        if rows > self.chunk.get() || out.len() != rows * self.hidden {
            return Err(EngineError::Length { engine: ID, what: "projected rows", wanted: rows * self.hidden, found: out.len() });
        }
        for (row, out) in features.chunks_exact(self.feature_dim).zip(out.chunks_exact_mut(self.hidden)) {
            out.iter_mut().zip(row.iter().cycle()).for_each(|(out, value)| *out = value.to_f32());
        }
        Ok(())
    }
}

/// Looks hardest at the largest rows and answers with tokens drawn from a hash of everything it was given, then stops.
pub struct ScriptedDecoder {
    shape: DecoderShape,
    stop: u32,
    answer_len: u32,
    logits: Vec<f32>,
    state: u64,
    steps: u32,
}

impl ScriptedDecoder {
    /// Answers of `answer_len` tokens, none of them `stop`, then `stop`.
    #[must_use]
    pub fn new(shape: DecoderShape, stop: u32, answer_len: u32) -> Self {
        let logits = vec![0.0; shape.vocab];
        Self { shape, stop, answer_len, logits, state: 0, steps: 0 }
    }

    fn take_in(&mut self, value: u64) {
        self.state = (self.state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn script(&mut self) {
        self.logits.fill(0.0);
        let vocab = self.shape.vocab as u64;
        let mut token = usize::try_from(self.state % vocab).unwrap_or(0);
        if token == self.stop as usize {
            token = (token + 1) % self.shape.vocab;
        }
        let token = if self.steps < self.answer_len { token } else { self.stop as usize };
        self.logits[token] = 1.0;
        self.steps += 1;
    }
}

impl Decoder for ScriptedDecoder {
    fn id(&self) -> &str {
        ID
    }

    fn shape(&self) -> &DecoderShape {
        &self.shape
    }

    fn weights(&self) -> Bytes {
        Bytes(0)
    }

    fn workspace(&self) -> Bytes {
        Bytes::of::<f32>(self.logits.len())
    }

    fn attend(
        &mut self,
        _kv: &mut KvCache,
        segments: &[Segment<'_>],
        image: usize,
        _rows: (usize, ImportanceRows),
        scores: &mut [f32],
    ) -> Result<(), DecoderError> {
        let dim = self.shape.hidden;
        if let Some(Segment::Rows(rows)) = segments.get(image) {
            for (score, row) in scores.iter_mut().zip(rows.chunks_exact(dim)) {
                *score = row.iter().map(|value| value.to_f32().abs()).sum::<f32>() / dim as f32;
            }
        }
        Ok(())
    }

    fn prefill(&mut self, kv: &mut KvCache, segments: &[Segment<'_>]) -> Result<(), DecoderError> {
        let positions = segments.iter().map(|segment| segment.len(self.shape.hidden)).sum();
        kv.clear();
        kv.reserve(Tokens::of(positions))?;
        (self.state, self.steps) = (0, 0);
        for segment in segments {
            match segment {
                Segment::Ids(ids) => ids.iter().for_each(|&id| self.take_in(u64::from(id))),
                Segment::Rows(rows) => rows.iter().for_each(|value| self.take_in(u64::from(value.to_bits()))),
            }
        }
        self.script();
        Ok(())
    }

    fn step(&mut self, kv: &mut KvCache, token: u32) -> Result<(), DecoderError> {
        kv.reserve(Tokens(1))?;
        self.take_in(u64::from(token));
        self.script();
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }
}
