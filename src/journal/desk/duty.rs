//! The desk's other side: what the daemon's own threads take from it and hand back.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::imaging::FrameSource;
use crate::journal::desk::OVERLOAD;
use crate::journal::{Counts, Desk, FileMark, FrameState, FrameWork, JournalError, Outcome, Progress, Seen, Work};
use crate::units::{FrameId, QuestionId};

impl Desk {
    /// A whole file of a capture folder: recorded, and to be taken in where it is new.
    ///
    /// # Errors
    /// What the journal says.
    pub fn captured(&self, source: &FrameSource, mark: FileMark) -> Result<Seen, JournalError> {
        let seen = self.inner.journal.see(source, mark)?;
        let mut state = self.state();
        if !seen.new {
            state.counts.duplicates += 1;
            return Ok(seen);
        }
        let given_up = state.backlog.put(seen.entry.clone());
        state.counts.dropped += u64::from(given_up.is_some());
        self.inner.changed.notify_all();
        drop(state);
        if let Some(old) = given_up {
            self.inner.journal.frame_is(old.id, FrameState::Dropped, Some(OVERLOAD), None)?;
        }
        Ok(seen)
    }

    /// What to do next: a question before a frame. Waits for `patience` at most.
    #[must_use]
    pub fn next_work(&self, patience: Duration) -> Work {
        let mut state = self.state();
        let mut waited = false;
        loop {
            if state.stopping {
                return Work::Stop;
            }
            if let Some(work) = state.queue.take() {
                state.working_on = Some(work.id);
                state.about.clone_from(&work.frames);
                state.tell_places();
                return Work::Question(Box::new(work));
            }
            if let Some(entry) = state.backlog.take() {
                return Work::Frame(Box::new(FrameWork { entry }));
            }
            if waited {
                return Work::Idle;
            }
            let (again, timeout) = self.inner.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            (state, waited) = (again, timeout.timed_out());
        }
    }

    /// Work on the question that was taken goes on at `stage`.
    pub fn working(&self, id: QuestionId, stage: &str, share: f64, text: &str) {
        if let Some(sender) = self.state().live.get(&id) {
            sender.send_replace(Progress::Working { stage: stage.to_owned(), share, text: text.to_owned() });
        }
    }

    /// The pipeline has nothing to do with the question any more.
    pub fn rest(&self) {
        let mut state = self.state();
        state.working_on = None;
        state.about.clear();
    }

    /// The frames that are in slots, used last first.
    pub fn slots_hold(&self, frames: impl Iterator<Item = FrameId>) {
        let mut state = self.state();
        state.in_slots.clear();
        state.in_slots.extend(frames);
    }

    /// A frame that nobody asked about begins to be taken in.
    ///
    /// # Errors
    /// As [`Journal::begin_frame`](crate::journal::Journal::begin_frame).
    pub fn takes_in(&self, frame: FrameId) -> Result<(), JournalError> {
        self.state().taking_in = Some(frame);
        self.inner.journal.begin_frame(frame, 1)
    }

    /// It came to an end; `None` from then on in [`Self::taking_in`].
    pub fn took_in(&self) {
        self.state().taking_in = None;
    }

    #[must_use]
    pub fn taking_in(&self) -> Option<FrameId> {
        self.state().taking_in
    }

    /// A frame was taken in outside its turn.
    pub fn taken_in(&self, frame: FrameId) {
        self.state().backlog.forget(frame);
    }

    /// A frame is to be taken in again, where the backlog has room for it.
    pub fn capture_again(&self, frame: FrameId) {
        let Ok(Some(entry)) = self.inner.journal.frame(frame) else { return };
        let mut state = self.state();
        if state.backlog.len() < state.backlog.most() {
            state.backlog.put(entry);
        }
    }

    /// Writes how a question ended, then tells those who follow it.
    ///
    /// # Errors
    /// What the journal says; nobody is told then, and it may be tried again.
    pub fn finish(&self, id: QuestionId, outcome: Outcome, looked: Option<&[u8]>) -> Result<(), JournalError> {
        let now = self.inner.journal.finish(id, &outcome, looked)?;
        let late = matches!(&outcome, Outcome::Answered { document } if document["finish"] == "late");
        let answered = matches!(outcome, Outcome::Answered { .. });
        let mut state = self.state();
        state.full = None;
        if now {
            state.counts.answered += u64::from(answered);
            state.counts.refused += u64::from(!answered);
            state.counts.late += u64::from(late);
        }
        if let Some(sender) = state.live.remove(&id) {
            sender.send_replace(Progress::Done(Arc::new(outcome)));
        }
        Ok(())
    }

    /// Counts something.
    pub fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.state().counts);
    }

    /// Why nothing can be written at the moment, for the status; `None`: it can.
    pub fn journal_is_full(&self, reason: Option<String>) {
        self.state().full = reason;
    }

    /// Why nothing can be written, as it was said last.
    #[must_use]
    pub fn journal_full(&self) -> Option<String> {
        self.state().full.clone()
    }

    /// Whether [`Self::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.state().stopping
    }

    /// No more questions; [`Self::next_work`] gives [`Work::Stop`].
    pub fn stop(&self) {
        self.state().stopping = true;
        self.inner.changed.notify_all();
    }

    /// Another length of the backlog from now on.
    pub fn set_backlog(&self, frames: usize) {
        self.state().backlog.set_most(frames);
    }
}
