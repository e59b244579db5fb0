//! `plan`: the memory map of a profile and a model, whether it fits, and what a question on a frame will take.

mod all;
mod predicted;

use std::fmt::Write;
use std::path::Path;

use clap::Args;

use crate::board;
use crate::cli::ask::calibrate;
use crate::cli::compress::policy;
use crate::cli::{Cli, CliError, say};
use crate::compress::regions::Method;
use crate::config::{Budget, Manifest, Model, Policy, Profile, Spec};
use crate::geometry::{Layout, ViewLayout};
use crate::imaging::Limits;
use crate::pipeline::{Engines, Pipeline, PipelineError};
use crate::planner::{self, CostModel, Costs, Loaded, MemoryMap, ModelCost, PlannerError, Verdict};
use crate::units::{Bytes, Px, Tokens};

#[derive(Args)]
pub struct PlanArgs {
    /// A table a built-in profile, of the package and of all specs in models/specs: fits or not, what would make it fit, floors of questions
    #[arg(long, conflicts_with_all = ["partition", "clusters", "policy", "cluster_dim", "frames", "frame", "embedding_bits", "max_visual_tokens"])]
    all: bool,
    /// Budget to admit: a preset, one total, or one number a view [default: the profile's; with --all 1024 and 4096]
    #[arg(long)]
    budget: Option<String>,
    /// How regions are made: kmeans, birch, superpixels, segmenter or labels=FILE
    #[arg(long, default_value_t = Method::Kmeans, value_name = "METHOD")]
    partition: Method,
    /// Most clusters of a view [default: the profile's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    clusters: Option<u32>,
    /// paper or released [default: the package's]
    #[arg(long, value_parser = policy)]
    policy: Option<Policy>,
    /// Features are projected at random to as many coordinates before clustering [default: the profile's]
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=4096))]
    cluster_dim: Option<u32>,
    /// Frames held at once, as `ask` with so many frames holds them [default: the profile's slots]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    frames: Option<u16>,
    /// The largest budget that there is room for [default: the profile's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_visual_tokens: Option<u32>,
    /// A spec's table of embeddings at as many bits a weight: 4.25 is 4 bits and their scales [default: the spec's]
    #[arg(long, value_name = "BITS")]
    embedding_bits: Option<f64>,
    /// A frame's size: says its views, tiles and tokens, what becomes of a dropped view's budget, and times [default for times: the finest view]
    #[arg(long, value_name = "WxH", value_parser = size)]
    frame: Option<(Px, Px)>,
}

/// `10800x5400`.
fn size(text: &str) -> Result<(Px, Px), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.map(|(w, h)| (Px(w), Px(h))).ok_or_else(|| format!("wanted WIDTHxHEIGHT in pixels, found {text:?}"))
}

pub fn run(args: &PlanArgs, cli: &Cli) -> Result<(), CliError> {
    if args.all {
        return all::run(args.budget.as_deref(), cli);
    }
    let mut profile = Profile::load(&cli.profile)?;
    args.apply(&mut profile);
    if is_spec(&cli.model) { run_spec(args, cli, profile) } else { run_package(args, cli, profile) }
}

/// A spec is a file, a package a folder.
fn is_spec(model: &Path) -> bool {
    model.extension().is_some_and(|ending| ending == "toml") && !model.is_dir()
}

fn run_package(args: &PlanArgs, cli: &Cli, profile: Profile) -> Result<(), CliError> {
    if args.embedding_bits.is_some() {
        return Err(CliError::Usage(format!("--embedding-bits: wanted a spec, a file of models/specs, found {}", cli.model.display())));
    }
    let mut manifest = Manifest::load(&cli.model)?;
    if let Some(policy) = &args.policy {
        manifest.policy = policy.clone();
    }
    let (budget, asked) = asked(args, &profile, &manifest)?;
    let engines = cli.engines(&profile, &manifest, &args.partition)?;
    let loaded = loaded(&engines);
    let verdict = planner::verdict(&profile, &manifest, &args.partition, &|_| loaded.clone(), None);
    fits(verdict, &manifest, &profile)?;
    let mut pipeline = Pipeline::new(profile, manifest, engines, &args.partition, loaded.resident)?;
    calibrate(&mut pipeline, cli, false)?;
    let plan = Plan {
        model: pipeline.manifest(),
        source: None,
        profile: pipeline.profile(),
        map: pipeline.map(),
        costs: pipeline.costs(),
        budget: &budget,
        layout: &asked,
    };
    plan.say(args.frame.is_some(), cli.json)
}

fn run_spec(args: &PlanArgs, cli: &Cli, profile: Profile) -> Result<(), CliError> {
    if cli.calibration.is_some() {
        return Err(CliError::Usage("--calibration: wanted a package, found a spec, which nothing was measured with".into()));
    }
    let mut spec = Spec::load(&cli.model)?;
    if let Some(bits) = args.embedding_bits {
        spec = spec.with_embedding_bits(bits)?;
    }
    if let Some(policy) = &args.policy {
        spec.policy = policy.clone();
    }
    if args.partition == Method::Segmenter {
        return Err(PipelineError::NoSegmenter { model: spec.name }.into());
    }
    let (budget, asked) = asked(args, &profile, &spec)?;
    fits(planner::spec_verdict(&profile, &spec, &args.partition), &spec, &profile)?;
    let map = planner::memory_map(&profile, &spec, &args.partition, &Loaded::assumed(&spec, &profile))?;
    let model = CostModel { model: ModelCost::assumed(&spec, &profile), device: profile.device.clone() };
    let costs = Costs { model, calibration: None };
    let (source, profile) = (Some(&spec.source[..]), &profile);
    let plan = Plan { model: &spec, source, profile, map: &map, costs: &costs, budget: &budget, layout: &asked };
    plan.say(args.frame.is_some(), cli.json)
}

/// What engines hold, by the process that has just loaded them.
fn loaded(engines: &Engines) -> Loaded {
    engines.loaded(board::resident_memory().unwrap_or(Bytes(0)))
}

/// The budget, admitted, and the frame that times are predicted for.
fn asked(args: &PlanArgs, profile: &Profile, model: &impl Model) -> Result<(Budget, Layout), CliError> {
    let budget = planner::budget(args.budget.as_deref(), profile, model).map_err(PipelineError::from)?;
    let (width, height) = args.frame.unwrap_or_else(|| usual_frame(profile, model));
    Limits::of(profile).admit("--frame".as_ref(), width.0, height.0)?;
    Ok((budget, Layout::new(model.shape(), width, height).map_err(PipelineError::from)?))
}

/// A square frame that just fills the finest view, or the largest that the profile admits.
fn usual_frame(profile: &Profile, model: &impl Model) -> (Px, Px) {
    let most = Px(u32::try_from(profile.frame.max_pixels.isqrt()).unwrap_or(u32::MAX));
    let side = model.shape().finest().min(profile.frame.max_side).min(most);
    (side, side)
}

fn fits(verdict: Verdict, model: &impl Model, profile: &Profile) -> Result<(), PlannerError> {
    if verdict.fits() {
        return Ok(());
    }
    Err(PlannerError::Unfit { model: model.name().to_owned(), profile: profile.name.clone(), verdict: Box::new(verdict) })
}

impl PlanArgs {
    /// Puts what the command line sets into the profile's place.
    fn apply(&self, profile: &mut Profile) {
        profile.compression.clusters = self.clusters.unwrap_or(profile.compression.clusters);
        profile.compression.cluster_dim = self.cluster_dim.or(profile.compression.cluster_dim);
        profile.frame.slots = self.frames.map_or(profile.frame.slots, usize::from);
        profile.tokens.max_visual = self.max_visual_tokens.map_or(profile.tokens.max_visual, Tokens);
    }
}

/// What is printed.
struct Plan<'a, M: Model> {
    model: &'a M,
    /// Where a spec's sizes are from.
    source: Option<&'a str>,
    profile: &'a Profile,
    map: &'a MemoryMap,
    costs: &'a Costs,
    budget: &'a Budget,
    layout: &'a Layout,
}

impl<M: Model> Plan<'_, M> {
    /// `framed`: a frame was asked for, whose views are shown.
    fn say(&self, framed: bool, json: bool) -> Result<(), CliError> {
        let Self { model, source, profile, map, costs, budget, layout } = self;
        let outlook = planner::outlook(profile, *model, costs, layout, budget, profile.tokens.max_new)?;
        let rows = if framed { views(layout, budget) } else { Vec::new() };
        if json {
            let lines: Vec<_> = map.lines.iter().map(|line| serde_json::json!({"what": line.what, "bytes": line.bytes})).collect();
            let document = serde_json::json!({
                "profile": profile.name,
                "model": model.name(),
                "source": source,
                "lines": lines,
                "total_bytes": map.total(),
                "limit_bytes": profile.memory_limit,
                "budget": budget.per_view(),
                "frame": framed.then_some(rows),
                "predicted": predicted::document(&outlook, layout),
            });
            return say(&format!("{document}\n"));
        }
        let mut text = format!("{} on {}\n", model.name(), profile.name);
        if let Some(source) = source {
            let _ = writeln!(text, "a spec, no weights: {source}");
        }
        for line in &map.lines {
            let _ = writeln!(text, "{:>10.2} MiB  {}", line.bytes.mib(), line.what);
        }
        let _ = writeln!(text, "{:>10.2} MiB  in all, of {:.0} MiB allowed", map.total().mib(), profile.memory_limit.mib());
        let _ = writeln!(text, "budget {:?}: {}", budget.per_view().iter().map(|tokens| tokens.0).collect::<Vec<_>>(), budget.total());
        for view in rows {
            let Row { view_px, dropped, tiles, tiles_encoded, tokens, budget } = view;
            let note = if dropped { ", dropped" } else { "" };
            let _ = writeln!(text, "{view_px:>10}: {tiles_encoded} of {tiles} tiles, {tokens}, budget {budget}{note}");
        }
        predicted::print(&mut text, &outlook, layout, costs);
        say(&text)
    }
}

/// One view of a frame.
#[derive(serde::Serialize)]
struct Row {
    view_px: Px,
    dropped: bool,
    tiles: usize,
    tiles_encoded: usize,
    /// Without those of padding.
    tokens: Tokens,
    budget: Tokens,
}

fn views(layout: &Layout, budget: &Budget) -> Vec<Row> {
    let (placed, _) = planner::place(budget, layout);
    let row = |view: &ViewLayout, budget: &Tokens| Row {
        view_px: view.side,
        dropped: view.dropped,
        tiles: view.tiles_side().pow(2),
        tiles_encoded: if view.dropped { 0 } else { view.encoded_tile_count() },
        tokens: if view.dropped { Tokens(0) } else { view.unmasked_tokens() },
        budget: *budget,
    };
    layout.views().iter().zip(placed.per_view()).map(|(view, budget)| row(view, budget)).collect()
}
