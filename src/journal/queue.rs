//! What waits: questions in a fixed number of places, frames in a fixed backlog.
//!
//! Questions go by priority, then by the deadline that ends first (one without comes after those with), then in the order of acceptance.
//! Of frames the newest goes first; where there is no room the oldest gives way.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use crate::journal::{Asked, FrameEntry, Origin, Priority, QuestionEntry};
use crate::units::{FrameId, Millis, QuestionId, Tiles, Tokens};

/// A frame's file as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFile {
    pub id: FrameId,
    pub path: PathBuf,
    pub sha256: String,
}

/// A question whose turn it will be.
#[derive(Clone, Debug)]
pub struct QuestionWork {
    pub id: QuestionId,
    pub text: String,
    pub frames: Vec<FrameId>,
    /// As they were when it was accepted; of a frame that the journal has no more, none.
    pub files: Vec<FrameFile>,
    pub budget: Option<String>,
    pub encode_tiles: Option<Tiles>,
    pub max_new: Option<Tokens>,
    pub seed: Option<u64>,
    pub priority: Priority,
    pub origin: Origin,
    /// From its acceptance, or from the start where it was accepted by an earlier run.
    pub since: Instant,
    /// From `since` on; what an earlier run let pass is taken off.
    pub deadline: Option<Millis>,
    /// Times that an earlier run began it and ended before the answer.
    pub begun: u32,
}

impl QuestionWork {
    /// A question of the journal, about `files`; `passed`: of its deadline.
    #[must_use]
    pub fn new(entry: QuestionEntry, files: Vec<FrameFile>, passed: Millis) -> Self {
        let QuestionEntry { id, text, frames, budget, encode_tiles, max_new, seed, deadline_ms, priority, origin, begun, .. } = entry;
        let deadline = deadline_ms.map(|deadline| deadline - passed);
        let since = Instant::now();
        Self { id, text, frames, files, budget, encode_tiles, max_new, seed, priority, origin, since, deadline, begun }
    }

    /// A question that has just been accepted as `id`.
    #[must_use]
    pub fn of(id: QuestionId, asked: Asked, files: Vec<FrameFile>) -> Self {
        let Asked { text, budget, encode_tiles, max_new, seed, deadline, priority, origin, .. } = asked;
        let (frames, since) = (files.iter().map(|file| file.id).collect(), Instant::now());
        Self { id, text, frames, files, budget, encode_tiles, max_new, seed, priority, origin, since, deadline, begun: 0 }
    }

    /// What is left of the deadline.
    #[must_use]
    pub fn left(&self) -> Option<Millis> {
        self.deadline.map(|deadline| deadline - Millis::from(self.since.elapsed()))
    }

    fn goes_before(&self, other: &Self) -> bool {
        let ends = |work: &Self| work.left().map_or(f64::INFINITY, |left| left.0);
        other.priority.cmp(&self.priority).then(ends(self).total_cmp(&ends(other))).then(self.id.cmp(&other.id)).is_lt()
    }
}

/// Questions that wait.
pub struct Queue {
    waiting: Vec<QuestionWork>,
    places: usize,
    /// Places promised to questions that are on their way to the disk.
    promised: usize,
}

impl Queue {
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { waiting: Vec::with_capacity(places), places, promised: 0 }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }

    /// Keeps a place for a question that is about to be written; `false`: there is none.
    pub fn promise(&mut self) -> bool {
        let free = self.waiting.len() + self.promised < self.places;
        self.promised += usize::from(free);
        free
    }

    /// The promised place is not needed after all.
    pub fn release(&mut self) {
        self.promised = self.promised.saturating_sub(1);
    }

    /// Fills a promised place.
    pub fn fill(&mut self, work: QuestionWork) {
        self.release();
        self.waiting.push(work);
    }

    /// Puts in what an earlier run accepted: it has its place whatever the queue's length is now.
    pub fn put_back(&mut self, work: QuestionWork) {
        self.waiting.push(work);
    }

    /// The question whose turn it is.
    pub fn take(&mut self) -> Option<QuestionWork> {
        let mut first = 0;
        for at in 1..self.waiting.len() {
            if self.waiting[at].goes_before(&self.waiting[first]) {
                first = at;
            }
        }
        (!self.waiting.is_empty()).then(|| self.waiting.swap_remove(first))
    }

    /// Each that waits, and how many of them go before it.
    pub fn ahead(&self) -> impl Iterator<Item = (QuestionId, usize)> + '_ {
        self.waiting.iter().map(|work| (work.id, self.waiting.iter().filter(|other| other.goes_before(work)).count()))
    }

    /// Whether a question that waits is about `frame`.
    #[must_use]
    pub fn wants(&self, frame: FrameId) -> bool {
        self.waiting.iter().any(|work| work.frames.contains(&frame))
    }
}

/// Frames that wait for their ingest.
pub struct Backlog {
    waiting: VecDeque<FrameEntry>,
    most: usize,
}

impl Backlog {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { waiting: VecDeque::with_capacity(most), most }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Adds a frame; the oldest one that waits gives way where there is no room.
    pub fn put(&mut self, frame: FrameEntry) -> Option<FrameEntry> {
        if self.waiting.iter().any(|other| other.id == frame.id) {
            return None;
        }
        let at = self.waiting.partition_point(|other| other.number < frame.number);
        self.waiting.insert(at, frame);
        if self.waiting.len() > self.most { self.waiting.pop_front() } else { None }
    }

    /// The newest.
    pub fn take(&mut self) -> Option<FrameEntry> {
        self.waiting.pop_back()
    }

    /// It was taken in for a question meanwhile.
    pub fn forget(&mut self, frame: FrameId) {
        self.waiting.retain(|other| other.id != frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{FrameState, QuestionState};
    use crate::units::{FrameNumber, UnixMillis};

    fn work(id: u64, priority: Priority, deadline: Option<f64>) -> QuestionWork {
        let entry = QuestionEntry {
            id: QuestionId(id),
            text: "why?".into(),
            frames: vec![FrameId([0; 8])],
            budget: None,
            encode_tiles: None,
            max_new: None,
            seed: None,
            deadline_ms: deadline.map(Millis),
            priority,
            origin: Origin::Http,
            accepted_at: UnixMillis(0),
            state: QuestionState::Open,
            done_at: None,
            outcome: None,
            begun: 0,
            looked: false,
        };
        QuestionWork::new(entry, Vec::new(), Millis(0.0))
    }

    #[test]
    fn priority_then_deadline_then_order() {
        let mut queue = Queue::new(5);
        let all = [
            (1, Priority::Normal, None),
            (2, Priority::Low, Some(10.0)),
            (3, Priority::Normal, Some(90_000.0)),
            (4, Priority::High, None),
            (5, Priority::Normal, Some(50_000.0)),
        ];
        for (id, priority, deadline) in all {
            assert!(queue.promise());
            queue.fill(work(id, priority, deadline));
        }
        assert!(!queue.promise());
        let mut ahead: Vec<_> = queue.ahead().map(|(id, ahead)| (ahead, id.0)).collect();
        ahead.sort_unstable();
        assert_eq!(ahead, [(0, 4), (1, 5), (2, 3), (3, 1), (4, 2)]);
        let order: Vec<u64> = std::iter::from_fn(|| queue.take()).map(|work| work.id.0).collect();
        assert_eq!(order, [4, 5, 3, 1, 2]);
    }

    #[test]
    fn promised_places_count() {
        let mut queue = Queue::new(1);
        assert!(queue.promise() && !queue.promise());
        queue.release();
        assert!(queue.promise());
    }

    #[test]
    fn the_newest_frame_goes_first_and_the_oldest_gives_way() {
        let frame = |number: u64| FrameEntry {
            number: FrameNumber(number),
            id: FrameId(number.to_be_bytes()),
            sha256: String::new(),
            path: "a.jpg".into(),
            w: 1,
            h: 1,
            bytes: 1,
            seen_at: UnixMillis(0),
            state: FrameState::Waiting,
            reason: None,
            in_slot: false,
            ingest_ms: None,
            geotag: None,
            begun: 0,
        };
        let mut backlog = Backlog::new(2);
        assert!(backlog.put(frame(2)).is_none() && backlog.put(frame(1)).is_none() && backlog.put(frame(2)).is_none());
        assert_eq!(backlog.put(frame(3)).map(|frame| frame.number.0), Some(1));
        assert_eq!(
            [backlog.take(), backlog.take(), backlog.take()].map(|frame| frame.map(|frame| frame.number.0)),
            [Some(3), Some(2), None]
        );
    }
}
