//! The desk: questions are handed in here, whatever door they come through, and answers come out.

mod brought;
mod duty;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::imaging::{Limits, Reading};
use crate::journal::queue::{Backlog, Queue};
use crate::journal::{
    Asked, Filter, FrameEntry, FrameRef, FrameState, Journal, JournalError, MAX_FRAMES, Origin, Progress, QuestionEntry, Refused, Status,
};
use crate::units::{Bytes, FrameId, FrameNumber, Millis, QuestionId, UnixMillis};

pub use crate::journal::queue::{FrameFile, QuestionWork};

/// How long a question that is on disk may take to be in the queue.
const ACCEPTING: Duration = Duration::from_secs(5);

/// What the desk admits.
#[derive(Clone, Debug)]
pub struct DeskLimits {
    /// Questions that may wait.
    pub places: usize,
    /// Frames that may wait for their ingest.
    pub backlog: usize,
    /// Of a question's text.
    pub text: Bytes,
    /// Of one question.
    pub frames: usize,
    /// Where pictures that are brought are kept, how large one may be, and all of them.
    pub brought: PathBuf,
    pub picture: Bytes,
    pub brought_max: Bytes,
    /// How pictures are admitted and read.
    pub admits: Limits,
    pub reading: Reading,
}

/// A frame whose ingest is due.
#[derive(Clone, Debug)]
pub struct FrameWork {
    pub entry: FrameEntry,
}

/// What the pipeline's thread is to do.
#[derive(Debug)]
pub enum Work {
    Question(Box<QuestionWork>),
    Frame(Box<FrameWork>),
    /// Nothing came in the time given.
    Idle,
    /// The daemon is about to end.
    Stop,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub accepted: u64,
    pub answered: u64,
    pub refused: u64,
    pub turned_away: u64,
    pub late: u64,
    pub taken_in: u64,
    pub dropped: u64,
    pub failed: u64,
    pub rejected: u64,
    pub duplicates: u64,
    pub unrecorded: u64,
}

/// Where questions are handed in and answers come out. A clone is the same desk.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    limits: DeskLimits,
    state: Mutex<State>,
    changed: Condvar,
    status: Mutex<Arc<Status>>,
    bringing: Mutex<()>,
}

struct State {
    queue: Queue,
    backlog: Backlog,
    /// One a question that is not done.
    live: HashMap<QuestionId, watch::Sender<Progress>>,
    /// Questions on their way to the disk.
    accepting: usize,
    working_on: Option<QuestionId>,
    about: Vec<FrameId>,
    /// The frame that is taken in without a question.
    taking_in: Option<FrameId>,
    /// Used last first.
    in_slots: Vec<FrameId>,
    counts: Counts,
    full: Option<String>,
    stopping: bool,
}

impl Desk {
    /// A desk over `journal`. What an earlier run accepted and did not finish waits again, and so do frames that it had not taken in.
    ///
    /// # Errors
    /// What the journal says.
    pub fn new(journal: Journal, limits: DeskLimits) -> Result<Self, JournalError> {
        let mut queue = Queue::new(limits.places);
        let mut live = HashMap::new();
        let now = UnixMillis::of(SystemTime::now());
        for entry in journal.open_questions()? {
            live.insert(entry.id, watch::Sender::new(Progress::Queued { ahead: 0 }));
            // A clock that was set back lets no time pass.
            let passed = Millis(now.0.saturating_sub(entry.accepted_at.0).max(0) as f64);
            let mut files = Vec::new();
            for id in &entry.frames {
                files.extend(journal.frame(*id)?.map(file));
            }
            queue.put_back(QuestionWork::new(entry, files, passed));
        }
        let mut backlog = Backlog::new(limits.backlog);
        let (mut before, mut dropped) = (None, 0);
        loop {
            let waiting = journal.frames(1_000, before, Some(FrameState::Waiting))?;
            let Some(last) = waiting.last() else { break };
            before = Some(last.number);
            for entry in waiting {
                if let Some(old) = backlog.put(entry) {
                    journal.frame_is(old.id, FrameState::Dropped, Some(OVERLOAD), None)?;
                    dropped += 1;
                }
            }
        }
        // The newest frame is the one that is asked about.
        if let Some(newest) = journal.newest()? {
            backlog.put(newest);
        }
        let state = State {
            queue,
            backlog,
            live,
            accepting: 0,
            working_on: None,
            about: Vec::new(),
            taking_in: None,
            in_slots: Vec::new(),
            counts: Counts { dropped, ..Counts::default() },
            full: None,
            stopping: false,
        };
        state.tell_places();
        let inner = Inner {
            journal,
            limits,
            state: Mutex::new(state),
            changed: Condvar::new(),
            status: Mutex::default(),
            bringing: Mutex::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole by the time anything could panic.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a question in. Blocks until it is on disk; accepted when this returns. With the key of an earlier question it is that one.
    ///
    /// # Errors
    /// Why it is not accepted; nothing of it is kept.
    pub fn ask(&self, asked: Asked) -> Result<QuestionId, Refused> {
        let spooled = asked.origin == Origin::Spool;
        let accepted = self.accept(asked);
        let mut state = self.state();
        match &accepted {
            Ok((_, true)) => state.counts.accepted += 1,
            Ok((_, false)) => {}
            Err(error) => {
                // A file in the spool waits and is handed in again: nobody was turned away.
                state.counts.turned_away += u64::from(!(spooled && error.passes()));
                if let Refused::NoRoom(reason) = error {
                    state.full = Some(reason.to_string());
                }
            }
        }
        drop(state);
        accepted.map(|(id, _)| id)
    }

    /// The question's id, and whether it is new.
    fn accept(&self, asked: Asked) -> Result<(QuestionId, bool), Refused> {
        let inner = &*self.inner;
        if let Some(key) = &asked.key
            && let Some(known) = inner.journal.question_of(key)?
        {
            return Ok((known, false));
        }
        self.check(&asked)?;
        let files = asked.frames.iter().map(|frame| self.resolve(*frame)).collect::<Result<Vec<_>, _>>()?;
        let frames: Vec<FrameId> = files.iter().map(|file| file.id).collect();
        {
            let mut state = self.state();
            if state.stopping {
                return Err(Refused::Stopping);
            }
            if !state.queue.promise() {
                return Err(Refused::Full { places: state.queue.places() });
            }
            state.accepting += 1;
        }
        let id = match inner.journal.has_room().and_then(|()| inner.journal.accept(&asked, &frames)) {
            Ok(id) => id,
            Err(error) => {
                {
                    let mut state = self.state();
                    state.queue.release();
                    state.accepting -= 1;
                }
                inner.changed.notify_all();
                // Another hand may have asked with the same key in between.
                if let Some(key) = &asked.key
                    && let Ok(Some(known)) = inner.journal.question_of(key)
                {
                    return Ok((known, false));
                }
                return Err(error.into());
            }
        };
        let mut state = self.state();
        state.full = None;
        state.accepting -= 1;
        state.live.insert(id, watch::Sender::new(Progress::Queued { ahead: 0 }));
        state.queue.fill(QuestionWork::of(id, asked, files));
        state.tell_places();
        inner.changed.notify_all();
        Ok((id, true))
    }

    fn check(&self, asked: &Asked) -> Result<(), Refused> {
        let limits = &self.inner.limits;
        let (wanted, allowed) = (Bytes::of::<u8>(asked.text.len()), limits.text);
        if asked.text.trim().is_empty() {
            return Err(Refused::Empty);
        }
        if wanted > allowed {
            return Err(Refused::Long { wanted, allowed });
        }
        let (found, most) = (asked.frames.len(), limits.frames.min(MAX_FRAMES));
        if found == 0 || found > most {
            return Err(Refused::Frames { found, most });
        }
        let value = |what, wanted: &str, found: String| Err(Refused::Value { what, wanted: wanted.to_owned(), found });
        if let Some(deadline) = asked.deadline
            && !(deadline.0.is_finite() && deadline.0 > 0.0)
        {
            return value("deadline", "a number of milliseconds above 0", format!("{}", deadline.0));
        }
        if asked.max_new.is_some_and(|tokens| tokens.0 == 0) {
            return value("max_new", "1 or more", "0".into());
        }
        for (what, text) in [("budget", &asked.budget), ("key", &asked.key)] {
            if let Some(text) = text.as_ref().filter(|text| text.len() > 256) {
                return value(what, "at most 256 bytes", format!("{}", text.len()));
            }
        }
        Ok(())
    }

    fn resolve(&self, frame: FrameRef) -> Result<FrameFile, Refused> {
        let journal = &self.inner.journal;
        match frame {
            FrameRef::Newest => Ok(file(journal.newest()?.ok_or(Refused::NoneYet)?)),
            FrameRef::Id(id) => match journal.frame(id)? {
                None => Err(Refused::NoFrame { id }),
                Some(FrameEntry { state: FrameState::Failed, reason, .. }) => Err(Refused::Value {
                    what: "frame",
                    wanted: "one that could be taken in".into(),
                    found: reason.unwrap_or_else(|| "one that couldn't".into()),
                }),
                Some(entry) => Ok(file(entry)),
            },
        }
    }

    /// The state and the text so far, then every change. What is there already stands in the receiver when it is returned; a finished question's
    /// [`Progress::Done`] is, and nothing follows it. `None`: no such question.
    #[must_use]
    pub fn follow(&self, id: QuestionId) -> Option<watch::Receiver<Progress>> {
        if let Some(sender) = self.state().live.get(&id) {
            return Some(sender.subscribe());
        }
        let outcome = self.inner.journal.outcome(id).ok()?;
        match outcome {
            Some(outcome) => Some(watch::Sender::new(Progress::Done(outcome)).subscribe()),
            // Accepted between the two looks, or being so: it is on disk already.
            None => {
                let waits = |state: &mut State| state.accepting > 0 && !state.live.contains_key(&id);
                let state = self.inner.changed.wait_timeout_while(self.state(), ACCEPTING, waits);
                let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
                state.live.get(&id).map(watch::Sender::subscribe)
            }
        }
    }

    /// # Errors
    /// What the journal says.
    pub fn question(&self, id: QuestionId) -> Result<Option<QuestionEntry>, JournalError> {
        self.inner.journal.question(id)
    }

    /// Newest first.
    ///
    /// # Errors
    /// What the journal says.
    pub fn questions(&self, filter: &Filter) -> Result<Vec<QuestionEntry>, JournalError> {
        self.inner.journal.questions(filter)
    }

    /// Newest first.
    ///
    /// # Errors
    /// What the journal says.
    pub fn frames(&self, limit: usize, before: Option<FrameNumber>) -> Result<Vec<FrameEntry>, JournalError> {
        let mut entries = self.inner.journal.frames(limit, before, None)?;
        let state = self.state();
        entries.iter_mut().for_each(|entry| entry.in_slot = state.in_slots.contains(&entry.id));
        Ok(entries)
    }

    /// # Errors
    /// What the journal says.
    pub fn frame(&self, id: &FrameId) -> Result<Option<FrameEntry>, JournalError> {
        let entry = self.inner.journal.frame(*id)?;
        let in_slot = self.state().in_slots.contains(id);
        Ok(entry.map(|entry| FrameEntry { in_slot, ..entry }))
    }

    /// The layers of an answer's picture, as JSON: a frame of the question each `{kept: [{view, x, y, w, h}], merged: [{region, members: [[x, y, w, h]]}],
    /// importance: {side, scores: [0..255]}}`, in pixels of the frame. `None`: no answer, or one so old that they were given up.
    ///
    /// # Errors
    /// What the journal says.
    pub fn looked(&self, id: QuestionId) -> Result<Option<String>, JournalError> {
        let Some(layers) = self.inner.journal.layers(id)? else { return Ok(None) };
        let content = |found: String| JournalError::Content { path: self.inner.journal.path().to_owned(), wanted: "layers", found };
        let text = crate::journal::inflated(&layers).ok_or_else(|| content(format!("{} bytes that are none", layers.len())))?;
        Ok(Some(text))
    }

    /// The status document as it was published last.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.inner.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts the desk's own part into `status`, and makes it the one that is told.
    pub fn publish(&self, mut status: Status) {
        let journal = &self.inner.journal;
        let bytes = journal.used().unwrap_or_default();
        {
            let state = self.state();
            let counts = state.counts;
            status.frames.in_slots.clone_from(&state.in_slots);
            (status.frames.waiting, status.frames.backlog) = (state.backlog.len(), state.backlog.most());
            (status.frames.taken_in, status.frames.dropped, status.frames.failed) = (counts.taken_in, counts.dropped, counts.failed);
            (status.frames.rejected, status.frames.duplicates) = (counts.rejected, counts.duplicates);
            status.frames.unrecorded = counts.unrecorded;
            let questions = &mut status.questions;
            (questions.queued, questions.places, questions.working_on) = (state.queue.len(), state.queue.places(), state.working_on);
            (questions.accepted, questions.answered, questions.refused) = (counts.accepted, counts.answered, counts.refused);
            (questions.turned_away, questions.late) = (counts.turned_away, counts.late);
            status.journal.full.clone_from(&state.full);
            status.stopping = state.stopping;
        }
        status.journal.path = journal.path().to_owned();
        (status.journal.bytes, status.journal.max_bytes) = (bytes, journal.limits().max);
        status.journal.pruned = journal.pruned();
        *self.inner.status.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
    }
}

fn file(entry: FrameEntry) -> FrameFile {
    FrameFile { id: entry.id, path: entry.path, sha256: entry.sha256 }
}

const OVERLOAD: &str = "more frames came than could be taken in; a question about it takes it in";

impl State {
    /// Tells those that wait how many go first.
    fn tell_places(&self) {
        let busy = usize::from(self.working_on.is_some());
        for (id, ahead) in self.queue.ahead() {
            if let Some(sender) = self.live.get(&id) {
                sender.send_replace(Progress::Queued { ahead: ahead + busy });
            }
        }
    }
}
