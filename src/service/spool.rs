//! The spool folder: a question a file in, an answer a file out, for programs that speak nothing else.
//!
//! `NAME.json` with `{"text": …, "frames": ["newest"]}` in the folder becomes `answers/NAME.json`; then the question's file goes. Both are whole when
//! they have their names, if the one who asks moves his file in.
//!
//! # Why
//! The file is the question's receipt as well: it stays until the answer lies beside it, and asked again after a crash it is known by its key.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::config::Digest;
use crate::journal::{Asked, Desk, FileMark, FrameRef, Origin, Outcome, Priority, Progress};
use crate::service::log::Log;
use crate::units::{Millis, QuestionId, Tiles, Tokens};

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// A question's file is no larger.
const LARGEST: u64 = 1 << 16;
/// Most files that are looked at in one go.
const AT_ONCE: usize = 1_024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolFile {
    text: String,
    #[serde(default)]
    frames: Option<Vec<String>>,
    budget: Option<String>,
    encode_tiles: Option<u32>,
    max_new: Option<u32>,
    seed: Option<u64>,
    deadline_ms: Option<f64>,
    #[serde(default)]
    priority: Priority,
}

/// What is known of a file in the folder.
enum File {
    /// Seen once with this mark: it may still grow.
    Seen(FileMark),
    Asked(QuestionId),
}

/// The spool's thread.
pub struct Spool {
    desk: Desk,
    folder: PathBuf,
    files: HashMap<PathBuf, File>,
    log: Log,
}

impl Spool {
    #[must_use]
    pub fn new(desk: Desk, folder: PathBuf, log: Log) -> Self {
        Self { desk, folder, files: HashMap::new(), log }
    }

    /// Looks until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) {
        self.sweep();
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.look() {
                self.log.debug(&format!("spool {}: {error}", self.folder.display()));
            }
            std::thread::sleep(PERIOD);
        }
    }

    /// Answers that an earlier run had begun to write go.
    fn sweep(&self) {
        for file in std::fs::read_dir(self.folder.join("answers")).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name.ends_with(".part") {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    fn look(&mut self) -> std::io::Result<()> {
        std::fs::create_dir_all(self.folder.join("answers"))?;
        let mut there = Vec::new();
        for file in std::fs::read_dir(&self.folder)?.flatten() {
            let path = file.path();
            let name = file.file_name();
            let meant = !name.to_string_lossy().starts_with('.') && path.extension().is_some_and(|ending| ending == "json");
            if meant && file.file_type().is_ok_and(|kind| kind.is_file()) {
                there.push((FileMark::of(&file.metadata()?), path));
            }
        }
        // In the order in which they came.
        there.sort_unstable_by(|(a, x), (b, y)| a.modified_ns.cmp(&b.modified_ns).then(x.cmp(y)));
        self.files.retain(|path, _| there.iter().any(|(_, other)| other == path));
        for (mark, path) in there.into_iter().take(AT_ONCE) {
            match self.files.get(&path) {
                Some(File::Asked(id)) => {
                    let id = *id;
                    self.answered(&path, id)?;
                }
                Some(File::Seen(seen)) if *seen == mark => self.ask(&path, mark)?,
                _ => drop(self.files.insert(path, File::Seen(mark))),
            }
        }
        Ok(())
    }

    fn ask(&mut self, path: &Path, mark: FileMark) -> std::io::Result<()> {
        let refused = |code: &str, reason: String| Outcome::Refused { code: code.to_owned(), reason };
        if mark.bytes.0 > LARGEST {
            let outcome = refused("bad-question", format!("wanted at most {LARGEST} bytes, found {}", mark.bytes));
            return self.answer(path, None, &outcome);
        }
        let bytes = std::fs::read(path)?;
        let asked = match asked(&bytes, path, mark) {
            Ok(asked) => asked,
            Err(reason) => return self.answer(path, None, &refused("bad-question", reason)),
        };
        match self.desk.ask(asked) {
            Ok(id) => {
                self.files.insert(path.to_owned(), File::Asked(id));
                self.answered(path, id)
            }
            // It waits as long as there is no room, or no frame yet.
            Err(error) if error.passes() => Ok(()),
            Err(error) => self.answer(path, None, &refused(error.code(), error.to_string())),
        }
    }

    /// Writes the answer, where there is one by now.
    fn answered(&mut self, path: &Path, id: QuestionId) -> std::io::Result<()> {
        let outcome: Arc<Outcome> = match self.desk.follow(id).map(|progress| progress.borrow().clone()) {
            Some(Progress::Done(outcome)) => outcome,
            Some(_) => return Ok(()),
            None => Arc::new(Outcome::Refused { code: "failed".into(), reason: format!("question {id}: the journal has it no more") }),
        };
        self.answer(path, Some(id), &outcome)
    }

    /// The answer's file is whole and on disk when it has its name; then the question's goes.
    fn answer(&mut self, path: &Path, id: Option<QuestionId>, outcome: &Outcome) -> std::io::Result<()> {
        let document = match outcome {
            Outcome::Answered { document } => json!({"id": id, "answer": document}),
            Outcome::Refused { code, reason } => json!({"id": id, "refused": {"code": code, "reason": reason}}),
        };
        let answers = self.folder.join("answers");
        let mut file = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(&answers)?;
        writeln!(file, "{document}")?;
        file.as_file().sync_all()?;
        file.persist(answers.join(path.file_name().unwrap_or_default())).map_err(|error| error.error)?;
        std::fs::File::open(&answers)?.sync_all()?;
        std::fs::remove_file(path)?;
        self.files.remove(path);
        Ok(())
    }
}

fn asked(bytes: &[u8], path: &Path, mark: FileMark) -> Result<Asked, String> {
    let file: SpoolFile = serde_json::from_slice(bytes).map_err(|error| format!("wanted a question as JSON, found: {error}"))?;
    let frames = file.frames.unwrap_or_else(|| vec!["newest".into()]);
    let frame = |text: &String| match text.as_str() {
        "newest" => Ok(FrameRef::Newest),
        id => id.parse().map(FrameRef::Id).map_err(|error| format!("{error}: {id:?}")),
    };
    let frames = frames.iter().map(frame).collect::<Result<Vec<_>, _>>()?;
    // The same file at the same moment is the same question, whoever asks how often.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let own = [name.as_bytes(), &mark.modified_ns.to_be_bytes(), bytes].concat();
    let digest = Digest::of(&own[..]).map_err(|error| error.to_string())?;
    Ok(Asked {
        budget: file.budget,
        encode_tiles: file.encode_tiles.map(Tiles),
        max_new: file.max_new.map(Tokens),
        seed: file.seed,
        deadline: file.deadline_ms.map(Millis),
        priority: file.priority,
        key: Some(format!("spool:{digest}")),
        ..Asked::new(file.text, frames, Origin::Spool)
    })
}
