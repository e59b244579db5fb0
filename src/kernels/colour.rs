//! From the planes that a JPEG holds to pixels in the order that [`across`](super::across) reads: chroma upsampling and YCbCr → RGB, to the bit what
//! libjpeg's C code gives.
//!
//! # Why
//! libjpeg's vector code wants an assembler at build time; its C loops for these two steps take as long as the inverse DCT. Plain loops over
//! lanes, compiled for what the processor has, take a quarter of that and can run on another thread than the entropy decoder.
//!
//! Roofline: 3 bytes in and 8 out a pixel, all in L1; about 25 integer operations on 32-bit lanes, so some 2 cycles a pixel with AVX2 and 1 with
//! AVX-512: 58 megapixels take 20 to 40 ms of a core at 3 GHz. Measured, the strided 8-byte stores are as dear as the arithmetic.
#![allow(unsafe_code)]

use crate::kernels::distance::dispatch;
use crate::kernels::{GROUP, Isa};

/// A pixel: red, green, blue and a zero, 16 bits each, lowest first; a sample s is the signed (2s − 255) · 128.
pub type Packed = u64;

/// Pixels converted before they are stored.
const BLOCK: usize = 64;

#[inline(always)]
fn packed(r: u32, g: u32, b: u32) -> Packed {
    // Signed by the upper bit, odd by the one below the sample.
    ((u64::from(r) << 8) | (u64::from(g) << 24) | (u64::from(b) << 40)) ^ 0x8080_8080_8080
}

/// Stores a row's pixels as row `row` of a group, `[x][GROUP]`.
#[inline(always)]
fn store(pixels: &[Packed], row: usize, group: &mut [Packed]) {
    for (pixel, to) in pixels.iter().zip(group.as_chunks_mut::<GROUP>().0) {
        to[row] = pixel.to_le();
    }
}

/// One row `[n]` of each plane → row `row` of `group` `[n][GROUP]`.
pub fn pack_ycc(isa: Isa, luma: &[u8], blue: &[u8], red: &[u8], row: usize, group: &mut [Packed]) {
    #[inline(always)]
    fn body(luma: &[u8], blue: &[u8], red: &[u8], row: usize, group: &mut [Packed]) {
        assert!(row < GROUP, "row {row} of a group of {GROUP}");
        // 16.16 fixed point, as in libjpeg's jdcolor.c.
        const fn fix(value: f64) -> i32 {
            (value * 65_536.0 + 0.5) as i32
        }
        const HALF: i32 = 1 << 15;
        let planes = luma.chunks(BLOCK).zip(blue.chunks(BLOCK)).zip(red.chunks(BLOCK));
        for (((luma, blue), red), group) in planes.zip(group.chunks_mut(BLOCK * GROUP)) {
            let mut pixels = [0; BLOCK];
            for (((pixel, &y), &cb), &cr) in pixels.iter_mut().zip(luma).zip(blue).zip(red) {
                let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
                let r = y + ((fix(1.402) * cr + HALF) >> 16);
                let g = y + ((-fix(0.344_14) * cb + HALF - fix(0.714_14) * cr) >> 16);
                let b = y + ((fix(1.772) * cb + HALF) >> 16);
                let sample = |value: i32| value.clamp(0, 255) as u32;
                *pixel = packed(sample(r), sample(g), sample(b));
            }
            store(&pixels[..luma.len()], row, group);
        }
    }
    dispatch!(isa, body(luma: &[u8], blue: &[u8], red: &[u8], row: usize, group: &mut [Packed]));
}

/// One row `[n, 3]` → row `row` of `group` `[n][GROUP]`.
pub fn pack_rgb(isa: Isa, rgb: &[u8], row: usize, group: &mut [Packed]) {
    #[inline(always)]
    fn body(rgb: &[u8], row: usize, group: &mut [Packed]) {
        assert!(row < GROUP, "row {row} of a group of {GROUP}");
        for (&[r, g, b], to) in rgb.as_chunks::<3>().0.iter().zip(group.as_chunks_mut::<GROUP>().0) {
            to[row] = packed(r.into(), g.into(), b.into()).to_le();
        }
    }
    dispatch!(isa, body(rgb: &[u8], row: usize, group: &mut [Packed]));
}

/// One row `[n]` → row `row` of `group` `[n][GROUP]`, three equal channels.
pub fn pack_grey(isa: Isa, grey: &[u8], row: usize, group: &mut [Packed]) {
    #[inline(always)]
    fn body(grey: &[u8], row: usize, group: &mut [Packed]) {
        assert!(row < GROUP, "row {row} of a group of {GROUP}");
        for (&value, to) in grey.iter().zip(group.as_chunks_mut::<GROUP>().0) {
            to[row] = packed(value.into(), value.into(), value.into()).to_le();
        }
    }
    dispatch!(isa, body(grey: &[u8], row: usize, group: &mut [Packed]));
}

/// Twice as many samples across: ¾ of the nearer and ¼ of the further, `h2v1_fancy_upsample` of libjpeg. `input` `[n]`, n of 2 or more → `out` `[2n]`.
pub fn upsample_h2v1(isa: Isa, input: &[u8], out: &mut [u8]) {
    #[inline(always)]
    fn body(input: &[u8], out: &mut [u8]) {
        let last = input.len() - 1;
        let pairs = &mut out.as_chunks_mut::<2>().0[..=last];
        let mix = |near: u8, far: u8, half: u16| ((u16::from(near) * 3 + u16::from(far) + half) >> 2) as u8;
        pairs[0] = [input[0], mix(input[0], input[1], 2)];
        pairs[last] = [mix(input[last], input[last - 1], 1), input[last]];
        let (before, here, after) = (&input[..last - 1], &input[1..last], &input[2..]);
        for (((pair, &before), &here), &after) in pairs[1..last].iter_mut().zip(before).zip(here).zip(after) {
            *pair = [mix(here, before, 1), mix(here, after, 2)];
        }
    }
    dispatch!(isa, body(input: &[u8], out: &mut [u8]));
}

/// The same in both directions, `h2v2_fancy_upsample` of libjpeg: `near` is the chroma row that holds the wanted row, `far` the one on its other side.
pub fn upsample_h2v2(isa: Isa, near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]) {
    #[inline(always)]
    fn body(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]) {
        let last = near.len() - 1;
        let (sums, far) = (&mut sums[..=last], &far[..=last]);
        for ((sum, &near), &far) in sums.iter_mut().zip(near).zip(far) {
            *sum = u16::from(near) * 3 + u16::from(far);
        }
        let pairs = &mut out.as_chunks_mut::<2>().0[..=last];
        let mix = |near: u16, far: u16, half: u16| ((near * 3 + far + half) >> 4) as u8;
        pairs[0] = [((sums[0] * 4 + 8) >> 4) as u8, mix(sums[0], sums[1], 7)];
        pairs[last] = [mix(sums[last], sums[last - 1], 8), ((sums[last] * 4 + 7) >> 4) as u8];
        let (before, here, after) = (&sums[..last - 1], &sums[1..last], &sums[2..]);
        for (((pair, &before), &here), &after) in pairs[1..last].iter_mut().zip(before).zip(here).zip(after) {
            *pair = [mix(here, before, 8), mix(here, after, 7)];
        }
    }
    dispatch!(isa, body(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn the_same_bits_on_every_instruction_set() {
        for n in [2, 3, 63, 64, 65, 500] {
            let (a, b, c) = (noise(n, 1), noise(n, 2), noise(n, 3));
            let run = |isa| {
                let mut group = vec![0; n * GROUP];
                pack_ycc(isa, &a, &b, &c, 3, &mut group);
                pack_grey(isa, &a, 1, &mut group);
                pack_rgb(isa, &noise(n * 3, 4), 7, &mut group);
                let (mut across, mut both, mut sums) = (vec![0; 2 * n], vec![0; 2 * n], vec![0; n]);
                upsample_h2v1(isa, &a, &mut across);
                upsample_h2v2(isa, &a, &b, &mut sums, &mut both);
                (group, across, both)
            };
            let portable = run(Isa::Portable);
            Isa::all().iter().for_each(|&isa| assert!(run(isa) == portable, "{n} {isa:?}"));
        }
    }

    #[test]
    fn greys_and_primaries() {
        let mut group = vec![0; GROUP];
        for (ycc, rgb) in
            [([0, 128, 128], [0, 0, 0]), ([255, 128, 128], [255; 3]), ([76, 85, 255], [254, 0, 0]), ([29, 255, 107], [0, 0, 254])]
        {
            pack_ycc(Isa::detect(), &ycc[..1], &ycc[1..2], &ycc[2..], 0, &mut group);
            let found: Vec<i16> = group[0].to_le_bytes().as_chunks::<2>().0.iter().map(|&two| i16::from_le_bytes(two)).collect();
            let wanted = rgb.map(|sample: i16| (2 * sample - 255) * 128);
            assert!(found[..3] == wanted && found[3] == 0, "{ycc:?}: {found:?}, wanted {wanted:?}");
        }
    }
}
