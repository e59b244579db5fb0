//! Latency qualification: does this device, in this power mode, with this model meet its profile's limits? Measured, with a bound, or "not shown".
//!
//! Units: milliseconds. A bound is one-sided and free of any assumption on the distribution ([`crate::planner::upper_bound`]): with 95 % confidence it is
//! above the 99th percentile of questions (299 of them at least), above the 95th of ingests (59 at least).
//!
//! # Why
//! Who certifies a device before a flight needs a yes that stands on counted evidence. The same measurements calibrate the planner, and the same code runs
//! on a virtual clock, where ten hours with throttling pass in seconds.

mod document;
mod draw;
mod measure;
mod page;
mod sim;
mod verdict;
mod write;

pub use document::{Distribution, Fresh, MemoryUse, Outcome, Qualification, Sample, StepResult, Verdict};
pub use draw::draw;
pub use measure::{Around, Measured, Settings, measure, steps};
pub use sim::{ScriptedClock, SimResult, SimSettings, simulate};
pub use verdict::named;
pub use write::write;

use std::path::PathBuf;

use crate::board::BoardError;
use crate::imaging::ImagingError;
use crate::pipeline::PipelineError;

/// What kept a qualification from its end.
#[derive(Debug, thiserror::Error)]
pub enum QualifyError {
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
    #[error(transparent)]
    Imaging(#[from] ImagingError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error("{path}: wanted {wanted}, found {found}")]
    File { path: PathBuf, wanted: &'static str, found: String },
    #[error("{what}: wanted {wanted}, found {found}")]
    Input { what: &'static str, wanted: &'static str, found: String },
}

impl From<PipelineError> for QualifyError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(Box::new(error))
    }
}
