//! `plan`: the memory map of a profile and a model.

use clap::Args;

use crate::board;
use crate::cli::{Cli, CliError};
use crate::pipeline::{Engines, Pipeline};
use crate::planner;
use crate::units::Bytes;

#[derive(Args)]
pub struct PlanArgs {
    /// Budget to admit: a preset, one total, or one number a view
    #[arg(long)]
    budget: Option<String>,
}

pub fn run(args: &PlanArgs, cli: &Cli) -> Result<(), CliError> {
    let (profile, manifest) = cli.load()?;
    let budget = planner::budget(args.budget.as_deref(), &profile, &manifest).map_err(crate::pipeline::PipelineError::from)?;
    let engines = Engines::load(&profile, &manifest)?;
    let pipeline = Pipeline::new(profile, manifest, engines, board::resident_memory().unwrap_or(Bytes(0)))?;
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
        });
        println!("{document}");
        return Ok(());
    }
    println!("{} on {}", pipeline.manifest().name, profile.name);
    map.lines.iter().for_each(|line| println!("{:>10.2} MiB  {}", line.bytes.mib(), line.what));
    println!("{:>10.2} MiB  in all, of {:.0} MiB allowed", map.total().mib(), profile.memory_limit.mib());
    println!("budget {:?}: {}", budget.per_view().iter().map(|tokens| tokens.0).collect::<Vec<_>>(), budget.total());
    Ok(())
}
