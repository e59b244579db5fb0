//! `replay`: a question of the journal once more, and whether it comes to the same.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::board;
use crate::cli::journal::{missing, open};
use crate::cli::{Cli, CliError, say};
use crate::compress::regions::Method;
use crate::compress::{Mode, Selector};
use crate::config::Budget;
use crate::imaging::{FrameSource, Reading};
use crate::journal::{Journal, Outcome, QuestionEntry};
use crate::pipeline::{Frame, Pipeline, Request};
use crate::units::{Bytes, QuestionId, Tiles, Tokens};

#[derive(Args)]
pub struct ReplayArgs {
    /// The question's number in the journal
    id: QuestionId,
    /// The journal's file [default: the profile's, uhr-edge/journal.sqlite where it has none]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

pub fn run(args: &ReplayArgs, cli: &Cli) -> Result<(), CliError> {
    let journal = open(args.journal.as_ref(), cli)?;
    let entry = journal.question(args.id)?.ok_or_else(|| missing(args.id))?;
    let before = match &entry.outcome {
        Some(Outcome::Answered { document }) => document.clone(),
        Some(Outcome::Refused { reason, .. }) => {
            return Err(CliError::Output(format!("question {}: wanted an answer to compare with, found a refusal: {reason}", entry.id)));
        }
        None => return Err(CliError::Output(format!("question {}: wanted an answer to compare with, found it open", entry.id))),
    };
    let again = answer(&journal, &entry, &before, cli)?;
    let found = differences(&before, &again);
    if cli.json {
        let list: Vec<Value> =
            found.iter().map(|Difference { path, before, again }| json!({"field": path, "journal": before, "replay": again})).collect();
        say(&format!("{}\n", json!({"question": entry.id, "same": found.is_empty(), "differences": list})))?;
    } else if found.is_empty() {
        say(&format!("question {}: the same selection and the same text\n", entry.id))?;
    } else {
        let lines: Vec<String> =
            found.iter().map(|Difference { path, before, again }| format!("{path}: journal {before}, replay {again}\n")).collect();
        say(&lines.concat())?;
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(CliError::Output(format!("question {}: wanted the same, found {} differences", entry.id, found.len())))
    }
}

/// Asks again under the step that was in force at the end, without a deadline.
fn answer(journal: &Journal, entry: &QuestionEntry, before: &Value, cli: &Cli) -> Result<Value, CliError> {
    let receipt = &before["receipt"];
    let (mut profile, manifest) = cli.load()?;
    let wrong = |what: &str, wanted: &Value, found: &str| CliError::Output(format!("{what}: wanted {wanted}, found {found:?}"));
    if receipt["profile"] != profile.name.as_str() {
        return Err(wrong("--profile", &receipt["profile"], &profile.name));
    }
    profile.frame.slots = entry.frames.len();
    profile.compression.seed = receipt["seed"].as_u64().unwrap_or(profile.compression.seed);
    let engines = cli.engines(&profile, &manifest, &Method::Kmeans)?;
    let resident = board::resident_memory().unwrap_or(Bytes(0));
    let reading = Reading { bands: profile.frame.bands, allow_truncated: false };
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, resident)?;
    if receipt["model"] != pipeline.model_id() {
        return Err(wrong("--model", &receipt["model"], &pipeline.model_id()));
    }
    let mut sources = Vec::with_capacity(entry.frames.len());
    for id in &entry.frames {
        let known =
            journal.frame(*id)?.ok_or_else(|| CliError::Output(format!("frame {id}: wanted its file, the journal has it no more")))?;
        let source = FrameSource::open_as(&known.path, &pipeline.limits(), &reading)?;
        if source.digest.to_string() != known.sha256 {
            let path = known.path.display();
            return Err(CliError::Output(format!("{path}: wanted sha256 {}, found {}", known.sha256, source.digest)));
        }
        sources.push(source);
    }
    let step = &receipt["plan"]["ended"];
    let number = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    let tokens = step["budget"].as_array().into_iter().flatten().filter_map(number).map(Tokens);
    let request = Request {
        budget: Budget::new(tokens.collect())?,
        selector: Selector::UhrBat,
        mode: Mode::Paper,
        encode_tiles: number(&step["encode_tiles"]).map(Tiles),
        max_new: Tokens(number(&step["max_new"]).unwrap_or(1)),
        deadline: None,
    };
    let prompt = pipeline.prompt(&entry.text)?;
    // A question with a deadline that paid for the ingest had it done its own way; all others find frames taken in for anything.
    let paid = receipt["stages_ms"]["views"].as_f64().is_some_and(|ms| ms > 0.0);
    let own = paid && !receipt["plan"]["deadline_ms"].is_null();
    let mut first = pipeline.plan_first(&sources, &prompt, &request)?;
    let mut frames: Vec<Frame> = Vec::with_capacity(sources.len());
    for (number, source) in sources.into_iter().enumerate() {
        let (frame, _) = if own {
            pipeline.ingest(number, source, &mut first, &mut |_, _| ())?
        } else {
            let mut capture = pipeline.plan_capture(&source)?;
            pipeline.ingest(0, source, &mut capture, &mut |_, _| ())?
        };
        frames.push(frame);
    }
    let frames: Vec<&Frame> = frames.iter().collect();
    let mut plan = if own { first } else { pipeline.plan_again(&frames, &prompt, &request)? };
    let (answer, _) = pipeline.answer(&frames, &prompt, &mut plan, None, &mut |_| ())?;
    let text = |error: serde_json::Error| CliError::Output(error.to_string());
    // By way of its text, twice as the journal's: a number's last bit may not come back from it, and then it is the same one.
    let once: Value = serde_json::from_str(&serde_json::to_string(&answer).map_err(text)?).map_err(text)?;
    serde_json::from_str(&once.to_string()).map_err(text)
}

/// A field that isn't the same.
#[derive(Debug, PartialEq)]
struct Difference {
    path: String,
    before: Value,
    again: Value,
}

/// Fields that are times, or follow from them.
const TIMES: [&str; 4] = ["receipt.stages_ms", "receipt.predicted_ms", "receipt.memory", "receipt.plan"];

/// All that differs but times. An answer that time ended is compared as far as it goes.
fn differences(before: &Value, again: &Value) -> Vec<Difference> {
    let timeless = |document: &Value| {
        let mut document = document.clone();
        if let Some(lines) = document["receipt"]["degraded"].as_array_mut() {
            lines.retain(|line| {
                !line.as_str().is_some_and(|line| line.starts_with("the deadline left room") || line.starts_with("stepped down"))
            });
        }
        document
    };
    let (before, mut again) = (timeless(before), timeless(again));
    match before["finish"].as_str() {
        Some("late") => again["finish"] = "late".into(),
        Some("deadline") => {
            let short = before["text"].as_str().unwrap_or_default();
            if again["text"].as_str().is_some_and(|text| text.starts_with(short)) {
                (again["text"], again["finish"]) = (before["text"].clone(), before["finish"].clone());
            }
        }
        _ => {}
    }
    let mut found = Vec::new();
    compare("", &before, &again, &mut found);
    found
}

fn compare(path: &str, before: &Value, again: &Value, found: &mut Vec<Difference>) {
    if TIMES.contains(&path) {
        return;
    }
    match (before, again) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, &before[key], &again[key], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(at, (a, b))| compare(&format!("{path}[{at}]"), a, b, found));
        }
        _ if before == again => {}
        _ => found.push(Difference { path: path.to_owned(), before: before.clone(), again: again.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_and_times_are_none() {
        let document = |text: &str, finish: &str, kept: u32, ms: f64, lines: &[&str]| {
            json!({"text": text, "finish": finish, "receipt": {"budget": {"per_view": [{"kept": kept}]},
                "stages_ms": {"total": ms}, "plan": {"began": format!("{ms}")}, "degraded": lines}})
        };
        let own = document("a red car", "stop", 3, 1.0, &[]);
        let named = |other: &Value| differences(&own, other).into_iter().map(|difference| difference.path).collect::<Vec<_>>();
        assert!(named(&document("a red car", "stop", 3, 2.0, &["stepped down from asked to 1"])).is_empty());
        assert_eq!(named(&document("a car", "stop", 4, 1.0, &[])), ["receipt.budget.per_view[0].kept", "text"]);
        let cut = document("a red", "deadline", 3, 1.0, &[]);
        assert!(differences(&cut, &own).is_empty());
        assert_eq!(differences(&document("a blue", "deadline", 3, 1.0, &[]), &own).len(), 2);
        assert!(differences(&document("a red car", "late", 3, 9.0, &[]), &own).is_empty());
    }
}
