//! `batch`: many frames times many questions, one slot, a line of JSON each; goes on where it stopped.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::board;
use crate::cli::ask::bar;
use crate::cli::{Cli, CliError, say};
use crate::compress::regions::Method;
use crate::compress::{Mode, Selector};
use crate::config::Profile;
use crate::imaging::{FrameSource, Reading};
use crate::pipeline::{Frame, Pipeline, PipelineError, Request, Spent};
use crate::planner::{self, Step};
use crate::units::{Bytes, Tiles, Tokens};

#[derive(Args)]
pub struct BatchArgs {
    /// A folder of frames, a text file with a frame's path a line, or one frame
    frames: PathBuf,
    /// A text file with a question a line
    questions: PathBuf,
    /// A line a frame and question; what is there already, under the same settings, is not asked again
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,
    /// onboard, bench, xlrs, ablation, one total, or one number a view
    #[arg(long)]
    budget: Option<String>,
    /// Most tiles of a frame that are encoded for a question [default: all]
    #[arg(long, value_name = "N")]
    encode_tiles: Option<u32>,
    /// Most tokens of an answer [default: the profile's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new: Option<u32>,
    /// Seed of the clustering [default: the profile's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// A list is no longer.
const LONGEST: u64 = 64 << 20;

fn failed(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::Output(format!("{}: {error}", path.display()))
}

/// Lines that aren't empty.
fn lines(path: &Path) -> Result<Vec<String>, CliError> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(path, error))?;
    file.take(LONGEST).read_to_string(&mut text).map_err(|error| failed(path, error))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Frames by their paths, in order.
fn frames(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    const PICTURES: [&str; 6] = ["jpg", "jpeg", "png", "tif", "tiff", "webp"];
    let is_picture =
        |path: &Path| path.extension().is_some_and(|ending| PICTURES.contains(&ending.to_string_lossy().to_lowercase().as_str()));
    if path.is_dir() {
        let files = std::fs::read_dir(path).map_err(|error| failed(path, error))?;
        let mut files: Vec<PathBuf> = files.flatten().map(|file| file.path()).filter(|path| is_picture(path)).collect();
        files.sort_unstable();
        return Ok(files);
    }
    if is_picture(path) { Ok(vec![path.to_owned()]) } else { Ok(lines(path)?.into_iter().map(PathBuf::from).collect()) }
}

/// How a batch's lines begin.
const CUT: &[u8] = b"{\"frame\":";

/// What a batch is run under, as an answer's receipt has it.
fn settings(model: &Value, profile: &Value, seed: &Value, asked: &Value) -> Value {
    json!({"model": model, "profile": profile, "seed": seed, "asked": asked})
}

/// What a file holds of a batch.
struct Done {
    /// Frames and questions.
    pairs: HashSet<(String, String)>,
    /// Of the answers, with the numbers of their lines.
    settings: Vec<(usize, Value)>,
}

/// What is done. The file is cut after its last whole line.
fn done(path: &Path) -> Result<(File, Done), CliError> {
    let wrong = |error: &dyn std::fmt::Display| failed(path, error);
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(|error| wrong(&error))?;
    file.try_lock().map_err(|_| wrong(&"wanted a file of its own, found another batch at work on it"))?;
    let (mut done, mut whole, mut number) = (Done { pairs: HashSet::new(), settings: Vec::new() }, 0, 0);
    let mut reader = BufReader::new(&file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line).map_err(|error| wrong(&error))?;
        if !line.ends_with(b"\n") {
            // A line that was cut off begins as ours do; anything else is somebody's file.
            let ours = line.len() < CUT.len() && CUT.starts_with(&line) || line.starts_with(CUT);
            if !ours {
                return Err(wrong(&"wanted a batch's file or a new one, found one that ends in something else"));
            }
            break;
        }
        number += 1;
        let entry: Value =
            serde_json::from_slice(&line).map_err(|error| wrong(&format!("line {number}: wanted a line of a batch, found {error}")))?;
        let (Some(frame), Some(question)) = (entry["frame"].as_str(), entry["question"].as_str()) else {
            return Err(wrong(&format!("line {number}: wanted a line of a batch, found one without frame and question")));
        };
        done.pairs.insert((frame.to_owned(), question.to_owned()));
        if let Some(receipt) = entry["answer"].get("receipt") {
            let found = settings(&receipt["model"], &receipt["profile"], &receipt["seed"], &receipt["plan"]["asked"]);
            if done.settings.last().is_none_or(|(_, last)| *last != found) {
                done.settings.push((number, found));
            }
        }
        whole += read as u64;
    }
    file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(|error| wrong(&error))?;
    Ok((file, done))
}

/// What a batch came to.
#[derive(Default)]
struct Tally {
    answered: usize,
    refused: usize,
    before: usize,
}

pub fn run(args: &BatchArgs, cli: &Cli) -> Result<(), CliError> {
    let (frames, questions) = (frames(&args.frames)?, lines(&args.questions)?);
    if frames.is_empty() || questions.is_empty() {
        let (frames, questions) = (frames.len(), questions.len());
        return Err(CliError::Usage(format!("wanted frames and questions, found {frames} and {questions}")));
    }
    let (mut file, done) = done(&args.out)?;
    let (mut profile, manifest) = cli.load()?;
    profile.frame.slots = 1;
    profile.compression.seed = args.seed.unwrap_or(profile.compression.seed);
    let request = Request {
        budget: planner::budget(args.budget.as_deref(), &profile, &manifest).map_err(PipelineError::from)?,
        selector: Selector::UhrBat,
        mode: Mode::Paper,
        encode_tiles: args.encode_tiles.map(Tiles),
        max_new: args.max_new.map_or(profile.tokens.max_new, Tokens),
        deadline: None,
    };
    let engines = cli.engines(&profile, &manifest, &Method::Kmeans)?;
    let resident = board::resident_memory().unwrap_or(Bytes(0));
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, resident)?;
    let asked = Step { name: "asked".into(), budget: request.budget.clone(), encode_tiles: request.encode_tiles, max_new: request.max_new };
    let Profile { name, compression, .. } = pipeline.profile();
    let wanted = settings(&json!(pipeline.model_id()), &json!(name), &json!(compression.seed), &json!(asked));
    if let Some((line, found)) = done.settings.iter().find(|(_, found)| *found != wanted) {
        return Err(failed(&args.out, format!("line {line}: wanted an answer under {wanted}, found one under {found}")));
    }
    let bar = progress(frames.len() * questions.len(), cli.quiet);
    let mut tally = Tally::default();
    for path in &frames {
        let frame = path.to_string_lossy();
        let left: Vec<&String> =
            questions.iter().filter(|question| !done.pairs.contains(&(frame.to_string(), (*question).clone()))).collect();
        let before = questions.len() - left.len();
        tally.before += before;
        bar.inc(before as u64);
        bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let mut held = None;
        for question in left {
            let entry = match ask(&mut pipeline, &mut held, path, question, &request) {
                Ok(answer) => {
                    tally.answered += 1;
                    // The document as `ask` writes it.
                    format!("{{\"frame\":{},\"question\":{},\"answer\":{answer}}}", json!(frame), json!(question))
                }
                Err(error) => {
                    tally.refused += 1;
                    format!("{{\"frame\":{},\"question\":{},\"error\":{}}}", json!(frame), json!(question), json!(error.to_string()))
                }
            };
            file.write_all(format!("{entry}\n").as_bytes()).map_err(|error| failed(&args.out, error))?;
            bar.inc(1);
        }
    }
    file.sync_all().map_err(|error| failed(&args.out, error))?;
    bar.finish_and_clear();
    let Tally { answered, refused, before } = tally;
    if cli.json {
        say(&format!("{}\n", json!({"answered": answered, "refused": refused, "before": before})))?;
    } else if !cli.quiet {
        say(&format!("{answered} answered, {refused} refused, {before} there before\n"))?;
    }
    if refused == 0 { Ok(()) } else { Err(CliError::Output(format!("{refused} refused: their lines in {} say why", args.out.display()))) }
}

fn progress(all: usize, quiet: bool) -> ProgressBar {
    let bar = bar(quiet);
    let style = ProgressStyle::with_template("{pos}/{len} [{bar:40}] {eta} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_length(all as u64);
    bar
}

/// Asks on the frame in the slot, or takes it in for its first question. A frame that can't be taken in is tried again for the next one.
fn ask(pipeline: &mut Pipeline, held: &mut Option<Frame>, path: &Path, question: &str, request: &Request) -> Result<String, PipelineError> {
    let prompt = pipeline.prompt(question)?;
    let (frame, mut plan, spent): (&Frame, _, Option<Spent>) = match held {
        Some(frame) => {
            let plan = pipeline.plan_again(&[frame], &prompt, request)?;
            (frame, plan, None)
        }
        None => {
            let reading = Reading { bands: pipeline.profile().frame.bands, allow_truncated: false };
            let sources = [FrameSource::open_as(path, &pipeline.limits(), &reading)?];
            let mut plan = pipeline.plan_first(&sources, &prompt, request)?;
            let [source] = sources;
            let (frame, spent) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ())?;
            (held.insert(frame), plan, Some(spent))
        }
    };
    let (mut answer, _) = pipeline.answer(&[frame], &prompt, &mut plan, spent, &mut |_| ())?;
    answer.receipt.memory.peak_bytes = board::peak_memory().unwrap_or_default().0;
    Ok(serde_json::to_string(&answer).unwrap_or_else(|_| "null".into()))
}
