//! Memory of the decoder on both sides, where a layer's keys and values lie in it, and what its tensors are called.

use std::ffi::CString;

use half::f16;

use crate::engine::DecoderShape;
use crate::engine::tensorrt::shim::{ALIGNMENT, Device, DeviceBuffer, HostBuffer, Rows, ShimError};
use crate::engine::tensorrt::{DecoderSizes, Form};
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
        let stride = (rows * shape.kv_width()).next_multiple_of(ALIGNMENT / size_of::<f16>());
        Self { count: 2 * shape.layers, stride, width: shape.kv_width() }
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
    pub embeds_in: HostBuffer<f16>,
    pub embeds: DeviceBuffer<f16>,
    pub length_in: HostBuffer<u32>,
    pub length: DeviceBuffer<u32>,
    pub looking_in: HostBuffer<u32>,
    pub looking: DeviceBuffer<u32>,
    pub visual_in: HostBuffer<u32>,
    pub visual: DeviceBuffer<u32>,
    pub importance: DeviceBuffer<f32>,
    pub importance_out: HostBuffer<f32>,
    pub logits: DeviceBuffer<f32>,
    pub logits_out: HostBuffer<f32>,
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
            embeds_in: device.host("rows in", chunk * shape.hidden)?,
            embeds: device.buffer("rows", chunk * shape.hidden)?,
            length_in: device.host("a count in", 1)?,
            length: device.buffer("a count", 1)?,
            looking_in: device.host("looking rows in", chunk)?,
            looking: device.buffer("looking rows", chunk)?,
            visual_in: device.host("visual keys in", visual)?,
            visual: device.buffer("visual keys", visual)?,
            importance: device.buffer("importance", visual)?,
            importance_out: device.host("importance out", visual)?,
            logits: device.buffer("logits", shape.vocab)?,
            logits_out: device.host("logits out", shape.vocab)?,
        })
    }

    pub fn bytes(&self) -> Bytes {
        let kv = self.kv.bytes() + self.new.as_ref().map_or(Bytes(0), DeviceBuffer::bytes);
        let rows = self.embeds_in.bytes() + self.embeds.bytes() + self.length_in.bytes() + self.length.bytes();
        let places = self.looking_in.bytes() + self.looking.bytes() + self.visual_in.bytes() + self.visual.bytes();
        let out = self.importance.bytes() + self.importance_out.bytes() + self.logits.bytes() + self.logits_out.bytes();
        kv + rows + places + out
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
