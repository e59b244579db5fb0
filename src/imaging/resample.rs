//! Antialiased bicubic weights, as Pillow's BICUBIC has them.

use crate::kernels::{TAPS, Taps};

/// The cubic of Keys (1981) with a = −0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Weights from `from` samples to `to`: the filter is stretched by the scale where that is above 1, cut at the edges, and sums to 1.
/// `padded` rounds the taps up to [`TAPS`].
#[must_use]
pub fn bicubic(from: usize, to: usize, padded: bool) -> Taps {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let longest = (support.ceil() as usize) * 2 + 1;
    let taps = if padded { longest.next_multiple_of(TAPS) } else { longest };
    let mut starts = Vec::with_capacity(to);
    let mut weights = vec![0.0; to * taps];
    for (out, weights) in weights.chunks_exact_mut(taps).enumerate() {
        let centre = (out as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let own: Vec<f64> = (start..end).map(|at| cubic((at as f64 - centre + 0.5) / stretch)).collect();
        let sum: f64 = own.iter().sum();
        weights.iter_mut().zip(&own).for_each(|(weight, own)| *weight = (own / sum) as f32);
        starts.push(start as u32);
    }
    Taps { starts, weights, taps }
}

/// Most taps of a sample when `from` samples become `to`.
#[must_use]
pub fn longest(from: usize, to: usize) -> usize {
    let stretch = (from as f64 / to as f64).max(1.0);
    ((2.0 * stretch).ceil() as usize) * 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (from, to) in [(1, 1), (1, 7), (7, 1), (100, 33), (33, 100), (10_800, 4_032)] {
            let made = bicubic(from, to, false);
            for (start, weights) in made.starts.iter().zip(made.weights.chunks_exact(made.taps)) {
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{from} to {to}");
                let used = weights.iter().rposition(|weight| *weight != 0.0).unwrap();
                assert!(*start as usize + used < from, "{from} to {to}");
            }
            assert!(made.taps <= longest(from, to));
        }
        // No change of size is the identity.
        let same = bicubic(5, 5, false);
        assert!(same.weights.chunks_exact(same.taps).zip(0_u32..).all(|(w, i)| {
            w.iter().enumerate().all(|(at, weight)| (weight - f32::from(u8::from(same.starts[i as usize] + at as u32 == i))).abs() < 1e-6)
        }));
    }
}
