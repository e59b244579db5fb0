//! Products of a block of rows with all centres, cheaply and with a bound on the error: what is near enough is looked at again exactly.
//!
//! # Why
//! Of 600 centres one or two are ever in question for a token. Bytes tell which ([`byte_products`](super::byte_products)), where the processor multiplies them four at a
//! time: a product of two rows costs a fourth of what it costs in f32, and the distance lost to rounding is bounded by Cauchy and Schwarz from the residues
//! themselves. Elsewhere the products are f32, whose error bound is that of a chain of fused multiply-adds. Either way the labels are those of the exact arithmetic.
//!
//! Roofline: a (row, centre) pair costs `d` multiply-adds in f32, 16 a cycle and core with AVX2, 8 with NEON on a core that adds two vectors a cycle. Centres
//! stay in the second-level cache and are read once for [`ROWS`] rows: never the bound.
#![allow(unsafe_code)]

use half::f16;

use crate::kernels::distance::dispatch;
use crate::kernels::{Isa, LANES};

/// Rows taken at once.
pub(super) const ROWS: usize = 4;

/// How products are screened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// Bytes, by AVX-512 VNNI or Arm's dot products.
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
        #[cfg(target_arch = "aarch64")]
        if isa == Isa::Neon && std::arch::is_aarch64_feature_detected!("dotprod") {
            return Self::Bytes;
        }
        Self::Floats(isa)
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
