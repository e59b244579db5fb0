//! `gcs`: the ground station's side of the link.

mod ask;
mod client;
mod key;
mod shell;
mod state;

use std::borrow::Cow;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::gcs::client::Client;
use crate::cli::{Cli, CliError, say};
use crate::config::LinkAddress;
use crate::link::wire::{Query, Setting};

#[derive(Subcommand)]
pub enum GcsCommand {
    /// Ask a question, and wait for its answer however long the line is down
    Ask(ask::AskArgs),
    /// How the daemon stands
    Status(LineArgs),
    /// The newest frames
    Frames(ListArgs),
    /// The newest questions and their answers
    Answers(ListArgs),
    /// A picture of an answer, or its document; goes on where it was cut off
    Fetch(ask::FetchArgs),
    /// The settings of the link; NAME=VALUE changes one
    Param(ParamArgs),
    /// A prompt with history: questions, and the commands above
    Shell(LineArgs),
    /// Keys that both ends share
    #[command(subcommand)]
    Key(key::KeyCommand),
}

/// The line, and how it is spoken on.
#[derive(Args, Clone)]
pub struct LineArgs {
    /// serial:DEVICE:BAUD, or udp:HOST:PORT to listen on
    #[arg(long, value_name = "LINE")]
    link: LinkAddress,
    /// What both ends share, made by `gcs key`
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// MAVLink system of this ground station
    #[arg(long, default_value_t = 255, value_parser = clap::value_parser!(u8).range(1..))]
    system: u8,
    /// MAVLink system of the board [default: the one that is heard]
    #[arg(long, value_name = "SYSTEM", value_parser = clap::value_parser!(u8).range(1..))]
    board: Option<u8>,
    /// Give up after so long without a word from the board
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    patience: u64,
    /// Where questions that have no answer yet, and what was heard, are kept [default: $XDG_STATE_HOME/uhr-edge or ~/.local/state/uhr-edge]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    line: LineArgs,
    /// How many
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=64))]
    limit: u8,
}

#[derive(Args)]
pub struct ParamArgs {
    #[command(flatten)]
    line: LineArgs,
    /// NAME=VALUE
    set: Option<String>,
}

pub fn run(command: &GcsCommand, cli: &Cli) -> Result<(), CliError> {
    let open = |line: &LineArgs| Client::open(line, cli.quiet);
    match command {
        GcsCommand::Ask(args) => ask::run(args, &mut open(&args.line)?, cli),
        GcsCommand::Status(line) => status(&mut open(line)?, cli.json),
        GcsCommand::Frames(args) => frames(&mut open(&args.line)?, args.limit, cli.json),
        GcsCommand::Answers(args) => answers(&mut open(&args.line)?, args.limit, cli.json),
        GcsCommand::Fetch(args) => ask::fetch(args, &mut open(&args.line)?, cli),
        GcsCommand::Param(args) => param(&mut open(&args.line)?, args.set.as_deref(), cli.json),
        GcsCommand::Shell(line) => shell::run(&mut open(line)?),
        GcsCommand::Key(command) => key::run(command),
    }
}

/// The lines of a list, or as they came for `--json`.
fn lines(bytes: &[u8], json: bool, show: impl Fn(&serde_json::Value) -> String) -> Result<(), CliError> {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().filter(|line| !line.is_empty()) {
        if json {
            say(&format!("{line}\n"))?;
        } else if let Ok(value) = serde_json::from_str(line) {
            say(&format!("{}\n", plain(&show(&value))))?;
        }
    }
    Ok(())
}

fn status(client: &mut Client, json: bool) -> Result<(), CliError> {
    let bytes = client.get(&Query::Status)?;
    lines(&bytes, json, |status| {
        let (frames, questions) = (&status["frames"], &status["questions"]);
        format!(
            "model {}, up {:.0} s; frames: {} waiting, {} taken in; questions: {} of {} places in use, {} answered, {} refused",
            status["model"].as_str().unwrap_or("?"),
            status["uptime_ms"].as_f64().unwrap_or(0.0) / 1e3,
            frames["waiting"],
            frames["taken_in"],
            questions["queued"],
            questions["places"],
            questions["answered"],
            questions["refused"]
        )
    })
}

fn frames(client: &mut Client, limit: u8, json: bool) -> Result<(), CliError> {
    let bytes = client.get(&Query::Frames { limit })?;
    lines(&bytes, json, |frame| {
        let name = frame["name"].as_str().unwrap_or_default();
        let place = frame["position"].as_array().map(|at| format!(" at {}, {}", at[0], at[1])).unwrap_or_default();
        format!(
            "{} {} {} x {} {}{place} {name}",
            frame["number"],
            frame["id"].as_str().unwrap_or("?"),
            frame["w"],
            frame["h"],
            frame["state"].as_str().unwrap_or("?")
        )
    })
}

fn answers(client: &mut Client, limit: u8, json: bool) -> Result<(), CliError> {
    let bytes = client.get(&Query::Answers { limit })?;
    lines(&bytes, json, |question| {
        let text = |key: &str| question[key].as_str().map(str::to_owned);
        let end = text("answer").or_else(|| text("refused").map(|code| format!("refused ({code})"))).unwrap_or_else(|| "open".into());
        format!("{} {}: {end}", question["id"], text("text").unwrap_or_default())
    })
}

fn param(client: &mut Client, set: Option<&str>, json: bool) -> Result<(), CliError> {
    let setting = match set {
        None => None,
        Some(text) => {
            let wrong = || CliError::Usage(format!("wanted NAME=VALUE, found {text:?}"));
            let (name, value) = text.split_once('=').ok_or_else(wrong)?;
            Some(Setting { name: name.trim(), value: value.trim().parse().map_err(|_| wrong())? })
        }
    };
    let bytes = client.get(&Query::Settings(setting))?;
    lines(&bytes, json, |all| {
        let all = all.as_object().into_iter().flatten().map(|(name, value)| format!("{name} = {value}"));
        all.collect::<Vec<_>>().join("\n")
    })
}

/// Words for a person who waits, on stderr.
fn note(quiet: bool, text: &str) {
    if !quiet {
        let _ = writeln!(std::io::stderr(), "{}", plain(text));
    }
}

/// What the other side did not take, and why, in its words.
fn rejected(code: &str, reason: &str) -> CliError {
    CliError::Rejected { code: plain(code).into_owned(), reason: plain(reason).into_owned() }
}

/// Text of the other side, for a terminal: what would move its cursor, rename its window or turn the direction of writing is shown as what it is.
fn plain(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if steers(c) {
            shown.extend(c.escape_unicode())
        } else {
            shown.push(c)
        }
        shown
    });
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_other_side_steer_no_terminal() {
        for text in ["four ships", "zwölf\nSchiffe\t– 12", ""] {
            assert_eq!(plain(text), text);
        }
        assert_eq!(plain("\u{1b}]0;mine\u{7}four\r\u{9b}2J\u{202e}"), "\\u{1b}]0;mine\\u{7}four\\u{d}\\u{9b}2J\\u{202e}");
    }
}
