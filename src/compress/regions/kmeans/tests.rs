use super::*;
use crate::compress::regions::Rows;
use proptest::prelude::*;

pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn settings(max_iterations: u32, isa: Isa) -> Settings {
    Settings { max_iterations, seed: 5, embedding: Embedding { lambda_feature: 1.0, lambda_position: 0.05 }, isa }
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
    let view = ViewFeatures { rows: Rows::F32(rows), dim, side, starts: None };
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
        let view = ViewFeatures { rows: Rows::F32(rows), dim: 2, side: 3, starts: None };
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
    for (tokens, dim, clusters) in [(100, 7, 30), (9_000, 3, 600), (5, 2, 600)] {
        let work = ClusterWork::new(tokens, dim, clusters);
        let shard = |shard: &Shard| shard.sums.len() + shard.counts.len() + shard.block.len();
        let values = work.open.capacity()
            + work.labels.len()
            + work.shuffled.capacity()
            + work.sample.len()
            + work.gaps.len()
            + work.centres.len()
            + work.packed.len()
            + work.norms.len()
            + work.numbers.len()
            + work.shards.iter().map(shard).sum::<usize>();
        assert_eq!(ClusterWork::bytes(tokens, dim, clusters), crate::units::Bytes::of::<f32>(values));
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
