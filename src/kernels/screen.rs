//! Products of a block of rows with all centres, cheaply and with a bound on the error: what is near enough is looked at again exactly.
//!
//! # Why
//! Of 600 centres one or two are ever in question for a token. Bytes tell which: with AVX-512 VNNI a product of two rows costs a fourth of what it costs in
//! f32, and the distance lost to rounding is bounded by Cauchy and Schwarz from the residues themselves. Without VNNI the products are f32, whose
//! error bound is that of a chain of fused multiply-adds. Either way the labels are those of the exact arithmetic.
//!
//! Roofline: a (row, centre) pair costs `d` multiply-adds; VNNI does 64 a cycle and core where 512-bit units are one wide (Zen 4), f32 with AVX2 16. Centres
//! (0.6 MB as bytes at 600 × 1,026) stay in the second-level cache and are read once for [`ROWS`] rows: never the bound.
#![allow(unsafe_code)]

use half::f16;

use crate::kernels::distance::dispatch;
use crate::kernels::{Isa, LANES};

/// Rows taken at once.
const ROWS: usize = 4;
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

/// How products are screened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// Bytes, by AVX-512 VNNI.
    Bytes,
    /// f32, on anything.
    Floats(Isa),
}

impl Screen {
    /// The faster one of this processor, within what `isa` allows.
    #[must_use]
    pub fn detect(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && std::arch::is_x86_feature_detected!("avx512vnni") && std::arch::is_x86_feature_detected!("avx512bw") {
            return Self::Bytes;
        }
        Self::Floats(isa)
    }
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
        let mut one = |value: f32, out: &mut u8, lane: usize| {
            // The nearest whole number, −127 to 127, stands in the sum's low bits.
            let shifted = value.mul_add(inverse, ROUND);
            *out = (shifted.to_bits() as u8).wrapping_add(128);
            let kept = (shifted - ROUND) * step;
            norms[lane] = kept.mul_add(kept, norms[lane]);
            rests[lane] = (value - kept).mul_add(value - kept, rests[lane]);
        };
        let (filled, beyond) = out.split_at_mut(row.len());
        let (outs, out_rest) = filled.as_chunks_mut::<LANES>();
        for (block, out) in blocks.iter().zip(outs) {
            for lane in 0..LANES {
                one(block[lane], &mut out[lane], lane);
            }
        }
        rest.iter().zip(out_rest).enumerate().for_each(|(lane, (value, out))| one(*value, out, lane));
        beyond.fill(128);
        // Sums of squares are within 2⁻¹⁶ of their value for any length there is.
        let up = |lanes: [f32; LANES]| lanes.iter().sum::<f32>().sqrt() * 1.000_1 + 1e-12;
        Quantised { step, norm: up(norms), rest: up(rests) }
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
        // SAFETY: `Screen::detect`, the only maker of this value outside tests, found the features; lengths are checked above.
        unsafe { vnni(rows, bytes, packed, offsets, out) };
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

/// Four rows by four groups at a time: sixteen accumulators, four loads and four broadcasts for sixteen products.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vnni(rows: &[u8], bytes: usize, packed: &[i8], offsets: &[i32], out: &mut [i32]) {
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

#[cfg(target_arch = "x86_64")]
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vnni_block<const N: usize, const G: usize>(rows: &[u8], bytes: usize, packed: &[i8], offsets: &[i32], group: usize, out: &mut [i32]) {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512};
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

/// `out` `[rows][groups · LANES]`: products of f32 rows `[rows][dim]` with packed centres `[groups][dim][LANES]`.
pub fn float_products(isa: Isa, rows: &[f32], dim: usize, packed: &[f32], out: &mut [f32]) {
    #[inline(always)]
    fn block<const N: usize>(rows: &[f32], dim: usize, packed: &[f32], out: &mut [f32]) {
        let wide = packed.len() / dim;
        let row: [&[f32]; N] = std::array::from_fn(|n| &rows[n * dim..][..dim]);
        for (group, centres) in packed.chunks_exact(dim * LANES).enumerate() {
            let mut sums = [[0.0_f32; LANES]; N];
            for (d, lanes) in centres.as_chunks::<LANES>().0.iter().enumerate() {
                for (sums, row) in sums.iter_mut().zip(&row) {
                    for (sum, lane) in sums.iter_mut().zip(lanes) {
                        *sum = row[d].mul_add(*lane, *sum);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                out[n * wide + group * LANES..][..LANES].copy_from_slice(sums);
            }
        }
    }
    #[inline(always)]
    fn body(rows: &[f32], dim: usize, packed: &[f32], out: &mut [f32]) {
        let (count, wide) = (rows.len() / dim, packed.len() / dim);
        let mut row = 0;
        while row + ROWS <= count {
            block::<ROWS>(&rows[row * dim..], dim, packed, &mut out[row * wide..]);
            row += ROWS;
        }
        while row < count {
            block::<1>(&rows[row * dim..], dim, packed, &mut out[row * wide..]);
            row += 1;
        }
    }
    dispatch!(isa, body(rows: &[f32], dim: usize, packed: &[f32], out: &mut [f32]));
}

/// What is known of every centre while one row is judged; `[groups · LANES]` each.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// ‖c‖², +∞ where a lane holds no centre.
    pub squares: &'a [f32],
    /// Byte steps, or 1 for f32 products.
    pub steps: &'a [f32],
    /// The error of a product: `row.0 · slopes + row.1 · rests + slack`, doubled as the product is.
    pub slopes: &'a [f32],
    pub rests: &'a [f32],
}

/// For one row: the lower bounds of `‖c‖² − 2·u·c` into `lower`, and the least upper bound. `products` in f32; `scale` multiplies them.
pub fn judge(isa: Isa, bounds: &Bounds<'_>, products: &[f32], scale: f32, row: (f32, f32), slack: f32, lower: &mut [f32]) -> f32 {
    #[inline(always)]
    fn body(bounds: &Bounds<'_>, products: &[f32], scale: f32, row: (f32, f32), slack: f32, lower: &mut [f32]) -> f32 {
        let mut least = [f32::INFINITY; LANES];
        let lanes = |values: &'_ [f32], at: usize| -> [f32; LANES] { *values[at..].first_chunk().unwrap_or(&[0.0; LANES]) };
        for (at, lower) in lower.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let at = at * LANES;
            let (squares, steps, slopes, rests) =
                (lanes(bounds.squares, at), lanes(bounds.steps, at), lanes(bounds.slopes, at), lanes(bounds.rests, at));
            let products = lanes(products, at);
            for l in 0..LANES {
                let value = (products[l] * (scale * steps[l])).mul_add(-2.0, squares[l]);
                let error = row.0.mul_add(slopes[l], row.1.mul_add(rests[l], slack));
                lower[l] = value - error;
                let upper = value + error;
                least[l] = if upper < least[l] { upper } else { least[l] };
            }
        }
        least.iter().fold(f32::INFINITY, |least, &lane| if lane < least { lane } else { least })
    }
    dispatch!(isa, body(bounds: &Bounds<'_>, products: &[f32], scale: f32, row: (f32, f32), slack: f32, lower: &mut [f32]) -> f32)
}

/// Numbers whose `lower` bound is at most `limit`, ascending, into `near`; returns how many and the least bound above the limit.
pub fn near(isa: Isa, lower: &[f32], limit: f32, near: &mut [u32]) -> (usize, f32) {
    #[inline(always)]
    fn body(lower: &[f32], limit: f32, near: &mut [u32]) -> (usize, f32) {
        let (mut count, mut least) = (0, [f32::INFINITY; LANES]);
        for (group, lanes) in lower.as_chunks::<LANES>().0.iter().enumerate() {
            let mut any = false;
            for (least, lane) in least.iter_mut().zip(lanes) {
                let inside = *lane <= limit;
                any |= inside;
                let far = if inside { f32::INFINITY } else { *lane };
                *least = if far < *least { far } else { *least };
            }
            if any {
                for (l, _) in lanes.iter().enumerate().filter(|(_, lane)| **lane <= limit) {
                    near[count] = (group * LANES + l) as u32;
                    count += 1;
                }
            }
        }
        (count, least.iter().fold(f32::INFINITY, |least, &lane| if lane < least { lane } else { least }))
    }
    dispatch!(isa, body(lower: &[f32], limit: f32, near: &mut [u32]) -> (usize, f32))
}

/// `u·c` as every decision is made from it: 64 chains of fused multiply-adds, added pairwise.
#[must_use]
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    #[inline(always)]
    fn body(a: &[f32], b: &[f32]) -> f32 {
        const WIDE: usize = 64;
        let mut lanes = [0.0_f32; WIDE];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
        for (a, b) in a.iter().zip(b) {
            for l in 0..WIDE {
                lanes[l] = a[l].mul_add(b[l], lanes[l]);
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
            *lane = a.mul_add(*b, *lane);
        }
        let mut width = WIDE;
        while width > 1 {
            width /= 2;
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
        }
        lanes[0]
    }
    dispatch!(isa, body(a: &[f32], b: &[f32]) -> f32)
}

/// The error of [`dot`] and of `‖c‖² − 2·dot`, as a share of the norms' product: 1/64 of the terms in a chain, six halvings, and room.
#[must_use]
pub fn dot_error(dim: usize) -> f32 {
    (dim as f32 / 64.0 + 32.0) * f32::EPSILON
}

/// The error of one product of [`float_products`], as a share of the norms' product.
#[must_use]
pub fn chain_error(dim: usize) -> f32 {
    (dim as f32 + 32.0) * f32::EPSILON
}

/// `Σ value²` in f64: eight chains, added in order.
#[must_use]
pub fn squares(isa: Isa, row: &[f32]) -> f64 {
    #[inline(always)]
    fn body(row: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; 8];
        let (blocks, rest) = row.as_chunks::<8>();
        for block in blocks {
            for l in 0..8 {
                let value = f64::from(block[l]);
                lanes[l] = value.mul_add(value, lanes[l]);
            }
        }
        let rest: f64 = rest.iter().map(|value| f64::from(*value).powi(2)).sum();
        lanes.iter().fold(rest, |sum, lane| sum + lane)
    }
    dispatch!(isa, body(row: &[f32]) -> f64)
}

/// f16 values, all finite, as f32, times `scale`.
pub fn widen(isa: Isa, row: &[f16], scale: f32, out: &mut [f32]) {
    #[inline(always)]
    fn body(row: &[f16], scale: f32, out: &mut [f32]) {
        // The exponents' biases differ by 112: shifted into an f32's place a half is 2⁻¹¹² of its value, subnormals included.
        const BIAS: f32 = f32::from_bits((127 + 112) << 23);
        for (out, value) in out.iter_mut().zip(row) {
            let bits = u32::from(value.to_bits());
            let magnitude = f32::from_bits((bits & 0x7fff) << 13) * BIAS;
            *out = f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16) * scale;
        }
    }
    dispatch!(isa, body(row: &[f16], scale: f32, out: &mut [f32]));
}

/// f32 values times `scale`.
pub fn scaled(isa: Isa, row: &[f32], scale: f32, out: &mut [f32]) {
    #[inline(always)]
    fn body(row: &[f32], scale: f32, out: &mut [f32]) {
        out.iter_mut().zip(row).for_each(|(out, value)| *out = value * scale);
    }
    dispatch!(isa, body(row: &[f32], scale: f32, out: &mut [f32]));
}

/// Adds a row to `sums` in fixed point of `scale` to the unit; with the negative scale it takes exactly the same away.
pub fn accumulate(isa: Isa, row: &[f32], scale: f32, sums: &mut [i64]) {
    #[inline(always)]
    fn body(row: &[f32], scale: f32, sums: &mut [i64]) {
        for (sum, value) in sums.iter_mut().zip(row) {
            // A float becomes an integer by cutting towards 0, on both sides alike.
            *sum += i64::from((*value * scale) as i32);
        }
    }
    dispatch!(isa, body(row: &[f32], scale: f32, sums: &mut [i64]));
}
