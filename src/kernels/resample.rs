//! The two passes of a separable filter over 8-bit samples.
//!
//! Roofline: a frame of 58 megapixels takes about 16 taps a sample over four views in the first pass, 2.8 G multiply-adds: a quarter of a second
//! of one core's AVX2 units, less than its JPEG decode.
#![allow(unsafe_code)]

use crate::kernels::Isa;
use crate::kernels::distance::dispatch;

/// Taps are a whole number of these, the surplus ones 0.
pub const TAPS: usize = 8;

/// For each output sample: where its taps start, and `taps` weights.
#[derive(Clone, Debug)]
pub struct Taps {
    pub starts: Vec<u32>,
    pub weights: Vec<f32>,
    pub taps: usize,
}

/// `plane` `[width + taps]` (zeros at its end) → every third sample of `out`, from `channel`.
pub fn across(isa: Isa, plane: &[f32], taps: &Taps, channel: usize, out: &mut [u8]) {
    #[inline(always)]
    fn body(plane: &[f32], taps: &Taps, channel: usize, out: &mut [u8]) {
        let outputs = out.iter_mut().skip(channel).step_by(3);
        for ((out, &start), weights) in outputs.zip(&taps.starts).zip(taps.weights.chunks_exact(taps.taps)) {
            let samples = &plane[start as usize..start as usize + taps.taps];
            let mut lanes = [0.0_f32; TAPS];
            for (samples, weights) in samples.as_chunks::<TAPS>().0.iter().zip(weights.as_chunks::<TAPS>().0) {
                for ((lane, sample), weight) in lanes.iter_mut().zip(samples).zip(weights) {
                    *lane = sample.mul_add(*weight, *lane);
                }
            }
            *out = round(lanes.iter().sum());
        }
    }
    dispatch!(isa, body(plane: &[f32], taps: &Taps, channel: usize, out: &mut [u8]));
}

/// `sums` += `weight` · `row`.
pub fn down(isa: Isa, row: &[u8], weight: f32, sums: &mut [f32]) {
    #[inline(always)]
    fn body(row: &[u8], weight: f32, sums: &mut [f32]) {
        for (sum, &sample) in sums.iter_mut().zip(row) {
            *sum = f32::from(sample).mul_add(weight, *sum);
        }
    }
    dispatch!(isa, body(row: &[u8], weight: f32, sums: &mut [f32]));
}

/// To the nearest of 0 to 255, halves up.
#[inline(always)]
#[must_use]
pub fn round(value: f32) -> u8 {
    // A float becomes an integer by saturation.
    (value + 0.5) as u8
}
