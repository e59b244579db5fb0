//! What methods with centres share: centres as the distance kernel wants them, and labels made dense.

use crate::kernels::LANES;

/// Centres `[k][dim]` → `[groups][dim][LANES]`, with `‖c‖²`; lanes without a centre are infinitely far.
pub fn pack(centres: &[f32], dim: usize, packed: &mut [f32], norms: &mut [f32]) {
    let k = centres.len() / dim;
    for (group, (block, norms)) in packed.chunks_exact_mut(dim * LANES).zip(norms.chunks_exact_mut(LANES)).enumerate() {
        block.fill(0.0);
        norms.fill(f32::INFINITY);
        for lane in 0..LANES.min(k.saturating_sub(group * LANES)) {
            let centre = &centres[(group * LANES + lane) * dim..][..dim];
            norms[lane] = centre.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() as f32;
            centre.iter().enumerate().for_each(|(j, value)| block[j * LANES + lane] = *value);
        }
    }
}

/// Drops numbers that no label has: labels become dense, in the same order. `numbers`: one place a number. Returns how many are left.
pub fn dense(labels: &mut [u32], numbers: &mut [u32]) -> usize {
    numbers.fill(0);
    labels.iter().for_each(|&label| numbers[label as usize] = 1);
    let mut next = 0;
    for number in numbers.iter_mut() {
        (next, *number) = (next + *number, next);
    }
    labels.iter_mut().for_each(|label| *label = numbers[*label as usize]);
    next as usize
}
