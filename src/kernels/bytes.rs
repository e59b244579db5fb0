//! Rows and centres as bytes, and their products.
//!
//! # Why
//! The products only tell which centres are in question ([`judge`](super::judge)), so that what rounding to bytes loses need be bounded, not avoided. They are exact whole
//! numbers, the same on any processor.
//!
//! Roofline: `d` multiply-adds a (row, centre) pair. VNNI does 64 a cycle and core where 512-bit units are one wide (Zen 4), Arm's dot products 32 on a core that
//! does two vectors a cycle (Cortex-A78). Centres (0.6 MB at 600 × 1,026) stay in the second-level cache and are read once for [`ROWS`] rows: never the bound.
#![allow(unsafe_code)]

use crate::kernels::distance::dispatch;
use crate::kernels::screen::ROWS;
use crate::kernels::{Isa, LANES, Screen};

/// Largest byte of a quantised row.
const TOP: f32 = 127.0;
/// 1.5 · 2²³: adding it to a small number rounds that to a whole one.
const ROUND: f32 = 12_582_912.0;
/// Values that a byte product takes at once.
const STEP: usize = 4;

/// What is lost when a row becomes bytes: `row ≈ bytes · step`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantised {
    pub step: f32,
    /// ‖bytes · step‖, rounded up.
    pub norm: f32,
    /// ‖row − bytes · step‖, rounded up.
    pub rest: f32,
}

/// Bytes of a row of `dim` values: a whole number of steps.
#[must_use]
pub fn row_bytes(dim: usize) -> usize {
    dim.next_multiple_of(STEP)
}

/// Rounds `row` to bytes, each `128 + value` (1 to 255); beyond the row 128, which stands for 0.
pub fn quantise(isa: Isa, row: &[f32], out: &mut [u8]) -> Quantised {
    #[inline(always)]
    fn body(row: &[f32], out: &mut [u8]) -> Quantised {
        let mut tops = [0.0_f32; LANES];
        let (blocks, rest) = row.as_chunks::<LANES>();
        for block in blocks {
            for (top, value) in tops.iter_mut().zip(block) {
                *top = if value.abs() > *top { value.abs() } else { *top };
            }
        }
        let top = tops.iter().chain(rest).fold(0.0_f32, |top, value| top.max(value.abs()));
        let step = top / TOP;
        let inverse = if step > 0.0 { TOP / top } else { 0.0 };
        let (mut norms, mut rests) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (filled, beyond) = out.split_at_mut(row.len());
        for (block, out) in row.chunks(LANES).zip(filled.chunks_mut(LANES)) {
            let mut values = [0.0; LANES];
            values[..block.len()].copy_from_slice(block);
            // The nearest whole number, −127 to 127, stands in the sum's low bits.
            let shifted = values.map(|value| value.mul_add(inverse, ROUND));
            let bytes = shifted.map(|shifted| (shifted.to_bits() as u8).wrapping_add(128));
            for l in 0..LANES {
                let kept = (shifted[l] - ROUND) * step;
                norms[l] = kept.mul_add(kept, norms[l]);
                rests[l] = (values[l] - kept).mul_add(values[l] - kept, rests[l]);
            }
            out.copy_from_slice(&bytes[..block.len()]);
        }
        beyond.fill(128);
        Quantised { step, norm: up(&norms), rest: up(&rests) }
    }
    /// Sums of squares are within 2⁻¹⁶ of their value for any length there is. Inlined twice, the compiler would add both sums at once, and make pairs of them in the loop above.
    #[inline(never)]
    fn up(squares: &[f32; LANES]) -> f32 {
        squares.iter().sum::<f32>().sqrt() * 1.000_1 + 1e-12
    }
    dispatch!(isa, body(row: &[f32], out: &mut [u8]) -> Quantised)
}

/// Centre `number` into its group's bytes, `[groups][steps][LANES][STEP]`, as signed values; returns what was lost and −128 times the bytes' sum.
pub fn pack_bytes(isa: Isa, number: usize, centre: &[f32], scratch: &mut [u8], packed: &mut [i8]) -> (Quantised, i32) {
    let bytes = row_bytes(centre.len());
    let lost = quantise(isa, centre, &mut scratch[..bytes]);
    let group = &mut packed[number / LANES * bytes * LANES..][..bytes * LANES];
    let mut sum = 0;
    for (place, four) in group.as_chunks_mut::<{ LANES * STEP }>().0.iter_mut().zip(scratch[..bytes].as_chunks::<STEP>().0) {
        for (j, byte) in four.iter().enumerate() {
            let value = (i16::from(*byte) - 128) as i8;
            place[number % LANES * STEP + j] = value;
            sum += i32::from(value);
        }
    }
    (lost, -128 * sum)
}

/// `out` `[rows][groups · LANES]`: products of rows of bytes `[rows][bytes]` with packed centres; `offsets` `[groups · LANES]` as [`pack_bytes`] gives them.
///
/// Exact whole numbers: the same on any processor.
pub fn byte_products(screen: Screen, rows: &[u8], bytes: usize, packed: &[i8], offsets: &[i32], out: &mut [i32]) {
    let wide = offsets.len();
    assert!(bytes.is_multiple_of(STEP) && wide.is_multiple_of(LANES), "rows of {bytes} bytes, {wide} centres");
    assert!(rows.len() / bytes * wide <= out.len() && wide * bytes <= packed.len(), "products out of bounds");
    #[cfg(target_arch = "x86_64")]
    if screen == Screen::Bytes {
        // SAFETY: `Screen::detect` is the only maker of this value, and found the features.
        unsafe { x86::vnni(rows, bytes, packed, offsets, out) };
        return;
    }
    #[cfg(target_arch = "aarch64")]
    if screen == Screen::Bytes {
        // SAFETY: as above.
        unsafe { arm::dot_products(rows, bytes, packed, wide, out) };
        return;
    }
    let _ = screen;
    for (row, out) in rows.chunks_exact(bytes).zip(out.chunks_exact_mut(wide)) {
        for (group, (out, offsets)) in out.chunks_exact_mut(LANES).zip(offsets.chunks_exact(LANES)).enumerate() {
            out.copy_from_slice(offsets);
            let packed = &packed[group * bytes * LANES..][..bytes * LANES];
            for (four, centres) in row.as_chunks::<STEP>().0.iter().zip(packed.as_chunks::<{ LANES * STEP }>().0) {
                for (out, centre) in out.iter_mut().zip(centres.as_chunks::<STEP>().0) {
                    *out += four.iter().zip(centre).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>();
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512};

    use super::{LANES, ROWS, STEP};

    /// Four rows by four groups at a time: sixteen accumulators, four loads and four broadcasts for sixteen products.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn vnni(rows: &[u8], bytes: usize, packed: &[i8], offsets: &[i32], out: &mut [i32]) {
        let count = rows.len() / bytes;
        let mut row = 0;
        while row + ROWS <= count {
            vnni_rows::<ROWS>(&rows[row * bytes..], bytes, packed, offsets, &mut out[row * offsets.len()..]);
            row += ROWS;
        }
        while row < count {
            vnni_rows::<1>(&rows[row * bytes..], bytes, packed, offsets, &mut out[row * offsets.len()..]);
            row += 1;
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn vnni_rows<const N: usize>(rows: &[u8], bytes: usize, packed: &[i8], offsets: &[i32], out: &mut [i32]) {
        let groups = offsets.len() / LANES;
        let mut group = 0;
        while group + 4 <= groups {
            vnni_block::<N, 4>(rows, bytes, packed, offsets, group, out);
            group += 4;
        }
        while group < groups {
            vnni_block::<N, 1>(rows, bytes, packed, offsets, group, out);
            group += 1;
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn vnni_block<const N: usize, const G: usize>(
        rows: &[u8],
        bytes: usize,
        packed: &[i8],
        offsets: &[i32],
        group: usize,
        out: &mut [i32],
    ) {
        let size = bytes * LANES;
        assert!(rows.len() >= N * bytes && packed.len() >= (group + G) * size && offsets.len() >= (group + G) * LANES);
        assert!(out.len() >= (N - 1) * offsets.len() + (group + G) * LANES);
        let mut sums = [[_mm512_setzero_si512(); G]; N];
        for (g, offsets) in offsets[group * LANES..][..G * LANES].chunks_exact(LANES).enumerate() {
            // SAFETY: sixteen i32 are there.
            let offset = unsafe { _mm512_loadu_si512(offsets.as_ptr().cast()) };
            sums.iter_mut().for_each(|sums| sums[g] = offset);
        }
        for at in (0..bytes).step_by(STEP) {
            // SAFETY: `at + STEP ≤ bytes`, so the 64 bytes lie inside group `group + g`, which the assertion above covers.
            let centres: [_; G] =
                std::array::from_fn(|g| unsafe { _mm512_loadu_si512(packed.as_ptr().add((group + g) * size + at * LANES).cast()) });
            for (n, sums) in sums.iter_mut().enumerate() {
                let four = rows[n * bytes + at..].first_chunk::<STEP>().copied().unwrap_or_default();
                let four = _mm512_set1_epi32(i32::from_le_bytes(four));
                for (sum, centres) in sums.iter_mut().zip(&centres) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, *centres);
                }
            }
        }
        for (n, sums) in sums.iter().enumerate() {
            for (g, sum) in sums.iter().enumerate() {
                let place = &mut out[n * offsets.len() + (group + g) * LANES..][..LANES];
                // SAFETY: sixteen i32 are there.
                unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), *sum) };
            }
        }
    }
}

/// Rows become signed bytes as they are read; then what an offset stands for is 0.
#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_s32, vdupq_n_u8, veorq_u8, vld1q_s8, vld1q_u8, vreinterpretq_s8_u8, vst1q_s32};
    use std::arch::asm;

    use super::{LANES, ROWS, STEP};

    /// Bytes of a vector: four steps of a row, or one of four centres.
    const WIDE: usize = 16;
    /// Vectors of a group's step.
    const VECTORS: usize = LANES * STEP / WIDE;

    #[target_feature(enable = "dotprod")]
    pub fn dot_products(rows: &[u8], bytes: usize, packed: &[i8], wide: usize, out: &mut [i32]) {
        let groups = wide / LANES;
        for (rows, out) in rows.chunks(ROWS * bytes).zip(out.chunks_mut(ROWS * wide)) {
            for (group, packed) in packed.chunks_exact(bytes * LANES).take(groups).enumerate() {
                if rows.len() == ROWS * bytes {
                    block::<ROWS>(rows, bytes, packed, wide, &mut out[group * LANES..]);
                } else {
                    for (row, out) in rows.chunks_exact(bytes).zip(out.chunks_mut(wide)) {
                        block::<1>(row, bytes, packed, wide, &mut out[group * LANES..]);
                    }
                }
            }
        }
    }

    /// Sixteen accumulators; for sixteen bytes of each row sixteen loads of centres and 64 products.
    #[target_feature(enable = "dotprod")]
    fn block<const N: usize>(rows: &[u8], bytes: usize, packed: &[i8], wide: usize, out: &mut [i32]) {
        let mut sums = [[vdupq_n_s32(0); VECTORS]; N];
        let packed = packed.as_chunks::<{ LANES * STEP }>().0;
        let whole = bytes / WIDE * WIDE;
        for (at, packed) in (0..whole).step_by(WIDE).zip(packed.as_chunks::<{ WIDE / STEP }>().0) {
            let rows: [int8x16_t; N] = std::array::from_fn(|n| signed(rows[n * bytes + at..].first_chunk().unwrap_or(&[0; WIDE])));
            add::<0, N>(&mut sums, &rows, &packed[0]);
            add::<1, N>(&mut sums, &rows, &packed[1]);
            add::<2, N>(&mut sums, &rows, &packed[2]);
            add::<3, N>(&mut sums, &rows, &packed[3]);
        }
        for (at, packed) in (whole..bytes).step_by(STEP).zip(&packed[whole / STEP..]) {
            let rows: [int8x16_t; N] = std::array::from_fn(|n| {
                let mut four = [128; WIDE];
                four[..STEP].copy_from_slice(&rows[n * bytes + at..][..STEP]);
                signed(&four)
            });
            add::<0, N>(&mut sums, &rows, packed);
        }
        for (n, sums) in sums.iter().enumerate() {
            for (four, sum) in out[n * wide..][..LANES].as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                // SAFETY: an array of 16 bytes.
                unsafe { vst1q_s32(four.as_mut_ptr(), *sum) };
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn signed(row: &[u8; WIDE]) -> int8x16_t {
        // SAFETY: an array of 16 bytes.
        let row = unsafe { vld1q_u8(row.as_ptr()) };
        vreinterpretq_s8_u8(veorq_u8(row, vdupq_n_u8(128)))
    }

    /// The four bytes `STEP_OF` of each row times one step of a group.
    #[inline]
    #[target_feature(enable = "dotprod")]
    fn add<const STEP_OF: u32, const N: usize>(sums: &mut [[int32x4_t; VECTORS]; N], rows: &[int8x16_t; N], packed: &[i8; LANES * STEP]) {
        for (v, centres) in packed.as_chunks::<WIDE>().0.iter().enumerate() {
            // SAFETY: an array of 16 bytes.
            let centres = unsafe { vld1q_s8(centres.as_ptr()) };
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: one instruction on registers, which this function's features have; its intrinsic isn't stable.
                unsafe {
                    asm!("sdot {sum:v}.4s, {centres:v}.16b, {row:v}.4b[{step}]", sum = inout(vreg) sums[v], centres = in(vreg) centres,
                        row = in(vreg) *row, step = const STEP_OF, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_products_are_the_same_whole_numbers_by_any_instructions() {
        for (count, dim, k) in [(1, 1, 1_usize), (3, 4, 16), (4, 15, 17), (5, 16, 33), (9, 63, 80), (8, 130, 100), (2, 1_026, 70)] {
            let bytes = row_bytes(dim);
            let wide = k.next_multiple_of(LANES);
            let mut state = dim as u32;
            let mut value = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Both ends of a byte's range are there often.
                ((state >> 8) as f32 / (1 << 22) as f32 - 2.0).clamp(-1.0, 1.0)
            };
            let (mut packed, mut offsets, mut scratch) = (vec![0; wide * bytes], vec![0; wide], vec![0; bytes]);
            let mut rows = vec![0; count * bytes];
            let (mut centre, isa) = (vec![0.0; dim], Isa::detect());
            for (number, offset) in offsets.iter_mut().enumerate().take(k) {
                centre.iter_mut().for_each(|place| *place = value());
                *offset = pack_bytes(isa, number, &centre, &mut scratch, &mut packed).1;
            }
            for row in rows.chunks_exact_mut(bytes) {
                centre.iter_mut().for_each(|place| *place = value());
                quantise(isa, &centre, row);
            }
            let run = |screen| {
                let mut out = vec![7; count * wide];
                byte_products(screen, &rows, bytes, &packed, &offsets, &mut out);
                out
            };
            let plain = run(Screen::Floats(isa));
            let one = |row: usize, centre: usize| -> i32 {
                let at = |j: usize| (centre / LANES * bytes + j / STEP * STEP) * LANES + centre % LANES * STEP + j % STEP;
                (0..bytes).map(|j| (i32::from(rows[row * bytes + j]) - 128) * i32::from(packed[at(j)])).sum()
            };
            assert!((0..count).all(|row| (0..wide).all(|centre| plain[row * wide + centre] == one(row, centre))), "{count} {dim} {k}");
            assert!(run(Screen::detect(isa)) == plain, "{count} {dim} {k}");
        }
    }

    #[test]
    fn rows_become_the_same_bytes_on_every_instruction_set() {
        for dim in [1, 15, 16, 47, 200] {
            let row: Vec<f32> = (0..dim).map(|at| (at as f32 * 0.7).sin() * 3.0).collect();
            let run = |isa| {
                let mut out = vec![0; row_bytes(dim)];
                let Quantised { step, norm, rest } = quantise(isa, &row, &mut out);
                (out, [step, norm, rest].map(f32::to_bits))
            };
            Isa::all().iter().for_each(|&isa| assert!(run(isa) == run(Isa::Portable), "{dim} {isa:?}"));
        }
    }
}
