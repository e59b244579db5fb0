use std::collections::BTreeSet;

use super::*;
use crate::compress::regions::kmeans::tests::numbers;

fn picture(width: usize, height: usize, seed: u64) -> Vec<u8> {
    numbers(width * height * 3, seed).iter().map(|value| ((value + 1.0) * 127.5) as u8).collect()
}

fn segment(rgb: &[u8], width: usize, height: usize, k: usize, threads: usize) -> Vec<u32> {
    let mut slic = Slic::new(Isa::detect(), width.max(height), k);
    let pool = Pool::new(threads);
    slic.look(&Patch { rgb, stride: width, left: 0, top: 0, width, height }, &pool).unwrap();
    slic.segment(k, &pool).unwrap().to_vec()
}

#[test]
fn at_most_k_connected_superpixels_cover_the_picture() {
    for (width, height, k) in [(1, 1, 1), (1, 1, 9), (40, 30, 1), (64, 64, 16), (90, 7, 25), (3, 80, 10), (33, 21, 700), (50, 50, 2_500)] {
        let rgb = picture(width, height, 1);
        let labels = segment(&rgb, width, height, k, 2);
        let kinds: BTreeSet<u32> = labels.iter().copied().collect();
        assert!(kinds.len() <= k && !kinds.contains(&0), "{width} x {height}, {k}: {}", kinds.len());
        assert_eq!(kinds.iter().max().copied(), u32::try_from(kinds.len()).ok());
        let mut connect = Connect::new(width * height, kinds.len() + 1);
        connect.run(&labels, width, kinds.len() + 1);
        assert_eq!(connect.labels(), &labels, "each is one part");
        for threads in [1, 5] {
            assert_eq!(segment(&rgb, width, height, k, threads), labels);
        }
    }
}

#[test]
fn superpixels_follow_edges() {
    // A disc on another colour: no superpixel lies on both, but for the odd pixel.
    let side = 120;
    let inside = |at: usize| {
        let (x, y) = ((at % side) as f32 - 57.0, (at / side) as f32 - 61.0);
        x * x + y * y < 1_000.0
    };
    let rgb: Vec<u8> = (0..side * side).flat_map(|at| if inside(at) { [200, 40, 30] } else { [30, 90, 40] }).collect();
    let labels = segment(&rgb, side, side, 64, 1);
    let mut counts = vec![[0_u32; 2]; 65];
    labels.iter().enumerate().for_each(|(at, &label)| counts[label as usize][usize::from(inside(at))] += 1);
    let wrong: u32 = counts.iter().map(|sides| sides[0].min(sides[1])).sum();
    assert!(wrong <= 12, "{wrong} pixels on the wrong side");
    assert!(counts.iter().filter(|sides| sides[0] + sides[1] > 0).count() > 50);
}

#[test]
fn a_part_of_a_larger_picture_is_the_part_alone() {
    let (width, height) = (20, 14);
    let rgb = picture(width, height, 4);
    let mut larger = vec![9; 32 * 32 * 3];
    for y in 0..height {
        larger[((y + 6) * 32 + 5) * 3..][..width * 3].copy_from_slice(&rgb[y * width * 3..(y + 1) * width * 3]);
    }
    let mut slic = Slic::new(Isa::detect(), 32, 12);
    let pool = Pool::new(1);
    slic.look(&Patch { rgb: &larger, stride: 32, left: 5, top: 6, width, height }, &pool).unwrap();
    assert_eq!(slic.segment(12, &pool).unwrap(), segment(&rgb, width, height, 12, 1));
    assert_eq!(slic.segment(5, &pool).unwrap(), segment(&rgb, width, height, 5, 1));
    assert_eq!(slic.segment(0, &pool), Err(CompressError::NoClusters));
    assert_eq!(slic.segment(13, &pool), Err(CompressError::Room { what: "clusters", found: 13, room: 12 }));
}
