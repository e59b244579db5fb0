//! One row of SLIC: pixels go over to a centre that is nearer than the one they have.
//!
//! # Why
//! A compare and two selects a pixel, eight or sixteen at once. Products and sums are never fused, so every instruction set gives the same bits.
#![allow(unsafe_code)]

use crate::kernels::distance::{Isa, dispatch};

/// A centre as a row sees it.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub colour: [f32; 3],
    pub label: u32,
    /// Of the row's first pixel, from the centre.
    pub x: f32,
    /// What a squared pixel weighs, and what the rows between weigh already.
    pub pull: f32,
    pub down: f32,
}

/// Where the distance from `claim` is below `least` it replaces it, and the claim's label the one there.
pub fn claim(isa: Isa, claim: &Claim, planes: [&[f32]; 3], least: &mut [f32], labels: &mut [u32]) {
    dispatch!(isa, claim_body(claim: &Claim, planes: [&[f32]; 3], least: &mut [f32], labels: &mut [u32]));
}

#[inline(always)]
fn claim_body(claim: &Claim, planes: [&[f32]; 3], least: &mut [f32], labels: &mut [u32]) {
    let Claim { colour, label, x, pull, down } = *claim;
    let colours = planes[0].iter().zip(planes[1]).zip(planes[2]);
    // A row is shorter than 2^31 pixels.
    for ((((&l, &a), &b), (least, owner)), at) in colours.zip(least.iter_mut().zip(labels)).zip(0_i32..) {
        let (dl, da, db) = (l - colour[0], a - colour[1], b - colour[2]);
        let dx = x + at as f32;
        let gap = (dl * dl + da * da) + (db * db + (dx * dx * pull + down));
        let better = gap < *least;
        *least = if better { gap } else { *least };
        *owner = if better { label } else { *owner };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bits_on_every_instruction_set() {
        let plane = |by: f32| (0..101).map(|at| (at as f32 * by).sin() * 50.0).collect::<Vec<f32>>();
        let (l, a, b) = (plane(0.3), plane(1.1), plane(2.7));
        let run = |isa| {
            let (mut least, mut labels) = (vec![f32::INFINITY; 101], vec![9; 101]);
            for (label, x) in [(0, -3.5), (1, -60.25), (2, -3.5)] {
                let one = Claim { colour: [1.0, x, 3.0], label, x, pull: 0.037, down: 1.5 };
                claim(isa, &one, [&l, &a, &b], &mut least, &mut labels);
            }
            (least.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), labels)
        };
        let portable = run(Isa::Portable);
        assert!(portable.1.contains(&0) && portable.1.contains(&1) && !portable.1.contains(&2));
        Isa::all().iter().for_each(|&isa| assert!(run(isa) == portable, "{isa:?}"));
    }
}
