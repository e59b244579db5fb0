//! Two clocks: one that only goes on, to measure by, and the wall's, to sign by.

use std::time::{Duration, Instant, SystemTime};

use crate::units::UnixMillis;

/// A moment since the link began. Never steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub Duration);

impl At {
    /// What passed since `earlier`; nothing where it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// What both clocks show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub at: At,
    /// `None`: the system's clock was never set, as on a board without a battery before it heard of the time.
    pub wall: Option<UnixMillis>,
    /// Whether others may be held against `wall`. A clock that shows the time of the last shutdown looks as if it had been set.
    pub trusted: bool,
}

/// 2026-01-01: a clock that shows less was never set.
const SET: UnixMillis = UnixMillis(1_767_225_600_000);

impl Now {
    /// `wall` where it can be the time, and trusted then.
    #[must_use]
    pub fn new(at: At, wall: UnixMillis) -> Self {
        Self { at, wall: (wall >= SET).then_some(wall), trusted: wall >= SET }
    }

    /// What they show now. `begun`: the link; `kept`: somebody keeps the wall's right.
    #[must_use]
    pub fn read(begun: Instant, kept: bool) -> Self {
        let now = Self::new(At(begun.elapsed()), UnixMillis::of(SystemTime::now()));
        if kept { now } else { now.doubted() }
    }

    /// The same with a clock that nobody keeps right.
    #[must_use]
    pub fn doubted(self) -> Self {
        Self { trusted: false, ..self }
    }
}
