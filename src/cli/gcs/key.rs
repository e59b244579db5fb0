//! `gcs key`: the 32 bytes that both ends share.

use std::io::BufRead as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::{CliError, say};
use crate::link::key::Key;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// A key out of random numbers, into a new file of mode 0600
    New(Out),
    /// The key of a passphrase, as QGroundControl, Mission Planner and MAVProxy make it (SHA-256); read from standard input, one line
    FromPassphrase(Out),
    /// A key given as 64 hexadecimal digits or Base64; read from standard input, one line
    Import(Out),
}

#[derive(Args)]
pub struct Out {
    /// The new file
    #[arg(value_name = "FILE")]
    path: PathBuf,
}

/// One line of standard input, without its end: never an argument, which every user of the machine could read.
fn line() -> Result<String, CliError> {
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text).map_err(|error| CliError::Output(format!("stdin: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub fn run(command: &KeyCommand) -> Result<(), CliError> {
    let (key, out) = match command {
        KeyCommand::New(out) => (Key::random()?, out),
        KeyCommand::FromPassphrase(out) => (Key::from_passphrase(&line()?)?, out),
        KeyCommand::Import(out) => (Key::from_text(&line()?)?, out),
    };
    key.save(&out.path)?;
    say(&format!("{}\n", out.path.display()))
}
