//! The thread that writes what the pipeline did into the journal, so that the pipeline waits for no disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::geometry::Rect;
use crate::journal::{Desk, FrameState, JournalError, Outcome, deflated};
use crate::pipeline::{Importance, Shown};
use crate::service::beat::Beat;
use crate::service::log::Log;
use crate::units::{FrameId, Millis, QuestionId};

/// What is to be written.
pub enum Note {
    /// Work on a question begins.
    Begun(QuestionId),
    /// Work on a frame ended without a fault of its own.
    FrameLeft(FrameId),
    Done {
        id: QuestionId,
        outcome: Outcome,
        looked: Vec<(Shown, Importance)>,
    },
    Ready {
        frame: FrameId,
        took: Millis,
    },
    Failed {
        frame: FrameId,
        reason: String,
    },
}

/// How long what can't be written waits before it is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a full journal is looked at while nothing else happens.
const LOOK: Duration = Duration::from_secs(1);

pub struct Clerk {
    pub desk: Desk,
    pub beat: Arc<Beat>,
    pub log: Log,
    /// Notes that were sent and are not written.
    pub unwritten: Arc<AtomicUsize>,
    /// The daemon ends: what can't be written now is left to the next run.
    pub ending: Arc<AtomicBool>,
}

impl Clerk {
    /// Writes until nobody is left who sends.
    pub fn run(self, notes: &Receiver<Note>) {
        let mut full = false;
        loop {
            let note = match notes.recv_timeout(LOOK) {
                Ok(note) => note,
                Err(RecvTimeoutError::Timeout) => {
                    full = self.look(full);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.beat.begin("journal");
            full |= match note {
                Note::Begun(id) => self.tried("a question's begin", || self.desk.journal().begin(id, 1)),
                Note::FrameLeft(frame) => self.tried("a frame's end", || self.desk.journal().begin_frame(frame, -1)),
                Note::Ready { frame, took } => {
                    self.tried("a frame", || self.desk.journal().frame_is(frame, FrameState::Ready, None, Some(took)))
                }
                Note::Failed { frame, reason } => {
                    self.tried("a frame", || self.desk.journal().frame_is(frame, FrameState::Failed, Some(&reason), None))
                }
                Note::Done { id, outcome, looked } => {
                    let layers = deflated(&layers(&looked).to_string()).ok().filter(|_| !looked.is_empty());
                    self.done(id, &outcome, layers.as_deref())
                }
            };
            self.unwritten.fetch_sub(1, Ordering::AcqRel);
            self.beat.wait();
        }
    }

    /// Tries until it is written, or the daemon ends. Whether the disk was full on the way.
    fn done(&self, id: QuestionId, outcome: &Outcome, layers: Option<&[u8]>) -> bool {
        let mut full = false;
        loop {
            match self.desk.finish(id, outcome.clone(), layers) {
                Ok(()) => break,
                Err(error) => {
                    if !full {
                        self.log.error(&format!("the answer to question {id} waits until it can be written: {error}"));
                    }
                    full = true;
                    self.desk.journal_is_full(Some(error.to_string()));
                }
            }
            if self.ending.load(Ordering::Relaxed) {
                return true;
            }
            // The limit of a stage is for work, not for a full disk, which the status names.
            self.beat.begin("journal");
            std::thread::sleep(AGAIN);
        }
        match self.desk.journal().prune() {
            Ok(0) => {}
            Ok(gone) => self.log.info(&format!("the journal is near its limit: the {gone} oldest answered questions went")),
            Err(error) => self.log.warning(&format!("retention: {error}")),
        }
        full
    }

    /// A note that can be done without. Whether the disk was full.
    fn tried(&self, what: &str, write: impl FnOnce() -> Result<(), JournalError>) -> bool {
        match write() {
            Ok(()) => false,
            Err(error) => {
                self.log.warning(&format!("{what} could not be noted: {error}"));
                matches!(error, JournalError::Full { .. })
            }
        }
    }

    /// Whether the journal is still full; the status says so.
    fn look(&self, full: bool) -> bool {
        if !full && self.desk.journal_full().is_none() {
            return false;
        }
        match self.desk.journal().has_room() {
            Ok(()) => {
                self.log.info("the journal can be written again");
                self.desk.journal_is_full(None);
                false
            }
            Err(error) => {
                self.desk.journal_is_full(Some(error.to_string()));
                true
            }
        }
    }
}

/// As [`Desk::looked`] says, pixels rounded.
fn layers(looked: &[(Shown, Importance)]) -> Value {
    let whole = |rect: &Rect| [rect.x, rect.y, rect.w, rect.h].map(|value| value.round() as i64);
    let frames = looked.iter().map(|(shown, importance)| {
        let kept = shown.kept.iter().map(|kept| {
            let [x, y, w, h] = whole(&kept.rect);
            json!({"view": kept.view.0, "x": x, "y": y, "w": w, "h": h})
        });
        let merged = shown.merged.iter().map(|merged| {
            let members: Vec<[i64; 4]> = merged.members.iter().map(whole).collect();
            json!({"region": merged.region, "members": members})
        });
        json!({
            "kept": kept.collect::<Vec<_>>(),
            "merged": merged.collect::<Vec<_>>(),
            "importance": {"side": importance.side, "scores": importance.scores},
        })
    });
    Value::Array(frames.collect())
}
