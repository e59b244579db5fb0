//! Time as the pipeline sees it.
//!
//! # Why
//! Deadlines are kept against one clock. On a device it is the system's monotonic one, which nobody can set; in a simulation it stands still but for the
//! stages, whose times a script gives, so that ten hours pass in seconds and to the same result every time.

use std::time::Instant;

use crate::planner::Stage;
use crate::units::Millis;

/// A clock, and what becomes of a stage's time on it.
pub trait Clock: Send + Sync {
    /// Since some moment in the past.
    fn now(&self) -> Millis;
    /// A stage is over, which took `measured` by [`Self::now`] and nominally takes `nominal`: the time that it took. A clock whose time is
    /// scripted lets it pass here.
    fn passed(&self, stage: Stage, measured: Millis, nominal: Millis) -> Millis {
        let _ = (stage, nominal);
        measured
    }
}

/// The system's monotonic clock.
pub struct Monotonic(Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Millis {
        self.0.elapsed().into()
    }
}
