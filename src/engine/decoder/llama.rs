//! The llama architecture and Qwen2's: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Qwen2 adds to queries, keys and values, and rotates the two
//! halves of a head against each other where llama's files have adjacent pairs.

use std::path::Path;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use crate::arena::KvCache;
use crate::config::ImportanceRows;
use crate::engine::decoder::gguf::{Gguf, Located};
use crate::engine::decoder::rope::Rope;
use crate::engine::decoder::{Decoder, DecoderError, DecoderShape, Pairs, Segment, finite, first_looking};
use crate::kernels::{Head, Isa, Pool, attention, attention_scratch, attention_weights, matmul, matmul_scratch};
use crate::units::{Bytes, Tokens};

/// Positions that go through the layers together.
const CHUNK: usize = 64;
const MAX_HEAD_DIM: u32 = 256;

/// What is different from one architecture to the other: the name that its keys begin with, pairs, and whether queries, keys and values are added to.
struct Family {
    name: &'static str,
    pairs: Pairs,
    biases: bool,
}

const FAMILIES: [Family; 2] =
    [Family { name: "llama", pairs: Pairs::Adjacent, biases: false }, Family { name: "qwen2", pairs: Pairs::Halves, biases: true }];

struct Layer {
    attn_norm: Vec<f32>,
    ffn_norm: Vec<f32>,
    q: Located,
    k: Located,
    v: Located,
    o: Located,
    gate: Located,
    up: Located,
    down: Located,
    /// Added to queries, keys and values; empty where nothing is.
    biases: [Vec<f32>; 3],
}

/// Buffers of a chunk, made at load.
struct Work {
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[heads][rows][head_dim]`, then its transpose in `mixed`.
    by_head: Vec<f32>,
    mixed: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    products: Vec<f32>,
    attention: Vec<f32>,
    /// Softmax weights of one row, a head each: `[heads][context]`.
    weights: Vec<f32>,
    logits: Vec<f32>,
}

/// A loaded model. Weights stay in the mapped file.
pub struct Llama {
    id: String,
    file: Gguf,
    shape: DecoderShape,
    layers: Vec<Layer>,
    embedding: Located,
    output: Located,
    output_norm: Vec<f32>,
    epsilon: f32,
    rope: Rope,
    work: Work,
    isa: Isa,
    pool: Arc<Pool>,
}

/// What a file says of its decoder's sizes.
pub(super) struct Sizes {
    family: &'static Family,
    /// Values of a head that are rotated.
    rotary: usize,
    pub shape: DecoderShape,
}

/// Sizes by the metadata of `file`.
pub(super) fn sizes(file: &Gguf) -> Result<Sizes, DecoderError> {
    let architecture = file.text("general.architecture")?;
    let Some(family) = FAMILIES.iter().find(|family| family.name == architecture) else {
        return Err(file.key_error("general.architecture", "llama or qwen2", file.value("general.architecture")));
    };
    let name = family.name;
    let key = |part: &str| format!("{name}.{part}");
    let heads = file.count(&key("attention.head_count"), 1..=256)?;
    let of_kv = key("attention.head_count_kv");
    let kv_heads = file.count_or(&of_kv, 1..=256, heads)?;
    let hidden = file.count(&key("embedding_length"), 32..=1 << 16)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(file.key_error(&of_kv, &format!("a divisor of {heads} heads"), file.value(&of_kv)));
    }
    let key_length = key("attention.key_length");
    let head_dim = if hidden.is_multiple_of(heads) {
        file.count_or(&key_length, 2..=MAX_HEAD_DIM, hidden / heads)?
    } else {
        file.count(&key_length, 2..=MAX_HEAD_DIM)?
    };
    let rotated = key("rope.dimension_count");
    let rotary = file.count_or(&rotated, 2..=MAX_HEAD_DIM, head_dim)?;
    if rotary > head_dim || !rotary.is_multiple_of(2) || head_dim > MAX_HEAD_DIM as usize {
        let wanted = format!("an even number up to the head's {head_dim} values, at most {MAX_HEAD_DIM}");
        return Err(file.key_error(&rotated, &wanted, file.value(&rotated)));
    }
    let (_, vocab) = file.sides("token_embd.weight")?;
    let shape = DecoderShape {
        layers: file.count(&key("block_count"), 1..=512)?,
        heads,
        kv_heads,
        head_dim,
        hidden,
        ffn: file.count(&key("feed_forward_length"), 32..=1 << 20)?,
        vocab,
        context: file.count(&key("context_length"), 1..=1 << 24)?,
    };
    Ok(Sizes { family, rotary, shape })
}

impl Llama {
    /// Loads `path` for sequences of at most `positions` (or the file's context, when that is less).
    ///
    /// # Errors
    /// Names the key or the tensor that isn't as wanted.
    pub fn load(path: &Path, positions: Tokens, pool: Arc<Pool>) -> Result<Self, DecoderError> {
        let file = Gguf::open(path)?;
        let Sizes { family: Family { name, pairs, biases }, rotary, shape } = sizes(&file)?;
        let key = |part: &str| format!("{name}.{part}");
        let (heads, hidden, head_dim, vocab) = (shape.heads, shape.hidden, shape.head_dim, shape.vocab);
        let embedding = file.locate("token_embd.weight", vocab, hidden)?;
        let output = if file.has("output.weight") { file.locate("output.weight", vocab, hidden)? } else { embedding };
        let vector_of = |name: &str, len: usize| {
            let located = file.locate(name, 1, len)?;
            let mut values = vec![0.0; len];
            file.matrix(&located).row(0, &mut values);
            Ok::<_, DecoderError>(values)
        };
        let vector = |name: &str| vector_of(name, hidden);
        let (q_width, kv_width) = (heads * head_dim, shape.kv_width());
        let layer = |number: usize| {
            let name = |part: &str| format!("blk.{number}.{part}.weight");
            let bias = |part: &str, len: usize| {
                if *biases { vector_of(&format!("blk.{number}.{part}.bias"), len) } else { Ok(Vec::new()) }
            };
            Ok::<_, DecoderError>(Layer {
                attn_norm: vector(&name("attn_norm"))?,
                ffn_norm: vector(&name("ffn_norm"))?,
                q: file.locate(&name("attn_q"), q_width, hidden)?,
                k: file.locate(&name("attn_k"), kv_width, hidden)?,
                v: file.locate(&name("attn_v"), kv_width, hidden)?,
                o: file.locate(&name("attn_output"), hidden, q_width)?,
                gate: file.locate(&name("ffn_gate"), shape.ffn, hidden)?,
                up: file.locate(&name("ffn_up"), shape.ffn, hidden)?,
                down: file.locate(&name("ffn_down"), hidden, shape.ffn)?,
                biases: [bias("attn_q", q_width)?, bias("attn_k", kv_width)?, bias("attn_v", kv_width)?],
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<Result<Vec<_>, _>>()?;
        let output_norm = vector("output_norm.weight")?;
        let epsilon = file.positive_or(&key("attention.layer_norm_rms_epsilon"), None)?;
        let rope = Rope::load(&file, name, rotary, *pairs)?;
        let positions = positions.get().min(shape.context);
        let work = Work::new(&shape, positions, pool.threads());
        let isa = Isa::detect();
        Ok(Self {
            id: format!("uhr-edge gguf {isa:?}"),
            file,
            layers,
            embedding,
            output,
            output_norm,
            epsilon,
            rope,
            work,
            isa,
            pool,
            shape,
        })
    }

    /// What a decoder of `shape` will need beside its weights and the KV cache, for sequences of at most `positions`.
    #[must_use]
    pub fn workspace_of(shape: &DecoderShape, positions: Tokens, threads: usize) -> Bytes {
        Work::bytes(shape, positions.get().min(shape.context), threads)
    }

    fn embed(&mut self, segments: &[Segment<'_>], first: usize, rows: usize) -> Result<(), DecoderError> {
        let hidden = self.shape.hidden;
        for (row, x) in self.work.x[..rows * hidden].chunks_exact_mut(hidden).enumerate() {
            let mut at = first + row;
            for segment in segments {
                let len = segment.len(hidden);
                if at >= len {
                    at -= len;
                    continue;
                }
                match segment {
                    Segment::Ids(ids) if ids[at] as usize >= self.shape.vocab => {
                        return Err(DecoderError::Id { found: ids[at], vocab: self.shape.vocab });
                    }
                    Segment::Ids(ids) => self.file.matrix(&self.embedding).row(ids[at] as usize, x),
                    Segment::Rows(given) => given[at * hidden..(at + 1) * hidden].convert_to_f32_slice(x),
                }
                break;
            }
        }
        Ok(())
    }

    fn product(&mut self, which: &Located, from: Buffer, to: Buffer, rows: usize) {
        let matrix = self.file.matrix(which);
        let (from, to) = self.work.two(from, to);
        matmul(self.isa, &self.pool, &matrix, &from[..rows * matrix.cols], &mut to.0[..rows * matrix.rows], to.1);
    }

    /// Keys of a chunk into the cache; queries too where they are wanted. The chunk's x is normed into `normed` before.
    fn keys_and_queries(&mut self, kv: &mut KvCache, layer: usize, first: usize, rows: usize, queries: bool) {
        let (hidden, dim) = (self.shape.hidden, self.shape.head_dim);
        norm(&self.work.x[..rows * hidden], &self.layers[layer].attn_norm, self.epsilon, &mut self.work.normed);
        let (q, k) = (self.layers[layer].q, self.layers[layer].k);
        self.product(&k, Buffer::Normed, Buffer::K, rows);
        let (kv_width, q_width) = (self.shape.kv_width(), self.shape.heads * dim);
        add_each(&mut self.work.k[..rows * kv_width], &self.layers[layer].biases[1]);
        self.rope.rotate(&mut self.work.k[..rows * kv_width], kv_width, dim, first);
        kv.put_keys(layer, first, &self.work.k[..rows * kv_width]);
        if queries {
            self.product(&q, Buffer::Normed, Buffer::Q, rows);
            add_each(&mut self.work.q[..rows * q_width], &self.layers[layer].biases[0]);
            self.rope.rotate(&mut self.work.q[..rows * q_width], q_width, dim, first);
        }
    }

    /// A whole layer on a chunk whose first position is `first`.
    fn layer(&mut self, kv: &mut KvCache, layer: usize, first: usize, rows: usize) {
        self.keys_and_queries(kv, layer, first, rows, true);
        let (v, o, gate, up, down) = {
            let layer = &self.layers[layer];
            (layer.v, layer.o, layer.gate, layer.up, layer.down)
        };
        self.product(&v, Buffer::Normed, Buffer::V, rows);
        add_each(&mut self.work.v[..rows * self.shape.kv_width()], &self.layers[layer].biases[2]);
        kv.put_values(layer, first, &self.work.v[..rows * self.shape.kv_width()]);
        self.mix(kv, layer, first, rows);
        let (hidden, ffn) = (self.shape.hidden, self.shape.ffn);
        self.product(&o, Buffer::Mixed, Buffer::Normed, rows);
        add(&mut self.work.x[..rows * hidden], &self.work.normed);
        norm(&self.work.x[..rows * hidden], &self.layers[layer].ffn_norm, self.epsilon, &mut self.work.normed);
        self.product(&gate, Buffer::Normed, Buffer::Gate, rows);
        self.product(&up, Buffer::Normed, Buffer::Up, rows);
        for (gate, up) in self.work.gate[..rows * ffn].iter_mut().zip(&self.work.up) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        self.product(&down, Buffer::Gate, Buffer::Normed, rows);
        add(&mut self.work.x[..rows * hidden], &self.work.normed);
    }

    /// Attention of a chunk, a task a head; the result stands in `mixed` `[rows][heads · head_dim]`.
    fn mix(&mut self, kv: &KvCache, layer: usize, first: usize, rows: usize) {
        let DecoderShape { heads, head_dim: dim, .. } = self.shape;
        let (keys, values, width, group) = (kv.keys(layer), kv.values(layer), self.shape.kv_width(), heads / self.shape.kv_heads);
        let Work { by_head, attention: scratch, q, mixed, .. } = &mut self.work;
        let (q, isa) = (&*q, self.isa);
        let per_head = scratch.len() / heads;
        self.pool.pairs(&mut by_head[..heads * rows * dim], rows * dim, scratch, per_head, &|number, out, scratch| {
            let head = Head { keys, values, width, offset: number / group * dim, dim };
            attention(isa, head, q, heads * dim, number * dim, first, out, scratch);
        });
        for (number, from) in by_head[..heads * rows * dim].chunks_exact(rows * dim).enumerate() {
            for (row, from) in from.chunks_exact(dim).enumerate() {
                mixed[(row * heads + number) * dim..][..dim].copy_from_slice(from);
            }
        }
    }

    /// Adds to `scores` the attention of one query row over the image's positions, summed over heads.
    fn look(&mut self, kv: &KvCache, layer: usize, row: usize, position: usize, image: std::ops::Range<usize>, scores: &mut [f32]) {
        let DecoderShape { heads, head_dim: dim, .. } = self.shape;
        let (keys, values, width, group) = (kv.keys(layer), kv.values(layer), self.shape.kv_width(), heads / self.shape.kv_heads);
        let Work { weights, attention: scratch, q, .. } = &mut self.work;
        let query = &q[row * heads * dim..(row + 1) * heads * dim];
        let (context, per_head, isa) = (weights.len() / heads, scratch.len() / heads, self.isa);
        self.pool.pairs(weights, context, scratch, per_head, &|number, weights, scratch| {
            let head = Head { keys, values, width, offset: number / group * dim, dim };
            attention_weights(isa, head, &query[number * dim..(number + 1) * dim], &mut weights[..=position], scratch);
        });
        for weights in weights.chunks_exact(context) {
            add(scores, &weights[image.clone()]);
        }
    }

    fn finish(&mut self, last: usize) {
        let hidden = self.shape.hidden;
        self.work.x.copy_within(last * hidden..(last + 1) * hidden, 0);
        norm(&self.work.x[..hidden], &self.output_norm, self.epsilon, &mut self.work.normed);
        let output = self.output;
        self.product(&output, Buffer::Normed, Buffer::Logits, 1);
    }

    fn room(&self, kv: &KvCache, wanted: usize) -> Result<(), DecoderError> {
        let free = (self.work.weights.len() / self.shape.heads).saturating_sub(kv.len().get());
        if wanted <= free {
            return Ok(());
        }
        let full = crate::arena::Full { what: "decoder context", wanted: Tokens::of(wanted), free: Tokens::of(free) };
        Err(full.into())
    }
}

impl Decoder for Llama {
    fn id(&self) -> &str {
        &self.id
    }

    fn shape(&self) -> &DecoderShape {
        &self.shape
    }

    fn weights(&self) -> Bytes {
        let matrices = self.layers.iter().flat_map(|l| [l.q, l.k, l.v, l.o, l.gate, l.up, l.down]);
        matrices.chain([self.embedding, self.output]).map(|located| Bytes(located.len as u64)).sum()
    }

    fn workspace(&self) -> Bytes {
        Work::bytes(&self.shape, self.work.weights.len() / self.shape.heads, self.pool.threads())
    }

    fn attend(
        &mut self,
        kv: &mut KvCache,
        segments: &[Segment<'_>],
        image: usize,
        (interface_layer, rows_wanted): (usize, ImportanceRows),
        scores: &mut [f32],
    ) -> Result<(), DecoderError> {
        let hidden = self.shape.hidden;
        let layers = self.shape.layers;
        if !(1..=layers).contains(&interface_layer) {
            return Err(DecoderError::Layer { found: interface_layer, layers });
        }
        let before: usize = segments[..image].iter().map(|segment| segment.len(hidden)).sum();
        let shown = before..before + segments[image].len(hidden);
        if scores.len() != shown.len() {
            return Err(DecoderError::Length { what: "scores", wanted: shown.len(), found: scores.len() });
        }
        let total: usize = segments.iter().map(|segment| segment.len(hidden)).sum();
        let first_asking = first_looking(rows_wanted, shown.end, total);
        kv.clear();
        self.room(kv, total)?;
        scores.fill(0.0);
        for first in (0..total).step_by(CHUNK) {
            let rows = CHUNK.min(total - first);
            kv.reserve(Tokens::of(rows))?;
            self.embed(segments, first, rows)?;
            for layer in 0..interface_layer - 1 {
                self.layer(kv, layer, first, rows);
            }
            let asking = first + rows > first_asking;
            self.keys_and_queries(kv, interface_layer - 1, first, rows, asking);
            for row in first_asking.saturating_sub(first)..rows {
                self.look(kv, interface_layer - 1, row, first + row, shown.clone(), scores);
            }
        }
        let asked = (total - first_asking).max(1) * self.shape.heads;
        scores.iter_mut().for_each(|score| *score /= asked as f32);
        finite(interface_layer, scores)
    }

    fn prefill(&mut self, kv: &mut KvCache, segments: &[Segment<'_>]) -> Result<(), DecoderError> {
        let total: usize = segments.iter().map(|segment| segment.len(self.shape.hidden)).sum();
        if total == 0 {
            return Err(DecoderError::Length { what: "a prompt", wanted: 1, found: 0 });
        }
        kv.clear();
        self.room(kv, total)?;
        for first in (0..total).step_by(CHUNK) {
            let rows = CHUNK.min(total - first);
            kv.reserve(Tokens::of(rows))?;
            self.embed(segments, first, rows)?;
            for layer in 0..self.shape.layers {
                self.layer(kv, layer, first, rows);
            }
            if first + rows == total {
                self.finish(rows - 1);
            }
        }
        Ok(())
    }

    fn step(&mut self, kv: &mut KvCache, token: u32) -> Result<(), DecoderError> {
        self.room(kv, 1)?;
        let ids = [token];
        self.embed(&[Segment::Ids(&ids)], 0, 1)?;
        let first = kv.reserve(Tokens(1))?;
        for layer in 0..self.shape.layers {
            self.layer(kv, layer, first, 1);
        }
        self.finish(0);
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.work.logits
    }
}

/// Which of [`Work`]'s buffers.
#[derive(Clone, Copy)]
enum Buffer {
    Normed,
    Q,
    K,
    V,
    Mixed,
    Gate,
    Up,
    Logits,
}

impl Work {
    fn new(shape: &DecoderShape, positions: usize, threads: usize) -> Self {
        let [x, q, kv, ffn, products, attention, weights, logits] = Self::sizes(shape, positions, threads);
        let zeros = |len: usize| vec![0.0_f32; len];
        Self {
            x: zeros(x),
            normed: zeros(x),
            q: zeros(q),
            k: zeros(kv),
            v: zeros(kv),
            by_head: zeros(q),
            mixed: zeros(q),
            gate: zeros(ffn),
            up: zeros(ffn),
            products: zeros(products),
            attention: zeros(attention),
            weights: zeros(weights),
            logits: zeros(logits),
        }
    }

    /// Of all buffers that [`Self::new`] makes.
    fn bytes(shape: &DecoderShape, positions: usize, threads: usize) -> Bytes {
        let [x, q, kv, ffn, products, attention, weights, logits] = Self::sizes(shape, positions, threads);
        Bytes::of::<f32>(2 * x + 3 * q + 2 * kv + 2 * ffn + products + attention + weights + logits)
    }

    fn sizes(shape: &DecoderShape, positions: usize, threads: usize) -> [usize; 8] {
        let q = shape.heads * shape.head_dim;
        let widest = shape.hidden.max(shape.ffn).max(q);
        [
            CHUNK * shape.hidden,
            CHUNK * q,
            CHUNK * shape.kv_width(),
            CHUNK * shape.ffn,
            matmul_scratch(widest, threads),
            shape.heads * attention_scratch(shape.head_dim, CHUNK),
            shape.heads * positions,
            shape.vocab,
        ]
    }

    /// A buffer to read, one to write, and the products' scratch.
    fn two(&mut self, from: Buffer, to: Buffer) -> (&[f32], (&mut [f32], &mut [f32])) {
        let Self { normed, q, k, v, mixed, gate, up, products, logits, .. } = self;
        match (from, to) {
            (Buffer::Normed, Buffer::Q) => (normed, (q, products)),
            (Buffer::Normed, Buffer::K) => (normed, (k, products)),
            (Buffer::Normed, Buffer::V) => (normed, (v, products)),
            (Buffer::Normed, Buffer::Gate) => (normed, (gate, products)),
            (Buffer::Normed, Buffer::Up) => (normed, (up, products)),
            (Buffer::Normed, Buffer::Logits) => (normed, (logits, products)),
            (Buffer::Gate, _) => (gate, (normed, products)),
            (_, _) => (mixed, (normed, products)),
        }
    }
}

/// `x / rms(x) · weight`, row by row.
fn norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let square: f32 = x.iter().map(|value| value * value).sum::<f32>() / weight.len() as f32;
        let scale = 1.0 / (square + epsilon).sqrt();
        out.iter_mut().zip(x).zip(weight).for_each(|((out, value), weight)| *out = value * scale * weight);
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Adds `bias` to each row; nothing where it is empty.
fn add_each(rows: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        rows.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
    }
}
