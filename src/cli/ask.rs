//! `ask`: one or more questions about one frame.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::board;
use crate::cli::{Cli, CliError};
use crate::imaging::{FrameSource, Limits, Reading};
use crate::pipeline::{Answer, Engines, Pipeline, Question};
use crate::planner;
use crate::report::Overlay;
use crate::units::{Bytes, Tokens};

#[derive(Args)]
pub struct AskArgs {
    /// The frame, and the question unless -q gives it
    #[arg(required = true, value_name = "FRAME QUESTION")]
    inputs: Vec<OsString>,
    /// A question; several share one ingest
    #[arg(short, long = "question", value_name = "QUESTION")]
    questions: Vec<String>,
    /// onboard, bench, xlrs, ablation, one total, or one number a view
    #[arg(long)]
    budget: Option<String>,
    /// Most tokens of an answer [default: the profile's]
    #[arg(long, value_name = "N")]
    max_new: Option<u32>,
    /// Seed of the clustering [default: the profile's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Takes a JPEG, or a TIFF in strips, that ends early: the rows it lacks are masked, and the receipt says how many
    #[arg(long)]
    allow_truncated: bool,
    /// Writes a picture of what was kept, merged and decisive for the last question
    #[arg(long, value_name = "OUT.png")]
    overlay: Option<PathBuf>,
}

pub fn run(args: &AskArgs, cli: &Cli) -> Result<(), CliError> {
    let mut inputs = args.inputs.clone();
    let mut questions = args.questions.clone();
    if questions.is_empty() && inputs.len() > 1 {
        let question = inputs.pop().unwrap_or_default().into_string();
        questions.push(question.map_err(|text| CliError::Usage(format!("question: wanted UTF-8, found {text:?}")))?);
    }
    let ([frame], [_, ..]) = (&inputs[..], &questions[..]) else {
        return Err(CliError::Usage(format!("wanted one frame and at least one question, found {} and {}", inputs.len(), questions.len())));
    };
    let (mut profile, manifest) = cli.load()?;
    if let Some(seed) = args.seed {
        profile.compression.seed = seed;
    }
    let max_new = args.max_new.map_or(profile.tokens.max_new, Tokens);
    if max_new.0 == 0 {
        return Err(CliError::Usage("--max-new: wanted 1 or more, found 0".into()));
    }
    let budget = planner::budget(args.budget.as_deref(), &profile, &manifest).map_err(crate::pipeline::PipelineError::from)?;
    // What is plainly wrong is said before a model is loaded; room for pictures decoded whole is known only afterwards.
    let most = Limits { max_side: profile.frame.max_side, max_pixels: profile.frame.max_pixels, whole: profile.memory_limit };
    let reading = Reading { bands: profile.frame.bands, allow_truncated: args.allow_truncated };
    FrameSource::open_as(frame.as_ref(), &most, &reading)?;
    let engines = Engines::load(&profile, &manifest)?;
    let mut pipeline = Pipeline::new(profile, manifest, engines, board::resident_memory().unwrap_or(Bytes(0)))?;
    let prompts = questions.iter().map(|question| pipeline.prompt(question, &budget, max_new)).collect::<Result<Vec<_>, _>>()?;
    let source = FrameSource::open_as(frame.as_ref(), &pipeline.limits(), &reading)?;
    let bar = bar(cli.quiet);
    let (frame, times) = pipeline.ingest(source, &budget, &mut |stage, done| {
        bar.set_message(stage);
        bar.set_position((done * 100.0) as u64);
    })?;
    bar.finish_and_clear();
    let mut times = Some(times);
    for (question, prompt) in questions.iter().zip(prompts) {
        let mut answer = pipeline.answer(&frame, &Question { prompt, max_new }, times.take())?;
        answer.receipt.memory.peak_bytes = board::peak_memory().unwrap_or(Bytes(0)).0;
        if cli.json {
            let line = serde_json::to_string(&answer).map_err(|error| CliError::Output(error.to_string()))?;
            println!("{line}");
        } else {
            print(question, &answer, cli.quiet);
        }
    }
    if let Some(path) = &args.overlay {
        let picture = pipeline.picture(&frame)?;
        let mut overlay = Overlay::new(&picture);
        overlay.draw(&pipeline.shown(&frame)?);
        overlay.write(path)?;
    }
    Ok(())
}

fn bar(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:8} [{bar:40}] {percent:>3} %").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(100).with_style(style)
}

/// An answer with its receipt, for people.
fn print(question: &str, answer: &Answer, quiet: bool) {
    if quiet {
        println!("{}", answer.text);
        return;
    }
    let receipt = &answer.receipt;
    println!("{question}\n  {}", answer.text);
    println!("  model {}, profile {}, policy {}, seed {}", receipt.model, receipt.profile, receipt.policy, receipt.seed);
    for frame in &receipt.frames {
        println!("  frame {} ({} x {})", frame.id, frame.w, frame.h);
    }
    println!("  view     budget  tokens    kept  merged  regions  tiles encoded");
    for view in &receipt.budget.per_view {
        println!(
            "  {:>4} px  {:>6}  {:>6}  {:>6}  {:>6}  {:>7}  {:>5} of {}",
            view.view_px, view.budget, view.tokens, view.kept, view.merged, view.regions, view.tiles_encoded, view.tiles
        );
    }
    let stages = &receipt.stages_ms;
    println!(
        "  ms: decode {:.0}, views {:.0}, encode {:.0}, regions {:.0}, anchor {:.0}, select {:.1}, merge {:.0}, prefill {:.0}, generate {:.1}, total {:.0}",
        stages.decode,
        stages.views,
        stages.encode,
        stages.regions,
        stages.anchor,
        stages.select,
        stages.merge,
        stages.prefill,
        stages.generate,
        stages.total
    );
    let mib = |bytes: u64| Bytes(bytes).mib();
    println!("  memory: planned {:.0} MiB, peak {:.0} MiB", mib(receipt.memory.planned_bytes), mib(receipt.memory.peak_bytes));
    receipt.degraded.iter().for_each(|line| println!("  note: {line}"));
    for place in &receipt.evidence {
        println!("  evidence: {:.0} x {:.0} px at ({:.0}, {:.0}), score {:.2e}", place.w, place.h, place.x, place.y, place.score);
    }
}
