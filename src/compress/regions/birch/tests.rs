use super::*;
use crate::compress::regions::Rows;
use crate::compress::regions::kmeans::tests::numbers;

fn settings(threshold: f32, isa: Isa) -> Settings {
    let birch = config::Birch { threshold, branching: 8, max_entries: 100 };
    Settings { birch, embedding: Embedding { lambda_feature: 1.0, lambda_position: 0.05 }, isa }
}

fn run(settings: Settings, clusters: usize, rows: &[f32], dim: usize, side: usize, threads: usize) -> (Vec<u32>, Partitioned) {
    let mut labels = vec![0; side * side];
    let mut birch = Birch::new(settings, side * side, dim, clusters);
    let view = ViewFeatures::raster(Rows::F32(rows), dim, side);
    let made = birch.partition(&view, clusters, &Pool::new(threads), &mut labels).unwrap();
    (labels, made)
}

#[test]
fn labels_depend_on_neither_threads_nor_instruction_set() {
    let (side, dim) = (40, 19);
    let rows = numbers(side * side * dim, 1);
    let wanted = run(settings(0.1, Isa::Portable), 50, &rows, dim, side, 1);
    assert_eq!(wanted.1.regions, 50);
    for threads in [1, 2, 7] {
        assert_eq!(run(settings(0.1, Isa::detect()), 50, &rows, dim, side, threads), wanted, "{threads} threads");
    }
}

#[test]
fn well_parted_groups_are_found() {
    let (side, dim) = (16, 6);
    let noise = numbers(side * side * dim, 2);
    let rows: Vec<f32> = noise.iter().enumerate().map(|(at, noise)| f32::from(u8::from(at % dim == at / dim % 5)) + 0.02 * noise).collect();
    let (labels, made) = run(settings(0.1, Isa::detect()), 5, &rows, dim, side, 2);
    assert_eq!(made.regions, 5);
    (0..side * side).for_each(|token| assert_eq!(labels[token], labels[token % 5]));
}

#[test]
fn a_second_view_does_not_feel_the_first() {
    let (side, dim) = (12, 4);
    let (first, second) = (numbers(side * side * dim, 5), numbers(side * side * dim, 6));
    let mut birch = Birch::new(settings(0.0, Isa::detect()), 200, 9, 20);
    let mut labels = |rows: &[f32]| {
        let mut labels = vec![0; side * side];
        let view = ViewFeatures::raster(Rows::F32(rows), dim, side);
        birch.partition(&view, 20, &Pool::new(1), &mut labels).unwrap();
        labels
    };
    labels(&first);
    assert_eq!(labels(&second), run(settings(0.0, Isa::detect()), 20, &second, dim, side, 1).0);
}

#[test]
fn bad_inputs_are_named() {
    let mut rows = vec![1.0; 9 * 2];
    rows[5] = f32::INFINITY;
    let mut birch = Birch::new(settings(0.1, Isa::detect()), 9, 2, 3);
    let mut partition = |clusters, rows: &[f32]| {
        let view = ViewFeatures::raster(Rows::F32(rows), 2, 3);
        birch.partition(&view, clusters, &Pool::new(1), &mut [0; 9]).unwrap_err()
    };
    assert!(matches!(partition(3, &rows), CompressError::NotFinite { token: 2, .. }));
    rows[5] = 1.0;
    assert_eq!(partition(0, &rows), CompressError::NoClusters);
    assert_eq!(partition(4, &rows), CompressError::Room { what: "clusters", found: 4, room: 3 });
}

#[test]
fn the_workspace_is_what_it_says() {
    for (tokens, dim, clusters) in [(1_000, 7, 30), (5, 2, 600), (400, 3, 200)] {
        let Settings { birch: knobs, .. } = settings(0.1, Isa::detect());
        let birch = Birch::new(settings(0.1, Isa::detect()), tokens, dim, clusters);
        let values = birch.points.capacity()
            + birch.counts.capacity()
            + birch.groups.len()
            + birch.order.capacity()
            + birch.centres.capacity()
            + birch.packed.len()
            + birch.norms.len()
            + birch.numbers.len()
            + birch.open.capacity()
            + birch.labels.len()
            + birch.row.len()
            + birch.shards.iter().map(|shard| shard.block.len()).sum::<usize>();
        let Room { entries, dim: width, .. } = Room::new(&knobs, tokens, dim, clusters);
        let wanted =
            Tree::bytes(knobs.branching, entries, width) + Ward::bytes(entries) + Bytes::of::<f32>(values) + Bytes::of::<f64>(width);
        assert_eq!(Birch::bytes(&knobs, tokens, dim, clusters), wanted);
    }
}
