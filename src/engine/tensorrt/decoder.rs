//! The language model on a device: prompt and answer go in and out, keys and values stay there.
//!
//! # Why
//! A prompt is a run of ids, a run of rows and ids again, so there is an engine for each, and one that looks at the last position only where logits are
//! wanted. The caller's cache counts positions; its memory is not used.

use half::f16;

use crate::arena::{Full, KvCache};
use crate::config::ImportanceRows;
use crate::engine::tensorrt::shim::{Bound, Device, DeviceBuffer, DeviceEngine, Dtype, HostBuffer, ShimError, Stream, TensorInfo};
use crate::engine::tensorrt::{id, names};
use crate::engine::{Decoder, DecoderError, DecoderShape, Segment};
use crate::units::{Bytes, Tokens};

/// Serialised engines. Each that takes positions writes their keys and values to `kv` `[positions, kv-width]` f16, of which they are the last.
#[derive(Clone, Copy, Debug)]
pub struct DecoderPlans<'a> {
    /// `ids` `[any]` i32 → `kv`.
    pub ids: &'a [u8],
    /// `rows` `[any, hidden]` f16 → `kv`.
    pub rows: &'a [u8],
    /// `rows` `[any, hidden]` f16 → `scores` `[any]` f32, as far as the interface layer.
    pub look: &'a [u8],
    /// `kv`'s last position → `logits` `[vocab]` f32.
    pub head: &'a [u8],
}

/// Values of a position's keys and values in all layers.
pub(super) fn kv_width(shape: &DecoderShape) -> usize {
    2 * shape.layers * shape.kv_width()
}

/// A decoder of `positions` positions, fed `chunk` of them a run.
pub struct TensorrtDecoder {
    id: String,
    shape: DecoderShape,
    positions: Tokens,
    chunk: usize,
    ids: DeviceEngine,
    rows: DeviceEngine,
    look: DeviceEngine,
    head: DeviceEngine,
    memory: Memory,
    stream: Stream,
    /// The logits are those of the last call.
    said: bool,
}

struct Memory {
    kv: DeviceBuffer<f16>,
    ids_in: HostBuffer<u32>,
    ids: DeviceBuffer<u32>,
    rows_in: HostBuffer<f16>,
    rows: DeviceBuffer<f16>,
    scores: DeviceBuffer<f32>,
    scores_out: HostBuffer<f32>,
    logits: DeviceBuffer<f32>,
    logits_out: HostBuffer<f32>,
}

impl Memory {
    fn new(device: &Device, shape: &DecoderShape, positions: usize, chunk: usize) -> Result<Self, ShimError> {
        Ok(Self {
            kv: device.buffer("keys and values", positions * kv_width(shape))?,
            ids_in: device.host("ids in", chunk)?,
            ids: device.buffer("ids", chunk)?,
            rows_in: device.host("rows in", chunk * shape.hidden)?,
            rows: device.buffer("rows", chunk * shape.hidden)?,
            scores: device.buffer("scores", chunk)?,
            scores_out: device.host("scores out", chunk)?,
            logits: device.buffer("logits", shape.vocab)?,
            logits_out: device.host("logits out", shape.vocab)?,
        })
    }

    fn bytes(&self) -> Bytes {
        let device = self.kv.bytes() + self.ids.bytes() + self.rows.bytes() + self.scores.bytes() + self.logits.bytes();
        device + self.ids_in.bytes() + self.rows_in.bytes() + self.scores_out.bytes() + self.logits_out.bytes()
    }
}

/// An error of the device, told with what the decoder was at.
fn at(doing: &'static str) -> impl Fn(ShimError) -> DecoderError {
    move |source| DecoderError::Device { doing, source }
}

impl TensorrtDecoder {
    /// The engines of `plans` on `device`, and memory for `positions` positions and runs of `chunk`.
    ///
    /// # Errors
    /// A tensor that differs, by its name; out of memory, with figures; a lost device.
    pub fn load(
        device: &Device,
        plans: &DecoderPlans<'_>,
        shape: DecoderShape,
        positions: Tokens,
        chunk: Tokens,
    ) -> Result<Self, DecoderError> {
        let load = || {
            let kv = (names::KV, TensorInfo::new(Dtype::F16, &[0, kv_width(&shape)]));
            let rows = (names::ROWS, TensorInfo::new(Dtype::F16, &[0, shape.hidden]));
            let scores = (names::SCORES, TensorInfo::new(Dtype::F32, &[0]));
            let logits = (names::LOGITS, TensorInfo::new(Dtype::F32, &[shape.vocab]));
            let ids = (names::IDS, TensorInfo::new(Dtype::I32, &[0]));
            Ok(Self {
                id: id(device),
                positions,
                chunk: chunk.get(),
                ids: device.engine(plans.ids, &[ids, kv])?,
                rows: device.engine(plans.rows, &[rows, kv])?,
                look: device.engine(plans.look, &[rows, scores])?,
                head: device.engine(plans.head, &[kv, logits])?,
                memory: Memory::new(device, &shape, positions.get(), chunk.get())?,
                stream: device.stream()?,
                said: false,
                shape: shape.clone(),
            })
        };
        load().map_err(at("load"))
    }

    /// Enqueues ids whose keys and values go to the positions from `first`.
    fn take_ids(&mut self, ids: &[u32], first: usize) -> Result<(), ShimError> {
        let memory = &mut self.memory;
        memory.ids_in.wait()?;
        memory.ids_in.values_mut()?[..ids.len()].copy_from_slice(ids);
        self.stream.copy_in(&mut memory.ids_in, &memory.ids, ids.len())?;
        let new = Bound::new(names::IDS, &memory.ids, &[ids.len()]);
        let kv = Bound::new(names::KV, &memory.kv, &[first + ids.len(), kv_width(&self.shape)]);
        self.stream.enqueue(&self.ids, &[new, kv])
    }

    /// Copies a chunk of rows in; how many they are.
    fn send_rows(&mut self, rows: &[f16]) -> Result<usize, ShimError> {
        let memory = &mut self.memory;
        memory.rows_in.wait()?;
        memory.rows_in.values_mut()?[..rows.len()].copy_from_slice(rows);
        self.stream.copy_in(&mut memory.rows_in, &memory.rows, rows.len())?;
        Ok(rows.len() / self.shape.hidden)
    }

    /// As [`Self::take_ids`], for rows.
    fn take_rows(&mut self, rows: &[f16], first: usize) -> Result<(), ShimError> {
        let count = self.send_rows(rows)?;
        let new = Bound::new(names::ROWS, &self.memory.rows, &[count, self.shape.hidden]);
        let kv = Bound::new(names::KV, &self.memory.kv, &[first + count, kv_width(&self.shape)]);
        self.stream.enqueue(&self.rows, &[new, kv])
    }

    /// Scores of a chunk of rows.
    fn look_at(&mut self, rows: &[f16], out: &mut [f32]) -> Result<(), ShimError> {
        let count = self.send_rows(rows)?;
        let memory = &mut self.memory;
        let new = Bound::new(names::ROWS, &memory.rows, &[count, self.shape.hidden]);
        let scores = Bound::new(names::SCORES, &memory.scores, &[count]);
        self.stream.enqueue(&self.look, &[new, scores])?;
        memory.scores_out.wait()?;
        self.stream.copy_out(&memory.scores, &mut memory.scores_out, count)?;
        memory.scores_out.wait()?;
        out.copy_from_slice(&memory.scores_out.values()?[..count]);
        Ok(())
    }

    /// The logits of the last of `positions` positions.
    fn say(&mut self, positions: usize) -> Result<(), ShimError> {
        let memory = &mut self.memory;
        let kv = Bound::new(names::KV, &memory.kv, &[positions, kv_width(&self.shape)]);
        let logits = Bound::new(names::LOGITS, &memory.logits, &[self.shape.vocab]);
        self.stream.enqueue(&self.head, &[kv, logits])?;
        memory.logits_out.wait()?;
        self.stream.copy_out(&memory.logits, &mut memory.logits_out, self.shape.vocab)?;
        memory.logits_out.wait()?;
        self.said = true;
        Ok(())
    }

    fn take_all(&mut self, segments: &[Segment<'_>]) -> Result<usize, ShimError> {
        let mut first = 0;
        for segment in segments {
            match segment {
                Segment::Ids(ids) => {
                    for ids in ids.chunks(self.chunk) {
                        self.take_ids(ids, first)?;
                        first += ids.len();
                    }
                }
                Segment::Rows(rows) => {
                    for rows in rows.chunks(self.chunk * self.shape.hidden) {
                        self.take_rows(rows, first)?;
                        first += rows.len() / self.shape.hidden;
                    }
                }
            }
        }
        Ok(first)
    }

    /// Ids below the vocabulary's size, whole rows.
    fn admit(&self, segments: &[Segment<'_>]) -> Result<Tokens, DecoderError> {
        let (hidden, vocab) = (self.shape.hidden, self.shape.vocab);
        for segment in segments {
            match segment {
                Segment::Ids(ids) => {
                    if let Some(&found) = ids.iter().find(|id| **id as usize >= vocab) {
                        return Err(DecoderError::Id { found, vocab });
                    }
                }
                Segment::Rows(rows) if !rows.len().is_multiple_of(hidden) => {
                    return Err(DecoderError::Length { what: "rows", wanted: rows.len().next_multiple_of(hidden), found: rows.len() });
                }
                Segment::Rows(_) => {}
            }
        }
        let positions = segments.iter().map(|segment| segment.len(hidden)).sum();
        if positions == 0 {
            return Err(DecoderError::Length { what: "prompt", wanted: 1, found: 0 });
        }
        Ok(Tokens::of(positions))
    }

    /// The next `wanted` positions, in the caller's count and in the device's memory.
    fn reserve(&self, kv: &mut KvCache, wanted: Tokens) -> Result<usize, DecoderError> {
        let free = self.positions - kv.len();
        if wanted > free {
            return Err(Full { what: "KV cache on the device", wanted, free }.into());
        }
        Ok(kv.reserve(wanted)?)
    }
}

impl Decoder for TensorrtDecoder {
    fn id(&self) -> &str {
        &self.id
    }

    fn shape(&self) -> &DecoderShape {
        &self.shape
    }

    fn weights(&self) -> Bytes {
        [&self.ids, &self.rows, &self.look, &self.head].map(DeviceEngine::bytes).into_iter().sum()
    }

    /// With the keys and values, which stand on the device.
    fn workspace(&self) -> Bytes {
        self.memory.bytes()
    }

    fn attend(
        &mut self,
        _kv: &mut KvCache,
        segments: &[Segment<'_>],
        image: usize,
        _looked_at: (usize, ImportanceRows),
        scores: &mut [f32],
    ) -> Result<(), DecoderError> {
        self.admit(segments)?;
        let Some(Segment::Rows(rows)) = segments.get(image) else {
            return Err(DecoderError::Length { what: "segments up to the image", wanted: image + 1, found: segments.len() });
        };
        let hidden = self.shape.hidden;
        if scores.len() != rows.len() / hidden {
            return Err(DecoderError::Length { what: "scores", wanted: rows.len() / hidden, found: scores.len() });
        }
        for (rows, scores) in rows.chunks(self.chunk * hidden).zip(scores.chunks_mut(self.chunk)) {
            self.look_at(rows, scores).map_err(at("attend"))?;
        }
        Ok(())
    }

    fn prefill(&mut self, kv: &mut KvCache, segments: &[Segment<'_>]) -> Result<(), DecoderError> {
        self.said = false;
        let positions = self.admit(segments)?;
        kv.clear();
        self.reserve(kv, positions)?;
        self.take_all(segments).and_then(|positions| self.say(positions)).map_err(at("prefill"))
    }

    fn step(&mut self, kv: &mut KvCache, token: u32) -> Result<(), DecoderError> {
        self.said = false;
        self.admit(&[Segment::Ids(&[token])])?;
        let first = self.reserve(kv, Tokens(1))?;
        self.take_ids(&[token], first).and_then(|()| self.say(first + 1)).map_err(at("step"))
    }

    /// None after a call that failed.
    fn logits(&self) -> &[f32] {
        if self.said { self.memory.logits_out.values().unwrap_or_default() } else { &[] }
    }
}
