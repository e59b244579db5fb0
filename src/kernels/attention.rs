//! Causal attention over an f16 cache, a block of keys at a time with a running softmax.
//!
//! # Why
//! A block of keys becomes f32 once and serves all rows of a chunk; no row of scores as long as the context is ever stored.
//!
//! Roofline: `4·d` flop a (row, key) pair in f32 FMA; keys and values come from cache, since a chunk of rows uses each block again.
#![allow(unsafe_code)]

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::Isa;
use crate::kernels::distance::dispatch;

/// Keys taken at once.
pub const KEYS: usize = 64;

/// f32 values of scratch that [`attention`] needs for heads of `dim` values and chunks of `rows` rows.
#[must_use]
pub fn attention_scratch(dim: usize, rows: usize) -> usize {
    2 * KEYS * dim + rows * (dim + 2)
}

/// One head's share of the cache.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Keys and values `[positions, width]`, this head's values from `offset`.
    pub keys: &'a [f16],
    pub values: &'a [f16],
    pub width: usize,
    pub offset: usize,
    pub dim: usize,
}

/// Attention of the queries `[rows][stride]` (this head's from `at`) at positions `first..`, over all keys up to each row's own; the result
/// goes to `out` `[rows, dim]`.
pub fn attention(isa: Isa, head: Head<'_>, queries: &[f32], stride: usize, at: usize, first: usize, out: &mut [f32], scratch: &mut [f32]) {
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn body(head: Head<'_>, queries: &[f32], stride: usize, at: usize, first: usize, out: &mut [f32], scratch: &mut [f32]) {
        let dim = head.dim;
        let rows = out.len() / dim;
        let (keys, rest) = scratch.split_at_mut(KEYS * dim);
        let (values, stats) = rest.split_at_mut(KEYS * dim);
        let stats = &mut stats[..2 * rows];
        let scale = 1.0 / (dim as f32).sqrt();
        out.fill(0.0);
        stats.chunks_exact_mut(2).for_each(|stat| stat.copy_from_slice(&[f32::NEG_INFINITY, 0.0]));
        let total = first + rows;
        for start in (0..total).step_by(KEYS) {
            let count = KEYS.min(total - start);
            load(head, start, count, keys, values);
            for (row, (out, stat)) in out.chunks_exact_mut(dim).zip(stats.chunks_exact_mut(2)).enumerate() {
                let seen = (first + row + 1).saturating_sub(start).min(count);
                if seen == 0 {
                    continue;
                }
                let query = &queries[row * stride + at..][..dim];
                let mut scores = [0.0_f32; KEYS];
                for (value, keys) in query.iter().zip(keys.as_chunks::<KEYS>().0) {
                    for (score, key) in scores.iter_mut().zip(keys) {
                        *score = key.mul_add(*value, *score);
                    }
                }
                let scores = &mut scores[..seen];
                let top = scores.iter().fold(stat[0], |top, score| top.max(score * scale));
                let faded = (stat[0] - top).exp();
                let mut sum = stat[1] * faded;
                out.iter_mut().for_each(|out| *out *= faded);
                for (score, values) in scores.iter().zip(values.chunks_exact(dim)) {
                    let weight = (score * scale - top).exp();
                    sum += weight;
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = value.mul_add(weight, *out);
                    }
                }
                stat.copy_from_slice(&[top, sum]);
            }
        }
        for (out, stat) in out.chunks_exact_mut(dim).zip(stats.chunks_exact(2)) {
            out.iter_mut().for_each(|out| *out /= stat[1]);
        }
    }
    dispatch!(isa, body(head: Head<'_>, queries: &[f32], stride: usize, at: usize, first: usize, out: &mut [f32], scratch: &mut [f32]))
}

/// Softmax weights of one query over the first `weights.len()` keys.
pub fn attention_weights(isa: Isa, head: Head<'_>, query: &[f32], weights: &mut [f32], scratch: &mut [f32]) {
    #[inline(always)]
    fn body(head: Head<'_>, query: &[f32], weights: &mut [f32], scratch: &mut [f32]) {
        let dim = head.dim;
        let (keys, _) = scratch.split_at_mut(KEYS * dim);
        let scale = 1.0 / (dim as f32).sqrt();
        for (block, weights) in weights.chunks_mut(KEYS).enumerate() {
            load_keys(head, block * KEYS, weights.len(), keys);
            let mut scores = [0.0_f32; KEYS];
            for (value, keys) in query.iter().zip(keys.as_chunks::<KEYS>().0) {
                for (score, key) in scores.iter_mut().zip(keys) {
                    *score = key.mul_add(*value, *score);
                }
            }
            weights.iter_mut().zip(&scores).for_each(|(weight, score)| *weight = score * scale);
        }
        let top = weights.iter().fold(f32::NEG_INFINITY, |top, weight| top.max(*weight));
        let mut sum = 0.0_f32;
        for weight in weights.iter_mut() {
            *weight = (*weight - top).exp();
            sum += *weight;
        }
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    dispatch!(isa, body(head: Head<'_>, query: &[f32], weights: &mut [f32], scratch: &mut [f32]))
}

/// Keys from `start` as `[dim][KEYS]`, 0 beyond `count`.
#[inline(always)]
fn load_keys(head: Head<'_>, start: usize, count: usize, keys: &mut [f32]) {
    let mut row = [0.0_f32; 256];
    let row = &mut row[..head.dim];
    if count < KEYS {
        keys.fill(0.0);
    }
    for place in 0..count {
        head.keys[(start + place) * head.width + head.offset..][..head.dim].convert_to_f32_slice(row);
        row.iter().enumerate().for_each(|(d, value)| keys[d * KEYS + place] = *value);
    }
}

#[inline(always)]
fn load(head: Head<'_>, start: usize, count: usize, keys: &mut [f32], values: &mut [f32]) {
    load_keys(head, start, count, keys);
    for (place, values) in values.chunks_exact_mut(head.dim).enumerate().take(count) {
        head.values[(start + place) * head.width + head.offset..][..head.dim].convert_to_f32_slice(values);
    }
}
