//! `gcs shell`: a prompt with history.

use std::collections::VecDeque;

use dialoguer::{History, Input};

use crate::cli::CliError;
use crate::cli::gcs::ask::{Part, ask, fetch_into};
use crate::cli::gcs::client::Client;
use crate::cli::gcs::{answers, frames, note, param, status};
use crate::link::wire::Asked;

const HELP: &str = "a question, or: /status  /frames  /answers  /param [NAME=VALUE]  /glimpse ID  /evidence ID  /answer ID  /quit";
const REMEMBERED: usize = 200;

/// Lines of before, newest first, also of earlier runs.
struct Lines {
    lines: VecDeque<String>,
    path: std::path::PathBuf,
}

impl Lines {
    fn load(path: std::path::PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Self { lines: text.lines().rev().take(REMEMBERED).map(str::to_owned).collect(), path }
    }
}

impl History<String> for Lines {
    fn read(&self, at: usize) -> Option<String> {
        self.lines.get(at).cloned()
    }
    fn write(&mut self, line: &String) {
        if line.is_empty() || self.lines.front() == Some(line) {
            return;
        }
        self.lines.push_front(line.clone());
        self.lines.truncate(REMEMBERED);
        let text: String = self.lines.iter().rev().flat_map(|line| [line, "\n"]).collect();
        // History is a comfort: a folder that can't be written costs it and nothing else.
        let _ = std::fs::write(&self.path, text);
    }
}

pub fn run(client: &mut Client) -> Result<(), CliError> {
    let mut history = Lines::load(client.state.history());
    note(client.quiet, HELP);
    loop {
        let input = Input::<String>::new().with_prompt("uhr").allow_empty(true).history_with(&mut history).interact_text();
        let line = match input {
            Ok(line) => line.trim().to_owned(),
            Err(dialoguer::Error::IO(error)) if error.kind() == std::io::ErrorKind::NotConnected => {
                return Err(CliError::Usage("shell: wanted a terminal, found none; `gcs ask` needs none".into()));
            }
            // Ctrl-C and Ctrl-D.
            Err(dialoguer::Error::IO(error)) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(CliError::Output(error.to_string())),
        };
        let (word, rest) = line.split_once(' ').map_or((line.as_str(), ""), |(word, rest)| (word, rest.trim()));
        let done = match word {
            "" => Ok(()),
            "/quit" => return Ok(()),
            "/help" => {
                note(false, HELP);
                Ok(())
            }
            "/status" => status(client, false),
            "/frames" => frames(client, 10, false),
            "/answers" => answers(client, 10, false),
            "/param" => param(client, Some(rest).filter(|rest| !rest.is_empty()), false),
            "/glimpse" => picture(client, rest, Part::Glimpse, "glimpse.jpg"),
            "/evidence" => picture(client, rest, Part::Evidence, "evidence.jpg"),
            "/answer" => picture(client, rest, Part::Answer, "answer.json"),
            word if word.starts_with('/') => Err(CliError::Usage(format!("wanted {HELP}; found {word}"))),
            _ => {
                let frames = heapless::Vec::new();
                let asked = Asked { text: &line, frames, budget: None, deadline_ms: None, max_new: None, seed: None };
                ask(client, asked, false).map(drop)
            }
        };
        if let Err(error) = done {
            note(false, &error.to_string());
        }
        // While the prompt waits nobody listens.
        client.farewell();
    }
}

fn picture(client: &mut Client, id: &str, part: Part, name: &str) -> Result<(), CliError> {
    let number = id.parse().map_err(|_| CliError::Usage(format!("wanted the number of an answer, found {id:?}")))?;
    let path = std::path::PathBuf::from(format!("{id}-{name}"));
    fetch_into(client, number, part, &path)?;
    note(false, &path.display().to_string());
    Ok(())
}
