//! The status document: the same at every door.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, FrameId, Millis, QuestionId, Readings};

/// How a daemon stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    /// Name and first bytes of the manifest's digest.
    pub model: String,
    pub profile: String,
    /// Where the profile leaves engines to what is there: which it is, and what of TensorRT is missing.
    pub engines: Option<String>,
    /// Deadlines are promised.
    pub calibrated: bool,
    pub uptime_ms: Millis,
    /// Of the whole start, the model's load included, and from the loaded model to the first work.
    pub start_ms: Millis,
    pub start_after_model_ms: Millis,
    pub board: Readings,
    pub memory: MemoryStatus,
    pub frames: FramesStatus,
    pub questions: QuestionsStatus,
    pub journal: JournalStatus,
    pub capture: Vec<FolderStatus>,
    pub watchdog: WatchdogStatus,
    /// It takes no more questions and is about to end.
    pub stopping: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStatus {
    pub planned_bytes: Bytes,
    pub peak_bytes: Bytes,
    pub resident_bytes: Bytes,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FramesStatus {
    /// In slots, used last first.
    pub in_slots: Vec<FrameId>,
    pub slots: usize,
    /// Waiting for their ingest.
    pub waiting: usize,
    pub backlog: usize,
    /// Since the start: taken in (again after eviction included), given up under overload, not takeable, files that were no frames, known already,
    /// and files that could not be recorded yet because the journal is full.
    pub taken_in: u64,
    pub dropped: u64,
    pub failed: u64,
    pub rejected: u64,
    pub duplicates: u64,
    pub unrecorded: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QuestionsStatus {
    pub queued: usize,
    /// Places of the queue.
    pub places: usize,
    pub working_on: Option<QuestionId>,
    /// Since the start. `refused`: after acceptance; `turned_away`: never accepted.
    pub accepted: u64,
    pub answered: u64,
    pub refused: u64,
    pub turned_away: u64,
    /// Answered after their deadline.
    pub late: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalStatus {
    pub path: PathBuf,
    pub bytes: Bytes,
    pub max_bytes: Bytes,
    /// Why nothing can be written at the moment.
    pub full: Option<String>,
    /// Questions that went by retention since the start.
    pub pruned: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FolderStatus {
    pub path: PathBuf,
    /// `watched`, `missing`, or why it can't be watched.
    pub state: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchdogStatus {
    /// Where the pipeline is, and since when.
    pub stage: String,
    pub stage_ms: Millis,
    /// What no stage may exceed.
    pub limit_ms: Millis,
    /// The stage exceeds it; the system's watchdog is no longer told that all is well.
    pub overdue: bool,
    /// The system's watchdog is told at all.
    pub systemd: bool,
}
