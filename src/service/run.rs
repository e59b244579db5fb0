//! The daemon's threads, and the one that looks after them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::board::{self, Watch};
use crate::config::{Budget, Profile};
use crate::http;
use crate::imaging::Reading;
use crate::journal::{Desk, DeskLimits, FolderStatus, Journal, JournalLimits, MemoryStatus, Status, WatchdogStatus};
use crate::link;
use crate::pipeline::Pipeline;
use crate::planner::MAX_FRAMES;
use crate::service::beat::Beat;
use crate::service::capture::{Capture, CaptureSettings};
use crate::service::clerk::Clerk;
use crate::service::held::Held;
use crate::service::log::Log;
use crate::service::reload::needs_start;
use crate::service::spool::Spool;
use crate::service::systemd::{Word, herald};
use crate::service::worker::{Reloaded, Worker};
use crate::service::{ServiceError, told};
use crate::units::{Bytes, Millis};

/// How often the daemon looks after itself.
const TICK: Duration = Duration::from_millis(200);
/// For HTTP to close.
const CLOSING: Duration = Duration::from_secs(5);
/// Notes that wait for the clerk.
const NOTES: usize = 64;

/// What a daemon is made of, beside its profile.
pub struct ServiceSettings {
    pub profile: Profile,
    /// Reads the profile again, for SIGHUP; `None`: it is compiled in.
    pub reread: Option<Box<dyn Fn() -> Result<Profile, String> + Send>>,
    pub calibrated: bool,
    /// When the process began, and how long the model's load took of that.
    pub begun: Instant,
    pub load: Duration,
}

/// A daemon that is ready to run.
pub struct Service {
    settings: ServiceSettings,
    desk: Desk,
    watch: Option<Arc<Watch>>,
    log: Log,
    stop: Arc<AtomicBool>,
    beats: [Arc<Beat>; 2],
    folders: Arc<Mutex<Vec<FolderStatus>>>,
    reloaded: Reloaded,
    pipeline: Option<Box<Pipeline>>,
    /// The model's.
    views: usize,
    systemd: SyncSender<Word>,
    /// What doesn't change in the status.
    constant: Status,
}

/// Threads that work until they are told to stop, by name.
struct Threads(Vec<(&'static str, JoinHandle<()>)>);

impl Threads {
    fn start(&mut self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), ServiceError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        self.0.push((name, thread.map_err(|source| ServiceError::System { what: name, source })?));
        Ok(())
    }

    fn ended(&self, name: &str) -> bool {
        self.0.iter().any(|(other, thread)| *other == name && thread.is_finished())
    }

    fn any_ended(&self) -> Option<&'static str> {
        self.0.iter().find(|(_, thread)| thread.is_finished()).map(|(name, _)| *name)
    }
}

/// A thread that ended by itself.
fn first_ended(threads: &Threads, clerk: bool, link: bool) -> Option<&'static str> {
    threads.any_ended().or(clerk.then_some("clerk")).or(link.then_some("link"))
}

impl Service {
    /// A daemon over an open journal and a loaded pipeline. `watch`: tells of the board.
    ///
    /// # Errors
    /// What the journal says.
    pub fn new(
        settings: ServiceSettings,
        journal: Journal,
        pipeline: Pipeline,
        watch: Option<Arc<Watch>>,
        log: Log,
    ) -> Result<Self, ServiceError> {
        let profile = &settings.profile;
        let folder = journal.path().parent().unwrap_or(std::path::Path::new("")).to_owned();
        let limits = DeskLimits {
            places: profile.serve.queue,
            backlog: profile.serve.backlog,
            text: crate::planner::max_question(profile),
            frames: profile.frame.slots.min(MAX_FRAMES),
            brought: folder.join("brought"),
            picture: profile.serve.picture_max,
            brought_max: profile.serve.brought_max,
            admits: pipeline.limits(),
            reading: Reading { bands: profile.frame.bands, allow_truncated: false },
        };
        let mut constant = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            model: pipeline.model_id(),
            profile: profile.name.clone(),
            engines: pipeline.engines().chosen.clone(),
            calibrated: settings.calibrated,
            ..Status::default()
        };
        constant.memory.planned_bytes = pipeline.map().total();
        constant.frames.slots = profile.frame.slots;
        constant.watchdog.systemd = sd_notify::watchdog_enabled().is_some();
        let desk = Desk::new(journal, limits)?;
        let service = Self {
            settings,
            desk,
            watch,
            log,
            stop: Arc::default(),
            beats: Default::default(),
            folders: Arc::default(),
            reloaded: Arc::default(),
            views: pipeline.manifest().vision.shape.views().len(),
            pipeline: Some(Box::new(pipeline)),
            systemd: herald().map_err(|source| ServiceError::System { what: "systemd", source })?,
            constant,
        };
        service.publish(Millis::ZERO, Millis::ZERO, Bytes(0));
        Ok(service)
    }

    /// The desk, for other doors.
    #[must_use]
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Set when the daemon ends: other doors close then.
    #[must_use]
    pub fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Runs until SIGTERM or SIGINT. `door`: where HTTP is served. `lines`: the link, which ends with the rest and the rest with it.
    ///
    /// # Errors
    /// A thread or a signal that the system doesn't give; a thread that ended by itself.
    pub fn run(mut self, door: Option<http::Bound>, lines: Option<&link::Running>) -> Result<(), ServiceError> {
        let system = |what| move |source| ServiceError::System { what, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("signals"))?;
        let inside = runtime.enter();
        let mut signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<Result<Vec<_>, _>>()
            .map_err(system("signals"))?;
        drop(inside);
        let mut threads = Threads(Vec::new());
        let ending = Arc::new(AtomicBool::new(false));
        let clerk = self.start(&mut threads, &ending)?;
        let (close, closing) = tokio::sync::watch::channel(false);
        if let Some(door) = door {
            self.log.info(&format!("HTTP on http://{}", door.address()));
            let (desk, log) = (self.desk(), self.log.clone());
            threads.start("http", move || {
                if let Err(error) = door.run(desk, closing) {
                    log.error(&error.to_string());
                }
            })?;
        }
        let start: Millis = self.settings.begun.elapsed().into();
        let after_model = start - self.settings.load.into();
        let notified = sd_notify::watchdog_enabled();
        self.tell(Word::Ready);
        self.log.info(&format!("ready after {start}, {after_model} of it beside loading the model"));
        let mut peak = Bytes(0);
        let mut said = String::new();
        let ended = loop {
            let happened = runtime.block_on(async {
                let [terminate, interrupt, hangup] = &mut signals[..] else { return None };
                tokio::select! {
                    _ = terminate.recv() => Some(SignalKind::terminate()),
                    _ = interrupt.recv() => Some(SignalKind::interrupt()),
                    _ = hangup.recv() => Some(SignalKind::hangup()),
                    () = tokio::time::sleep(TICK) => None,
                }
            });
            peak = peak.max(board::peak_memory().unwrap_or_default());
            self.publish(start, after_model, peak);
            let status = self.desk.status();
            if notified.is_some() && !status.watchdog.overdue {
                self.tell(Word::Watchdog);
            }
            let line = one_line(&status);
            if line != said {
                said.clone_from(&line);
                self.tell(Word::Status(line));
            }
            match happened {
                Some(kind) if kind == SignalKind::hangup() => self.reload(),
                Some(_) => break Ok(()),
                None => {}
            }
            let link_ended = lines.is_some_and(link::Running::any_ended);
            if let Some(thread) = first_ended(&threads, clerk.is_finished(), link_ended) {
                break Err(ServiceError::Thread { thread });
            }
        };
        self.tell(Word::Stopping);
        self.log.info("ending: no more questions");
        self.finish(&threads, &ending, clerk, &close, &|service| service.publish(start, after_model, peak))?;
        ended
    }

    /// Starts all threads but this one. The clerk is apart: it ends when the others have.
    fn start(&mut self, threads: &mut Threads, ending: &Arc<AtomicBool>) -> Result<JoinHandle<()>, ServiceError> {
        let serve = &self.settings.profile.serve;
        let (notes, noted) = sync_channel(NOTES);
        let unwritten = Arc::new(AtomicUsize::new(0));
        let clerk = Clerk {
            desk: self.desk(),
            beat: Arc::clone(&self.beats[1]),
            log: self.log.clone(),
            unwritten: Arc::clone(&unwritten),
            ending: Arc::clone(ending),
        };
        let clerk = std::thread::Builder::new().name("clerk".into()).spawn(move || clerk.run(&noted));
        let clerk = clerk.map_err(|source| ServiceError::System { what: "clerk", source })?;
        let Some(pipeline) = self.pipeline.take() else { return Ok(clerk) };
        let (admits, reading) = (pipeline.limits(), Reading { bands: self.settings.profile.frame.bands, allow_truncated: false });
        let worker = Worker {
            pipeline: *pipeline,
            desk: self.desk(),
            held: Held::default(),
            notes,
            unwritten,
            beat: Arc::clone(&self.beats[0]),
            log: self.log.clone(),
            reloaded: Arc::clone(&self.reloaded),
            seed: self.settings.profile.compression.seed,
            peak: Bytes(0),
        };
        threads.start("pipeline", move || worker.run())?;
        let capture = CaptureSettings {
            folders: absolute(&serve.capture)?,
            settle: serve.settle,
            unfinished_after: serve.unfinished_after,
            admits,
            reading,
        };
        let capture = Capture::new(self.desk(), capture, self.log.clone(), Arc::clone(&self.folders));
        let stop = self.stopping();
        threads.start("capture", move || capture.run(&stop))?;
        let journal = self.desk.journal().path().to_owned();
        let folder = journal.parent().unwrap_or(std::path::Path::new("")).join("spool");
        let spool = Spool::new(self.desk(), folder, self.log.clone());
        let stop = self.stopping();
        threads.start("spool", move || spool.run(&stop))?;
        match told::listen(&journal) {
            Ok(listener) => {
                let (desk, stop) = (self.desk(), self.stopping());
                threads.start("status", move || told::serve(&listener, &desk, &stop))?;
            }
            Err(error) => {
                self.log.warning(&format!("{}: no status on this machine but by HTTP: {error}", told::socket(&journal).display()))
            }
        }
        Ok(clerk)
    }

    /// Lets the question at hand come to its end, or leaves it to the next start.
    fn finish(
        self,
        threads: &Threads,
        ending: &AtomicBool,
        clerk: JoinHandle<()>,
        close: &tokio::sync::watch::Sender<bool>,
        publish: &dyn Fn(&Self),
    ) -> Result<(), ServiceError> {
        self.desk.stop();
        let patience = self.settings.profile.serve.stop_after;
        let begun = Instant::now();
        while !threads.ended("pipeline") && begun.elapsed() < patience {
            publish(&self);
            std::thread::sleep(Duration::from_millis(10));
        }
        publish(&self);
        self.stop.store(true, Ordering::Relaxed);
        ending.store(true, Ordering::Relaxed);
        let pipeline = threads.ended("pipeline");
        if !pipeline {
            // The thread can't be stopped in the middle of a stage; it ends with the process.
            if let Some(id) = self.desk.status().questions.working_on {
                self.log.info(&format!("question {id} isn't done after {} s and is left to the next start", patience.as_secs()));
                // It is this run that ends it, not the question.
                if let Err(error) = self.desk.journal().begin(id, -1) {
                    self.log.error(&format!("question {id}: it could not be noted that this run ended it: {error}"));
                }
            }
            if let Some(id) = self.desk.taking_in() {
                self.log.info(&format!("frame {id} isn't taken in after {} s and is left to the next start", patience.as_secs()));
                if let Err(error) = self.desk.journal().begin_frame(id, -1) {
                    self.log.error(&format!("frame {id}: it could not be noted that this run ended it: {error}"));
                }
            }
        } else if clerk.join().is_err() {
            return Err(ServiceError::Thread { thread: "clerk" });
        }
        // Answers that are on their way to a client still leave.
        let (begun, _) = (Instant::now(), close.send(true));
        while threads.0.iter().any(|(name, thread)| *name == "http" && !thread.is_finished()) && begun.elapsed() < CLOSING {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_file(told::socket(self.desk.journal().path()));
        self.desk.journal().tidy();
        self.log.info("ended");
        self.log.flush();
        Ok(())
    }

    fn publish(&self, start: Millis, after_model: Millis, peak: Bytes) {
        let limit = self.settings.profile.serve.stage_limit;
        let places = self.beats.each_ref().map(|beat| beat.place(limit));
        let (stage, passed, overdue) = *places.iter().find(|(.., overdue)| *overdue).unwrap_or(&places[0]);
        let mut status = Status {
            uptime_ms: self.settings.begun.elapsed().into(),
            start_ms: start,
            start_after_model_ms: after_model,
            board: self.watch.as_ref().map(|watch| watch.latest()).unwrap_or_default(),
            memory: MemoryStatus {
                peak_bytes: peak,
                resident_bytes: board::resident_memory().unwrap_or_default(),
                ..self.constant.memory.clone()
            },
            capture: self.folders.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            watchdog: WatchdogStatus {
                stage: stage.to_owned(),
                stage_ms: passed,
                limit_ms: limit.into(),
                overdue,
                ..self.constant.watchdog.clone()
            },
            ..self.constant.clone()
        };
        if overdue && !self.desk.status().watchdog.overdue {
            self.log.error(&format!("stage {stage} has been going on for {passed}, more than the {} s allowed", limit.as_secs()));
        }
        status.frames.slots = self.constant.frames.slots;
        self.desk.publish(status);
    }

    fn tell(&self, word: Word) {
        // A socket that nobody reads costs words, not the daemon.
        if self.systemd.try_send(word).is_err() {
            self.log.debug("systemd doesn't listen");
        }
    }

    fn reload(&mut self) {
        self.tell(Word::Reloading);
        match self.settings.reread.as_ref().map(|reread| reread()) {
            None => self.log.info("SIGHUP: the profile is compiled in, nothing to read again"),
            Some(Err(error)) => self.log.error(&format!("SIGHUP: everything stays as it was: {error}")),
            Some(Ok(new)) => self.take_over(new),
        }
        self.tell(Word::Ready);
    }

    /// Budgets of a profile that its own questions could not keep.
    fn unkept(&self, new: &Profile) -> Option<String> {
        let most = self.settings.profile.tokens.max_visual;
        let texts = new.ladder.iter().map(|step| &step.budget).chain([&new.tokens.default_budget]);
        texts.into_iter().find_map(|text| match Budget::parse(text, self.views) {
            Err(error) => Some(error.to_string()),
            Ok(budget) if budget.total() > most => Some(format!("budget {text}: wanted at most {most}, found {}", budget.total())),
            Ok(_) => None,
        })
    }

    fn take_over(&mut self, new: Profile) {
        if let Some(unkept) = self.unkept(&new) {
            self.log.error(&format!("SIGHUP: everything stays as it was: {unkept}"));
            return;
        }
        let cannot = needs_start(&self.settings.profile, &new);
        if !cannot.is_empty() {
            self.log.warning(&format!("SIGHUP: these change with the next start only: {}", cannot.join(", ")));
        }
        let limits = JournalLimits { max: new.journal.max, looked: new.journal.keep_looked };
        if let Err(error) = self.desk.journal().set_limits(limits) {
            self.log.error(&format!("SIGHUP: the journal's limits stay as they were: {error}"));
        }
        self.desk.set_backlog(new.serve.backlog);
        self.log.set(new.serve.log);
        let own = &mut self.settings.profile;
        (own.serve.backlog, own.serve.log) = (new.serve.backlog, new.serve.log);
        (own.serve.stage_limit, own.serve.stop_after) = (new.serve.stage_limit, new.serve.stop_after);
        (own.journal.max, own.journal.keep_looked) = (new.journal.max, new.journal.keep_looked);
        (own.ladder, own.thermal, own.tokens.default_budget) = (new.ladder.clone(), new.thermal, new.tokens.default_budget.clone());
        *self.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
        self.log.info("SIGHUP: log level, ladder, heat, default budget, backlog, limits of stages and of the journal are taken over");
    }
}

/// Folders by their whole paths: frames are recorded by theirs.
fn absolute(folders: &[PathBuf]) -> Result<Vec<PathBuf>, ServiceError> {
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|source| ServiceError::System { what: "capture folder", source });
    folders.iter().map(absolute).collect()
}

/// The status in a line, for `systemctl status`.
fn one_line(status: &Status) -> String {
    let (questions, frames) = (&status.questions, &status.frames);
    let full = if status.journal.full.is_some() { ", THE JOURNAL IS FULL" } else { "" };
    let hung = if status.watchdog.overdue { format!(", HUNG in {}", status.watchdog.stage) } else { String::new() };
    format!(
        "{} answered, {} refused, {} queued; {} frames taken in, {} waiting{full}{hung}",
        questions.answered, questions.refused, questions.queued, frames.taken_in, frames.waiting
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thread_ends_unseen() {
        let none = Threads(Vec::new());
        assert_eq!(first_ended(&none, false, false), None);
        assert_eq!(first_ended(&none, true, false), Some("clerk"));
        assert_eq!(first_ended(&none, false, true), Some("link"));
    }
}
