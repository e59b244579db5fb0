//! The two passes of a separable filter over 8-bit samples.
//!
//! # Why
//! The first pass is across, where neighbours are neighbours in memory and vectors want to be filled crosswise. So eight rows are taken at
//! once: lanes are (row, channel), a tap is one multiply with one weight for all of them, and nothing is ever summed across lanes. It runs in 16-bit
//! fixed point, half the width of f32, on the upper halves of products, which every processor has in one operation: a sample s is 2s − 255 in 1/512,
//! weights are in 1/16,384, so products are cut to 1/64. The samples are odd so that what is cut is spread evenly, whatever the picture; its mean is
//! put back, and the rest is a few hundredths of a step of 255, which rounding to 8 bits between the passes hides.
//!
//! Roofline: a frame of 58 megapixels into views of 672 to 4032 takes 200,000 taps a row over 5,400 rows, 32 lanes for 8 of them: 132 M
//! multiply-adds of 64 bytes, which with a broadcast each is 40 ms of one core at 3 GHz and three vector operations a cycle (AVX-512), 80 ms with AVX2. The second
//! pass takes 0.66 G multiply-adds on bytes, 124 M vector operations: 20 ms.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::kernels::Isa;
use crate::kernels::colour::Packed;
use crate::kernels::distance::dispatch;

/// Rows that the first pass takes together.
pub const GROUP: usize = 8;
/// Channels of a packed pixel, the fourth unused.
const CHANNELS: usize = 4;
const LANES: usize = GROUP * CHANNELS;

/// For each output sample: where its taps start, and `taps` weights (those past the input's end are 0).
#[derive(Clone, Debug)]
pub struct Taps<T> {
    pub starts: Vec<u32>,
    pub weights: Vec<T>,
    pub taps: usize,
}

/// Bits of a weight's fraction in [`across`].
pub const WEIGHT_BITS: u32 = 14;
/// Of a sum's.
const SUM_BITS: u32 = 6;
/// What a sum starts with: 128, the middle of the samples' range, less the half that they are above it, and a half for rounding.
const MIDDLE: usize = 128 << SUM_BITS;

/// Output pixels `outputs` of a group of rows. `group` `[x][GROUP]` starts at pixel `first` of the input and holds all taps; `out` is `[GROUP][stride]`, a
/// row's pixels 3 bytes apart, and `stride` has room for one byte more.
pub fn across(isa: Isa, group: &[Packed], first: usize, taps: &Taps<i16>, outputs: Range<usize>, out: &mut [u8], stride: usize) {
    let pixels = bytemuck::cast_slice::<Packed, i16>(group).as_chunks::<LANES>().0;
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: `Isa::detect` is the only maker of these values outside tests, and found the features.
        Isa::Avx512 => return unsafe { x86::across_512(pixels, first, taps, outputs, out, stride) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { x86::across_256(pixels, first, taps, outputs, out, stride) },
        Isa::Neon | Isa::Portable => {}
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        // SAFETY: every aarch64 that Linux runs on has NEON.
        return unsafe { neon::across(pixels, first, taps, outputs, out, stride) };
    }
    let _ = isa;
    across_body(pixels, first, taps, outputs, out, stride, |pixels, weights, start| {
        let mut sums = [start; LANES];
        for (pixel, &weight) in pixels.iter().zip(weights) {
            for (sum, &sample) in sums.iter_mut().zip(pixel) {
                *sum = sum.wrapping_add(((i32::from(sample) * i32::from(weight)) >> 16) as i16);
            }
        }
        sums
    });
}

/// `sum`: the sums of one output pixel, from its pixels, their weights and what a sum starts with.
#[inline(always)]
fn across_body(
    pixels: &[[i16; LANES]],
    first: usize,
    taps: &Taps<i16>,
    outputs: Range<usize>,
    out: &mut [u8],
    stride: usize,
    sum: impl Fn(&[[i16; LANES]], &[i16], i16) -> [i16; LANES],
) {
    // Outputs whose sums are rounded together: one loop over many, which the compiler turns into whole vectors.
    const TOGETHER: usize = 16;
    // Each cut product lacks half a unit in the mean.
    let begin = i16::try_from(MIDDLE + taps.taps / 2).unwrap_or(i16::MAX);
    let (weights, starts) = (&taps.weights[outputs.start * taps.taps..outputs.end * taps.taps], &taps.starts[outputs.clone()]);
    let mut sums = [[0_i16; LANES]; TOGETHER];
    let mut bytes = [0_u8; TOGETHER * LANES];
    let mut at = outputs.start;
    for (starts, weights) in starts.chunks(TOGETHER).zip(weights.chunks(TOGETHER * taps.taps)) {
        for ((sums, &start), weights) in sums.iter_mut().zip(starts).zip(weights.chunks_exact(taps.taps)) {
            let start = start as usize - first;
            // Where the input ends the weights are 0, and the pixels aren't there.
            *sums = sum(&pixels[start..pixels.len().min(start + taps.taps)], weights, begin);
        }
        for (byte, sum) in bytes.iter_mut().zip(sums[..starts.len()].as_flattened()) {
            *byte = (sum >> SUM_BITS).clamp(0, 255) as u8;
        }
        for pixels in bytes.as_chunks::<LANES>().0.iter().take(starts.len()) {
            for (row, pixel) in pixels.as_chunks::<CHANNELS>().0.iter().enumerate() {
                // The fourth byte is written over by the next pixel.
                out[row * stride + at * 3..][..CHANNELS].copy_from_slice(pixel);
            }
            at += 1;
        }
    }
}

/// The same sums by name: left to itself the compiler takes the taps for lanes, and gathers.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Range, Taps, across_body};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
    pub fn across_512(pixels: &[[i16; LANES]], first: usize, taps: &Taps<i16>, outputs: Range<usize>, out: &mut [u8], stride: usize) {
        across_body(pixels, first, taps, outputs, out, stride, |pixels, weights, start| {
            let mut sum = _mm512_set1_epi16(start);
            for (pixel, &weight) in pixels.iter().zip(weights) {
                // SAFETY: an array of 64 bytes.
                let samples = unsafe { _mm512_loadu_epi16(pixel.as_ptr()) };
                sum = _mm512_add_epi16(sum, _mm512_mulhi_epi16(samples, _mm512_set1_epi16(weight)));
            }
            let mut out = [0; LANES];
            // SAFETY: as above.
            unsafe { _mm512_storeu_epi16(out.as_mut_ptr(), sum) };
            out
        });
    }

    #[target_feature(enable = "avx2")]
    pub fn across_256(pixels: &[[i16; LANES]], first: usize, taps: &Taps<i16>, outputs: Range<usize>, out: &mut [u8], stride: usize) {
        across_body(pixels, first, taps, outputs, out, stride, |pixels, weights, start| {
            let (mut low, mut high) = (_mm256_set1_epi16(start), _mm256_set1_epi16(start));
            for (pixel, &weight) in pixels.iter().zip(weights) {
                let weight = _mm256_set1_epi16(weight);
                let at = pixel.as_ptr().cast::<__m256i>();
                // SAFETY: an array of 64 bytes.
                let (a, b) = unsafe { (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))) };
                low = _mm256_add_epi16(low, _mm256_mulhi_epi16(a, weight));
                high = _mm256_add_epi16(high, _mm256_mulhi_epi16(b, weight));
            }
            let mut out = [0_i16; LANES];
            let to = out.as_mut_ptr().cast::<__m256i>();
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_si256(to, low);
                _mm256_storeu_si256(to.add(1), high);
            }
            out
        });
    }
}

/// The same cut product in two operations instead of four: the doubled product's upper half, halved as it is added. Doubling is inexact for
/// −32,768 times itself alone, and a weight of −2 doesn't exist.
#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::{vdupq_n_s16, vld1q_s16, vqdmulhq_n_s16, vsraq_n_s16, vst1q_s16};

    use super::{LANES, Range, Taps, across_body};

    #[target_feature(enable = "neon")]
    pub fn across(pixels: &[[i16; LANES]], first: usize, taps: &Taps<i16>, outputs: Range<usize>, out: &mut [u8], stride: usize) {
        across_body(pixels, first, taps, outputs, out, stride, |pixels, weights, start| {
            let mut sums = [vdupq_n_s16(start); LANES / 8];
            for (pixel, &weight) in pixels.iter().zip(weights) {
                for (sum, eight) in sums.iter_mut().zip(pixel.as_chunks::<8>().0) {
                    // SAFETY: an array of 16 bytes.
                    let samples = unsafe { vld1q_s16(eight.as_ptr()) };
                    *sum = vsraq_n_s16::<1>(*sum, vqdmulhq_n_s16(samples, weight));
                }
            }
            let mut out = [0; LANES];
            for (eight, sum) in out.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                // SAFETY: as above.
                unsafe { vst1q_s16(eight.as_mut_ptr(), sum) };
            }
            out
        });
    }
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

/// To the nearest of 0 to 255.
pub fn round_row(isa: Isa, sums: &[f32], out: &mut [u8]) {
    #[inline(always)]
    fn body(sums: &[f32], out: &mut [u8]) {
        /// 2²³, from where on a float's lowest bits are its integer.
        const WHOLE: f32 = 8_388_608.0;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = (sum.clamp(0.0, 255.0) + WHOLE).to_bits() as u8;
        }
    }
    dispatch!(isa, body(sums: &[f32], out: &mut [u8]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bits_on_every_instruction_set_and_the_sum_in_exact_arithmetic() {
        let (n, outputs, stride) = (45_usize, 13_usize, 13 * 3 + 1);
        let taps = 9;
        let weight = |at: usize| [-300_i16, 900, 3_000, 4_500, 4_584, 3_000, 900, -300, 100][at % taps];
        let taps = Taps { starts: (0..outputs).map(|x| x as u32 * 3).collect(), weights: (0..outputs * taps).map(weight).collect(), taps };
        let mut state = 7_u64;
        let samples: Vec<[u8; 3]> = (0..n * GROUP)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let [r, g, b, ..] = (state >> 24).to_le_bytes();
                [r, g, b]
            })
            .collect();
        let run = |isa| {
            let mut group = vec![0; n * GROUP];
            for row in 0..GROUP {
                let rgb: Vec<u8> = (0..n).flat_map(|x| samples[x * GROUP + row]).collect();
                crate::kernels::pack_rgb(isa, &rgb, row, &mut group);
            }
            let mut out = vec![0; GROUP * stride];
            across(isa, &group, 0, &taps, 0..outputs, &mut out, stride);
            let mut sums = vec![0.25_f32; stride];
            down(isa, &out[..stride], 1.37, &mut sums);
            let mut rounded = vec![0; stride];
            round_row(isa, &sums, &mut rounded);
            (out, rounded)
        };
        let portable = run(Isa::Portable);
        for row in 0..GROUP {
            for at in 0..outputs {
                let used: Vec<_> =
                    (0..taps.taps).map(|tap| (&samples[(at * 3 + tap) * GROUP + row], taps.weights[at * taps.taps + tap])).collect();
                for channel in 0..3 {
                    let exact: f64 = used.iter().map(|(pixel, weight)| f64::from(pixel[channel]) * f64::from(*weight) / 16_384.0).sum();
                    let found = f64::from(portable.0[row * stride + at * 3 + channel]);
                    assert!((found - exact.clamp(0.0, 255.0)).abs() < 0.6, "{row} {at} {channel}: {found} {exact}");
                }
            }
        }
        Isa::all().iter().for_each(|&isa| assert!(run(isa) == portable, "{isa:?}"));
    }
}
