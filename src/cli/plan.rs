//! `plan`: the memory map of a profile and a model.

use std::fmt::Write;

use clap::Args;

use crate::board;
use crate::cli::compress::policy;
use crate::cli::{Cli, CliError, say};
use crate::compress::regions::Method;
use crate::config::{Budget, Policy};
use crate::geometry::{Layout, ViewLayout};
use crate::imaging::Limits;
use crate::pipeline::{Engines, Pipeline, PipelineError};
use crate::planner;
use crate::units::{Bytes, Px, Tokens};

#[derive(Args)]
pub struct PlanArgs {
    /// Budget to admit: a preset, one total, or one number a view
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
    /// A frame's size: says its views, tiles and tokens, and what becomes of a dropped view's budget
    #[arg(long, value_name = "WxH", value_parser = size)]
    frame: Option<(Px, Px)>,
}

/// `10800x5400`.
fn size(text: &str) -> Result<(Px, Px), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.map(|(w, h)| (Px(w), Px(h))).ok_or_else(|| format!("wanted WIDTHxHEIGHT in pixels, found {text:?}"))
}

pub fn run(args: &PlanArgs, cli: &Cli) -> Result<(), CliError> {
    let (mut profile, mut manifest) = cli.load()?;
    profile.compression.clusters = args.clusters.unwrap_or(profile.compression.clusters);
    profile.compression.cluster_dim = args.cluster_dim.or(profile.compression.cluster_dim);
    profile.frame.slots = args.frames.map_or(profile.frame.slots, usize::from);
    if let Some(policy) = &args.policy {
        manifest.policy = policy.clone();
    }
    let budget = planner::budget(args.budget.as_deref(), &profile, &manifest).map_err(PipelineError::from)?;
    let limits = Limits::of(&profile);
    let layout = match args.frame {
        Some((width, height)) => {
            limits.admit("--frame".as_ref(), width.0, height.0)?;
            Some(Layout::new(&manifest.vision.shape, width, height).map_err(PipelineError::from)?)
        }
        None => None,
    };
    let resident = || board::resident_memory().unwrap_or(Bytes(0));
    let engines = Engines::load(&profile, &manifest, &args.partition)?;
    let pipeline = Pipeline::new(profile, manifest, engines, &args.partition, resident())?;
    let (map, profile) = (pipeline.map(), pipeline.profile());
    if cli.json {
        let lines: Vec<_> = map.lines.iter().map(|line| serde_json::json!({"what": line.what, "bytes": line.bytes})).collect();
        let document = serde_json::json!({
            "profile": profile.name,
            "model": pipeline.manifest().name,
            "lines": lines,
            "total_bytes": map.total(),
            "limit_bytes": profile.memory_limit,
            "budget": budget.per_view(),
            "frame": layout.as_ref().map(|layout| views(layout, &budget)),
        });
        return say(&format!("{document}\n"));
    }
    let mut text = format!("{} on {}\n", pipeline.manifest().name, profile.name);
    for line in &map.lines {
        let _ = writeln!(text, "{:>10.2} MiB  {}", line.bytes.mib(), line.what);
    }
    let _ = writeln!(text, "{:>10.2} MiB  in all, of {:.0} MiB allowed", map.total().mib(), profile.memory_limit.mib());
    let _ = writeln!(text, "budget {:?}: {}", budget.per_view().iter().map(|tokens| tokens.0).collect::<Vec<_>>(), budget.total());
    for view in layout.iter().flat_map(|layout| views(layout, &budget)) {
        let Row { view_px, dropped, tiles, tiles_encoded, tokens, budget } = view;
        let note = if dropped { ", dropped" } else { "" };
        let _ = writeln!(text, "{view_px:>10}: {tiles_encoded} of {tiles} tiles, {tokens}, budget {budget}{note}");
    }
    say(&text)
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
