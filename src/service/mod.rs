//! The daemon: frames in, questions in, answers out, nothing lost.
//!
//! ```text
//!  capture folders ─┐                 ┌──────────────┐   notes   ┌───────┐
//!  spool folder ────┼─▶ Desk ────────▶│ the pipeline │──────────▶│ clerk │──▶ journal ──▶ who follows
//!  HTTP ────────────┘   (one queue)   └──────────────┘           └───────┘
//! ```
//! One thread owns the pipeline; it reads frames' files and waits for nothing else. What it did is written by the clerk, and an answer is in the journal
//! before anybody sees it.
//!
//! # Why
//! A daemon in flight has no one to restart it by hand: every way in which it can be interrupted ends in a state that the next start goes on from.

mod beat;
mod capture;
mod clerk;
mod held;
mod log;
mod refusal;
mod reload;
mod run;
mod spool;
mod systemd;
mod told;
mod worker;

use std::path::PathBuf;

pub use log::Log;
pub use run::{Service, ServiceSettings};
pub use told::status;

use crate::http::HttpError;
use crate::journal::JournalError;
use crate::pipeline::PipelineError;

/// Why the daemon doesn't start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Journal(Box<JournalError>),
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("{path}: wanted a daemon that says how it stands, found {found}")]
    Silent { path: PathBuf, found: String },
    #[error("the thread of {thread} ended by itself: what was accepted is in the journal, and the next start goes on with it")]
    Thread { thread: &'static str },
}

impl From<JournalError> for ServiceError {
    fn from(error: JournalError) -> Self {
        Self::Journal(Box::new(error))
    }
}

impl From<PipelineError> for ServiceError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(Box::new(error))
    }
}
