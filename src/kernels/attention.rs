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
use crate::kernels::LANES;
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
                let mut weights = dots(query, keys);
                weights.iter_mut().for_each(|score| *score *= scale);
                let top = weights[..seen].iter().fold(stat[0], |top, &score| if score > top { score } else { top });
                let faded = exp(stat[0] - top);
                let mut lanes = [0.0_f32; LANES];
                for (block, weights) in weights.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    for l in 0..LANES {
                        let weight = exp(weights[l] - top);
                        weights[l] = if block * LANES + l < seen { weight } else { 0.0 };
                        lanes[l] += weights[l];
                    }
                }
                let sum = stat[1].mul_add(faded, lanes.iter().sum());
                mix(&weights[..seen], values, faded, out);
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
            let scores = dots(query, keys);
            weights.iter_mut().zip(&scores).for_each(|(weight, score)| *weight = score * scale);
        }
        let top = weights.iter().fold(f32::NEG_INFINITY, |top, weight| top.max(*weight));
        let mut sum = 0.0_f32;
        for weight in weights.iter_mut() {
            *weight = exp(*weight - top);
            sum += *weight;
        }
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    dispatch!(isa, body(head: Head<'_>, query: &[f32], weights: &mut [f32], scratch: &mut [f32]))
}

/// A query's products with a block of keys `[dim][KEYS]`.
#[inline(always)]
fn dots(query: &[f32], keys: &[f32]) -> [f32; KEYS] {
    let mut scores = [0.0_f32; KEYS];
    for (value, keys) in query.iter().zip(keys.as_chunks::<KEYS>().0) {
        for (score, key) in scores.iter_mut().zip(keys) {
            *score = key.mul_add(*value, *score);
        }
    }
    scores
}

/// `out · faded + Σ weight · value`, the values `[keys, out's length]`. Four sums a lane, so that one product needn't wait for the last.
#[inline(always)]
fn mix(weights: &[f32], values: &[f32], faded: f32, out: &mut [f32]) {
    let dim = out.len();
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    for (block, out) in blocks.iter_mut().enumerate() {
        let at = block * LANES;
        let mut sums = [[0.0_f32; LANES]; 4];
        for (weights, values) in weights.chunks(4).zip(values.chunks(4 * dim)) {
            for ((&weight, values), sums) in weights.iter().zip(values.chunks_exact(dim)).zip(&mut sums) {
                for (sum, value) in sums.iter_mut().zip(&values[at..at + LANES]) {
                    *sum = value.mul_add(weight, *sum);
                }
            }
        }
        for l in 0..LANES {
            out[l] = out[l].mul_add(faded, (sums[0][l] + sums[1][l]) + (sums[2][l] + sums[3][l]));
        }
    }
    let at = dim - rest.len();
    for (d, out) in rest.iter_mut().enumerate() {
        *out =
            weights.iter().zip(values.chunks_exact(dim)).fold(*out * faded, |sum, (weight, values)| values[at + d].mul_add(*weight, sum));
    }
}

/// e^x for x ≤ 0, within 2 ulp (Cephes' polynomial); e^−87 below −87. In straight-line code, so that a block of keys is one vector loop.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the nearest whole number in the low bits
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_2e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (p * r).mul_add(r, r + 1.0) * power
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

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_within_two_ulp_and_keeps_what_is_not_a_number() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 1e4;
            let (found, wanted) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - wanted).abs() <= wanted * 2.4e-7, "{x}: {found} for {wanted}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::NAN).is_nan());
    }
}
