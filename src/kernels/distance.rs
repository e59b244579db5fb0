//! Nearest centres and squared distances, with the same bits on every instruction set.
//!
//! # Why
//! Labels decide which tokens an answer sees, so they may not depend on the machine. There is one source for all instruction sets: arrays of
//! sixteen lanes that the compiler turns into whatever vectors it may use. Each dot product is one chain of fused multiply-adds
//! over the dimensions in its own lane, so neither the vector width nor the number of threads changes an order of rounding.
//!
//! Roofline: a (token, centre) pair costs `2d` flop and the block of centres stays in cache, so the bound is the FMA units: two 8-lane FMA a cycle
//! is 32 flop a cycle a core with AVX2, 96–112 Gflop/s at 3–3.5 GHz.
#![allow(unsafe_code)]

/// Centres of a group; a group is stored `[d][LANES]`.
pub const LANES: usize = 16;
/// Tokens taken at once.
const ROWS: usize = 4;

/// Which vectors to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Avx512,
    Avx2,
    /// What the compiler makes of the plain code for aarch64, where vectors of 16 bytes and fused multiply-adds are always there; two products have code
    /// of their own ([`across`](super::across), [`byte_products`](super::byte_products)).
    Neon,
    Portable,
}

impl Isa {
    /// The widest that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // Bytes and words as well (all such processors but Xeon Phi): the imaging kernels are integers.
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        if cfg!(target_arch = "aarch64") { Self::Neon } else { Self::Portable }
    }

    /// All that this processor has.
    #[cfg(test)]
    pub fn all() -> &'static [Self] {
        match Self::detect() {
            Self::Avx512 => &[Self::Avx512, Self::Avx2, Self::Portable],
            Self::Avx2 => &[Self::Avx2, Self::Portable],
            Self::Neon => &[Self::Neon, Self::Portable],
            Self::Portable => &[Self::Portable],
        }
    }
}

/// Calls `$body` compiled for `$isa`.
macro_rules! dispatch {
    ($isa:expr, $body:ident ( $($name:ident : $type:ty),* ) $(-> $out:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma,avx2")]
            fn wide($($name: $type),*) $(-> $out)? { $body($($name),*) }
            #[target_feature(enable = "avx2,fma")]
            fn narrow($($name: $type),*) $(-> $out)? { $body($($name),*) }
            match $isa {
                // SAFETY: `Isa::detect` is the only maker of these values outside tests, and found the features.
                Isa::Avx512 => unsafe { wide($($name),*) },
                // SAFETY: as above.
                Isa::Avx2 => unsafe { narrow($($name),*) },
                Isa::Neon | Isa::Portable => $body($($name),*),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        { let _ = $isa; $body($($name),*) }
    }};
}

pub(super) use dispatch;

/// For each row of `rows` `[n,d]`: the centre with the least `‖c‖² − 2·u·c`, equal values → lowest number, and that value.
/// `centres`: `[groups][d][LANES]`; `norms`: `‖c‖²` a centre, `+∞` for lanes that hold none.
pub fn nearest(isa: Isa, rows: &[f32], dim: usize, centres: &[f32], norms: &[f32], labels: &mut [u32], values: &mut [f32]) {
    dispatch!(isa, nearest_body(rows: &[f32], dim: usize, centres: &[f32], norms: &[f32], labels: &mut [u32], values: &mut [f32]));
}

#[inline(always)]
fn nearest_body(rows: &[f32], dim: usize, centres: &[f32], norms: &[f32], labels: &mut [u32], values: &mut [f32]) {
    let mut row = 0;
    while row + ROWS <= labels.len() {
        nearest_rows::<ROWS>(&rows[row * dim..], dim, centres, norms, &mut labels[row..], &mut values[row..]);
        row += ROWS;
    }
    while row < labels.len() {
        nearest_rows::<1>(&rows[row * dim..], dim, centres, norms, &mut labels[row..], &mut values[row..]);
        row += 1;
    }
}

#[inline(always)]
fn nearest_rows<const N: usize>(rows: &[f32], dim: usize, centres: &[f32], norms: &[f32], labels: &mut [u32], values: &mut [f32]) {
    let row: [&[f32]; N] = std::array::from_fn(|n| &rows[n * dim..(n + 1) * dim]);
    let mut best = [[f32::INFINITY; LANES]; N];
    let mut group_of = [[0_u32; LANES]; N];
    for (group, (centres, norms)) in centres.chunks_exact(dim * LANES).zip(norms.chunks_exact(LANES)).enumerate() {
        let mut dot = [[0.0_f32; LANES]; N];
        for (d, lane) in centres.chunks_exact(LANES).enumerate() {
            for n in 0..N {
                let value = row[n][d];
                for l in 0..LANES {
                    dot[n][l] = value.mul_add(lane[l], dot[n][l]);
                }
            }
        }
        for n in 0..N {
            for l in 0..LANES {
                let value = dot[n][l].mul_add(-2.0, norms[l]);
                let better = value < best[n][l];
                best[n][l] = if better { value } else { best[n][l] };
                group_of[n][l] = if better { group as u32 } else { group_of[n][l] };
            }
        }
    }
    for n in 0..N {
        let mut label = u32::MAX;
        let mut value = f32::INFINITY;
        for l in 0..LANES {
            let number = group_of[n][l] * LANES as u32 + l as u32;
            if best[n][l] < value || (best[n][l] == value && number < label) {
                (value, label) = (best[n][l], number);
            }
        }
        (labels[n], values[n]) = (label, value);
    }
}

/// `‖a − b‖²`.
#[must_use]
pub fn squared(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    dispatch!(isa, squared_body(a: &[f32], b: &[f32]) -> f32)
}

#[inline(always)]
fn squared_body(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest = rest.fold(0.0_f32, |sum, (x, y)| (x - y).mul_add(x - y, sum));
    for (x, y) in a_chunks.zip(b_chunks) {
        for l in 0..LANES {
            let gap = x[l] - y[l];
            lanes[l] = gap.mul_add(gap, lanes[l]);
        }
    }
    lanes.iter().fold(rest, |sum, lane| sum + lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(step).collect()
    }

    #[test]
    fn the_same_bits_on_every_instruction_set() {
        for (n, d, k) in [(1, 1, 1), (7, 5, 16), (33, 146, 40)] {
            let rows = numbers(n * d, 1);
            let centres = numbers(k * d, 2);
            let groups = k.div_ceil(LANES);
            let mut packed = vec![0.0; groups * d * LANES];
            let mut norms = vec![f32::INFINITY; groups * LANES];
            for c in 0..k {
                norms[c] = centres[c * d..(c + 1) * d].iter().map(|v| v * v).sum();
                (0..d).for_each(|j| packed[(c / LANES * d + j) * LANES + c % LANES] = centres[c * d + j]);
            }
            let run = |isa| {
                let (mut labels, mut values) = (vec![0; n], vec![0.0; n]);
                nearest(isa, &rows, d, &packed, &norms, &mut labels, &mut values);
                let gaps: Vec<u32> = (0..n).map(|row| squared(isa, &rows[row * d..(row + 1) * d], &centres[..d]).to_bits()).collect();
                (labels, values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), gaps)
            };
            let portable = run(Isa::Portable);
            for (row, &label) in portable.0.iter().enumerate() {
                let gap =
                    |c: usize| -> f64 { (0..d).map(|j| (f64::from(rows[row * d + j]) - f64::from(centres[c * d + j])).powi(2)).sum() };
                let least = (0..k).map(gap).fold(f64::INFINITY, f64::min);
                assert!(gap(label as usize) - least < 1e-4, "row {row}");
            }
            Isa::all().iter().for_each(|&isa| assert!(run(isa) == portable, "{isa:?}"));
        }
    }

    #[test]
    fn equal_distances_go_to_the_lowest_number() {
        let (mut labels, mut values) = ([9], [0.0]);
        let centres = [1.0_f32; 2 * LANES];
        nearest(Isa::detect(), &[1.0], 1, &centres, &[1.0; 2 * LANES], &mut labels, &mut values);
        assert_eq!(labels, [0]);
    }
}
