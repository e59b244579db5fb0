//! Why an accepted question has no answer: a word for programs and a sentence for people.

use crate::imaging::ImagingError;
use crate::journal::Outcome;
use crate::pipeline::PipelineError;
use crate::planner::PlannerError;
use crate::units::Millis;

const DEVICE_LOST: &str = "device-lost";

#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: &'static str,
    pub reason: String,
    /// With the frame taken in anew it may be answered.
    pub again: bool,
}

impl Refusal {
    fn new(code: &'static str, reason: String) -> Self {
        Self { code, reason, again: false }
    }

    pub fn failed(reason: String) -> Self {
        Self::new("failed", reason)
    }

    pub fn gone(reason: String) -> Self {
        Self::new("frame-gone", reason)
    }

    /// The frame's file isn't there, or can't be read now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code == "frame-gone"
    }

    /// No other question could be answered either: the daemon ends, and its next run loads the engines anew.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.code == DEVICE_LOST
    }

    pub fn crashed(times: u32) -> Self {
        Self::new("crashed", format!("the daemon ended {times} times while it worked on this question; it is not tried again"))
    }

    pub fn passed(deadline: Millis) -> Self {
        Self::new(
            "deadline",
            format!("deadline: the {deadline} that were left when it was put in the queue had passed before its turn came"),
        )
    }

    #[must_use]
    pub fn outcome(self) -> Outcome {
        Outcome::Refused { code: self.code.to_owned(), reason: self.reason }
    }
}

impl From<PipelineError> for Refusal {
    fn from(error: PipelineError) -> Self {
        let code = match &error {
            lost if lost.is_lost() => DEVICE_LOST,
            PipelineError::Planner(PlannerError::Deadline { .. }) => "deadline",
            PipelineError::Planner(PlannerError::Uncalibrated | PlannerError::PowerMode { .. }) => "uncalibrated",
            PipelineError::Planner(_) | PipelineError::Config(_) | PipelineError::Full(_) => "over-limit",
            PipelineError::EmptyQuestion => "bad-question",
            PipelineError::Imaging(ImagingError::Read { .. } | ImagingError::Changed { .. }) => "frame-gone",
            PipelineError::Imaging(_) | PipelineError::Geometry(_) => "bad-frame",
            _ => "failed",
        };
        let again = matches!(&error, PipelineError::Planner(PlannerError::Unseen { .. }));
        Self { code, reason: error.to_string(), again }
    }
}

impl From<ImagingError> for Refusal {
    fn from(error: ImagingError) -> Self {
        PipelineError::from(error).into()
    }
}
