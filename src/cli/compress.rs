//! `compress`: regions, selection and merge on given features, from one safetensors file to another.
//!
//! # Why
//! The policy can be checked, compared and replaced without a picture, an encoder or a decoder: whatever made the features.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::cli::model_logits::THREADS;
use crate::compress::regions::{Labels, Method, Partition, Rows, Sizes, ViewFeatures, Voter};
use crate::compress::{self, CompressError, MASKED, MergeWork, SelectWork, Source, align, merge, select};
use crate::config::{Budget, Compression, ConfigError, Profile};
use crate::geometry::{GeometryError, Layout, VisionShape};
use crate::imaging::{LabelMap, LabelMapError, Limits};
use crate::kernels::{Isa, Pool, map_file};
use crate::units::{Bytes, Px, Tokens};

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
    #[arg(long, value_enum, default_value_t = Policy::Paper)]
    policy: Policy,
    #[arg(long, value_enum, default_value_t = Mode::Paper)]
    mode: Mode,
    /// How a view without given labels is cut into regions: kmeans, birch, or labels=FILE, a square map of the whole view (PNG, TIFF or npy; 0 is background)
    #[arg(long, default_value_t = Method::Kmeans, value_name = "METHOD")]
    partition: Method,
    /// Most clusters of a view [default: the profile's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    clusters: Option<u32>,
    /// Most iterations of k-means [default: the profile's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iters: Option<u32>,
    /// Seed of the clustering [default: the profile's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// `view{s}.init` [k] i32: the tokens that start k-means
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    #[arg(long, default_value_t = THREADS)]
    threads: usize,
}

/// The rule of what is kept.
#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    Paper,
}

/// How a budget is given out.
#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Paper,
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

/// A safetensors file, its path kept for messages.
struct Input<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
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
}

pub fn run(args: &CompressArgs, profile: &Profile) -> Result<(), CompressCliError> {
    // One value each for now: what a preset names is the rule itself.
    let (Policy::Paper, Mode::Paper) = (args.policy, args.mode);
    let map = |path: &Path| map_file(path).map_err(|error| CompressCliError::Read { path: path.to_owned(), reason: error.to_string() });
    let bytes = map(&args.input)?;
    let input = Input::new(&args.input, &bytes)?;
    let shape = shape(&args.input, &bytes)?;
    let budget = Budget::parse(&args.budget, shape.views().len())?;
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
        let clusters = starts.as_ref().map_or(compress::clusters(wanted, budget), Vec::len);
        let tokens = shape.tokens(view).get();
        let dim = ["cluster_features", "features"].iter().filter_map(|what| input.width(view, what, tokens)).max().unwrap_or(0);
        sizes = sizes.max(Sizes { tokens, dim, clusters });
        let given = mapped.split_off(..tokens).map(<[u32]>::to_vec);
        views.push(View { number: view, budget, clusters, starts, given });
    }
    let settings = Compression {
        max_iterations: args.iters.unwrap_or(profile.compression.max_iterations),
        seed: args.seed.unwrap_or(profile.compression.seed),
        ..profile.compression
    };
    let (wanted, allowed) = (args.partition.bytes(&settings, sizes), profile.memory_limit);
    if wanted > allowed {
        return Err(CompressCliError::Memory { wanted, allowed });
    }
    let mut partition = args.partition.make(&settings, Isa::detect(), sizes);
    let made = views.iter().map(|view| compress_view(&input, &shape, view, &mut *partition, &pool));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    write(&args.out, &made)
}

/// Labels of the tokens of all views, from a map that covers a whole view, its padding included.
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
    partition: &mut dyn Partition,
    pool: &Pool,
) -> Result<Compressed, CompressCliError> {
    let (view, budget) = (wanted.number, wanted.budget);
    let refuse = |source| CompressCliError::View { path: input.path.to_owned(), view: view + 1, source };
    let name = |what: &str| format!("view{}.{what}", view + 1);
    let count = shape.tokens(view).get();
    let (dim, features) = input.rows(&name("features"), count)?;
    let scores = scores(input, shape, view)?;
    let mut labels = vec![0; count];
    if let Some(mask) = input.optional(&name("mask"), Dtype::U8, &[count])? {
        labels.iter_mut().zip(mask).filter(|(_, kept)| **kept == 0).for_each(|(label, _)| *label = MASKED);
    }
    let own = input.optional(&name("labels"), Dtype::I32, &[count])?;
    let own = own.map(|own| input.indices(&name("labels"), &numbers(own))).transpose()?;
    let regions = if let Some(given) = own.as_ref().or(wanted.given.as_ref()) {
        labels.iter_mut().zip(given).filter(|(label, _)| **label != MASKED).for_each(|(label, given)| *label = *given);
        let view = ViewFeatures { rows: Rows::F32(&[]), dim: 0, side: 0, starts: None };
        Labels::new("labels", count).partition(&view, 0, pool, &mut labels).map_err(refuse)?.regions
    } else if budget.0 == 0 {
        // Nothing can come of it, and no number of clusters fits (§3.3 wants as many tokens as regions).
        labels.fill(MASKED);
        0
    } else {
        let clustered = match input.tensors.tensor(&name("cluster_features")) {
            Ok(_) => Some(input.rows(&name("cluster_features"), count)?),
            Err(_) => None,
        };
        let (dim, rows) = clustered.as_ref().map_or((dim, &features), |(dim, rows)| (*dim, rows));
        let view = ViewFeatures { rows: Rows::F32(rows), dim, side: shape.grid_side(view), starts: wanted.starts.as_deref() };
        partition.partition(&view, wanted.clusters, pool, &mut labels).map_err(refuse)?.regions
    };
    let mut work = SelectWork::new(count, regions, budget.get().min(count));
    let selection = select(&scores, &labels, regions, budget.min(Tokens::of(count)), &mut work).map_err(refuse)?;
    let mut out = Compressed {
        rows: Vec::with_capacity(selection.entries.len() * dim),
        dim,
        offsets: vec![0],
        sources: Vec::new(),
        scores: selection.entries.iter().map(|entry| entry.score).collect(),
        merged: selection.entries.iter().map(|entry| u8::from(matches!(entry.source, Source::Merged { .. }))).collect(),
        labels: labels.iter().map(|&label| i32::try_from(label).unwrap_or(-1)).collect(),
    };
    for entry in selection.entries {
        // A view's side is at most 32,768 px (`VisionShape`), so a token is below 2³⁰.
        out.sources.extend(selection.sources(entry).iter().map(|&token| i32::try_from(token).unwrap_or(i32::MAX)));
        out.offsets.push(i64::try_from(out.sources.len()).unwrap_or(i64::MAX));
    }
    merge::<CompressCliError>(
        &selection,
        &mut MergeWork::new(CHUNK, dim),
        &mut |tokens, rows| {
            let pairs = tokens.iter().zip(rows.chunks_exact_mut(dim));
            pairs.for_each(|(&token, row)| row.copy_from_slice(&features[token as usize * dim..][..dim]));
            Ok(())
        },
        &mut |_, row| out.rows.extend_from_slice(row),
    )?;
    Ok(out)
}

/// A view's own scores, or the anchor's aligned to its grid (Eq. 16).
fn scores(input: &Input<'_>, shape: &VisionShape, view: usize) -> Result<Vec<f32>, CompressCliError> {
    let count = shape.tokens(view).get();
    if let Some(own) = input.optional(&format!("view{}.importance", view + 1), Dtype::F32, &[count])? {
        return Ok(floats(own));
    }
    let anchor_count = shape.tokens(0).get();
    let anchor = floats(input.required("importance", Dtype::F32, &[anchor_count])?);
    let mut scores = vec![0.0; count];
    align(&anchor, shape.grid_side(0), shape.grid_side(view), &mut scores);
    Ok(scores)
}

/// The sides of the views, from the file's metadata.
fn shape(path: &Path, bytes: &[u8]) -> Result<VisionShape, CompressCliError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| format_error(path, &error))?;
    let none = HashMap::new();
    let metadata = header.metadata().as_ref().unwrap_or(&none);
    let number = |key: &str, text: &str| {
        text.trim().parse().map(Px).map_err(|_| CompressCliError::Tensor {
            path: path.to_owned(),
            tensor: format!("metadata {key}"),
            wanted: "whole numbers of pixels".into(),
            found: format!("{text:?}"),
        })
    };
    let text = |key: &str| {
        metadata.get(key).map(String::as_str).ok_or_else(|| CompressCliError::Tensor {
            path: path.to_owned(),
            tensor: format!("metadata {key}"),
            wanted: "a string".into(),
            found: "none".into(),
        })
    };
    let views = text("views")?.split(',').map(|side| number("views", side)).collect::<Result<Vec<_>, _>>()?;
    let (tile, patch) = (number("tile", text("tile")?)?, number("patch", text("patch")?)?);
    let shape = VisionShape::new(views, tile, patch, [0.5; 3], [0.5; 3]);
    shape.map_err(|source| CompressCliError::Shape { path: path.to_owned(), source })
}

fn format_error(path: &Path, error: &safetensors::SafeTensorError) -> CompressCliError {
    CompressCliError::Format { path: path.to_owned(), reason: format!("wanted a safetensors file: {error}") }
}

impl<'a> Input<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self, CompressCliError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| format_error(path, &error))?;
        Ok(Self { path, tensors })
    }

    fn has(&self, view: usize, what: &str) -> bool {
        self.tensors.tensor(&format!("view{}.{what}", view + 1)).is_ok()
    }

    /// Width of a view's `count` rows, where the file has them.
    fn width(&self, view: usize, what: &str, count: usize) -> Option<usize> {
        let tensor = self.tensors.tensor(&format!("view{}.{what}", view + 1)).ok()?;
        matches!(*tensor.shape(), [rows, _] if rows == count).then(|| tensor.shape()[1])
    }

    fn wrong(&self, tensor: &str, wanted: String, found: String) -> CompressCliError {
        CompressCliError::Tensor { path: self.path.to_owned(), tensor: tensor.to_owned(), wanted, found }
    }

    /// The bytes of a tensor, where there is one; of another type or shape it is an error.
    fn optional(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Option<&'a [u8]>, CompressCliError> {
        let Ok(tensor) = self.tensors.tensor(name) else { return Ok(None) };
        if tensor.dtype() != dtype || tensor.shape() != shape {
            return Err(self.wrong(name, format!("{dtype:?} {shape:?}"), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        Ok(Some(tensor.data()))
    }

    fn required(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8], CompressCliError> {
        self.optional(name, dtype, shape)?.ok_or_else(|| self.wrong(name, format!("{dtype:?} {shape:?}"), "none".into()))
    }

    /// Features `[count, d]` in f32 or f16, as d and f32; all finite.
    fn rows(&self, name: &str, count: usize) -> Result<(usize, Vec<f32>), CompressCliError> {
        let wanted = || format!("F32 or F16 [{count}, d]");
        let tensor = self.tensors.tensor(name).map_err(|_| self.wrong(name, wanted(), "none".into()))?;
        let (&[rows, dim], dtype @ (Dtype::F32 | Dtype::F16)) = (tensor.shape(), tensor.dtype()) else {
            return Err(self.wrong(name, wanted(), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        };
        if rows != count || dim == 0 {
            return Err(self.wrong(name, wanted(), format!("{dtype:?} [{rows}, {dim}]")));
        }
        let values = if dtype == Dtype::F32 {
            floats(tensor.data())
        } else {
            tensor.data().as_chunks::<2>().0.iter().map(|&half| half::f16::from_le_bytes(half).to_f32()).collect()
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.wrong(name, "finite numbers".into(), format!("{} in row {}", values[at], at / dim))),
            None => Ok((dim, values)),
        }
    }

    fn indices(&self, name: &str, values: &[i32]) -> Result<Vec<u32>, CompressCliError> {
        let wanted = |value: &i32| self.wrong(name, "numbers from 0".into(), value.to_string());
        values.iter().map(|value| u32::try_from(*value).map_err(|_| wanted(value))).collect()
    }

    /// Tokens below `count` that start k-means: one or more, no more than there are tokens.
    fn tokens(&self, name: &str, count: usize) -> Result<Vec<u32>, CompressCliError> {
        let tensor = self.tensors.tensor(name).map_err(|_| self.wrong(name, "I32 [k]".into(), "none".into()))?;
        if tensor.dtype() != Dtype::I32 || !matches!(tensor.shape(), &[k] if k > 0) {
            return Err(self.wrong(name, "I32 [k], k of 1 or more".into(), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        let tokens = self.indices(name, &numbers(tensor.data()))?;
        match tokens.iter().find(|token| **token as usize >= count) {
            Some(token) => Err(self.wrong(name, format!("tokens below {count}"), token.to_string())),
            None if tokens.len() > count => Err(self.wrong(name, format!("at most {count} tokens"), tokens.len().to_string())),
            None => Ok(tokens),
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect()
}

fn numbers(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().copied().map(i32::from_le_bytes).collect()
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
