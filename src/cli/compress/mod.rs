//! `compress`: regions, selection and merge on given features, from one safetensors file to another.
//!
//! # Why
//! The policy can be checked, compared and replaced without a picture, an encoder or a decoder: whatever made the features.

mod input;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;

use crate::cli::model_logits::{THREADS, threads};
use crate::compress::regions::{Labels, Method, Partition, Rows, Sizes, ViewFeatures, Voter};
use crate::compress::{self, CompressError, MASKED, MergeWork, Mode, SelectWork, Source, align, merge, select};
use crate::config::{Budget, Compression, ConfigError, POLICIES, Policy, Profile};
use crate::geometry::{GeometryError, Grid, Layout, VisionShape};
use crate::imaging::{LabelMap, LabelMapError, Limits};
use crate::kernels::{Isa, Pool, map_file};
use crate::units::{Bytes, Tokens};
use input::{Input, floats, numbers, shape};

/// Rows read at once by the merge.
const CHUNK: Tokens = Tokens(64);

#[derive(Args)]
pub struct CompressArgs {
    /// Features: `view{s}.features` [N_s, d] f32 or f16, `importance` [N_1] f32 or `view{s}.importance` [N_s]; optional `view{s}.cluster_features`,
    /// `view{s}.labels` i32 (0 = background) and `view{s}.mask` u8 (0 = padding); metadata `views`, `tile`, `patch`
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// Where to write tokens, sources, scores, merged flags and labels
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// One number a view, one total, or a preset
    #[arg(long)]
    budget: String,
    /// paper or released: what is kept, how tokens are numbered and placed, how k-means starts and ends
    #[arg(long, default_value = "paper", value_parser = policy)]
    policy: Policy,
    /// paper or coverage: how a view's budget is given to its regions
    #[arg(long, default_value = "paper")]
    mode: Mode,
    /// How a view without given labels is cut into regions: kmeans, birch, or labels=FILE, a square map of the whole view (PNG, TIFF or npy; 0 is background)
    #[arg(long, default_value_t = Method::Kmeans, value_name = "METHOD")]
    partition: Method,
    /// Most clusters of a view [default: the profile's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    clusters: Option<u32>,
    /// Features are projected at random to as many coordinates before clustering [default: the profile's]
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=4096))]
    cluster_dim: Option<u32>,
    /// Most iterations of k-means [default: the profile's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iters: Option<u32>,
    /// Seed of the clustering [default: the profile's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// `view{s}.init` [k] i32: the tokens that start k-means
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    #[arg(long, default_value_t = THREADS, value_parser = threads)]
    threads: usize,
}

/// A preset of the policy, by its name.
pub fn policy(name: &str) -> Result<Policy, String> {
    Policy::named(name).ok_or_else(|| format!("wanted one of {}", POLICIES.join(", ")))
}

/// What one view took, for `--json`.
#[derive(Serialize)]
struct Figures {
    regions: usize,
    iterations: u32,
    objective: f64,
    regions_ms: f64,
    select_ms: f64,
    merge_ms: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum CompressCliError {
    #[error("{path}: cannot be read: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("{path}: {tensor}: wanted {wanted}, found {found}")]
    Tensor { path: PathBuf, tensor: String, wanted: String, found: String },
    #[error("{path}: view {view}: {source}")]
    View { path: PathBuf, view: usize, source: CompressError },
    #[error("{path}: label map: {source}")]
    Map { path: PathBuf, source: CompressError },
    #[error("{path}: {source}")]
    Shape { path: PathBuf, source: GeometryError },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    LabelMap(#[from] LabelMapError),
    #[error("memory: the partition needs {wanted}, the profile's limit is {allowed}")]
    Memory { wanted: Bytes, allowed: Bytes },
    #[error("{0}")]
    Usage(String),
    #[error("{path}: cannot be written: {reason}")]
    Write { path: PathBuf, reason: String },
}

/// What is asked of one view.
struct View {
    number: usize,
    budget: Tokens,
    clusters: usize,
    starts: Option<Vec<u32>>,
    /// Labels of its tokens, from a map.
    given: Option<Vec<u32>>,
}

/// What one view came to.
struct Compressed {
    rows: Vec<f32>,
    dim: usize,
    offsets: Vec<i64>,
    sources: Vec<i32>,
    scores: Vec<f32>,
    merged: Vec<u8>,
    labels: Vec<i32>,
    figures: Figures,
}

pub fn run(args: &CompressArgs, profile: &Profile, json: bool) -> Result<(), CompressCliError> {
    let map = |path: &Path| map_file(path).map_err(|error| CompressCliError::Read { path: path.to_owned(), reason: error.to_string() });
    let bytes = map(&args.input)?;
    let input = Input::new(&args.input, &bytes)?;
    let shape = shape(&args.input, &bytes)?;
    let budget = Budget::parse(&args.budget, shape.views().len())?;
    // Every view's features are there, so that nothing is allocated for views that are only claimed.
    for view in 0..shape.views().len() {
        input.shaped(&format!("view{}.features", view + 1), shape.tokens(view).get())?;
    }
    let start_bytes = args.init.as_deref().map(map).transpose()?;
    let start = args.init.as_deref().zip(start_bytes.as_deref()).map(|(path, bytes)| Input::new(path, bytes)).transpose()?;
    if args.init.is_some() && args.partition != Method::Kmeans {
        return Err(CompressCliError::Usage(format!("--init: wanted --partition kmeans, found {}", args.partition)));
    }
    let pool = Pool::new(args.threads.max(1));
    let map = match &args.partition {
        Method::Labels(path) => Some(map_labels(&input, &shape, path, &Limits::of(profile), &pool)?),
        Method::Kmeans | Method::Birch => None,
        Method::Superpixels | Method::Segmenter => {
            return Err(CompressCliError::Usage(format!("--partition {}: compress has features and no picture; ask has", args.partition)));
        }
    };
    let mut mapped = map.as_deref().unwrap_or_default();
    let wanted = args.clusters.unwrap_or(profile.compression.clusters);
    let mut views = Vec::new();
    let mut sizes = Sizes::default();
    for (view, &budget) in budget.per_view().iter().enumerate() {
        let starts = match &start {
            Some(start) if budget.0 > 0 && !input.has(view, "labels") => {
                Some(start.tokens(&format!("view{}.init", view + 1), shape.tokens(view).get())?)
            }
            _ => None,
        };
        let clusters = starts.as_ref().map_or(compress::clusters(args.policy.clusters, wanted, budget), Vec::len);
        let tokens = shape.tokens(view).get();
        let dim = ["cluster_features", "features"].iter().filter_map(|what| input.width(view, what, tokens)).max().unwrap_or(0);
        sizes = sizes.max(Sizes { tokens, dim, clusters });
        let given = mapped.split_off(..tokens).map(<[u32]>::to_vec);
        views.push(View { number: view, budget, clusters, starts, given });
    }
    let settings = Compression {
        max_iterations: args.iters.unwrap_or(profile.compression.max_iterations),
        seed: args.seed.unwrap_or(profile.compression.seed),
        cluster_dim: args.cluster_dim.or(profile.compression.cluster_dim),
        ..profile.compression
    };
    let (wanted, allowed) = (args.partition.bytes(&settings, sizes), profile.memory_limit);
    if wanted > allowed {
        return Err(CompressCliError::Memory { wanted, allowed });
    }
    let mut partition = args.partition.make(&settings, &args.policy, Isa::detect(), sizes);
    let rules = Rules { policy: &args.policy, mode: args.mode };
    let made = views.iter().map(|view| compress_view(&input, &shape, view, &rules, &mut *partition, &pool));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    write(&args.out, &made)?;
    if json {
        let views: Vec<&Figures> = made.iter().map(|view| &view.figures).collect();
        let document = serde_json::json!({ "views": views });
        let mut out = std::io::stdout().lock();
        let refuse = |error: std::io::Error| CompressCliError::Write { path: "stdout".into(), reason: error.to_string() };
        writeln!(out, "{document}").map_err(refuse)?;
    }
    Ok(())
}

/// What is kept, and how the budget is given out.
struct Rules<'a> {
    policy: &'a Policy,
    mode: Mode,
}

/// Labels of the tokens of all views, in raster order, from a map that covers a whole view, its padding included.
fn map_labels(input: &Input<'_>, shape: &VisionShape, path: &Path, limits: &Limits, pool: &Pool) -> Result<Vec<u32>, CompressCliError> {
    if let Some(view) = (0..shape.views().len()).find(|&view| input.has(view, "labels")) {
        return Err(input.wrong(&format!("view{}.labels", view + 1), "none beside labels=FILE".into(), "labels".into()));
    }
    let map = LabelMap::open(path, limits)?;
    map.square()?;
    let (side, _) = map.size();
    let refuse = |source| CompressCliError::Map { path: path.to_owned(), source };
    let layout = Layout::new(shape, side, side).map_err(|source| CompressCliError::Shape { path: path.to_owned(), source })?;
    let wanted = Voter::bytes(shape, side, pool.threads());
    if wanted > limits.whole {
        return Err(LabelMapError::Memory { path: path.to_owned(), what: "votes", wanted, allowed: limits.whole }.into());
    }
    let mut voter = Voter::new(shape, side, pool.threads());
    let mut labels = vec![0; shape.all_tokens().get()];
    voter.start(&layout, &|_| true, (side, side), &mut labels).map_err(refuse)?;
    map.rows(limits, &mut |row| voter.row(row, pool, &mut labels))?;
    Ok(labels)
}

/// Regions, selection and merge of one view.
fn compress_view(
    input: &Input<'_>,
    shape: &VisionShape,
    wanted: &View,
    rules: &Rules<'_>,
    partition: &mut dyn Partition,
    pool: &Pool,
) -> Result<Compressed, CompressCliError> {
    let (view, budget) = (wanted.number, wanted.budget);
    let refuse = |source| CompressCliError::View { path: input.path.to_owned(), view: view + 1, source };
    let name = |what: &str| format!("view{}.{what}", view + 1);
    let count = shape.tokens(view).get();
    let grid = Grid { side: shape.grid_side(view), tile: shape.tile_grid(), order: rules.policy.order };
    let features = input.rows(&name("features"), count)?;
    let dim = features.dim;
    let scores = scores(input, shape, view, grid)?;
    let coordinates = rules.policy.coordinates;
    let mut labels = vec![0; count];
    if let Some(mask) = input.optional(&name("mask"), Dtype::U8, &[count])? {
        labels.iter_mut().zip(mask).filter(|(_, kept)| **kept == 0).for_each(|(label, _)| *label = MASKED);
    }
    let own = input.optional(&name("labels"), Dtype::I32, &[count])?;
    let own = own.map(|own| input.indices(&name("labels"), &numbers(own))).transpose()?;
    let mapped = wanted.given.as_ref().map(|raster| {
        let mut labels = vec![0; count];
        grid.renumber(raster, &mut labels);
        labels
    });
    let begun = Instant::now();
    let mut iterations = 0;
    let mut objective = 0.0;
    let regions = if let Some(given) = own.as_ref().or(mapped.as_ref()) {
        labels.iter_mut().zip(given).filter(|(label, _)| **label != MASKED).for_each(|(label, given)| *label = *given);
        let view = ViewFeatures::raster(Rows::F32(&[]), 0, 0);
        Labels::new("labels", count).partition(&view, 0, pool, &mut labels).map_err(refuse)?.regions
    } else if budget.0 == 0 {
        // Nothing can come of it, and no number of clusters fits (§3.3 wants as many tokens as regions).
        labels.fill(MASKED);
        0
    } else {
        let own = input.has(view, "cluster_features").then(|| input.rows(&name("cluster_features"), count)).transpose()?;
        let clustered = own.as_ref().unwrap_or(&features);
        let view = ViewFeatures { rows: clustered.rows(), dim: clustered.dim, grid, coordinates, starts: wanted.starts.as_deref() };
        let clusters = partition.clusters();
        let mut cut = |clusters, starts, labels: &mut [u32]| {
            let made = partition.partition(&ViewFeatures { starts, ..view }, clusters, pool, labels).map_err(refuse)?;
            (iterations, objective) = (made.iterations, made.objective);
            Ok::<_, CompressCliError>(made.regions)
        };
        let regions = cut(wanted.clusters, view.starts, &mut labels)?;
        // Coverage gives every region a token: more regions than that are made anew, fewer.
        if rules.mode == Mode::Coverage && regions > budget.get() && clusters { cut(budget.get(), None, &mut labels)? } else { regions }
    };
    let regions_ms = ms(begun);
    let mut work = SelectWork::new(count, regions, budget.get().min(count));
    let begun = Instant::now();
    let keep = (rules.policy.keep, rules.mode);
    let selection = select(&scores, &labels, regions, budget.min(Tokens::of(count)), keep, &mut work).map_err(refuse)?;
    let select_ms = ms(begun);
    let mut out = Compressed {
        rows: Vec::with_capacity(selection.entries.len() * dim),
        dim,
        offsets: vec![0],
        sources: Vec::new(),
        scores: selection.entries.iter().map(|entry| entry.score).collect(),
        merged: selection.entries.iter().map(|entry| u8::from(matches!(entry.source, Source::Merged { .. }))).collect(),
        labels: labels.iter().map(|&label| i32::try_from(label).unwrap_or(-1)).collect(),
        figures: Figures { regions, iterations, objective, regions_ms, select_ms, merge_ms: 0.0 },
    };
    for entry in selection.entries {
        // A view's side is at most 32,768 px (`VisionShape`), so a token is below 2³⁰.
        out.sources.extend(selection.sources(entry).iter().map(|&token| i32::try_from(token).unwrap_or(i32::MAX)));
        out.offsets.push(i64::try_from(out.sources.len()).unwrap_or(i64::MAX));
    }
    let begun = Instant::now();
    merge::<CompressCliError>(
        &selection,
        &mut MergeWork::new(CHUNK, dim),
        &mut |tokens, rows| {
            let pairs = tokens.iter().zip(rows.chunks_exact_mut(dim));
            pairs.for_each(|(&token, row)| features.rows().copy(token as usize, row));
            Ok(())
        },
        &mut |_, row| out.rows.extend_from_slice(row),
    )?;
    out.figures.merge_ms = ms(begun);
    match out.rows.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(refuse(CompressError::NotFinite { what: "merged row", token: Tokens::of(at / dim).0, found: out.rows[at] })),
        None => Ok(out),
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A view's own scores, or the anchor's aligned to its grid (Eq. 16).
fn scores(input: &Input<'_>, shape: &VisionShape, view: usize, grid: Grid) -> Result<Vec<f32>, CompressCliError> {
    let count = shape.tokens(view).get();
    if let Some(own) = input.optional(&format!("view{}.importance", view + 1), Dtype::F32, &[count])? {
        return Ok(floats(own));
    }
    let anchor_count = shape.tokens(0).get();
    let given = floats(input.required("importance", Dtype::F32, &[anchor_count])?);
    let anchor = Grid { side: shape.grid_side(0), ..grid };
    let mut raster = vec![0.0; anchor_count];
    for (token, score) in (0..).zip(given) {
        let (x, y) = anchor.place(token);
        raster[y * anchor.side + x] = score;
    }
    let mut scores = vec![0.0; count];
    align(&raster, anchor.side, grid, &mut scores);
    Ok(scores)
}

fn write(path: &Path, views: &[Compressed]) -> Result<(), CompressCliError> {
    let refuse = |error: safetensors::SafeTensorError| CompressCliError::Write { path: path.to_owned(), reason: error.to_string() };
    let mut tensors = Vec::new();
    for (number, view) in (1..).zip(views) {
        let count = view.scores.len();
        let parts = [
            ("tokens", Dtype::F32, vec![count, view.dim], bytemuck::cast_slice(&view.rows)),
            ("sources_offsets", Dtype::I64, vec![view.offsets.len()], bytemuck::cast_slice(&view.offsets)),
            ("sources", Dtype::I32, vec![view.sources.len()], bytemuck::cast_slice(&view.sources)),
            ("scores", Dtype::F32, vec![count], bytemuck::cast_slice(&view.scores)),
            ("merged", Dtype::U8, vec![count], &view.merged[..]),
            ("labels", Dtype::I32, vec![view.labels.len()], bytemuck::cast_slice(&view.labels)),
        ];
        for (what, dtype, shape, bytes) in parts {
            tensors.push((format!("view{number}.{what}"), TensorView::new(dtype, shape, bytes).map_err(refuse)?));
        }
    }
    safetensors::serialize_to_file(tensors, None, path).map_err(refuse)
}
