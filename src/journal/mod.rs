//! What was accepted is never lost: frames, questions and answers in one SQLite file, and the desk where questions are handed in.
//!
//! # Why
//! A ground station that was told "accepted" may be out of reach when the board loses power. An accepted question is therefore on disk before anybody is
//! told so, and after a crash it is answered, or refused with the reason, once. The file opens with any SQLite tool.

mod desk;
mod export;
mod frames;
mod layers;
mod link;
mod names;
mod questions;
mod queue;
mod retention;
mod schema;
mod status;
mod store;
mod types;

use std::path::PathBuf;

pub use desk::{Counts, Desk, DeskLimits, FrameFile, FrameWork, QuestionWork, Work};
pub use export::geojson;
pub use frames::{FileMark, FileOutcome, Seen};
pub use layers::{deflated, inflated};
pub use names::word;
pub use status::{FolderStatus, FramesStatus, JournalStatus, MemoryStatus, QuestionsStatus, Status, WatchdogStatus};
pub use store::{Journal, JournalLimits};
pub use types::{
    Asked, Filter, FrameEntry, FrameRef, FrameState, MAX_FRAMES, Origin, Outcome, Priority, Progress, QuestionEntry, QuestionState,
};

use crate::imaging::ImagingError;
use crate::units::{Bytes, FrameId};

/// Why the journal can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{path}: wanted a journal to write to, found one that can only be read: {found}")]
    ReadOnly { path: PathBuf, found: String },
    #[error("{path}: wanted a journal of its own, found another daemon at work on it")]
    Taken { path: PathBuf },
    #[error("{path}: wanted a journal, found none")]
    Missing { path: PathBuf },
    #[error("{path}: wanted a journal of version {wanted}, found {found}; `uhr-edge serve` brings an earlier one up")]
    Version { path: PathBuf, wanted: i64, found: String },
    #[error("{path}: wanted room to write, found {found}")]
    Full { path: PathBuf, found: String },
    #[error("{path}: {what}: {source}")]
    Sqlite { path: PathBuf, what: &'static str, source: Box<rusqlite::Error> },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: wanted {wanted}, found {found:?}")]
    Content { path: PathBuf, wanted: &'static str, found: String },
}

/// Why a question or a picture is not accepted. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("queue: wanted a place, found all {places} taken")]
    Full { places: usize },
    #[error("question: wanted text, found none")]
    Empty,
    #[error("question: wanted at most {allowed}, found {wanted}")]
    Long { wanted: Bytes, allowed: Bytes },
    #[error("frames: wanted one to {most}, found {found}")]
    Frames { found: usize, most: usize },
    #[error("frame {id}: wanted one that was taken in, found none of that id")]
    NoFrame { id: FrameId },
    #[error("newest frame: wanted one, found that none has been taken in yet")]
    NoneYet,
    #[error("{what}: wanted {wanted}, found {found}")]
    Value { what: &'static str, wanted: String, found: String },
    #[error("picture: wanted at most {allowed}, found {wanted}")]
    LargePicture { wanted: Bytes, allowed: Bytes },
    #[error("picture: {0}")]
    Picture(Box<ImagingError>),
    #[error("the daemon is about to end: wanted a question before that, found it too late")]
    Stopping,
    #[error("the disk or the journal is full, nothing new is accepted until there is room: {0}")]
    NoRoom(Box<JournalError>),
    #[error("the journal can't be written: {0}")]
    Journal(Box<JournalError>),
}

impl Refused {
    /// It has to do with how things stand, not with the question: asked again later it may be accepted.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Stopping | Self::NoRoom(_) | Self::Journal(_) | Self::NoneYet)
    }

    /// One word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "queue-full",
            Self::Empty | Self::Long { .. } | Self::Frames { .. } | Self::Value { .. } => "bad-question",
            Self::NoFrame { .. } | Self::NoneYet => "no-frame",
            Self::LargePicture { .. } | Self::Picture(_) => "bad-picture",
            Self::Stopping => "stopping",
            Self::NoRoom(_) => "disk-full",
            Self::Journal(_) => "journal",
        }
    }
}

impl From<JournalError> for Refused {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Full { .. } => Self::NoRoom(Box::new(error)),
            error => Self::Journal(Box::new(error)),
        }
    }
}
