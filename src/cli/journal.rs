//! `journal`: what was asked and answered, for people and for other programs.

use std::fmt::Write;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::{Cli, CliError, say};
use crate::config::Profile;
use crate::journal::{Filter, FrameEntry, Journal, JournalError, Outcome, QuestionEntry, QuestionState, geojson, inflated};
use crate::units::QuestionId;

#[derive(Args)]
pub struct JournalArgs {
    /// The journal's file [default: the profile's, uhr-edge/journal.sqlite where it has none]
    #[arg(long, global = true, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Subcommand)]
enum JournalCommand {
    /// Questions, the last first; or frames, or files that were none
    Ls(LsArgs),
    /// One question with all that is known of it, as JSON
    Show {
        id: QuestionId,
        /// Its picture's layers in place of the question
        #[arg(long)]
        looked: bool,
    },
    /// All of it
    Export {
        /// jsonl: a frame or question a line; geojson: boxes of evidence that have a place on the ground
        #[arg(long, default_value = "jsonl")]
        format: Format,
        /// Where to [default: stdout]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Args)]
struct LsArgs {
    /// So many at most
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
    /// Only questions with this in them or in their answers
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Frames in place of questions
    #[arg(long, conflicts_with_all = ["search", "files"])]
    frames: bool,
    /// Files of the capture folders that became no frame, and why
    #[arg(long, conflicts_with = "search")]
    files: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Jsonl,
    Geojson,
}

impl JournalArgs {
    fn open(&self, cli: &Cli) -> Result<Journal, CliError> {
        open(self.journal.as_ref(), cli)
    }
}

/// The journal that is named, or the profile's, to read.
pub fn open(file: Option<&PathBuf>, cli: &Cli) -> Result<Journal, CliError> {
    let file = file.cloned().map_or_else(|| Profile::load(&cli.profile).map(|profile| profile.journal.file), Ok)?;
    Ok(Journal::open_read(&file)?)
}

pub fn run(args: &JournalArgs, cli: &Cli) -> Result<(), CliError> {
    let journal = args.open(cli)?;
    match &args.command {
        JournalCommand::Ls(ls) if ls.frames => frames(&journal, ls.limit, cli.json),
        JournalCommand::Ls(ls) if ls.files => files(&journal, ls.limit, cli.json),
        JournalCommand::Ls(ls) => questions(&journal, ls, cli.json),
        JournalCommand::Show { id, looked: true } => {
            let layers = journal.layers(*id)?.ok_or_else(|| CliError::Output(format!("question {id}: wanted layers, found none")))?;
            let text = inflated(&layers).ok_or_else(|| CliError::Output(format!("question {id}: wanted layers, found other bytes")))?;
            say(&format!("{text}\n"))
        }
        JournalCommand::Show { id, looked: false } => {
            let entry = journal.question(*id)?.ok_or_else(|| missing(*id))?;
            say(&format!("{}\n", serde_json::to_string_pretty(&entry).map_err(text)?))
        }
        JournalCommand::Export { format, out } => export(&journal, *format, out.as_ref()),
    }
}

pub fn missing(id: QuestionId) -> CliError {
    CliError::Output(format!("question {id}: wanted one that the journal has, found none"))
}

fn text(error: impl std::fmt::Display) -> CliError {
    CliError::Output(error.to_string())
}

fn time(at: crate::units::UnixMillis) -> String {
    let span = std::time::Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + span).to_string()
}

fn questions(journal: &Journal, ls: &LsArgs, json: bool) -> Result<(), CliError> {
    let mut text = String::new();
    let filter = Filter { search: ls.search.clone(), limit: ls.limit, ..Filter::default() };
    for entry in journal.questions(&filter)? {
        if json {
            let _ = writeln!(text, "{}", serde_json::to_string(&entry).map_err(self::text)?);
            continue;
        }
        let end = match &entry.outcome {
            None => "open".to_owned(),
            Some(Outcome::Answered { document }) => document["text"].as_str().unwrap_or_default().trim().to_owned(),
            Some(Outcome::Refused { code, reason }) => format!("refused ({code}): {reason}"),
        };
        let _ = writeln!(text, "{:>6}  {}  {}\n        {end}", entry.id, time(entry.accepted_at), entry.text);
    }
    say(&text)
}

fn frames(journal: &Journal, limit: usize, json: bool) -> Result<(), CliError> {
    let mut text = String::new();
    for entry in journal.frames(limit, None, None)? {
        if json {
            let _ = writeln!(text, "{}", serde_json::to_string(&entry).map_err(self::text)?);
            continue;
        }
        let FrameEntry { number, id, w, h, path, reason, .. } = &entry;
        let state = crate::journal::word(entry.state);
        let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        let _ = writeln!(text, "{number:>6}  {}  {id}  {w} x {h}  {}  {state}{reason}", time(entry.seen_at), path.display());
    }
    say(&text)
}

fn files(journal: &Journal, limit: usize, json: bool) -> Result<(), CliError> {
    let mut text = String::new();
    for (path, outcome, reason) in journal.other_files(limit)? {
        if json {
            let _ = writeln!(text, "{}", json!({"path": path, "outcome": outcome, "reason": reason}));
        } else {
            let _ = writeln!(text, "{outcome:<9}  {path}: {reason}");
        }
    }
    say(&text)
}

/// Calls `each` for all questions, the last first, some at a time.
fn all_questions(journal: &Journal, each: &mut dyn FnMut(&QuestionEntry) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut before = None;
    loop {
        let page = journal.questions(&Filter { before, limit: 200, ..Filter::default() })?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.id);
        page.iter().try_for_each(&mut *each)?;
    }
}

fn export(journal: &Journal, format: Format, out: Option<&PathBuf>) -> Result<(), CliError> {
    let mut target: Box<dyn std::io::Write> = match out {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => Box::new(std::io::BufWriter::new(
            std::fs::File::create(path).map_err(|source| JournalError::File { path: path.clone(), source })?,
        )),
    };
    match format {
        Format::Jsonl => {
            let mut before = None;
            loop {
                let page = journal.frames(200, before, None)?;
                let Some(last) = page.last() else { break };
                before = Some(last.number);
                for entry in &page {
                    writeln!(target, "{}", json!({"frame": entry})).map_err(text)?;
                }
            }
            all_questions(journal, &mut |entry| writeln!(target, "{}", json!({"question": entry})).map_err(text))?;
        }
        Format::Geojson => {
            write!(target, "{{\"type\":\"FeatureCollection\",\"features\":[").map_err(text)?;
            let mut first = true;
            all_questions(journal, &mut |entry| {
                if entry.state != QuestionState::Answered {
                    return Ok(());
                }
                for feature in geojson(entry) {
                    let comma = if std::mem::take(&mut first) { "" } else { "," };
                    write!(target, "{comma}\n{feature}").map_err(text)?;
                }
                Ok(())
            })?;
            writeln!(target, "\n]}}").map_err(text)?;
        }
    }
    target.flush().map_err(text)
}
