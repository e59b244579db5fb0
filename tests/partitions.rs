//! Invariants of every partition over generated cases: 500 of each, or as many as UHR_CASES says.

mod common;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use common::Random;
use half::f16;
use proptest::prelude::*;
use uhr_edge::compress::regions::superpixels::Patch;
use uhr_edge::compress::regions::{Method, Partitioned, Rows, Sizes, Slic, ViewFeatures, Voter};
use uhr_edge::compress::{CompressError, MASKED};
use uhr_edge::config::{Birch, Compression, Policy};
use uhr_edge::geometry::{Layout, VisionShape};
use uhr_edge::kernels::{Isa, Pool};
use uhr_edge::units::Px;

static POOLS: LazyLock<[Pool; 3]> = LazyLock::new(|| [1, 2, 4].map(Pool::new));

fn cases() -> ProptestConfig {
    let cases = std::env::var("UHR_CASES").ok().map_or(500, |cases| cases.parse().expect("UHR_CASES: a number"));
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

const CLUSTERING: [Method; 2] = [Method::Kmeans, Method::Birch];

fn methods() -> [Method; 5] {
    [Method::Kmeans, Method::Birch, Method::Superpixels, Method::Segmenter, Method::Labels("map.png".into())]
}

/// A view: features, the labels that go in (given ones, masked tokens), clusters wanted.
#[derive(Debug)]
struct Case {
    side: usize,
    dim: usize,
    clusters: usize,
    rows: Vec<f32>,
    half: Vec<f16>,
    labels: Vec<u32>,
    settings: Compression,
    policy: Policy,
    /// How much larger the workspace is.
    room: usize,
}

impl Case {
    fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let side = [1, 1 + random.below(12), 1 + random.below(30)][random.below(3)];
        let (count, dim) = (side * side, 1 + random.below(20));
        let clusters = [1, 1 + random.below(8), 1 + random.below(count), count, count + 1 + random.below(50)][random.below(5)];
        let kind = random.below(6);
        let (one, few) = (random.numbers(dim), random.numbers(dim * 5));
        let rows: Vec<f32> = (0..count)
            .flat_map(|_| match kind {
                0 => vec![0.0; dim],
                1 => one.clone(),
                2 if random.below(3) == 0 => vec![0.0; dim],
                3 => few[dim * random.below(5)..][..dim].to_vec(),
                4 => few[dim * random.below(5)..][..dim].iter().map(|value| value + 0.01 * random.number()).collect(),
                5 => random.numbers(dim).iter().map(|value| value * 1e-4).collect(),
                _ => random.numbers(dim),
            })
            .collect();
        let masked = [0, 0, 1, 3][random.below(4)];
        let most = [1, 3, 1 + random.below(400), u32::MAX as usize][random.below(4)];
        let labels =
            (0..count).map(|_| if random.below(4) < masked { MASKED } else { u32::try_from(random.below(most)).unwrap() }).collect();
        let birch = Birch {
            threshold: [0.0, 0.1, 0.5, 3.0][random.below(4)],
            branching: 4 + random.below(10),
            max_entries: [1, 10, 2_400][random.below(3)],
        };
        let settings = Compression {
            clusters: 600,
            cluster_dim: (random.below(3) == 0).then(|| 1 + u32::try_from(random.below(dim)).unwrap()),
            max_iterations: 1 + u32::try_from(random.below(10)).unwrap(),
            seed,
            lambda_feature: 1.0,
            lambda_position: [0.0, 0.05][random.below(2)],
            birch,
        };
        let policy = [Policy::paper(), Policy::released()][random.below(2)].clone();
        let half = rows.iter().map(|value| f16::from_f32(*value)).collect();
        Self { side, dim, clusters, rows, half, labels, settings, policy, room: random.below(3) * 7 }
    }

    /// Labels and what was made, by each pool alike.
    fn run(&self, method: &Method, clusters: usize) -> Result<(Vec<u32>, Partitioned), CompressError> {
        let sizes = Sizes { tokens: self.labels.len() + self.room, dim: self.dim + self.room, clusters: self.clusters + self.room };
        let rows = if self.clusters.is_multiple_of(2) { Rows::F16(&self.half) } else { Rows::F32(&self.rows) };
        let view = ViewFeatures::raster(rows, self.dim, self.side);
        let mut partition = method.make(&self.settings, &self.policy, Isa::detect(), sizes);
        let mut outcomes = POOLS.iter().map(|pool| {
            let mut labels = self.labels.clone();
            partition.partition(&view, clusters, pool, &mut labels).map(|made| (labels, made))
        });
        let first = outcomes.next().unwrap();
        // As text: an error may hold a NaN, which is unlike itself.
        let text = format!("{first:?}");
        assert!(outcomes.all(|other| other == first || format!("{other:?}") == text), "{method} differs between thread counts");
        first
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn regions_are_a_disjoint_and_total_cover(seed in any::<u64>()) {
        let case = Case::new(seed);
        let open = case.labels.iter().filter(|&&label| label != MASKED).count();
        for method in methods() {
            let (labels, made) = case.run(&method, case.clusters).unwrap();
            let mut seen = BTreeSet::new();
            for (out, given) in labels.iter().zip(&case.labels) {
                prop_assert_eq!(*out == MASKED, *given == MASKED, "{}", method);
                if *out != MASKED {
                    seen.insert(*out as usize);
                }
            }
            // Dense from 0.
            prop_assert_eq!(seen.len(), made.regions, "{}", method);
            prop_assert_eq!(seen.iter().next_back().map_or(0, |last| last + 1), made.regions, "{}", method);
            prop_assert_eq!(made.regions == 0, open == 0);
            if CLUSTERING.contains(&method) {
                prop_assert!(made.regions <= case.clusters.min(open), "{}", method);
                prop_assert!(made.objective.is_finite() && made.objective >= 0.0);
            } else {
                // Two tokens share a region where they share a label that isn't background.
                let mut numbers = std::collections::HashMap::new();
                for (out, given) in labels.iter().zip(&case.labels).filter(|(_, given)| **given != MASKED) {
                    let place = if *given == 0 { (0, *out) } else { (*given, 0) };
                    prop_assert_eq!(numbers.entry(place).or_insert(*out), out);
                }
                prop_assert_eq!(numbers.len(), made.regions);
            }
        }
    }

    #[test]
    fn no_clusters_and_numbers_that_are_not_finite_are_errors(seed in any::<u64>()) {
        let mut case = Case::new(seed);
        for method in CLUSTERING {
            prop_assert_eq!(case.run(&method, 0).unwrap_err(), CompressError::NoClusters);
        }
        let random = &mut Random::new(seed ^ 1);
        let token = random.below(case.labels.len());
        let at = token * case.dim + random.below(case.dim);
        case.rows[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
        case.half[at] = f16::from_f32(case.rows[at]);
        for method in methods() {
            let outcome = case.run(&method, case.clusters);
            if case.labels[token] == MASKED || !CLUSTERING.contains(&method) {
                // Nobody looks at it.
                prop_assert!(outcome.is_ok(), "{}", method);
            } else {
                let named = matches!(outcome, Err(CompressError::NotFinite { token: found, .. }) if found as usize == token);
                prop_assert!(named, "{}: {:?}", method, outcome);
            }
        }
    }

    #[test]
    fn views_beyond_the_workspace_are_refused(seed in any::<u64>()) {
        let case = Case::new(seed);
        let view = ViewFeatures::raster(Rows::F32(&case.rows), case.dim, case.side);
        let tokens = case.labels.len();
        let right = Sizes { tokens, dim: case.dim, clusters: case.clusters };
        for method in methods() {
            let mut wrong = vec![Sizes { tokens: tokens - 1, ..right }];
            if CLUSTERING.contains(&method) {
                wrong.push(Sizes { dim: case.dim - 1, ..right });
                wrong.extend((case.clusters <= tokens).then_some(Sizes { clusters: case.clusters - 1, ..right }));
            }
            for sizes in wrong {
                let mut labels = case.labels.clone();
                let outcome = method.make(&case.settings, &case.policy, Isa::detect(), sizes).partition(&view, case.clusters, &POOLS[0], &mut labels);
                prop_assert!(matches!(outcome, Err(CompressError::Room { .. })), "{}: {:?}", method, outcome);
                prop_assert_eq!(&labels, &case.labels);
            }
        }
    }

    #[test]
    fn superpixels_cover_and_vote_alike_on_any_thread_count(seed in any::<u64>()) {
        let random = &mut Random::new(seed);
        let shape = VisionShape::new(vec![Px(28), Px(56)], Px(28), Px(14), [0.5; 3], [0.25; 3]).unwrap();
        let (width, height) = (1 + random.below(40), 1 + random.below(40));
        let (colours, k) = (1 + random.below(256), 1 + random.below(60));
        let rgb: Vec<u8> = (0..width * height * 3).map(|_| u8::try_from(random.below(colours)).unwrap()).collect();
        let layout = Layout::new(&shape, Px::of(width * 3), Px::of(height * 3)).unwrap();
        let mut slic = Slic::new(Isa::detect(), 40, 60);
        let mut outcomes = POOLS.iter().map(|pool| {
            slic.look(&Patch { rgb: &rgb, stride: width, left: 0, top: 0, width, height }, pool).unwrap();
            let map = slic.segment(k, pool).unwrap().to_vec();
            let mut voter = Voter::new(&shape, Px(40), pool.threads());
            let mut votes = vec![MASKED; shape.all_tokens().get()];
            voter.start(&layout, &|_| true, (Px::of(width), Px::of(height)), &mut votes).unwrap();
            map.chunks_exact(width).for_each(|row| voter.row(row, pool, &mut votes));
            (map, votes)
        });
        let (map, votes) = outcomes.next().unwrap();
        prop_assert!(outcomes.all(|other| other == (map.clone(), votes.clone())));
        let kinds: BTreeSet<u32> = map.into_iter().collect();
        prop_assert!(kinds.len() <= k);
        prop_assert!(kinds.iter().copied().eq(1..=u32::try_from(kinds.len()).unwrap()));
        let tokens = layout.views().iter().flat_map(|view| (0..view.tokens().0).map(|token| view.is_masked(token)));
        for (masked, vote) in tokens.zip(votes) {
            prop_assert_eq!(vote == MASKED, masked);
            prop_assert!(masked || kinds.contains(&vote));
        }
    }
}
