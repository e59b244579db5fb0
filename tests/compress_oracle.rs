//! `compress` against an O(N²) oracle written straight from Algorithm 1 of UHR-BAT and the rules of each policy and mode, and k-means against plain
//! Lloyd in f64. UHR_CASES sets the number of cases a combination.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bytemuck::{Pod, cast_slice};
use common::{Random, path};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// Policies and modes, and cases of each: paper's own has a thousand always.
const COMBINATIONS: [(&str, &str); 4] = [("paper", "paper"), ("paper", "coverage"), ("released", "paper"), ("released", "coverage")];

fn cases(policy: &str, mode: &str) -> u64 {
    let set = std::env::var("UHR_CASES").ok().map(|cases| cases.parse().expect("UHR_CASES: a number"));
    set.unwrap_or(if (policy, mode) == ("paper", "paper") { 1_000 } else { 500 })
}

/// One view of a case.
struct View {
    side: usize,
    features: Vec<f32>,
    scores: Vec<f32>,
    labels: Option<Vec<i32>>,
    mask: Option<Vec<u8>>,
    budget: usize,
}

struct Case {
    views: Vec<View>,
    dim: usize,
    /// Tokens a side of a tile.
    tile: usize,
    /// Tokens come tile by tile, and only those above their region's mean are kept.
    released: bool,
    /// Scores of the anchor alone: those of the finer views follow from Eq. 16.
    shared: bool,
    half: bool,
}

/// An output token of the oracle: its members, ascending, and whether it is merged.
#[derive(Debug, PartialEq)]
struct Output {
    sources: Vec<usize>,
    merged: bool,
}

/// Scores with many ties, few, or none; equal scores whose f32 mean would exceed them.
fn scores(random: &mut Random, count: usize) -> Vec<f32> {
    let kind = random.below(6);
    let constant = random.number().abs();
    (0..count)
        .map(|_| match kind {
            0 => constant,
            1 => random.below(3) as f32 * 0.1,
            2 => random.below(2) as f32 * 1e-30,
            3 => [0.0, -0.0, 0.125][random.below(3)],
            4 => -random.number().abs(),
            _ => random.number().abs(),
        })
        .collect()
}

/// Regions of one token (label 0), of several, of all; labels that are not dense.
fn labels(random: &mut Random, count: usize) -> Vec<i32> {
    let kind = random.below(4);
    let most = 1 + random.below(count);
    (0..count)
        .map(|token| match kind {
            0 => 0,
            1 => 7,
            2 => 3 * random.below(most) as i32,
            _ => token as i32 + 1,
        })
        .collect()
}

/// The raster place of each token.
fn order(side: usize, tile: usize, released: bool) -> Vec<usize> {
    if !released {
        return (0..side * side).collect();
    }
    let across = 0..side / tile;
    let tiles = across.clone().flat_map(|y| across.clone().map(move |x| (x, y)));
    let inside = move |(x, y): (usize, usize)| {
        (0..tile).flat_map(move |v| (0..tile).map(move |u| (y * tile + v) * side + x * tile + u)).collect::<Vec<_>>()
    };
    tiles.flat_map(inside).collect()
}

fn case(seed: u64, released: bool) -> Case {
    let random = &mut Random::new(seed);
    let (sides, tile): (&[usize], usize) = [(&[3][..], 3), (&[4, 8], 2), (&[2, 4, 16], 2), (&[1], 1), (&[6, 12], 3)][random.below(5)];
    let dim = 1 + random.below(9);
    let shared = random.below(3) == 0;
    let mut views: Vec<View> = Vec::new();
    for &side in sides {
        let count = side * side;
        let budget = match random.below(6) {
            0 => 0,
            1 => 1,
            2 => count,
            3 => count + random.below(1_000),
            _ => random.below(count + 1),
        };
        let scores = match views.first() {
            // Eighths under bilinear weights of eighths: exact in f32, whatever the order of operations.
            _ if shared && views.is_empty() => (0..count).map(|_| random.below(9) as f32 / 8.0).collect(),
            Some(anchor) if shared => {
                let mut raster = vec![0.0; sides[0] * sides[0]];
                order(sides[0], tile, released).iter().zip(&anchor.scores).for_each(|(&place, &score)| raster[place] = score);
                let aligned = align(&raster, sides[0], side);
                order(side, tile, released).iter().map(|&place| aligned[place]).collect()
            }
            _ => scores(random, count),
        };
        views.push(View {
            side,
            features: random.numbers(count * dim),
            scores,
            labels: (random.below(3) > 0).then(|| labels(random, count)),
            mask: (random.below(3) == 0).then(|| (0..count).map(|_| u8::from(random.below(4) > 0)).collect()),
            budget,
        });
    }
    if views.iter().all(|view| view.budget == 0) {
        views[0].budget = 1 + random.below(5);
    }
    Case { views, dim, tile, released, shared, half: random.below(4) == 0 }
}

/// Eq. 16 in f64.
fn align(anchor: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for v in 0..to {
        for u in 0..to {
            let at = |u: usize| (u as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let pick = |x: f64, y: f64| {
                f64::from(anchor[y.clamp(0.0, from as f64 - 1.0) as usize * from + x.clamp(0.0, from as f64 - 1.0) as usize])
            };
            let (x, y) = (at(u), at(v));
            let (fx, fy) = (x - x.floor(), y - y.floor());
            let row = |y: f64| pick(x.floor(), y) * (1.0 - fx) + pick(x.floor() + 1.0, y) * fx;
            out.push((row(y.floor()) * (1.0 - fy) + row(y.floor() + 1.0) * fy) as f32);
        }
    }
    out
}

/// Algorithm 1 on one view: `regions[i]` is the region of token i, `None` for padding. `above`: a kept token's score is above the mean, not at it.
/// `None` where coverage has fewer tokens than regions.
fn oracle(scores: &[f32], regions: &[Option<usize>], budget: usize, above: bool, coverage: bool) -> Option<Vec<Output>> {
    let mut means: HashMap<usize, f64> = HashMap::new();
    for region in regions.iter().flatten() {
        let members: Vec<f64> = (0..scores.len()).filter(|&i| regions[i] == Some(*region)).map(|i| f64::from(scores[i])).collect();
        let mean = members.iter().sum::<f64>() / members.len() as f64;
        means.insert(*region, mean.min(members.iter().copied().fold(f64::MIN, f64::max)));
    }
    let mut out = Vec::new();
    let mut left: BTreeSet<usize> = means.keys().copied().collect();
    if coverage && budget > 0 && budget < left.len() {
        return None;
    }
    let mut spare = budget.saturating_sub(left.len());
    while !left.is_empty() {
        // The first region of the highest mean among those left.
        let best = left.iter().copied().reduce(|a, b| if means[&b] > means[&a] { b } else { a }).unwrap();
        left.remove(&best);
        let members: Vec<usize> = (0..scores.len()).filter(|&i| regions[i] == Some(best)).collect();
        let keeps = |i: usize| if above { f64::from(scores[i]) > means[&best] } else { f64::from(scores[i]) >= means[&best] };
        let (mut kept, mut merged): (Vec<usize>, Vec<usize>) = members.iter().partition(|&&i| keeps(i));
        if coverage {
            // One slot of its own, the others from what is spare, up to its need.
            let need = kept.len() + usize::from(!merged.is_empty());
            let slots = need.min(1 + spare);
            spare -= slots - 1;
            if slots < need {
                let mut best_first = members.clone();
                best_first.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
                kept = best_first[..slots - 1].to_vec();
                merged = members.iter().copied().filter(|i| !kept.contains(i)).collect();
                kept.sort_unstable();
            }
        }
        while !kept.is_empty() {
            let next = kept.iter().copied().reduce(|a, b| if scores[b] > scores[a] { b } else { a }).unwrap();
            kept.retain(|&i| i != next);
            out.push(Output { sources: vec![next], merged: false });
        }
        if !merged.is_empty() {
            out.push(Output { sources: merged, merged: true });
        }
    }
    out.truncate(budget);
    Some(out)
}

fn write(case: &Case, file: &Path) {
    let mut parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (number, view) in (1..).zip(&case.views) {
        let count = view.scores.len();
        let bytes = if case.half {
            view.features.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
        } else {
            cast_slice(&view.features).to_vec()
        };
        let dtype = if case.half { Dtype::F16 } else { Dtype::F32 };
        parts.push((format!("view{number}.features"), dtype, vec![count, case.dim], bytes));
        if !case.shared {
            parts.push((format!("view{number}.importance"), Dtype::F32, vec![count], cast_slice(&view.scores).to_vec()));
        }
        if let Some(labels) = &view.labels {
            parts.push((format!("view{number}.labels"), Dtype::I32, vec![count], cast_slice(labels).to_vec()));
        }
        if let Some(mask) = &view.mask {
            parts.push((format!("view{number}.mask"), Dtype::U8, vec![count], mask.clone()));
        }
    }
    if case.shared {
        let anchor = &case.views[0].scores;
        parts.push(("importance".into(), Dtype::F32, vec![anchor.len()], cast_slice(anchor).to_vec()));
    }
    let sides: Vec<String> = case.views.iter().map(|view| view.side.to_string()).collect();
    save_tiled(file, &parts, &sides.join(","), case.tile);
}

fn save(file: &Path, parts: &[(String, Dtype, Vec<usize>, Vec<u8>)], views: &str) {
    save_tiled(file, parts, views, 1);
}

fn save_tiled(file: &Path, parts: &[(String, Dtype, Vec<usize>, Vec<u8>)], views: &str, tile: usize) {
    let tile = tile.to_string();
    let tensors = parts.iter().map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata =
        HashMap::from([("views", views), ("tile", &tile), ("patch", "1")].map(|(key, value)| (key.to_owned(), value.to_owned())));
    safetensors::serialize_to_file(tensors, Some(metadata), file).unwrap();
}

fn read<T: Pod>(file: &SafeTensors<'_>, name: &str) -> Vec<T> {
    file.tensor(name).unwrap().data().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

#[test]
fn every_policy_and_mode_equals_the_oracle() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    for (policy, mode) in COMBINATIONS {
        let (mut ties, mut empty_merges, mut single, mut zero, mut above, mut refused) = (0, 0, 0, 0, 0, 0);
        for seed in 0..cases(policy, mode) {
            let case = case(seed, policy == "released");
            write(&case, &input);
            let budget: Vec<String> = case.views.iter().map(|view| view.budget.to_string()).collect();
            let budget = budget.join(",");
            let args =
                ["compress", path(&input), "--out", path(&out), "--policy", policy, "--mode", mode, "--clusters", "5", "--budget", &budget];
            let run = common::run(&args);
            if mode == "coverage" && !case.views.iter().all(coverable) {
                // Given labels with more regions than tokens: refused, never cut.
                let said = String::from_utf8_lossy(&run.stderr).into_owned();
                assert!(run.status.code() == Some(3) && said.contains("coverage: wanted"), "case {seed}: {said}");
                refused += 1;
                continue;
            }
            assert!(run.status.success(), "{policy}, {mode}, case {seed}: {}", String::from_utf8_lossy(&run.stderr));
            let bytes = std::fs::read(&out).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            for (number, view) in (1..).zip(&case.views) {
                let at = format!("{policy}, {mode}, case {seed}, view {number}");
                let given: Vec<i32> = read(&file, &format!("view{number}.labels"));
                let regions = regions(view, &given, policy == "paper", &at);
                let wanted = oracle(&view.scores, &regions, view.budget, case.released, mode == "coverage").expect("coverable");
                let found = outputs(&file, number);
                assert_eq!(found, wanted, "{at}");
                check_values(
                    &case,
                    view,
                    &wanted,
                    &read(&file, &format!("view{number}.tokens")),
                    &read(&file, &format!("view{number}.scores")),
                    &at,
                );
                if mode == "coverage" && view.budget > 0 {
                    let mut covered: Vec<usize> = wanted.iter().flat_map(|output| output.sources.iter().copied()).collect();
                    covered.sort_unstable();
                    let open: Vec<usize> = (0..regions.len()).filter(|&token| regions[token].is_some()).collect();
                    assert_eq!(covered, open, "{at}: every token is behind exactly one output");
                }
                let distinct: BTreeSet<u32> = view.scores.iter().map(|score| score.to_bits()).collect();
                ties += usize::from(distinct.len() < view.scores.len());
                empty_merges += usize::from(wanted.len() < view.budget && wanted.iter().all(|output| !output.merged));
                single += usize::from(
                    (0..regions.len()).any(|i| regions[i].is_some() && regions.iter().filter(|region| **region == regions[i]).count() == 1),
                );
                zero += usize::from(view.budget == 0);
                above += usize::from(view.budget > view.scores.len());
            }
        }
        let seen = [ties, single, zero, above];
        assert!(seen.iter().all(|&seen| seen > 50), "{policy}, {mode}: {seen:?}");
        assert!(empty_merges > 20 || policy == "released", "{policy}, {mode}: {empty_merges}");
        assert_eq!(refused > 50, mode == "coverage", "{policy}, {mode}: {refused} refused");
    }
}

/// Whether coverage can be kept: given labels make no more regions than the budget.
fn coverable(view: &View) -> bool {
    let Some(labels) = &view.labels else { return true };
    let open: Vec<i32> = (0..labels.len()).filter(|&i| view.mask.as_ref().is_none_or(|mask| mask[i] != 0)).map(|i| labels[i]).collect();
    let named: BTreeSet<i32> = open.iter().copied().filter(|&label| label != 0).collect();
    let regions = named.len() + open.iter().filter(|&&label| label == 0).count();
    view.budget == 0 || regions <= view.budget.min(labels.len())
}

fn outputs(file: &SafeTensors<'_>, number: usize) -> Vec<Output> {
    let offsets: Vec<i64> = read(file, &format!("view{number}.sources_offsets"));
    let sources: Vec<i32> = read(file, &format!("view{number}.sources"));
    let merged: Vec<u8> = read(file, &format!("view{number}.merged"));
    let of = |ends: &[i64]| sources[ends[0] as usize..ends[1] as usize].iter().map(|&token| token as usize).collect();
    offsets.windows(2).zip(&merged).map(|(ends, &merged)| Output { sources: of(ends), merged: merged == 1 }).collect()
}

/// The regions of a view: of its given labels, or those that k-means found, which must be dense and cover what is not padding.
fn regions(view: &View, found: &[i32], within_budget: bool, at: &str) -> Vec<Option<usize>> {
    let open = |token: usize| view.mask.as_ref().is_none_or(|mask| mask[token] != 0);
    let Some(labels) = &view.labels else {
        let regions: Vec<Option<usize>> = found.iter().map(|&label| usize::try_from(label).ok()).collect();
        let numbers: BTreeSet<usize> = regions.iter().copied().flatten().collect();
        assert!(numbers.iter().copied().eq(0..numbers.len()), "{at}: labels {numbers:?}");
        assert!(numbers.len() <= if within_budget { view.budget.min(5) } else { 5 }, "{at}: {} regions", numbers.len());
        assert!((0..found.len()).all(|token| regions[token].is_some() == (open(token) && view.budget > 0)), "{at}");
        return regions;
    };
    // In order of first appearance; each background token by itself.
    let mut numbers = HashMap::new();
    let mut next = 0;
    let mut regions = Vec::new();
    for (token, &label) in labels.iter().enumerate() {
        let known = numbers.get(&label).copied().filter(|_| label != 0);
        regions.push(open(token).then(|| {
            known.unwrap_or_else(|| {
                numbers.insert(label, next);
                next += 1;
                next - 1
            })
        }));
    }
    let wanted: Vec<i32> = regions.iter().map(|region| region.map_or(-1, |region| region as i32)).collect();
    assert_eq!(found, wanted, "{at}");
    regions
}

/// Kept tokens to the bit, merged ones as the mean of their members (Lemma 2).
fn check_values(case: &Case, view: &View, wanted: &[Output], rows: &[f32], scores: &[f32], at: &str) {
    let feature = |token: usize, j: usize| {
        let value = view.features[token * case.dim + j];
        if case.half { half::f16::from_f32(value).to_f32() } else { value }
    };
    assert_eq!((rows.len(), scores.len()), (wanted.len() * case.dim, wanted.len()), "{at}");
    for (place, output) in wanted.iter().enumerate() {
        let mean =
            |of: &dyn Fn(usize) -> f32| output.sources.iter().map(|&token| f64::from(of(token))).sum::<f64>() / output.sources.len() as f64;
        for j in 0..case.dim {
            let (found, wanted) = (rows[place * case.dim + j], mean(&|token| feature(token, j)));
            assert!(
                (f64::from(found) - wanted).abs() <= if output.merged { 1e-5 } else { 0.0 },
                "{at}: token {place}: {found} for {wanted}"
            );
        }
        let wanted = mean(&|token| view.scores[token]);
        assert!((f64::from(scores[place]) - wanted).abs() <= 1e-7 * wanted.abs(), "{at}: score {} for {wanted}", scores[place]);
    }
}

#[test]
fn k_means_from_given_starts_is_lloyd() {
    let folder = tempfile::tempdir().unwrap();
    let (input, start, out) = (folder.path().join("in"), folder.path().join("start"), folder.path().join("out"));
    for seed in 0..20 {
        let random = &mut Random::new(seed);
        // One feature is ±1 once normalised, and a grid then has true ties, which f32 and f64 break differently.
        let (side, dim, k) = (12, 2 + random.below(6), 1 + random.below(12));
        let count = side * side;
        let features = random.numbers(count * dim);
        let first = random.below(count - k);
        let tokens: Vec<i32> = (first..first + k).map(|token| token as i32).collect();
        let part = |name: &str, dtype, shape: &[usize], bytes: &[u8]| (name.to_owned(), dtype, shape.to_vec(), bytes.to_vec());
        let parts = [
            part("view1.features", Dtype::F32, &[count, 3], cast_slice(&random.numbers(count * 3))),
            part("view1.cluster_features", Dtype::F32, &[count, dim], cast_slice(&features)),
            part("view1.importance", Dtype::F32, &[count], cast_slice(&random.numbers(count))),
        ];
        save(&input, &parts, "12");
        save(&start, &[part("view1.init", Dtype::I32, &[k], cast_slice(&tokens))], "12");
        for threads in ["1", "2", "5"] {
            let args = [
                "compress",
                path(&input),
                "--out",
                path(&out),
                "--budget",
                "50",
                "--iters",
                "6",
                "--init",
                path(&start),
                "--threads",
                threads,
            ];
            let run = common::run(&args);
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            let bytes = std::fs::read(&out).unwrap();
            let found: Vec<i32> = read(&SafeTensors::deserialize(&bytes).unwrap(), "view1.labels");
            assert_eq!(found, lloyd(&features, dim, side, &tokens, 6), "seed {seed}, {threads} threads");
        }
    }
}

/// Eq. 13 and 14 as they stand, in f64, with the defaults λ_f = 1 and λ_xy = 0.05; empty clusters dropped.
fn lloyd(features: &[f32], dim: usize, side: usize, start: &[i32], iterations: usize) -> Vec<i32> {
    let rows: Vec<Vec<f64>> = (0..side * side)
        .map(|token| {
            let row: Vec<f64> = features[token * dim..(token + 1) * dim].iter().map(|&value| f64::from(value)).collect();
            let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            let centre = |at: usize| 0.05 * (at as f64 + 0.5) / side as f64;
            row.iter().map(|value| value / norm).chain([centre(token % side), centre(token / side)]).collect()
        })
        .collect();
    let mut centres: Vec<Vec<f64>> = start.iter().map(|&token| rows[token as usize].clone()).collect();
    let mut labels = vec![usize::MAX; rows.len()];
    for _ in 0..iterations {
        let gap = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let nearest =
            |row: &Vec<f64>| (0..centres.len()).reduce(|a, b| if gap(row, &centres[b]) < gap(row, &centres[a]) { b } else { a }).unwrap();
        let new: Vec<usize> = rows.iter().map(nearest).collect();
        let same = new == labels;
        labels = new;
        if same {
            break;
        }
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let members: Vec<&Vec<f64>> = rows.iter().zip(&labels).filter(|(_, label)| **label == cluster).map(|(row, _)| row).collect();
            if !members.is_empty() {
                centre
                    .iter_mut()
                    .enumerate()
                    .for_each(|(j, value)| *value = members.iter().map(|row| row[j]).sum::<f64>() / members.len() as f64);
            }
        }
    }
    let used: BTreeSet<usize> = labels.iter().copied().collect();
    labels.iter().map(|label| used.range(..label).count() as i32).collect()
}

#[test]
fn bad_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let part = |name: &str, dtype, shape: &[usize], bytes: &[u8]| (name.to_owned(), dtype, shape.to_vec(), bytes.to_vec());
    let features = |values: [f32; 8]| part("view1.features", Dtype::F32, &[4, 2], cast_slice(&values));
    let importance = |values: [f32; 4]| part("importance", Dtype::F32, &[4], cast_slice(&values));
    let cases: [(Vec<_>, &str, &str, i32, &[&str]); 9] = [
        (vec![importance([0.0; 4])], "2", "1", 5, &["view1.features", "F32 or F16 [4, d]", "none"]),
        (vec![features([0.0; 8])], "2", "1", 5, &["importance", "F32 [4]", "none"]),
        (vec![features([f32::NAN; 8]), importance([0.0; 4])], "2", "1", 5, &["finite", "NaN in row 0"]),
        (vec![features([1.0; 8]), importance([f32::INFINITY; 4])], "2", "1", 5, &["view 1", "score of token 0", "inf"]),
        (vec![features([1.0; 8]), importance([0.0; 4])], "3", "1", 5, &["[9, d]", "[4, 2]"]),
        (vec![features([1.0; 8]), importance([0.0; 4])], "2,x", "1,1", 5, &["metadata views", "\"x\""]),
        (vec![features([1.0; 8]), importance([0.0; 4])], "2", "0", 3, &["0"]),
        (vec![features([1.0; 8]), importance([0.0; 4])], "2", "1,2", 2, &["1,2", "1 numbers"]),
        (
            vec![features([1.0; 8]), importance([0.0; 4]), part("view1.labels", Dtype::I32, &[4], cast_slice(&[1, 1, -2, 1]))],
            "2",
            "1",
            5,
            &["view1.labels", "-2"],
        ),
    ];
    for (parts, views, budget, code, words) in cases {
        save(&input, &parts, views);
        let (found, said) = common::refusal(&["compress", path(&input), "--out", path(&out), "--budget", budget]);
        assert_eq!(found, code, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said} without {words:?}");
        assert!(!out.exists());
    }
    std::fs::write(&input, b"not a safetensors file").unwrap();
    let (found, said) = common::refusal(&["compress", path(&input), "--out", path(&out), "--budget", "1"]);
    assert!(found == 5 && said.contains("wanted a safetensors file"), "{said}");
    let (found, _) = common::refusal(&["compress", "/nowhere.safetensors", "--out", path(&out), "--budget", "1"]);
    assert_eq!(found, 1);
}
