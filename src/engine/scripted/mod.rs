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
            encode_tile(&self.shape, &tiles[tile * 3 * plane..(tile + 1) * 3 * plane], features);
        });
        Ok(())
    }
}

/// One tile `[3,T,T]` → its features `[P,d_v]`.
pub fn encode_tile(shape: &EncoderShape, tile: &[f32], features: &mut [f16]) {
    let (side, patch) = (shape.tile.get(), shape.patch.get());
    let (plane, grid) = (side * side, side / patch);
    for (token, row) in features.chunks_exact_mut(shape.feature_dim).enumerate() {
        let corner = token / grid * patch * side + token % grid * patch;
        let mean = [0, 1, 2].map(|channel| {
            let rows = (0..patch).flat_map(|y| &tile[channel * plane + corner + y * side..][..patch]);
            rows.sum::<f32>() / (patch * patch) as f32
        });
        for (j, value) in row.iter_mut().enumerate() {
            *value = f16::from_f32((mean[j % 3] * (1.0 + j as f32 * 0.37)).sin());
        }
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
        project_rows((features, self.feature_dim), (out, self.hidden));
        Ok(())
    }
}

/// Rows and their width → rows and theirs.
pub fn project_rows((features, feature_dim): (&[f16], usize), (out, hidden): (&mut [f32], usize)) {
    for (row, out) in features.chunks_exact(feature_dim).zip(out.chunks_exact_mut(hidden)) {
        out.iter_mut().zip(row.iter().cycle()).for_each(|(out, value)| *out = value.to_f32());
    }
}

/// Mean absolute value of each row `[n, hidden]` → `[n]`: the script of importance.
pub fn look_at(rows: &[f16], hidden: usize, scores: &mut [f32]) {
    for (score, row) in scores.iter_mut().zip(rows.chunks_exact(hidden)) {
        *score = row.iter().map(|value| value.to_f32().abs()).sum::<f32>() / hidden as f32;
    }
}

/// What a scripted decoder remembers of a sequence: a hash of all it was given, and how many tokens it has said since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub state: u64,
    pub said: u32,
}

impl Script {
    fn take_in(&mut self, value: u64) {
        self.state = (self.state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    pub fn take_ids(&mut self, ids: &[u32]) {
        ids.iter().for_each(|&id| self.take_in(u64::from(id)));
    }

    pub fn take_rows(&mut self, rows: &[f16]) {
        rows.iter().for_each(|value| self.take_in(u64::from(value.to_bits())));
    }

    /// Writes 1 to the logit of the token that comes next, 0 to the others: `answer_len` tokens that aren't `stop`, then `stop`.
    pub fn say(&mut self, stop: u32, answer_len: u32, logits: &mut [f32]) {
        logits.fill(0.0);
        let vocab = logits.len() as u64;
        let mut token = usize::try_from(self.state % vocab).unwrap_or(0);
        if token == stop as usize {
            token = (token + 1) % logits.len();
        }
        let token = if self.said < answer_len { token } else { stop as usize };
        logits[token] = 1.0;
        self.said = self.said.saturating_add(1);
    }
}

/// Looks hardest at the largest rows and answers with tokens drawn from a hash of everything it was given, then stops.
pub struct ScriptedDecoder {
    shape: DecoderShape,
    stop: u32,
    answer_len: u32,
    logits: Vec<f32>,
    script: Script,
}

impl ScriptedDecoder {
    /// Answers of `answer_len` tokens, none of them `stop`, then `stop`.
    #[must_use]
    pub fn new(shape: DecoderShape, stop: u32, answer_len: u32) -> Self {
        let logits = vec![0.0; shape.vocab];
        Self { shape, stop, answer_len, logits, script: Script::default() }
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
        if let Some(Segment::Rows(rows)) = segments.get(image) {
            look_at(rows, self.shape.hidden, scores);
        }
        Ok(())
    }

    fn prefill(&mut self, kv: &mut KvCache, segments: &[Segment<'_>]) -> Result<(), DecoderError> {
        let positions = segments.iter().map(|segment| segment.len(self.shape.hidden)).sum();
        kv.clear();
        kv.reserve(Tokens::of(positions))?;
        self.script = Script::default();
        for segment in segments {
            match segment {
                Segment::Ids(ids) => self.script.take_ids(ids),
                Segment::Rows(rows) => self.script.take_rows(rows),
            }
        }
        self.script.say(self.stop, self.answer_len, &mut self.logits);
        Ok(())
    }

    fn step(&mut self, kv: &mut KvCache, token: u32) -> Result<(), DecoderError> {
        kv.reserve(Tokens(1))?;
        self.script.take_ids(&[token]);
        self.script.say(self.stop, self.answer_len, &mut self.logits);
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }
}
