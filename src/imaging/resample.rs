//! Antialiased bicubic weights, as Pillow's BICUBIC has them.

use crate::kernels::{Taps, WEIGHT_BITS};

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
/// `extent`: the part of the `from` samples that is picture, `from` itself but for a reduced decode whose last sample is not whole.
#[must_use]
pub fn bicubic(from: usize, extent: f64, to: usize) -> Taps<f32> {
    let scale = extent / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let taps = longest(from, to);
    let mut starts = Vec::with_capacity(to);
    let mut weights = vec![0.0; to * taps];
    for (out, weights) in weights.chunks_exact_mut(taps).enumerate() {
        let centre = (out as f64 + 0.5) * scale;
        let start = ((centre - support + 0.5).max(0.0) as usize).min(from - 1);
        let end = ((centre + support + 0.5) as usize).min(from);
        let own = |at: usize| cubic((at as f64 - centre + 0.5) / stretch);
        let sum: f64 = (start..end).map(own).sum();
        weights.iter_mut().zip(start..end).for_each(|(weight, at)| *weight = (own(at) / sum) as f32);
        starts.push(start as u32);
    }
    Taps { starts, weights, taps }
}

/// The same weights in fixed point; those of a sample sum to 1 exactly, the difference being put on the largest.
#[must_use]
pub fn fixed(taps: &Taps<f32>) -> Taps<i16> {
    let one = 1_i32 << WEIGHT_BITS;
    let mut weights = Vec::with_capacity(taps.weights.len());
    for own in taps.weights.chunks_exact(taps.taps) {
        let first = weights.len();
        weights.extend(own.iter().map(|weight| (weight * one as f32).round() as i16));
        let sum: i32 = weights[first..].iter().map(|&weight| i32::from(weight)).sum();
        if let Some(largest) = weights[first..].iter_mut().max_by_key(|weight| **weight) {
            *largest += (one - sum) as i16;
        }
    }
    Taps { starts: taps.starts.clone(), weights, taps: taps.taps }
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
            let made = bicubic(from, from as f64, to);
            for (start, weights) in made.starts.iter().zip(made.weights.chunks_exact(made.taps)) {
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{from} to {to}");
                let used = weights.iter().rposition(|weight| *weight != 0.0).unwrap();
                assert!(*start as usize + used < from, "{from} to {to}");
            }
            let fixed = fixed(&made);
            assert!(fixed.weights.chunks_exact(fixed.taps).all(|own| own.iter().map(|&w| i32::from(w)).sum::<i32>() == 1 << WEIGHT_BITS));
            let off = |(fixed, float): (&i16, &f32)| (f32::from(*fixed) / 16_384.0 - float).abs();
            assert!(fixed.weights.iter().zip(&made.weights).map(off).fold(0.0, f32::max) < 2e-3, "{from} to {to}");
        }
        // No change of size is the identity.
        let same = bicubic(5, 5.0, 5);
        assert!(same.weights.chunks_exact(same.taps).zip(0_u32..).all(|(w, i)| {
            w.iter().enumerate().all(|(at, weight)| (weight - f32::from(u8::from(same.starts[i as usize] + at as u32 == i))).abs() < 1e-6)
        }));
        // Half a sample less at the end: the last output moves by its share.
        assert_eq!(bicubic(8, 7.5, 2).starts, bicubic(8, 8.0, 2).starts);
    }
}
