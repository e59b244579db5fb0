//! `ask`: one or more questions about one frame.

use std::ffi::OsString;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::board;
use crate::cli::compress::policy;
use crate::cli::{Cli, CliError, QUALIFICATION, calibration_of, say, watch};
use crate::compress::regions::Method;
use crate::compress::{Mode, Selector};
use crate::config::{Manifest, Policy, Profile};
use crate::imaging::{FrameSource, LabelMap, Limits, Reading};
use crate::pipeline::{Answer, Finish, Frame, Pipeline, PipelineError, Request, Spent};
use crate::planner::{self, Calibration, PlannerError};
use crate::report::Overlay;
use crate::units::{Bytes, Millis, Tiles, Tokens};

#[derive(Args)]
pub struct AskArgs {
    /// One to four frames, and the question unless -q gives it
    #[arg(required = true, value_name = "FRAME… QUESTION")]
    inputs: Vec<OsString>,
    /// A question; several share one ingest
    #[arg(short, long = "question", value_name = "QUESTION")]
    questions: Vec<String>,
    /// onboard, bench, xlrs, ablation, one total, or one number a view
    #[arg(long)]
    budget: Option<String>,
    /// paper or released [default: the package's]
    #[arg(long, value_parser = policy)]
    policy: Option<Policy>,
    /// paper or coverage: how a view's budget is given to its regions
    #[arg(long, default_value = "paper")]
    mode: Mode,
    /// uhr-bat, or a plain choice to compare it with: topk, uniform, anchor-only, dense
    #[arg(long, default_value = "uhr-bat")]
    select: Selector,
    /// How the frame's tokens are cut into regions: kmeans, birch, superpixels, segmenter (the package's), or labels=FILE, a map of the frame's size as it is seen (PNG, TIFF or npy; 0 is background)
    #[arg(long, default_value_t = Method::Kmeans, value_name = "METHOD")]
    partition: Method,
    /// Most clusters of a view [default: the profile's]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    clusters: Option<u32>,
    /// Features are projected at random to as many coordinates before clustering [default: the profile's]
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=4096))]
    cluster_dim: Option<u32>,
    /// Most tiles of a frame that are encoded for a question: coarse views first, then fine tiles as its importance ranks them [default: all]
    #[arg(long, value_name = "N")]
    encode_tiles: Option<u32>,
    /// An answer within as many milliseconds from the start of the work on it, or a refusal; needs a calibration (`qualify`)
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline_ms: Option<u32>,
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
    if inputs.is_empty() || inputs.len() > planner::MAX_FRAMES || questions.is_empty() {
        let (frames, asked) = (inputs.len(), questions.len());
        let most = planner::MAX_FRAMES;
        return Err(CliError::Usage(format!("wanted one to {most} frames and at least one question, found {frames} and {asked}")));
    }
    if args.mode == Mode::Coverage && args.select != Selector::UhrBat {
        return Err(CliError::Usage(format!(
            "--mode coverage: wanted --select uhr-bat, which has regions to cover, found {:?}",
            args.select
        )));
    }
    if args.overlay.is_some() && inputs.len() > 1 {
        return Err(CliError::Usage(format!("--overlay: wanted one frame, found {}", inputs.len())));
    }
    let (mut profile, mut manifest) = cli.load()?;
    args.apply(&mut profile, &mut manifest);
    let (wanted, allowed) = (inputs.len(), profile.frame.slots.min(planner::MAX_FRAMES));
    if wanted > allowed {
        return Err(PlannerError::Frames { wanted, allowed }.into());
    }
    // One slot a frame is all that this run needs.
    profile.frame.slots = wanted;
    let max_new = args.max_new.map_or(profile.tokens.max_new, Tokens);
    if max_new.0 == 0 {
        return Err(CliError::Usage("--max-new: wanted 1 or more, found 0".into()));
    }
    let budget = planner::budget(args.budget.as_deref(), &profile, &manifest).map_err(PipelineError::from)?;
    // What is plainly wrong is said before a model is loaded; room for pictures decoded whole is known only afterwards.
    let most = Limits { max_side: profile.frame.max_side, max_pixels: profile.frame.max_pixels, whole: profile.memory_limit };
    let reading = Reading { bands: profile.frame.bands, allow_truncated: args.allow_truncated };
    let sizes = inputs
        .iter()
        .map(|frame| Ok(FrameSource::open_as(frame.as_ref(), &most, &reading)?.size()))
        .collect::<Result<Vec<_>, CliError>>()?;
    if let Method::Labels(path) = &args.partition {
        let map = LabelMap::open(path, &most)?;
        sizes.iter().try_for_each(|&(width, height)| map.fits(width, height))?;
    }
    let resident = || board::resident_memory().unwrap_or(Bytes(0));
    let engines = cli.engines(&profile, &manifest, &args.partition)?;
    let mut pipeline = Pipeline::new(profile, manifest, engines, &args.partition, resident())?;
    let sources = inputs.iter().map(|frame| FrameSource::open_as(frame.as_ref(), &pipeline.limits(), &reading));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    calibrate(&mut pipeline, cli, args.deadline_ms.is_some())?;
    let request = Request {
        budget,
        selector: args.select,
        mode: args.mode,
        encode_tiles: args.encode_tiles.map(Tiles),
        max_new,
        deadline: args.deadline_ms.map(|ms| Millis(f64::from(ms))),
    };
    let prompts = questions.iter().map(|question| pipeline.prompt(question)).collect::<Result<Vec<_>, _>>()?;
    // Whatever can be refused is, before any work. Later questions don't pay for the ingest: their deadlines are looked at when their turn comes.
    let mut plan = None;
    for prompt in &prompts {
        match plan {
            None => plan = Some(pipeline.plan_first(&sources, prompt, &request)?),
            Some(_) => drop(pipeline.plan_first(&sources, prompt, &Request { deadline: None, ..request.clone() })?),
        }
    }
    let bar = bar(cli.quiet);
    let (mut frames, mut ingest) = (Vec::new(), Spent::default());
    for (number, source) in sources.into_iter().enumerate() {
        let Some(plan) = &mut plan else { break };
        let (frame, spent) = pipeline.ingest(number, source, plan, &mut |stage, done| {
            bar.set_message(stage);
            bar.set_position((done * 100.0) as u64);
        })?;
        ingest += spent;
        frames.push(frame);
    }
    bar.finish_and_clear();
    let frames: Vec<&Frame> = frames.iter().collect();
    let (mut ingest, mut peak) = (Some(ingest), Bytes(0));
    for (question, prompt) in questions.iter().zip(prompts) {
        let mut plan = match plan.take() {
            Some(plan) => plan,
            None => pipeline.plan_again(&frames, &prompt, &request)?,
        };
        let (mut answer, _) = pipeline.answer(&frames, &prompt, &mut plan, ingest.take(), &mut |_| ())?;
        // The system's own count falls now and then, by pages it hadn't added up yet.
        peak = peak.max(board::peak_memory().unwrap_or(Bytes(0)));
        answer.receipt.memory.peak_bytes = peak.0;
        if cli.json {
            let line = serde_json::to_string(&answer).map_err(|error| CliError::Output(error.to_string()))?;
            say(&format!("{line}\n"))?;
        } else {
            say(&print(question, &answer, cli.quiet))?;
        }
    }
    if let (Some(path), [frame]) = (&args.overlay, &frames[..]) {
        let picture = pipeline.picture(frame)?;
        let mut overlay = Overlay::new(&picture);
        overlay.draw(&pipeline.shown(0, frame)?);
        overlay.write(path)?;
    }
    Ok(())
}

/// Takes the calibration that the command line names, or the usual one where it is there, and has the board watched. The usual one may be of something
/// else unless it is `needed`: then predictions are left out.
pub(super) fn calibrate(pipeline: &mut Pipeline, cli: &Cli, needed: bool) -> Result<(), CliError> {
    let usual = Path::new(QUALIFICATION);
    if cli.calibration.is_none() && !usual.exists() {
        return Ok(());
    }
    // Its readings go on with the pipeline's own share of it.
    let mode = watch(pipeline)?.latest().power_mode;
    let in_folder = [mode.as_deref(), None].map(|mode| calibration_of(usual, mode).join("qualification.json"));
    let Some(path) = cli.calibration.iter().chain(&in_folder).find(|path| cli.calibration.is_some() || path.exists()) else {
        return Ok(());
    };
    let text = std::fs::read_to_string(path).map_err(|error| CliError::Output(format!("{}: {error}", path.display())))?;
    match Calibration::parse(path, &text, &pipeline.identity(&board::device())) {
        Ok(calibration) => pipeline.calibrate(Some(calibration)),
        Err(_) if cli.calibration.is_none() && !needed => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

impl AskArgs {
    /// Puts what the command line sets into the profile's and the package's place.
    fn apply(&self, profile: &mut Profile, manifest: &mut Manifest) {
        let compression = &mut profile.compression;
        compression.seed = self.seed.unwrap_or(compression.seed);
        compression.clusters = self.clusters.unwrap_or(compression.clusters);
        compression.cluster_dim = self.cluster_dim.or(compression.cluster_dim);
        if let Some(policy) = &self.policy {
            manifest.policy = policy.clone();
        }
    }
}

pub(super) fn bar(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:8} [{bar:40}] {percent:>3} %").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(100).with_style(style)
}

/// An answer with its receipt, for people.
fn print(question: &str, answer: &Answer, quiet: bool) -> String {
    if quiet {
        return format!("{}\n", answer.text);
    }
    let mut text = String::new();
    let receipt = &answer.receipt;
    let _ = writeln!(text, "{question}\n  {}", answer.text);
    let _ = writeln!(text, "  model {}, profile {}, policy {}, seed {}", receipt.model, receipt.profile, receipt.policy, receipt.seed);
    for frame in &receipt.frames {
        let _ = writeln!(text, "  frame {} ({} x {})", frame.id, frame.w, frame.h);
    }
    let _ = writeln!(text, "  view     budget  tokens    kept  merged  regions  tiles encoded");
    for view in &receipt.budget.per_view {
        let _ = writeln!(
            text,
            "  {:>4} px  {:>6}  {:>6}  {:>6}  {:>6}  {:>7}  {:>5} of {}",
            view.view_px, view.budget, view.tokens, view.kept, view.merged, view.regions, view.tiles_encoded, view.tiles
        );
    }
    let stages = &receipt.stages_ms;
    let _ = writeln!(
        text,
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
    let _ =
        writeln!(text, "  memory: planned {:.0} MiB, peak {:.0} MiB", mib(receipt.memory.planned_bytes), mib(receipt.memory.peak_bytes));
    if let Some(total) = receipt.predicted_ms.get("total") {
        let ms = |key: &str| total[key].as_f64().unwrap_or_default();
        let _ = writeln!(text, "  predicted: {:.0} ms at the median, {:.0} ms at most", ms("p50"), ms("p99"));
    }
    match answer.finish {
        Finish::Deadline => text.push_str("  note: time ended the answer\n"),
        Finish::Late => text.push_str("  note: late: it came after its deadline\n"),
        Finish::Stop | Finish::Length => {}
    }
    for line in &receipt.degraded {
        let _ = writeln!(text, "  note: {line}");
    }
    for place in &receipt.evidence {
        let _ =
            writeln!(text, "  evidence: {:.0} x {:.0} px at ({:.0}, {:.0}), score {:.2e}", place.w, place.h, place.x, place.y, place.score);
    }
    text
}
