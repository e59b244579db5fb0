use super::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::compress::regions::Rows;
use crate::compress::regions::kmeans::work::Shard;
use crate::kernels::{dot, squares};
use proptest::prelude::*;

pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn settings(max_iterations: u32, isa: Isa) -> Settings {
    let embedding = Embedding { lambda_feature: 1.0, lambda_position: 0.05 };
    Settings { max_iterations, seed: 5, embedding, start: Start::PlusPlus, stop: Stop::Labels, cluster_dim: None, isa }
}

fn run(
    clusters: usize,
    settings: Settings,
    rows: &[f32],
    dim: usize,
    side: usize,
    masked: &[usize],
    threads: usize,
) -> (Vec<u32>, Partitioned) {
    let mut labels = vec![0; side * side];
    masked.iter().for_each(|&token| labels[token] = MASKED);
    let mut kmeans = KMeans::new(settings, side * side, dim, clusters);
    let view = ViewFeatures::raster(Rows::F32(rows), dim, side);
    let made = kmeans.partition(&view, clusters, &Pool::new(threads), &mut labels).unwrap();
    (labels, made)
}

#[test]
fn labels_depend_on_neither_threads_nor_instruction_set() {
    let (side, dim) = (40, 19);
    let rows = numbers(side * side * dim, 1);
    let wanted = run(50, settings(10, Isa::Portable), &rows, dim, side, &[3, 77], 1);
    for threads in [1, 2, 7] {
        assert_eq!(run(50, settings(10, Isa::detect()), &rows, dim, side, &[3, 77], threads), wanted, "{threads} threads");
    }
    assert_eq!(wanted.0[77], MASKED);
}

#[test]
fn well_parted_groups_are_found() {
    // Four corners of a square, far apart in features.
    let side = 16;
    let rows: Vec<f32> = (0..side * side)
        .flat_map(|token| {
            let (x, y) = (token % side >= 8, token / side >= 8);
            [f32::from(u8::from(x)), f32::from(u8::from(y)), 0.5]
        })
        .collect();
    let (labels, made) = run(4, settings(10, Isa::detect()), &rows, 3, side, &[], 2);
    assert_eq!(made.regions, 4);
    for token in 0..side * side {
        let corner = (token / side / 8 * 8 * side) + token % side / 8 * 8;
        assert_eq!(labels[token], labels[corner]);
    }
}

#[test]
fn bad_inputs_are_named() {
    let mut rows = vec![1.0; 9 * 2];
    rows[5] = f32::NAN;
    let mut kmeans = KMeans::new(settings(10, Isa::detect()), 9, 2, 3);
    let pool = Pool::new(1);
    let mut partition = |clusters, rows: &[f32]| {
        let view = ViewFeatures::raster(Rows::F32(rows), 2, 3);
        kmeans.partition(&view, clusters, &pool, &mut [0; 9]).unwrap_err()
    };
    assert!(matches!(partition(3, &rows), CompressError::NotFinite { token: 2, .. }));
    rows[5] = 1.0;
    assert_eq!(partition(0, &rows), CompressError::NoClusters);
    assert_eq!(partition(4, &rows), CompressError::Room { what: "clusters", found: 4, room: 3 });
    assert_eq!(partition(3, &rows[2..]), CompressError::Length { what: "clustering features", wanted: 18, found: 16 });
}

#[test]
fn the_workspace_is_what_it_says() {
    for (tokens, dim, clusters, screen) in [(100, 7, 30, true), (9_000, 3, 600, false), (5, 2, 600, true), (64, 1_000, 9, false)] {
        let work = ClusterWork::new(tokens, dim, clusters, screen);
        let bytes = |shard: &Shard| {
            shard.bytes.len()
                + 4 * (shard.rows.len()
                    + shard.row.len()
                    + shard.products.len()
                    + shard.floats.len()
                    + shard.lower.len()
                    + shard.near.len())
        };
        let centres = &work.centres;
        let floats = [
            &centres.rows,
            &centres.values,
            &centres.squares,
            &centres.moves,
            &centres.floats,
            &centres.steps,
            &centres.slopes,
            &centres.rests,
        ];
        let words =
            work.open.capacity() + work.labels.len() + work.before.len() + work.scales.len() + work.squares.len() + 2 * work.reach.len();
        let words = words
            + work.starts.shuffled.capacity()
            + work.starts.sample.len()
            + work.starts.gaps.len()
            + centres.offsets.len()
            + centres.order.len()
            + work.counts.len();
        let words = words + work.numbers.len() + 2 * work.sums.len() + floats.iter().map(|values| values.len()).sum::<usize>();
        let held = 4 * words + centres.bytes.len() + centres.scratch.len() + work.shards.iter().map(bytes).sum::<usize>();
        assert_eq!(ClusterWork::bytes(tokens, dim, clusters, screen), Bytes(held as u64), "{tokens} {dim} {clusters} {screen}");
    }
}

#[test]
fn projected_features_give_the_same_labels_on_any_threads_and_near_those_of_all() {
    let (side, dim) = (24, 200);
    let rows = grouped(side * side, dim, 8, 0.05, false, 3);
    let sketched = |threads, isa| run(8, Settings { cluster_dim: Some(30), ..settings(10, isa) }, &rows, dim, side, &[5], threads).0;
    let wanted = sketched(1, Isa::Portable);
    for threads in [2, 5] {
        assert_eq!(sketched(threads, Isa::detect()), wanted);
    }
    // Groups that lie far apart stay whole: tokens of one direction have one label.
    let whole = (0..side * side).filter(|token| *token != 5 && (token * 7 + token / 11) % 8 == 0).map(|token| wanted[token]);
    assert_eq!(whole.collect::<std::collections::BTreeSet<_>>().len(), 1);
    // A width that isn't less changes nothing.
    let plain = run(8, settings(10, Isa::detect()), &rows, dim, side, &[5], 2);
    assert_eq!(run(8, Settings { cluster_dim: Some(200), ..settings(10, Isa::detect()) }, &rows, dim, side, &[5], 2), plain);
}

#[test]
fn a_new_seed_is_as_one_from_the_start() {
    let (side, dim) = (20, 40);
    let rows = numbers(side * side * dim, 6);
    for cluster_dim in [None, Some(12)] {
        let of = |seed| Settings { seed, cluster_dim, ..settings(4, Isa::detect()) };
        let wanted = [7, 8].map(|seed| run(9, of(seed), &rows, dim, side, &[5], 2).0);
        assert_ne!(wanted[0], wanted[1]);
        let mut kmeans = KMeans::new(of(8), side * side, dim, 9);
        for (seed, wanted) in [7, 8].into_iter().zip(&wanted) {
            kmeans.reseed(seed);
            let mut labels = vec![0; side * side];
            labels[5] = MASKED;
            kmeans.partition(&ViewFeatures::raster(Rows::F32(&rows), dim, side), 9, &Pool::new(1), &mut labels).unwrap();
            assert_eq!(labels, *wanted);
        }
    }
}

/// Lloyd's algorithm without any shortcut, in the arithmetic of this module: every value of every pair, centres from whole numbers.
fn plain(settings: &Settings, rows: &[f32], dim: usize, side: usize, starts: &[u32]) -> Vec<u32> {
    let view = ViewFeatures::raster(Rows::F32(rows), dim, side);
    let (count, wide) = (side * side, dim + 2);
    let mut tokens = vec![0.0; count * wide];
    tokens.chunks_exact_mut(wide).zip(0..).for_each(|(row, token)| settings.embedding.row(&view, token, row));
    let mut centres: Vec<f32> = starts.iter().flat_map(|&token| tokens[token as usize * wide..][..wide].to_vec()).collect();
    let mut labels = vec![u32::MAX; count];
    for _ in 0..settings.max_iterations {
        let before = labels.clone();
        for (row, label) in tokens.chunks_exact(wide).zip(&mut labels) {
            let mut best = f32::INFINITY;
            for (centre, number) in centres.chunks_exact(wide).zip(0..) {
                let value = dot(Isa::Portable, row, centre).mul_add(-2.0, squares(Isa::Portable, centre) as f32);
                if value < best {
                    (best, *label) = (value, number);
                }
            }
        }
        if labels == before {
            break;
        }
        let unit = 1_073_741_824.0_f32;
        for (centre, number) in centres.chunks_exact_mut(wide).zip(0..) {
            let members: Vec<usize> = (0..count).filter(|&token| labels[token] == number).collect();
            for (j, value) in centre.iter_mut().enumerate().filter(|_| !members.is_empty()) {
                let sum: i64 = members.iter().map(|token| i64::from((tokens[token * wide + j] * unit) as i32)).sum();
                *value = (sum as f64 * (1.0 / (f64::from(unit) * members.len() as f64))) as f32;
            }
        }
    }
    labels
}

/// Tokens about `groups` directions, as near as `noise`; with `ties`, many tokens alike.
fn grouped(count: usize, dim: usize, groups: usize, noise: f32, ties: bool, seed: u64) -> Vec<f32> {
    let (directions, each) = (numbers(groups * dim, seed), numbers(count * dim, seed + 1));
    let at = |token: usize, j: usize| {
        let own = if ties { token / 3 * 3 } else { token };
        directions[(own * 7 + own / 11) % groups * dim + j] + noise * each[own * dim + j]
    };
    (0..count * dim).map(|place| at(place / dim, place % dim)).collect()
}

#[test]
fn labels_are_those_of_plain_lloyd_in_the_same_arithmetic() {
    for seed in 0..24_u64 {
        let (side, dim, k) = ([9, 24, 31][seed as usize % 3], [3, 40, 130, 257][seed as usize % 4], [1, 5, 33, 80][seed as usize / 6 % 4]);
        let rows = grouped(side * side, dim, 12, [0.02, 0.4, 3.0][seed as usize / 3 % 3], seed % 2 == 0, seed);
        let starts: Vec<u32> = (0..k).map(|number| (number * 37 % (side * side)) as u32).collect();
        let wanted = plain(&settings(7, Isa::Portable), &rows, dim, side, &starts);
        for isa in [Isa::detect(), Isa::Portable] {
            let mut labels = vec![0; side * side];
            let mut kmeans = KMeans::new(settings(7, isa), side * side, dim, k);
            let view = ViewFeatures { starts: Some(&starts), ..ViewFeatures::raster(Rows::F32(&rows), dim, side) };
            kmeans.partition(&view, k, &Pool::new(2), &mut labels).unwrap();
            let mut numbers = vec![0; k];
            let mut wanted = wanted.clone();
            dense(&mut wanted, &mut numbers);
            let differing = labels.iter().zip(&wanted).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "seed {seed}, {isa:?}: {side} x {side} tokens of {dim}, k = {k}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_objective_never_rises_and_labels_are_dense(seed in 0_u64..1_000, side in 2_usize..20, dim in 1_usize..9, clusters in 1_usize..60) {
        let rows = numbers(side * side * dim, seed);
        let masked = [seed as usize % (side * side)];
        let mut before = f64::INFINITY;
        for iterations in 1..6 {
            let (labels, made) = run(clusters, settings(iterations, Isa::detect()), &rows, dim, side, &masked, 2);
            prop_assert!(made.objective <= before * (1.0 + 1e-6) + 1e-9, "{} after {before}", made.objective);
            before = made.objective;
            let mut seen = vec![false; made.regions];
            for (token, &label) in labels.iter().enumerate() {
                prop_assert_eq!(label == MASKED, masked.contains(&token));
                if label != MASKED {
                    seen[label as usize] = true;
                }
            }
            prop_assert!(seen.iter().all(|&seen| seen));
            prop_assert!(made.regions <= clusters.min(side * side - 1));
        }
    }
}
