//! Products of f32 rows with a matrix that is kept quantised.
//!
//! # Why
//! Weights stay as the file has them (mapped, 4.5 to 5 bits a value) and become f32 a panel of sixteen rows at a time, so activations need no
//! rounding and the result is that of an f32 product over the dequantised weights. A panel is used by all rows of a chunk.
//!
//! Roofline: with many rows the bound is the FMA units, 2 flop a weight and row, 96–112 Gflop/s a core with AVX2; one row alone is bound by
//! turning the weights into f32, some 4 instructions to 8 of them, well above the 5 bits a weight that memory must bring.
#![allow(unsafe_code)]

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::distance::dispatch;
use crate::kernels::{Isa, Pool};

/// Output rows of a panel.
pub const PANEL: usize = 16;
/// Values of a quantised block.
pub const BLOCK: usize = 32;
const ROWS: usize = 4;

/// How a tensor's values are stored (ggml's names and block layouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    F32,
    F16,
    /// f16 scale, 32 nibbles less 8.
    Q4_0,
    /// f16 scale and minimum, 32 nibbles.
    Q4_1,
    /// f16 scale, 32 signed bytes.
    Q8_0,
}

impl Format {
    /// Bytes of a row of `len` values, a whole number of blocks.
    #[must_use]
    pub fn row_bytes(self, len: usize) -> usize {
        match self {
            Self::F32 => len * 4,
            Self::F16 => len * 2,
            Self::Q4_0 => len / BLOCK * 18,
            Self::Q4_1 => len / BLOCK * 20,
            Self::Q8_0 => len / BLOCK * 34,
        }
    }

    /// Values a block: a row is a whole number of them.
    #[must_use]
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            _ => BLOCK,
        }
    }

    /// Turns one stored row into f32.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        match self {
            Self::F32 => {
                out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
            }
            Self::F16 => {
                let mut block = [f16::ZERO; BLOCK];
                for (out, bytes) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
                    let block = &mut block[..out.len()];
                    block.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(value, bytes)| *value = f16::from_le_bytes(*bytes));
                    block.convert_to_f32_slice(out);
                }
            }
            Self::Q4_0 => {
                for (out, bytes) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(bytes.as_chunks::<18>().0) {
                    let [scale_low, scale_high, nibbles_of @ ..] = bytes;
                    let scale = half(&[*scale_low, *scale_high]);
                    nibbles(out, nibbles_of, scale, -8.0 * scale);
                }
            }
            Self::Q4_1 => {
                for (out, bytes) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(bytes.as_chunks::<20>().0) {
                    let [scale_low, scale_high, least_low, least_high, nibbles_of @ ..] = bytes;
                    nibbles(out, nibbles_of, half(&[*scale_low, *scale_high]), half(&[*least_low, *least_high]));
                }
            }
            Self::Q8_0 => {
                for (out, bytes) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(bytes.as_chunks::<34>().0) {
                    let scale = half(bytes);
                    out.iter_mut().zip(&bytes[2..]).for_each(|(out, &byte)| *out = f32::from(byte.cast_signed()) * scale);
                }
            }
        }
    }
}

/// The low nibbles of 16 bytes are values 0 to 15, the high ones 16 to 31. Two loops: in one, the compiler makes no vectors of it for aarch64.
#[inline(always)]
fn nibbles(out: &mut [f32; BLOCK], bytes: &[u8; BLOCK / 2], scale: f32, least: f32) {
    let mut values = [0_u8; BLOCK];
    let (low, high) = values.split_at_mut(BLOCK / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from(value).mul_add(scale, least));
}

/// A matrix `[rows, cols]` as stored.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub bytes: &'a [u8],
}

impl Matrix<'_> {
    /// Row `index` as f32.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let size = self.format.row_bytes(self.cols);
        self.format.dequantise(&self.bytes[index * size..(index + 1) * size], out);
    }
}

/// f32 values of scratch that [`matmul`] needs for `cols` columns on `threads` threads.
#[must_use]
pub fn matmul_scratch(cols: usize, threads: usize) -> usize {
    threads * (PANEL + 1) * cols
}

/// `out` `[n, rows]` = `input` `[n, cols]` · `matrix`ᵀ. The bits don't depend on the number of threads.
pub fn matmul(isa: Isa, pool: &Pool, matrix: &Matrix<'_>, input: &[f32], out: &mut [f32], scratch: &mut [f32]) {
    let (cols, rows) = (matrix.cols, matrix.rows);
    let threads = pool.threads();
    let panels = rows.div_ceil(PANEL);
    let per_thread = panels.div_ceil(threads);
    let shared = Outputs { start: out.as_mut_ptr(), len: out.len() };
    pool.pieces(&mut scratch[..matmul_scratch(cols, threads)], (PANEL + 1) * cols, &|thread, scratch| {
        for panel in thread * per_thread..((thread + 1) * per_thread).min(panels) {
            let first = panel * PANEL;
            // SAFETY: the columns `first..first + PANEL` of `out` are this panel's alone, and panels are handed out once.
            unsafe { one_panel(isa, matrix, first, input, &shared, rows, scratch) };
        }
    });
}

struct Outputs {
    start: *mut f32,
    len: usize,
}
// SAFETY: written only in places that one task owns, by the contract of `matmul`.
unsafe impl Sync for Outputs {}

impl Outputs {
    /// # Safety
    /// No other task may write `place`.
    unsafe fn put(&self, place: usize, value: f32) {
        assert!(place < self.len, "output {place} of {}", self.len);
        // SAFETY: in bounds by the line above, unshared by this function's contract.
        unsafe { *self.start.add(place) = value };
    }
}

/// # Safety
/// No other task may write the columns of this panel.
unsafe fn one_panel(isa: Isa, matrix: &Matrix<'_>, first: usize, input: &[f32], out: &Outputs, stride: usize, scratch: &mut [f32]) {
    let cols = matrix.cols;
    let height = PANEL.min(matrix.rows - first);
    let (panel, row) = scratch.split_at_mut(PANEL * cols);
    if input.len() == cols {
        for lane in 0..height {
            let sum = row_dot(isa, matrix, first + lane, input, row);
            // SAFETY: this function's contract.
            unsafe { out.put(first + lane, sum) };
        }
        return;
    }
    pack(isa, matrix, first, panel, row);
    for (block, rows) in input.chunks(ROWS * cols).enumerate() {
        let sums = product(isa, rows, cols, panel);
        for (at, sums) in sums.iter().enumerate().take(rows.len() / cols) {
            for (lane, &sum) in sums.iter().enumerate().take(height) {
                // SAFETY: this function's contract.
                unsafe { out.put((block * ROWS + at) * stride + first + lane, sum) };
            }
        }
    }
}

fn row_dot(isa: Isa, matrix: &Matrix<'_>, index: usize, input: &[f32], row: &mut [f32]) -> f32 {
    #[inline(always)]
    fn body(matrix: &Matrix<'_>, index: usize, input: &[f32], row: &mut [f32]) -> f32 {
        matrix.row(index, row);
        dot_body(row, input)
    }
    dispatch!(isa, body(matrix: &Matrix<'_>, index: usize, input: &[f32], row: &mut [f32]) -> f32)
}

/// Writes sixteen rows from `first` as `[cols][PANEL]`; rows beyond the matrix are 0.
fn pack(isa: Isa, matrix: &Matrix<'_>, first: usize, panel: &mut [f32], row: &mut [f32]) {
    #[inline(always)]
    fn body(matrix: &Matrix<'_>, first: usize, panel: &mut [f32], row: &mut [f32]) {
        for lane in 0..PANEL {
            if first + lane < matrix.rows {
                matrix.row(first + lane, row);
            } else {
                row.fill(0.0);
            }
            panel.iter_mut().skip(lane).step_by(PANEL).zip(row.iter()).for_each(|(place, value)| *place = *value);
        }
    }
    dispatch!(isa, body(matrix: &Matrix<'_>, first: usize, panel: &mut [f32], row: &mut [f32]))
}

/// Up to [`ROWS`] rows of `input` times a panel.
fn product(isa: Isa, input: &[f32], cols: usize, panel: &[f32]) -> [[f32; PANEL]; ROWS] {
    #[inline(always)]
    fn body(input: &[f32], cols: usize, panel: &[f32]) -> [[f32; PANEL]; ROWS] {
        let mut sums = [[0.0_f32; PANEL]; ROWS];
        if input.len() == ROWS * cols {
            let (a, rest) = input.split_at(cols);
            let (b, rest) = rest.split_at(cols);
            let (c, d) = rest.split_at(cols);
            for ((((weights, a), b), c), d) in panel.as_chunks::<PANEL>().0.iter().zip(a).zip(b).zip(c).zip(d) {
                for (sums, value) in sums.iter_mut().zip([a, b, c, d]) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = weight.mul_add(*value, *sum);
                    }
                }
            }
        } else {
            for (row, sums) in input.chunks_exact(cols).zip(&mut sums) {
                for (weights, value) in panel.as_chunks::<PANEL>().0.iter().zip(row) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = weight.mul_add(*value, *sum);
                    }
                }
            }
        }
        sums
    }
    dispatch!(isa, body(input: &[f32], cols: usize, panel: &[f32]) -> [[f32; PANEL]; ROWS])
}

#[inline(always)]
pub(super) fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 32];
    let (a, a_rest) = a.as_chunks::<32>();
    let (b, b_rest) = b.as_chunks::<32>();
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_and_isa_equals_the_plain_product() {
        let (rows, cols) = (37, 64);
        for format in [Format::F32, Format::F16, Format::Q4_0, Format::Q4_1, Format::Q8_0] {
            let mut seed = 7_u32;
            let mut next = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            };
            let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols)).map(|_| next()).collect();
            // Scales and floats must be tame numbers.
            let unit = match format {
                Format::F32 => 4,
                Format::F16 => 2,
                Format::Q4_0 => 18,
                Format::Q4_1 => 20,
                Format::Q8_0 => 34,
            };
            for block in bytes.chunks_exact_mut(unit) {
                let value = f32::from(block[0]) / 512.0 - 0.2;
                match format {
                    Format::F32 => block.copy_from_slice(&value.to_le_bytes()),
                    Format::Q4_1 => {
                        block[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
                        block[2..4].copy_from_slice(&f16::from_f32(-value).to_le_bytes());
                    }
                    _ => block[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                }
            }
            let matrix = Matrix { format, rows, cols, bytes: &bytes };
            for n in [1, 3, 9] {
                let input: Vec<f32> = (0..n * cols).map(|i| (i as f32 * 0.37).sin()).collect();
                let mut wanted = vec![0.0; n * rows];
                let mut row = vec![0.0; cols];
                for r in 0..rows {
                    matrix.row(r, &mut row);
                    for i in 0..n {
                        wanted[i * rows + r] =
                            row.iter().zip(&input[i * cols..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
                    }
                }
                for isa in [Isa::detect(), Isa::Portable] {
                    for threads in [1, 3] {
                        let pool = Pool::new(threads);
                        let mut out = vec![0.0; n * rows];
                        let mut scratch = vec![0.0; matmul_scratch(cols, threads)];
                        matmul(isa, &pool, &matrix, &input, &mut out, &mut scratch);
                        for (out, wanted) in out.iter().zip(&wanted) {
                            assert!((out - wanted).abs() < 1e-3 * (1.0 + wanted.abs()), "{format:?} {n} {isa:?}: {out} {wanted}");
                        }
                    }
                }
            }
        }
    }
}
