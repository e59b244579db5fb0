//! What is handed in, what comes out, and what is kept of it: the types that the daemon's doors share.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::units::{FrameId, FrameNumber, Millis, QuestionId, Tiles, Tokens, UnixMillis};

/// Most frames of one question.
pub const MAX_FRAMES: usize = crate::planner::MAX_FRAMES;

/// Which frame a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRef {
    Id(FrameId),
    /// The frame taken in last when the question is accepted.
    Newest,
}

/// Who goes first among those that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// The door that a question came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Http,
    Spool,
    Link,
    Batch,
}

/// A question as it is handed in.
#[derive(Clone, Debug)]
pub struct Asked {
    pub text: String,
    /// One to four.
    pub frames: Vec<FrameRef>,
    /// A preset, a total or a list; `None`: the profile's.
    pub budget: Option<String>,
    /// Most tiles of a frame that are encoded; `None`: all.
    pub encode_tiles: Option<Tiles>,
    /// Most tokens of the answer; `None`: the profile's.
    pub max_new: Option<Tokens>,
    /// Of the clustering; `None`: the profile's.
    pub seed: Option<u64>,
    /// From the acceptance to the answer.
    pub deadline: Option<Millis>,
    pub priority: Priority,
    pub origin: Origin,
    /// Asked again with the same key it is the same question: who was cut off before the receipt asks again without harm.
    pub key: Option<String>,
}

impl Asked {
    /// `text` about `frames`, everything else as the profile has it.
    #[must_use]
    pub fn new(text: impl Into<String>, frames: Vec<FrameRef>, origin: Origin) -> Self {
        Self {
            text: text.into(),
            frames,
            budget: None,
            encode_tiles: None,
            max_new: None,
            seed: None,
            deadline: None,
            priority: Priority::Normal,
            origin,
            key: None,
        }
    }
}

/// How far a question is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// So many questions go first.
    Queued {
        ahead: usize,
    },
    /// `share`: of the stage, 0 to 1; `text`: the answer so far.
    Working {
        stage: String,
        share: f64,
        text: String,
    },
    Done(Arc<Outcome>),
}

/// How a question ended: once, and in the journal before anybody sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The document of `ask --json`.
    Answered { document: Value },
    /// `code`: one of a few words for programs (docs/daemon.md).
    Refused { code: String, reason: String },
}

/// Where a question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuestionState {
    /// Accepted: waiting, or being worked on.
    Open,
    Answered,
    Refused,
}

/// A question in the journal.
#[derive(Clone, Debug, Serialize)]
pub struct QuestionEntry {
    pub id: QuestionId,
    pub text: String,
    pub frames: Vec<FrameId>,
    pub budget: Option<String>,
    pub encode_tiles: Option<Tiles>,
    pub max_new: Option<Tokens>,
    pub seed: Option<u64>,
    pub deadline_ms: Option<Millis>,
    pub priority: Priority,
    pub origin: Origin,
    pub accepted_at: UnixMillis,
    pub state: QuestionState,
    pub done_at: Option<UnixMillis>,
    /// `None` while it is open.
    pub outcome: Option<Outcome>,
    /// Times that work on it began; more than one where the daemon ended in between.
    pub begun: u32,
    /// There are layers for a picture: [`crate::journal::Desk::looked`].
    pub looked: bool,
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameState {
    /// Known, not yet taken in.
    Waiting,
    /// Taken in: views, features and regions were made. They may have given way to others since: `in_slot` says.
    Ready,
    /// Given up under overload before it was taken in; a question about it takes it in then.
    Dropped,
    /// It could not be taken in: `reason` says why.
    Failed,
}

/// A frame in the journal.
#[derive(Clone, Debug, Serialize)]
pub struct FrameEntry {
    pub number: FrameNumber,
    pub id: FrameId,
    pub sha256: String,
    pub path: std::path::PathBuf,
    /// As seen, in pixels.
    pub w: u32,
    pub h: u32,
    pub bytes: u64,
    /// When the daemon first saw it whole.
    pub seen_at: UnixMillis,
    pub state: FrameState,
    pub reason: Option<String>,
    /// A question about it needs no decoding, encoding or clustering.
    pub in_slot: bool,
    /// What its ingest took.
    pub ingest_ms: Option<Millis>,
    /// As the receipt has it.
    pub geotag: Option<Value>,
    /// How often it was begun to be taken in, without coming to an end.
    #[serde(skip)]
    pub begun: u32,
}

/// Which questions are listed, newest first.
#[derive(Clone, Debug)]
pub struct Filter {
    /// In the question or the answer, letter case aside.
    pub search: Option<String>,
    pub frame: Option<FrameId>,
    pub before: Option<QuestionId>,
    /// At most 1,000 are given.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { search: None, frame: None, before: None, limit: 50 }
    }
}
