//! `qualify`: does this device meet its profile's limits? `sim`: the same pipeline on a virtual clock.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use clap::Args;

use crate::board::{self, BoardKind, Trace};
use crate::cli::ask::bar;
use crate::cli::{Cli, CliError, calibration_of, say, watch};
use crate::compress::regions::Method;
use crate::config::Qualification as Limits;
use crate::pipeline::{Monotonic, Pipeline};
use crate::planner::Calibration;
use crate::qualify::{self, Around, Outcome, Qualification, QualifyError, Settings, SimSettings};
use crate::units::{Bytes, Celsius, Millis, Px};

#[derive(Args)]
pub struct QualifyArgs {
    /// JPEG, PNG, TIFF and WebP frames to ask about [default: drawn ones]
    #[arg(long, value_name = "DIR")]
    frames: Option<PathBuf>,
    /// One question a line [default: a few general ones]
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Questions a step of the ladder; a bound on a 99th percentile needs 299
    #[arg(short = 'n', default_value_t = 299, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    n: u32,
    /// Ingests; a bound on a 95th percentile needs 59
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    ingests: u32,
    /// Fresh questions that the new calibration's predictions are held against
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    fresh: u32,
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Where qualification.json, junit.xml and report.html go
    #[arg(long, default_value = "qualification", value_name = "DIR")]
    out: PathBuf,
    /// Power modes to measure, by name, one after the other; each gets a folder of its own in OUT, and the board its mode back [default: the one it is in]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    power_modes: Vec<String>,
    /// Most milliseconds that 99 of 100 questions of the default budget may take [default: the profile's]
    #[arg(long, value_name = "MS")]
    limit_question_ms: Option<f64>,
    /// Most milliseconds that 95 of 100 ingests may take [default: the profile's]
    #[arg(long, value_name = "MS")]
    limit_ingest_ms: Option<f64>,
    /// Hottest that the board may get [default: the profile's]
    #[arg(long, value_name = "C")]
    limit_celsius: Option<f32>,
}

#[derive(Args)]
pub struct SimArgs {
    /// The board's temperature, power mode and slowdown over time (TOML)
    trace: PathBuf,
    /// Hours of flight
    #[arg(long, default_value_t = 10.0, value_name = "H")]
    hours: f64,
    /// Questions in them
    #[arg(short = 'n', default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    n: u32,
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

/// A hundred years.
const MOST_HOURS: f64 = 876_600.0;

/// Asked where no file gives others: short and long, of each kind.
const QUESTIONS: [&str; 6] = [
    "is there a red ship?",
    "how many yellow planes are there?",
    "what colour is the truck?",
    "where is the red plane?",
    "is the red plane west of the purple truck?",
    "how many blue tents are there north of the green house?",
];

/// Sides of the frames that are drawn, where the profile admits them.
const DRAWN: [(Px, Px); 3] = [(Px(4_608), Px(3_456)), (Px(6_000), Px(4_000)), (Px(8_192), Px(5_460))];

fn questions(file: Option<&Path>) -> Result<Vec<String>, CliError> {
    let Some(path) = file else { return Ok(QUESTIONS.map(str::to_owned).to_vec()) };
    let wrong = |found: String| QualifyError::File { path: path.to_owned(), wanted: "a question a line", found };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(wrong("none".into()).into()) } else { Ok(lines) }
}

/// Files of a folder, by name.
fn frames(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let wrong = |found: String| QualifyError::File { path: folder.to_owned(), wanted: "a folder of frames", found };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| wrong(error.to_string()))? {
        let path = entry.map_err(|error| wrong(error.to_string()))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
        if ["jpg", "jpeg", "png", "tif", "tiff", "webp"].contains(&ending.as_str()) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(wrong("none".into()).into()) } else { Ok(files) }
}

/// With as many frame `slots`, or the profile's.
fn pipeline(cli: &Cli, slots: Option<usize>) -> Result<Pipeline, CliError> {
    let (mut profile, manifest) = cli.load()?;
    profile.frame.slots = slots.unwrap_or(profile.frame.slots);
    let engines = cli.engines(&profile, &manifest, &Method::Kmeans)?;
    let resident = board::resident_memory().unwrap_or(Bytes(0));
    Ok(Pipeline::new(profile, manifest, engines, &Method::Kmeans, resident)?)
}

pub fn run(args: &QualifyArgs, cli: &Cli) -> Result<(), CliError> {
    let questions = questions(args.questions.as_deref())?;
    let given = args.frames.as_deref().map(frames).transpose()?;
    for (name, limit) in [
        ("--limit-question-ms", args.limit_question_ms),
        ("--limit-ingest-ms", args.limit_ingest_ms),
        ("--limit-celsius", args.limit_celsius.map(f64::from)),
    ] {
        if let Some(found) = limit.filter(|limit| !(limit.is_finite() && *limit > 0.0)) {
            return Err(CliError::Usage(format!("{name}: wanted a number above 0, found {found}")));
        }
    }
    let mut pipeline = pipeline(cli, Some(1))?;
    let folder = tempfile::tempdir().map_err(|error| CliError::Output(format!("a folder for drawn frames: {error}")))?;
    let frames = match given {
        Some(frames) => frames,
        None => drawn(&pipeline, folder.path(), args.seed)?,
    };
    let settings =
        Settings { frames, questions, n: args.n as usize, ingests: args.ingests as usize, fresh: args.fresh as usize, seed: args.seed };
    if args.power_modes.is_empty() {
        return met(one(&mut pipeline, &settings, args, cli, &args.out)?);
    }
    let mut board = board::open(BoardKind::Auto, Path::new("/")).map_err(QualifyError::from)?;
    let modes = args.power_modes.iter().map(|name| board::power_mode(&mut *board, name)).collect::<Result<Vec<_>, _>>();
    let modes = modes.map_err(QualifyError::from)?;
    let before = board.read().power_mode.and_then(|name| board::power_mode(&mut *board, &name).ok());
    let all = modes.iter().try_fold(true, |all, mode| {
        board.set_power_mode(mode).map_err(QualifyError::from)?;
        let good = one(&mut pipeline, &settings, args, cli, &calibration_of(&args.out, Some(&mode.name)))?;
        Ok::<_, CliError>(good && all)
    });
    if let Some(mode) = before {
        board.set_power_mode(&mode).map_err(QualifyError::from)?;
    }
    met(all?)
}

fn met(all: bool) -> Result<(), CliError> {
    if all { Ok(()) } else { Err(CliError::NotQualified) }
}

/// Measures in the power mode that the board is in, writes the documents to `out`, and says whether all limits are met.
fn one(pipeline: &mut Pipeline, settings: &Settings, args: &QualifyArgs, cli: &Cli, out: &Path) -> Result<bool, CliError> {
    let watch = watch(pipeline)?;
    let begun = Instant::now();
    let steps = qualify::steps(pipeline, &settings.frames[0], &settings.questions[0])?;
    let (identity, clock) = (pipeline.identity(&board::device()), Monotonic::default());
    let bar = bar(cli.quiet);
    bar.set_message("qualify");
    let mut around = Around {
        clock: &clock,
        readings: &|| watch.latest(),
        peak: &board::peak_memory,
        progress: &mut |done| bar.set_position((done * 100.0) as u64),
    };
    let measured = qualify::measure(pipeline, settings, &steps, identity, &mut around)?;
    bar.finish_and_clear();
    let own = pipeline.profile().qualification;
    let limits = Limits {
        question: args.limit_question_ms.map(Millis).or(own.question),
        ingest: args.limit_ingest_ms.map(Millis).or(own.ingest),
        temperature: args.limit_celsius.map(Celsius).or(own.temperature),
    };
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let document = Qualification::new(measured, pipeline, settings, &limits, date, begun.elapsed().as_secs_f64())?;
    qualify::write(out, &document)?;
    if cli.json {
        let text = serde_json::to_string(&document).map_err(|error| CliError::Output(error.to_string()))?;
        say(&format!("{text}\n"))?;
    } else {
        say(&print(&document, out))?;
    }
    // The file that was written is read as the planner will read it.
    let path = out.join("qualification.json");
    let text = std::fs::read_to_string(&path).map_err(|error| CliError::Output(format!("{}: {error}", path.display())))?;
    if let Err(error) = Calibration::parse(&path, &text, &document.calibration.identity) {
        eprintln!("uhr-edge: no deadline can be kept against this calibration: {error}");
    }
    Ok(document.met())
}

/// Frames of up to three sizes that the profile admits.
fn drawn(pipeline: &Pipeline, folder: &Path, seed: u64) -> Result<Vec<PathBuf>, CliError> {
    let limits = pipeline.limits();
    let mut files = Vec::new();
    for (number, (width, height)) in (0..).zip(DRAWN) {
        let path = folder.join(format!("drawn-{}x{}.jpg", width.0, height.0));
        if limits.admit(&path, width.0, height.0).is_ok() {
            qualify::draw(&path, width, height, seed ^ number)?;
            files.push(path);
        }
    }
    if files.is_empty() {
        let side = limits.max_side.min(Px((limits.max_pixels as f64).sqrt() as u32));
        let path = folder.join("drawn.jpg");
        qualify::draw(&path, side, side, seed)?;
        files.push(path);
    }
    Ok(files)
}

fn print(document: &Qualification, out: &Path) -> String {
    let mut text = String::new();
    let identity = &document.calibration.identity;
    let _ = writeln!(text, "{} on {} ({})", identity.model, identity.profile, identity.device);
    for verdict in &document.verdicts {
        let outcome = match verdict.outcome {
            Outcome::Met => "met",
            Outcome::NotMet => "NOT MET",
            Outcome::NotShown => "NOT SHOWN",
            Outcome::NoLimit => "no limit",
        };
        let _ = writeln!(text, "{outcome:>10}  {}: {} (limit: {})", verdict.what, verdict.found, verdict.limit);
    }
    let _ = writeln!(text, "  step                          n     p50     p95     p99     max   bound  ms");
    for step in &document.steps {
        let times = &step.distribution;
        let bound = times.bound_ms.map_or_else(|| "-".into(), |bound| format!("{bound:.0}"));
        let (p50, p95, p99, max) = (times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms);
        let name = qualify::named(&step.step);
        let _ = writeln!(text, "  {name:<26} {:>5} {p50:>7.0} {p95:>7.0} {p99:>7.0} {max:>7.0} {bound:>7}", times.n);
    }
    let times = &document.ingest;
    let _ = writeln!(
        text,
        "  ingest                     {:>5} {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
        times.n, times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms
    );
    let _ = writeln!(text, "{}: report.html, junit.xml, qualification.json", out.display());
    text
}

pub fn sim(args: &SimArgs, cli: &Cli) -> Result<(), CliError> {
    let trace = Trace::read(&args.trace).map_err(QualifyError::from)?;
    if !(args.hours > 0.0 && args.hours <= MOST_HOURS) {
        return Err(CliError::Usage(format!("--hours: wanted a number above 0, at most {MOST_HOURS}, found {}", args.hours)));
    }
    let pipeline = pipeline(cli, None)?;
    let folder = tempfile::tempdir().map_err(|error| CliError::Output(format!("a folder for drawn frames: {error}")))?;
    // Two coarse views and a fine one: what is simulated is time, not pictures.
    let frames: Vec<PathBuf> = (0..2).map(|number| folder.path().join(format!("{number}.jpg"))).collect();
    for (seed, frame) in (args.seed..).zip(&frames) {
        qualify::draw(frame, Px(1_400), Px(700), seed)?;
    }
    let questions = QUESTIONS.map(str::to_owned).to_vec();
    let settings = SimSettings { frames, questions, n: args.n as usize, hours: args.hours, seed: args.seed };
    let result = qualify::simulate(pipeline, &trace, &settings)?;
    let text = serde_json::to_string_pretty(&result).map_err(|error| CliError::Output(error.to_string()))?;
    say(&format!("{text}\n"))
}
