//! The decoder against an f64 forward pass written from the architecture's description, on small GGUF files made here: all formats, grouped
//! queries, partial rotation, tied and separate output matrices.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::Random;
use half::f16;
use uhr_edge::arena::KvCache;
use uhr_edge::config::ImportanceRows;
use uhr_edge::engine::decoder::Llama;
use uhr_edge::engine::{Decoder, DecoderError, Segment};
use uhr_edge::kernels::Pool;
use uhr_edge::units::Tokens;

const VOCAB: usize = 50;
const HIDDEN: usize = 64;
const FFN: usize = 96;
const LAYERS: usize = 3;
const EPSILON: f32 = 1e-5;

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotary: usize,
    tied: bool,
    family: &'static str,
    scaling: Scaling,
}

/// Of the rotation: none, or what is written to the file.
#[derive(Clone, Copy)]
enum Scaling {
    None,
    Linear,
    Yarn,
}

/// Stretch of the scaled ones, and YaRN's original context.
const FACTOR: f32 = 4.0;
const ORIGINAL: usize = 128;

const SHAPES: [Shape; 6] = [
    Shape { heads: 4, kv_heads: 2, head_dim: 16, rotary: 16, tied: true, family: "llama", scaling: Scaling::None },
    Shape { heads: 4, kv_heads: 4, head_dim: 16, rotary: 8, tied: false, family: "llama", scaling: Scaling::Linear },
    Shape { heads: 6, kv_heads: 1, head_dim: 32, rotary: 32, tied: false, family: "llama", scaling: Scaling::None },
    Shape { heads: 4, kv_heads: 2, head_dim: 16, rotary: 16, tied: true, family: "qwen2", scaling: Scaling::None },
    Shape { heads: 6, kv_heads: 2, head_dim: 32, rotary: 32, tied: false, family: "qwen2", scaling: Scaling::Yarn },
    Shape { heads: 4, kv_heads: 1, head_dim: 32, rotary: 16, tied: true, family: "qwen2", scaling: Scaling::Linear },
];

/// A matrix: its values, and its bytes with ggml's number of their format.
struct Tensor {
    name: String,
    rows: usize,
    cols: usize,
    values: Vec<f64>,
    kind: u32,
    bytes: Vec<u8>,
}

fn tensor(random: &mut Random, name: String, rows: usize, cols: usize, kind: u32) -> Tensor {
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    let scale = 2.0 / (cols as f32).sqrt();
    let half = |value: f32, bytes: &mut Vec<u8>| {
        bytes.extend_from_slice(&f16::from_f32(value).to_le_bytes());
        f64::from(f16::from_f32(value).to_f32())
    };
    for _ in 0..rows * cols / 32 {
        match kind {
            0 => (0..32).for_each(|_| {
                let value = random.number() * scale;
                bytes.extend_from_slice(&value.to_le_bytes());
                values.push(f64::from(value));
            }),
            1 => (0..32).for_each(|_| values.push(half(random.number() * scale, &mut bytes))),
            2 | 3 => {
                let step = half(scale / 8.0, &mut bytes);
                let least = if kind == 2 { -8.0 * step } else { half(-scale, &mut bytes) };
                let packed: Vec<u8> = (0..16).map(|_| random.below(256) as u8).collect();
                let nibbles = packed.iter().map(|byte| byte & 15).chain(packed.iter().map(|byte| byte >> 4));
                values.extend(nibbles.map(|nibble| f64::from(nibble) * step + least));
                bytes.extend(&packed);
            }
            _ => {
                let step = half(scale / 127.0, &mut bytes);
                let signed: Vec<i8> = (0..32).map(|_| random.below(256) as u8 as i8).collect();
                values.extend(signed.iter().map(|&value| f64::from(value) * step));
                bytes.extend(signed.iter().map(|&value| value as u8));
            }
        }
    }
    Tensor { name, rows, cols, values, kind, bytes }
}

fn vector(random: &mut Random, name: String) -> Tensor {
    around(random, name, HIDDEN, 1.0)
}

fn around(random: &mut Random, name: String, len: usize, middle: f32) -> Tensor {
    let values: Vec<f32> = (0..len).map(|_| middle + 0.2 * random.number()).collect();
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name, rows: 0, cols: len, values: values.iter().map(|&value| f64::from(value)).collect(), kind: 0, bytes }
}

struct Model {
    shape: Shape,
    tensors: Vec<Tensor>,
}

impl Model {
    fn new(shape: Shape, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let mut kinds = [0, 1, 2, 3, 8].into_iter().cycle();
        let mut tensors = vec![tensor(random, "token_embd.weight".into(), VOCAB, HIDDEN, 1), vector(random, "output_norm.weight".into())];
        if !shape.tied {
            tensors.push(tensor(random, "output.weight".into(), VOCAB, HIDDEN, 8));
        }
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            tensors.extend(["attn_norm", "ffn_norm"].map(|part| vector(random, name(part))));
            let parts = [
                ("attn_q", q, HIDDEN),
                ("attn_k", kv, HIDDEN),
                ("attn_v", kv, HIDDEN),
                ("attn_output", HIDDEN, q),
                ("ffn_gate", FFN, HIDDEN),
                ("ffn_up", FFN, HIDDEN),
                ("ffn_down", HIDDEN, FFN),
            ];
            if shape.family == "qwen2" {
                let biases = [("attn_q", q), ("attn_k", kv), ("attn_v", kv)];
                tensors.extend(biases.map(|(part, len)| around(random, format!("blk.{layer}.{part}.bias"), len, 0.0)));
            }
            tensors.extend(parts.map(|(part, rows, cols)| tensor(random, name(part), rows, cols, kinds.next().unwrap())));
        }
        Self { shape, tensors }
    }

    /// GGUF version 3.
    fn write(&self, path: &Path) {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        let shape = self.shape;
        let counts = [
            ("block_count", LAYERS),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", FFN),
            ("context_length", 512),
            ("attention.head_count", shape.heads),
            ("attention.head_count_kv", shape.kv_heads),
            ("attention.key_length", shape.head_dim),
            ("rope.dimension_count", shape.rotary),
        ];
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        out.extend((self.tensors.len() as u64).to_le_bytes());
        let scaling = match shape.scaling {
            Scaling::None => None,
            Scaling::Linear => Some("linear"),
            Scaling::Yarn => Some("yarn"),
        };
        out.extend((counts.len() as u64 + if scaling.is_some() { 5 } else { 2 }).to_le_bytes());
        text(&mut out, "general.architecture");
        out.extend(8_u32.to_le_bytes());
        text(&mut out, shape.family);
        if let Some(scaling) = scaling {
            text(&mut out, &format!("{}.rope.scaling.type", shape.family));
            out.extend(8_u32.to_le_bytes());
            text(&mut out, scaling);
            text(&mut out, &format!("{}.rope.scaling.factor", shape.family));
            out.extend(6_u32.to_le_bytes());
            out.extend(FACTOR.to_le_bytes());
            text(&mut out, &format!("{}.rope.scaling.original_context_length", shape.family));
            out.extend(4_u32.to_le_bytes());
            out.extend((ORIGINAL as u32).to_le_bytes());
        }
        text(&mut out, &format!("{}.attention.layer_norm_rms_epsilon", shape.family));
        out.extend(6_u32.to_le_bytes());
        out.extend(EPSILON.to_le_bytes());
        for (key, count) in counts {
            text(&mut out, &format!("{}.{key}", shape.family));
            out.extend(4_u32.to_le_bytes());
            out.extend((count as u32).to_le_bytes());
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            let dims = if tensor.rows == 0 { vec![tensor.cols] } else { vec![tensor.cols, tensor.rows] };
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        std::fs::write(path, out).unwrap();
    }

    fn find(&self, name: &str) -> &Tensor {
        self.tensors.iter().find(|tensor| tensor.name == name).unwrap()
    }

    fn product(&self, name: &str, x: &[f64]) -> Vec<f64> {
        self.find(name).values.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let scale = 1.0 / (x.iter().map(|value| value * value).sum::<f64>() / x.len() as f64 + f64::from(EPSILON)).sqrt();
        x.iter().zip(&self.find(name).values).map(|(value, weight)| value * scale * weight).collect()
    }

    fn embedding(&self, id: u32) -> Vec<f64> {
        self.find("token_embd.weight").values[id as usize * HIDDEN..][..HIDDEN].to_vec()
    }

    /// Logits of the last of `rows`, and the attention of each layer, `[row][key]`, averaged over heads.
    fn forward(&self, rows: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<Vec<f64>>>) {
        let Shape { heads, kv_heads, head_dim, .. } = self.shape;
        let mut x = rows.to_vec();
        let mut looked = Vec::new();
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let normed: Vec<Vec<f64>> = x.iter().map(|x| self.norm(&name("attn_norm"), x)).collect();
            let bias = |part: &str| self.tensors.iter().find(|tensor| tensor.name == format!("blk.{layer}.{part}.bias"));
            let of = |part: &str| {
                let row = |x: &Vec<f64>| {
                    let mut row = self.product(&name(part), x);
                    bias(part).iter().for_each(|bias| row.iter_mut().zip(&bias.values).for_each(|(value, bias)| *value += bias));
                    row
                };
                normed.iter().map(row).collect::<Vec<_>>()
            };
            let stored = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
                rows.into_iter().map(|row| row.into_iter().map(|value| f64::from(f16::from_f64(value).to_f32())).collect()).collect()
            };
            let (q, k, v) = (self.rotate(of("attn_q")), stored(self.rotate(of("attn_k"))), stored(of("attn_v")));
            let mut means = Vec::new();
            for row in 0..x.len() {
                let mut mixed = vec![0.0; heads * head_dim];
                let mut mean = vec![0.0; row + 1];
                for head in 0..heads {
                    let group = head * kv_heads / heads * head_dim;
                    let query = &q[row][head * head_dim..][..head_dim];
                    let dot = |key: &Vec<f64>| query.iter().zip(&key[group..]).map(|(a, b)| a * b).sum::<f64>() / (head_dim as f64).sqrt();
                    let scores: Vec<f64> = k[..=row].iter().map(dot).collect();
                    let most = scores.iter().copied().fold(f64::MIN, f64::max);
                    let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                    for (at, score) in scores.iter().enumerate() {
                        let weight = (score - most).exp() / total;
                        mean[at] += weight / heads as f64;
                        mixed[head * head_dim..][..head_dim]
                            .iter_mut()
                            .zip(&v[at][group..])
                            .for_each(|(out, value)| *out += weight * value);
                    }
                }
                means.push(mean);
                let out = self.product(&name("attn_output"), &mixed);
                x[row].iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
            looked.push(means);
            for x in &mut x {
                let normed = self.norm(&name("ffn_norm"), x);
                let (gate, up) = (self.product(&name("ffn_gate"), &normed), self.product(&name("ffn_up"), &normed));
                let inner: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
                x.iter_mut().zip(self.product(&name("ffn_down"), &inner)).for_each(|(x, out)| *x += out);
            }
        }
        let last = self.norm("output_norm.weight", x.last().unwrap());
        let output = if self.shape.tied { "token_embd.weight" } else { "output.weight" };
        (self.product(output, &last), looked)
    }

    /// Radians a position of a pair, and what rotated values are multiplied by. YaRN by its paper: pairs that turn 32 times or more within the original context
    /// stay, those that turn once or less are stretched, a line between, whose ends are rounded outwards.
    fn turn(&self, pair: usize) -> (f64, f64) {
        let (rotary, factor) = (self.shape.rotary as f64, f64::from(FACTOR));
        let plain = 10_000_f64.powf(-2.0 * pair as f64 / rotary);
        match self.shape.scaling {
            Scaling::None => (plain, 1.0),
            Scaling::Linear => (plain / factor, 1.0),
            Scaling::Yarn => {
                let at = |turns: f64| rotary / 2.0 * (ORIGINAL as f64 / (turns * 2.0 * std::f64::consts::PI)).ln() / 10_000_f64.ln();
                let (low, high) = (at(32.0).floor().max(0.0), at(1.0).ceil().min(rotary - 1.0));
                let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                (plain * (1.0 - stretched) + plain / factor * stretched, 1.0 + 0.1 * factor.ln())
            }
        }
    }

    /// Pairs of each head's first values, adjacent ones or from one half and the other.
    fn rotate(&self, mut rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let Shape { head_dim, rotary, family, .. } = self.shape;
        for (position, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_mut(head_dim) {
                for pair in 0..rotary / 2 {
                    let (radians, magnitude) = self.turn(pair);
                    let angle = position as f64 * radians;
                    let (at, other) = if family == "llama" { (2 * pair, 2 * pair + 1) } else { (pair, pair + rotary / 2) };
                    let (a, b) = (head[at] * magnitude, head[other] * magnitude);
                    head[at] = a * angle.cos() - b * angle.sin();
                    head[other] = a * angle.sin() + b * angle.cos();
                }
            }
        }
        rows
    }
}

fn loaded(path: &Path, threads: usize) -> (Llama, KvCache) {
    let decoder = Llama::load(path, Tokens(200), Arc::new(Pool::new(threads))).unwrap();
    let kv = KvCache::new(LAYERS, decoder.shape().kv_width(), Tokens(200));
    (decoder, kv)
}

fn ids(count: usize, seed: u64) -> Vec<u32> {
    let random = &mut Random::new(seed);
    (0..count).map(|_| random.below(VOCAB) as u32).collect()
}

/// Keys and values are f16: one that rounds the other way here than in f64 is off by 5e-4 of itself.
fn close(found: &[f32], wanted: &[f64], what: &str) {
    let size = wanted.iter().fold(0.0_f64, |size, value| size.max(value.abs()));
    let worst = found.iter().zip(wanted).map(|(found, wanted)| (f64::from(*found) - wanted).abs()).fold(0.0, f64::max);
    assert!(found.len() == wanted.len() && worst <= 4e-4 * size, "{what}: off by {worst} of {size}");
}

#[test]
fn logits_and_attention_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    for (number, shape) in SHAPES.into_iter().enumerate() {
        let model = Model::new(shape, number as u64);
        let path = folder.path().join(format!("{number}.gguf"));
        model.write(&path);
        let (mut decoder, mut kv) = loaded(&path, 2);
        // 7 ids, 100 rows in place of an image, 9 ids: across two chunks.
        let (before, after) = (ids(7, 5), ids(9, 6));
        let random = &mut Random::new(9);
        let image: Vec<f16> = (0..100 * HIDDEN).map(|_| f16::from_f32(random.number())).collect();
        let rows: Vec<Vec<f64>> = before
            .iter()
            .map(|&id| model.embedding(id))
            .chain(image.chunks(HIDDEN).map(|row| row.iter().map(|value| f64::from(value.to_f32())).collect()))
            .chain(after.iter().map(|&id| model.embedding(id)))
            .collect();
        let (wanted, looked) = model.forward(&rows);
        let segments = [Segment::Ids(&before), Segment::Rows(&image), Segment::Ids(&after)];
        decoder.prefill(&mut kv, &segments).unwrap();
        close(decoder.logits(), &wanted, &format!("shape {number}, logits"));
        for layer in 1..=LAYERS {
            let mut scores = vec![0.0; 100];
            decoder.attend(&mut kv, &segments, 1, (layer, ImportanceRows::AllText), &mut scores).unwrap();
            let asking = &looked[layer - 1][107..];
            let wanted: Vec<f64> = (7..107).map(|key| asking.iter().map(|row| row[key]).sum::<f64>() / 9.0).collect();
            close(&scores, &wanted, &format!("shape {number}, importance at layer {layer}"));
            decoder.attend(&mut kv, &segments, 1, (layer, ImportanceRows::LastToken), &mut scores).unwrap();
            close(&scores, &asking[8][7..107], &format!("shape {number}, importance of the last row at layer {layer}"));
        }
    }
}

#[test]
fn steps_rows_and_threads_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = Model::new(SHAPES[0], 3);
    model.write(&path);
    let (mut decoder, mut kv) = loaded(&path, 2);
    let prompt = ids(90, 1);
    decoder.prefill(&mut kv, &[Segment::Ids(&prompt)]).unwrap();
    let wanted = decoder.logits().to_vec();
    // The same ids one by one after the first.
    decoder.prefill(&mut kv, &[Segment::Ids(&prompt[..1])]).unwrap();
    prompt[1..].iter().for_each(|&id| decoder.step(&mut kv, id).unwrap());
    close(decoder.logits(), &wanted.iter().map(|&value| f64::from(value)).collect::<Vec<_>>(), "steps");
    // Rows of the embedding table, which is f16, in place of ids.
    let rows: Vec<f16> = prompt.iter().flat_map(|&id| model.embedding(id)).map(f16::from_f64).collect();
    decoder.prefill(&mut kv, &[Segment::Rows(&rows)]).unwrap();
    assert_eq!(decoder.logits(), wanted);
    for threads in [1, 3, 5] {
        let (mut decoder, mut kv) = loaded(&path, threads);
        decoder.prefill(&mut kv, &[Segment::Ids(&prompt)]).unwrap();
        assert_eq!(decoder.logits(), wanted, "{threads} threads");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    Model::new(SHAPES[0], 3).write(&path);
    let (mut decoder, mut kv) = loaded(&path, 1);
    let refused = decoder.prefill(&mut kv, &[Segment::Ids(&ids(201, 1))]).unwrap_err();
    assert!(refused.to_string().contains("201") && refused.to_string().contains("200"), "{refused}");
    assert!(matches!(decoder.prefill(&mut kv, &[Segment::Ids(&[50])]), Err(DecoderError::Id { found: 50, vocab: VOCAB })));
    assert!(matches!(decoder.prefill(&mut kv, &[]), Err(DecoderError::Length { .. })));
    decoder.prefill(&mut kv, &[Segment::Ids(&ids(200, 1))]).unwrap();
    assert!(matches!(decoder.step(&mut kv, 1), Err(DecoderError::Full(_))));
    let mut scores = [0.0; 2];
    let segments = [Segment::Ids(&[1]), Segment::Ids(&[2, 3]), Segment::Ids(&[4])];
    assert!(matches!(
        decoder.attend(&mut kv, &segments, 1, (LAYERS + 1, ImportanceRows::AllText), &mut scores),
        Err(DecoderError::Layer { .. })
    ));
    // A model whose weights overflow says so instead of choosing a token or a score.
    let mut model = Model::new(SHAPES[0], 3);
    let norm = model.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.attn_norm.weight").unwrap();
    norm.bytes = norm.bytes.chunks(4).flat_map(|_| f32::INFINITY.to_le_bytes()).collect();
    model.write(&path);
    let (mut decoder, mut kv) = loaded(&path, 1);
    assert!(matches!(
        decoder.attend(&mut kv, &segments, 1, (1, ImportanceRows::AllText), &mut scores),
        Err(DecoderError::NotFinite { layer: 1, .. })
    ));
}
