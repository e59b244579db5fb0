//! `plan`: the memory map of a profile and a model.

use clap::Args;

use crate::board;
use crate::cli::{Cli, CliError};
use crate::compress::regions::Method;
use crate::config::Budget;
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
    let (mut profile, manifest) = cli.load()?;
    if let Some(clusters) = args.clusters {
        profile.compression.clusters = clusters;
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
    let engines = Engines::load(&profile, &manifest, &args.partition)?;
    let pipeline = Pipeline::new(profile, manifest, engines, &args.partition, board::resident_memory().unwrap_or(Bytes(0)))?;
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
        println!("{document}");
        return Ok(());
    }
    println!("{} on {}", pipeline.manifest().name, profile.name);
    map.lines.iter().for_each(|line| println!("{:>10.2} MiB  {}", line.bytes.mib(), line.what));
    println!("{:>10.2} MiB  in all, of {:.0} MiB allowed", map.total().mib(), profile.memory_limit.mib());
    println!("budget {:?}: {}", budget.per_view().iter().map(|tokens| tokens.0).collect::<Vec<_>>(), budget.total());
    for view in layout.iter().flat_map(|layout| views(layout, &budget)) {
        let Row { view_px, dropped, tiles, tiles_encoded, tokens, budget } = view;
        let note = if dropped { ", dropped" } else { "" };
        println!("{view_px:>10}: {tiles_encoded} of {tiles} tiles, {tokens}, budget {budget}{note}");
    }
    Ok(())
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
