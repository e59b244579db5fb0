//! The pipeline's thread: a question before a frame, one after the other. It reads frames' files, and waits for nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::board;
use crate::compress::{Mode, Selector};
use crate::config::Profile;
use crate::imaging::{FrameSource, Reading};
use crate::journal::{Desk, FrameFile, FrameWork, Outcome, QuestionWork, Work};
use crate::pipeline::{Answer, Frame, Importance, Pipeline, PipelineError, PromptIds, Request, Shown, Spent, Told};
use crate::planner::{self, Cached, Plan, PlannerError};
use crate::service::beat::Beat;
use crate::service::clerk::Note;
use crate::service::held::{Held, HeldFrame};
use crate::service::log::Log;
use crate::service::refusal::Refusal;
use crate::units::{Bytes, FrameId, Millis};

/// A question or a frame that a run began so often, without coming to its end, is refused: it may be what ends the daemon.
const MOST_BEGUN: u32 = 5;

const PATIENCE: Duration = Duration::from_millis(500);
/// Notes that may wait for the clerk when work begins, and how often it is looked whether they are fewer.
const MOST_UNWRITTEN: usize = 16;
const AGAIN: Duration = Duration::from_millis(50);

/// The limits that a SIGHUP brought, until the worker takes them over.
pub type Reloaded = Arc<Mutex<Option<Profile>>>;

pub struct Worker {
    pub pipeline: Pipeline,
    pub desk: Desk,
    pub held: Held,
    pub notes: SyncSender<Note>,
    /// Notes that the clerk has not written yet.
    pub unwritten: Arc<AtomicUsize>,
    pub beat: Arc<Beat>,
    pub log: Log,
    pub reloaded: Reloaded,
    /// The profile's, for questions that name none.
    pub seed: u64,
    pub peak: Bytes,
}

/// The answer and its picture's layers.
type Answered = (Answer, Vec<(Shown, Importance)>);

impl Worker {
    /// Works until the desk says that the daemon ends.
    pub fn run(mut self) {
        loop {
            self.beat.wait();
            if let Some(profile) = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner).take() {
                self.pipeline.set_limits(profile.ladder, profile.thermal, profile.tokens.default_budget);
            }
            // While the clerk can't write, no more work is begun: nobody would know of it.
            if self.unwritten.load(Ordering::Acquire) >= MOST_UNWRITTEN && !self.desk.is_stopping() {
                std::thread::sleep(AGAIN);
                continue;
            }
            let lost = match self.desk.next_work(PATIENCE) {
                Work::Question(work) => self.question(&work),
                Work::Frame(work) => self.frame(&work),
                Work::Idle => false,
                Work::Stop => return,
            };
            if lost {
                self.log.error("the device answers no more: the daemon ends, and a new one loads the engines anew");
                return;
            }
        }
    }

    fn note(&self, note: Note) {
        // The clerk ends after this thread does.
        self.unwritten.fetch_add(1, Ordering::AcqRel);
        let _ = self.notes.send(note);
    }

    /// Whether the device was lost over it.
    fn question(&mut self, work: &QuestionWork) -> bool {
        self.beat.begin("plan");
        self.note(Note::Begun(work.id));
        let begun = Instant::now();
        let mut lost = false;
        let (outcome, looked) = match self.answered(work) {
            Ok((answer, looked)) => match serde_json::to_string(&answer).and_then(|text| serde_json::from_str(&text)) {
                Ok(document) => (Outcome::Answered { document }, looked),
                Err(error) => (Refusal::failed(error.to_string()).outcome(), Vec::new()),
            },
            Err(refusal) => {
                lost = refusal.is_lost();
                (refusal.outcome(), Vec::new())
            }
        };
        let ms = Millis::from(begun.elapsed());
        match &outcome {
            Outcome::Answered { .. } => self.log.info(&format!("question {} answered in {ms}", work.id)),
            Outcome::Refused { code, reason } => self.log.info(&format!("question {} refused after {ms}: {code}: {reason}", work.id)),
        }
        self.note(Note::Done { id: work.id, outcome, looked });
        self.desk.slots_hold(self.held.ids());
        self.desk.rest();
        lost
    }

    fn answered(&mut self, work: &QuestionWork) -> Result<Answered, Refusal> {
        if work.begun >= MOST_BEGUN {
            return Err(Refusal::crashed(work.begun));
        }
        if let (Some(left), Some(deadline)) = (work.left(), work.deadline)
            && left <= Millis::ZERO
        {
            return Err(Refusal::passed(deadline));
        }
        let seed = work.seed.unwrap_or(self.seed);
        self.pipeline.set_seed(seed);
        let prompt = self.pipeline.prompt(&work.text)?;
        let profile = self.pipeline.profile();
        let request = Request {
            budget: planner::budget(work.budget.as_deref(), profile, self.pipeline.manifest()).map_err(PipelineError::from)?,
            selector: Selector::UhrBat,
            mode: Mode::Paper,
            encode_tiles: work.encode_tiles,
            max_new: work.max_new.unwrap_or(profile.tokens.max_new),
            deadline: work.left(),
        };
        let answered = match self.try_answer(work, &prompt, &request, seed) {
            // Its frames were taken in for a question that wanted less.
            Err(Refusal { again: true, .. }) => {
                work.frames.iter().for_each(|id| self.held.forget(&mut self.pipeline, *id, seed));
                self.try_answer(work, &prompt, &Request { deadline: work.left(), ..request }, seed)
            }
            done => done,
        };
        // What was taken in for one question isn't what the next one would find: it is taken in for all of them when there is time.
        for id in self.held.forget_partial(&mut self.pipeline) {
            self.desk.capture_again(id);
        }
        answered
    }

    fn try_answer(&mut self, work: &QuestionWork, prompt: &PromptIds, request: &Request, seed: u64) -> Result<Answered, Refusal> {
        let mut frames: Vec<Option<Frame>> = Vec::with_capacity(work.frames.len());
        for id in &work.frames {
            frames.push(self.held.get(&mut self.pipeline, *id, seed).map(|held| held.frame.clone()));
        }
        let (mut plan, mut spent) = (None, None);
        if frames.iter().any(Option::is_none) {
            let mut sources = Vec::with_capacity(frames.len());
            for (id, frame) in work.frames.iter().zip(&frames) {
                sources.push(match frame {
                    Some(frame) => frame.source.clone(),
                    None => self.source(*id, &work.files)?,
                });
            }
            // Whatever can be refused is, before any work.
            let mut first = self.pipeline.plan_first(&sources, prompt, request)?;
            let mut paid = Spent::default();
            for (number, (source, place)) in sources.into_iter().zip(&mut frames).enumerate() {
                if let Some(frame) = place {
                    first.takes_in(number, if frame.lazy { Cached::Coarse } else { Cached::Whole });
                    continue;
                }
                let id = source.id();
                let whole = request.deadline.is_none();
                let (frame, took) = if whole {
                    let mut capture = self.pipeline.plan_capture(&source)?;
                    self.take_in(0, source, &mut capture, Some(work))?
                } else {
                    self.take_in(number, source, &mut first, Some(work))?
                };
                paid += took;
                self.hold(HeldFrame { id, seed, whole, frame: frame.clone() });
                *place = Some(frame);
            }
            spent = Some(paid);
            // A deadline runs from the plan on; without one the frame is whole, and what the question does on it is planned by itself.
            plan = request.deadline.map(|_| first);
        }
        let frames: Vec<&Frame> = frames.iter().flatten().collect();
        let mut plan = match plan {
            Some(plan) => plan,
            None => self.pipeline.plan_again(&frames, prompt, request)?,
        };
        self.reply(work, &frames, prompt, &mut plan, spent)
    }

    /// The one place that asks the pipeline for an answer.
    fn reply(
        &mut self,
        work: &QuestionWork,
        frames: &[&Frame],
        prompt: &PromptIds,
        plan: &mut Plan,
        spent: Option<Spent>,
    ) -> Result<Answered, Refusal> {
        let (desk, beat) = (self.desk.clone(), Arc::clone(&self.beat));
        let mut stage = "plan";
        let mut told = |told: Told<'_>| match told {
            Told::Stage(now) => {
                stage = now.name();
                beat.begin(stage);
                desk.working(work.id, stage, 0.0, "");
            }
            Told::Text(text) => desk.working(work.id, stage, 0.0, text),
        };
        let (mut answer, _) = self.pipeline.answer(frames, prompt, plan, spent, &mut told)?;
        // The system's own count falls now and then, by pages it hadn't added up yet.
        self.peak = self.peak.max(board::peak_memory().unwrap_or_default());
        answer.receipt.memory.peak_bytes = self.peak.0;
        let mut looked = Vec::with_capacity(frames.len());
        for (number, frame) in frames.iter().enumerate() {
            looked.push((self.pipeline.shown(number, frame)?, self.pipeline.importance(number)));
        }
        Ok((answer, looked))
    }

    /// A frame nobody has asked about yet. Whether the device was lost over it.
    fn frame(&mut self, work: &FrameWork) -> bool {
        let entry = &work.entry;
        if self.held.has(entry.id, self.seed) {
            return false;
        }
        if entry.begun >= MOST_BEGUN {
            let reason = format!("the daemon ended {} times while it took this frame in; it is not tried again", entry.begun);
            self.log.warning(&format!("frame {} not taken in: {reason}", entry.id));
            self.desk.count(|counts| counts.failed += 1);
            self.note(Note::Failed { frame: entry.id, reason });
            return false;
        }
        let mut lost = false;
        self.beat.begin("open");
        // Before any work, and not by way of the clerk: a picture that ends the daemon at once is to be counted too.
        if let Err(error) = self.desk.takes_in(entry.id) {
            self.log.warning(&format!("frame {}: its begin could not be noted: {error}", entry.id));
        }
        self.pipeline.set_seed(self.seed);
        let file = FrameFile { id: entry.id, path: entry.path.clone(), sha256: entry.sha256.clone() };
        let begun = Instant::now();
        let taken = self.source(entry.id, &[file]).and_then(|source| {
            let mut plan = self.pipeline.plan_capture(&source)?;
            self.take_in(0, source, &mut plan, None)
        });
        match taken {
            Ok((frame, _)) => {
                self.hold(HeldFrame { id: entry.id, seed: self.seed, whole: true, frame });
                self.log.info(&format!("frame {} taken in, {}, from {}", entry.id, Millis::from(begun.elapsed()), entry.path.display()));
            }
            Err(refusal) => {
                self.log.warning(&format!("frame {} not taken in: {}", entry.id, refusal.reason));
                lost = refusal.is_lost();
                // A file that isn't there may come back, and a frame that a device was lost over waits for the next run; one that can't be decoded stays as it is.
                if refusal.is_gone() || lost {
                    self.note(Note::FrameLeft(entry.id));
                } else {
                    self.desk.count(|counts| counts.failed += 1);
                    self.note(Note::Failed { frame: entry.id, reason: refusal.reason });
                }
            }
        }
        self.desk.took_in();
        self.held.sweep(&self.pipeline);
        self.desk.slots_hold(self.held.ids());
        lost
    }

    /// A frame that was taken in has its slot, which the status tells before it counts it.
    fn hold(&mut self, frame: HeldFrame) {
        let id = frame.id;
        self.held.put(&self.pipeline, frame);
        self.desk.slots_hold(self.held.ids());
        self.desk.count(|counts| counts.taken_in += 1);
        self.desk.taken_in(id);
    }

    /// Takes frame `number` of a plan in; `question`: that waits for it.
    fn take_in(
        &mut self,
        number: usize,
        source: FrameSource,
        plan: &mut Plan,
        question: Option<&QuestionWork>,
    ) -> Result<(Frame, Spent), Refusal> {
        let id = source.id();
        let (desk, beat) = (&self.desk, &self.beat);
        let mut told = (Instant::now(), "");
        let begun = Instant::now();
        let taken = self.pipeline.ingest(number, source, plan, &mut |stage, share| {
            beat.enter(stage);
            if let Some(work) = question
                && (stage != told.1 || told.0.elapsed() > Duration::from_millis(100))
            {
                told = (Instant::now(), stage);
                desk.working(work.id, stage, share, "");
            }
        });
        self.held.sweep(&self.pipeline);
        let (frame, spent) = taken?;
        self.note(Note::Ready { frame: id, took: begun.elapsed().into() });
        Ok((frame, spent))
    }

    /// The frame's file, with the bytes that the journal has it by.
    fn source(&self, id: FrameId, files: &[FrameFile]) -> Result<FrameSource, Refusal> {
        let file =
            files.iter().find(|file| file.id == id).ok_or_else(|| Refusal::gone(format!("frame {id}: the journal has it no more")))?;
        self.beat.begin("open");
        let reading = Reading { bands: self.pipeline.profile().frame.bands, allow_truncated: false };
        let open = |path: &std::path::Path| FrameSource::open_as(path, &self.pipeline.limits(), &reading);
        let source = match open(&file.path) {
            // It may have been moved since, or have a copy.
            Err(error) if !file.path.is_file() => {
                match self.desk.journal().files_of(id).unwrap_or_default().iter().find(|path| path.is_file()) {
                    Some(path) => open(path)?,
                    None => return Err(Refusal::gone(format!("frame {id}: its file is gone: {error}"))),
                }
            }
            opened => opened?,
        };
        if source.digest.to_string() != file.sha256 {
            let path = source.path.display();
            return Err(Refusal::gone(format!("frame {id}: {path}: wanted sha256 {}, found {}", file.sha256, source.digest)));
        }
        Ok(source)
    }
}

impl From<PlannerError> for Refusal {
    fn from(error: PlannerError) -> Self {
        PipelineError::from(error).into()
    }
}
