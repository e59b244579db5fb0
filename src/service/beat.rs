//! Where a thread is and since when, for those who watch that it doesn't hang.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::units::Millis;

/// Waiting for work: no time is too long for that.
const WAITING: &str = "waiting";

/// One thread's place.
pub struct Beat(Mutex<(&'static str, Instant)>);

impl Default for Beat {
    fn default() -> Self {
        Self(Mutex::new((WAITING, Instant::now())))
    }
}

impl Beat {
    /// `stage` begins, unless the thread is in it already.
    pub fn enter(&self, stage: &'static str) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if place.0 != stage {
            *place = (stage, Instant::now());
        }
    }

    /// As [`Self::enter`], of a stage that begins anew.
    pub fn begin(&self, stage: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (stage, Instant::now());
    }

    /// Nothing is to be done.
    pub fn wait(&self) {
        self.enter(WAITING);
    }

    /// The stage, how long it has been going on, and whether that is more than `limit`.
    #[must_use]
    pub fn place(&self, limit: Duration) -> (&'static str, Millis, bool) {
        let (stage, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = since.elapsed();
        (stage, passed.into(), stage != WAITING && passed > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_overdue_and_waiting_never_is() {
        let beat = Beat::default();
        std::thread::sleep(Duration::from_millis(5));
        assert!(!beat.place(Duration::ZERO).2);
        beat.enter("encode");
        std::thread::sleep(Duration::from_millis(5));
        beat.enter("encode");
        let (stage, passed, overdue) = beat.place(Duration::from_millis(2));
        assert!(stage == "encode" && passed.0 >= 5.0 && overdue);
        assert!(!beat.place(Duration::from_secs(60)).2);
        beat.wait();
        assert!(!beat.place(Duration::ZERO).2);
    }
}
