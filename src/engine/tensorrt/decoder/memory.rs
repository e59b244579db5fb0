//! Memory of the decoder on both sides, where a layer's keys and values lie in it, and what its tensors are called.

use std::ffi::CString;

use half::f16;

use crate::engine::DecoderShape;
use crate::engine::tensorrt::shim::{Device, DeviceBuffer, Rows, Shared, ShimError, pitch};
use crate::engine::tensorrt::{DecoderSizes, Form, Room};
use crate::units::{Bytes, Tokens};

/// Caches are bound with a multiple of so many positions, as long as there are so many: shapes change seldom from step to step.
const BUCKET: usize = 256;

/// Positions that a cache which holds `held` of at most `positions` is bound with.
pub fn bucket(held: usize, positions: Tokens) -> usize {
    held.max(1).next_multiple_of(BUCKET).min(positions.get())
}

/// Blocks of keys and values, `[layer][keys, values]`, each `[rows, kv-width]` f16; or, written in place, `[kv-heads, rows, head-dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    pub count: usize,
    /// Values from a block's begin to the next one's: its rows, up to a place where a tensor may begin.
    pub stride: usize,
    width: usize,
}

impl Blocks {
    pub fn new(shape: &DecoderShape, rows: usize) -> Self {
        Self { count: 2 * shape.layers, stride: pitch::<f16>(rows * shape.kv_width()), width: shape.kv_width() }
    }

    pub fn values(&self) -> usize {
        self.count * self.stride
    }

    /// Row `row` of every block.
    pub fn rows(&self, row: usize) -> Rows {
        Rows { first: row * self.width, pitch: self.stride }
    }
}

/// All buffers of a decoder.
pub struct Memory {
    pub cached: Blocks,
    pub fresh: Blocks,
    /// Keys and values of all positions.
    pub kv: DeviceBuffer<f16>,
    /// Those of a run, before they are appended; none where they are written in place.
    pub new: Option<DeviceBuffer<f16>>,
    pub embeds: Shared<f16>,
    pub length: Shared<u32>,
    pub looking: Shared<u32>,
    pub visual: Shared<u32>,
    pub importance: Shared<f32>,
    pub logits: Shared<f32>,
}

impl Memory {
    pub fn new(device: &Device, shape: &DecoderShape, sizes: DecoderSizes, form: Form) -> Result<Self, ShimError> {
        let (chunk, visual) = (sizes.chunk.get(), sizes.visual.get());
        let (cached, fresh) = (Blocks::new(shape, sizes.positions.get()), Blocks::new(shape, chunk));
        Ok(Self {
            cached,
            fresh,
            kv: device.buffer("keys and values", cached.values())?,
            new: (form == Form::Appended).then(|| device.buffer("a run's keys and values", fresh.values())).transpose()?,
            embeds: device.shared("rows", chunk * shape.hidden)?,
            length: device.shared("a count", 1)?,
            looking: device.shared("looking rows", chunk)?,
            visual: device.shared("visual keys", visual)?,
            importance: device.shared("importance", visual)?,
            logits: device.shared("logits", shape.vocab)?,
        })
    }

    /// What [`Self::new`] takes of the device.
    pub fn buffers(room: &mut Room, shape: &DecoderShape, sizes: DecoderSizes, form: Form) {
        let (chunk, visual) = (sizes.chunk.get(), sizes.visual.get());
        room.buffer::<f16>(Blocks::new(shape, sizes.positions.get()).values());
        if form == Form::Appended {
            room.buffer::<f16>(Blocks::new(shape, chunk).values());
        }
        room.shared::<f16>(chunk * shape.hidden);
        [1, chunk, visual].into_iter().for_each(|len| room.shared::<u32>(len));
        [visual, shape.vocab].into_iter().for_each(|len| room.shared::<f32>(len));
    }

    pub fn bytes(&self) -> Bytes {
        let kv = self.kv.bytes() + self.new.as_ref().map_or(Bytes(0), DeviceBuffer::bytes);
        let places = self.length.bytes() + self.looking.bytes() + self.visual.bytes();
        kv + self.embeds.bytes() + places + self.importance.bytes() + self.logits.bytes()
    }
}

/// Of a block: what it is called where it is read, where it is made, and where it is kept with what was made.
pub struct Names {
    pub cache: CString,
    pub new: CString,
    pub kept: CString,
}

impl Names {
    /// Of all `layers` layers' blocks, in their order.
    pub fn of(layers: usize) -> Vec<Self> {
        let named = |text: String| CString::new(text).unwrap_or_default();
        let block = |(layer, kind)| {
            let (cache, new) = (named(format!("{kind}_cache_{layer}")), named(format!("new_{kind}_{layer}")));
            Self { cache, new, kept: named(format!("kept_{kind}_{layer}")) }
        };
        (0..layers).flat_map(|layer| [(layer, "k"), (layer, "v")]).map(block).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_bound_by_buckets() {
        let cases = [(0, 1_000, 256), (1, 1_000, 256), (256, 1_000, 256), (257, 1_000, 512), (900, 1_000, 1_000), (3, 10, 10)];
        cases.iter().for_each(|&(held, positions, wanted)| assert_eq!(bucket(held, Tokens(positions)), wanted));
    }

    #[test]
    fn blocks_begin_where_tensors_may() {
        let shape = DecoderShape { layers: 3, heads: 3, kv_heads: 3, head_dim: 2, hidden: 6, ffn: 32, vocab: 9, context: 64 };
        let blocks = Blocks::new(&shape, 50);
        assert_eq!((blocks.count, blocks.stride, blocks.values()), (6, 384, 6 * 384));
        assert_eq!((blocks.rows(7).first, blocks.rows(7).pitch), (42, 384));
        let names = Names::of(2);
        let told: Vec<_> = names.iter().flat_map(|names| [&names.cache, &names.new]).map(|name| name.to_str().unwrap()).collect();
        let wanted = ["k_cache_0", "new_k_0", "v_cache_0", "new_v_0", "k_cache_1", "new_k_1", "v_cache_1", "new_v_1"];
        assert_eq!(told, wanted);
    }
}
