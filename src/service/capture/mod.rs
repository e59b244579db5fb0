//! The capture folders: whole files that come into them become frames, whatever else comes is recorded with the reason.
//!
//! Only files directly in a folder are looked at. Names that start with a dot, or end as unfinished downloads do, are left alone until they are renamed.
//!
//! # Why
//! A camera's driver writes as it likes: in one go, in pieces, under another name first, twice. A file is taken when it is closed or moved in, has its end,
//! and its size has stood; the folder is read whole at the start, when notices were lost, and when it comes back after being gone.

mod folder;
mod pending;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher};

use crate::imaging::{FrameSource, Limits, Reading, has_end};
use crate::journal::{Desk, FileMark, FileOutcome, FolderStatus, JournalError};
use crate::service::log::Log;
use folder::Folder;
use pending::{Pending, Ripe};

/// Notices that are held; more of them are lost, and the folders are read instead.
const NOTICES: usize = 1_024;
/// How often folders are looked for, and read whole where the file system sends no notices.
const LOOK: Duration = Duration::from_secs(1);
const READ: Duration = Duration::from_secs(60);
/// Between two readings of folders.
const APART: Duration = Duration::from_millis(200);
/// How long a file that can't be recorded waits.
const AGAIN: Duration = Duration::from_secs(2);

/// What the watcher goes by.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    pub folders: Vec<PathBuf>,
    pub settle: Duration,
    pub unfinished_after: Duration,
    pub admits: Limits,
    pub reading: Reading,
}

/// The watcher's thread.
pub struct Capture {
    desk: Desk,
    settings: CaptureSettings,
    log: Log,
    folders: Vec<Folder>,
    pending: Pending,
    /// When a folder was last read.
    read: Option<Instant>,
    /// Where the folders stand, for the status.
    told: Arc<std::sync::Mutex<Vec<FolderStatus>>>,
}

/// Sends notices on; `lost` is set where there is no room for one.
fn watcher(notices: SyncSender<PathBuf>, lost: Arc<AtomicBool>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else {
            lost.store(true, Ordering::Relaxed);
            return;
        };
        if event.need_rescan() {
            lost.store(true, Ordering::Relaxed);
        }
        let whole = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both | RenameMode::Any))
                // A link to a file that is there already is never closed.
                | EventKind::Create(CreateKind::File | CreateKind::Any)
        );
        for path in event.paths.into_iter().filter(|_| whole) {
            if let Err(TrySendError::Full(_)) = notices.try_send(path) {
                lost.store(true, Ordering::Relaxed);
            }
        }
    })
}

impl Capture {
    #[must_use]
    pub fn new(desk: Desk, settings: CaptureSettings, log: Log, told: Arc<std::sync::Mutex<Vec<FolderStatus>>>) -> Self {
        let folders = settings.folders.iter().map(|path| Folder::new(path.clone())).collect();
        Self { desk, settings, log, folders, pending: Pending::default(), read: None, told }
    }

    /// Watches until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) {
        let (notices, noticed) = sync_channel(NOTICES);
        let lost = Arc::new(AtomicBool::new(false));
        let mut watcher = match watcher(notices, Arc::clone(&lost)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                self.log.warning(&format!("folders are read every {} s, the system gives no notices: {error}", READ.as_secs()));
                None
            }
        };
        let (mut looked, mut read) = (None::<Instant>, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                looked = Some(Instant::now());
                self.look(watcher.as_mut());
            }
            if lost.swap(false, Ordering::Relaxed) || read.elapsed() >= READ {
                read = Instant::now();
                self.folders.iter_mut().for_each(|folder| folder.due = true);
            }
            self.read_folders();
            self.hear(&noticed);
            self.ripen();
        }
    }

    /// Finds out which folders are there, and watches those that came.
    fn look(&mut self, mut watcher: Option<&mut RecommendedWatcher>) {
        for folder in &mut self.folders {
            let before = folder.state();
            folder.look(watcher.as_deref_mut());
            let now = folder.state();
            if before != now {
                self.log.info(&format!("capture folder {}: {now}", folder.path.display()));
            }
        }
        let told = self.folders.iter().map(|folder| FolderStatus { path: folder.path.clone(), state: folder.state() });
        *self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = told.collect();
    }

    /// Reads the folders that are due, files by the time of their last change. What is known as it is needs no look.
    fn read_folders(&mut self) {
        if self.read.is_some_and(|at| at.elapsed() < APART) {
            return;
        }
        for folder in self.folders.iter_mut().filter(|folder| folder.due) {
            self.read = Some(Instant::now());
            match folder.files() {
                Ok(files) => {
                    let journal = self.desk.journal();
                    let mut new = files.into_iter().filter(|(mark, path)| !journal.knows_file(path, *mark).unwrap_or(false));
                    // What doesn't fit is found when there is room again.
                    folder.due = !new.all(|(_, path)| self.pending.notice(path, false));
                }
                Err(error) => {
                    folder.due = false;
                    self.log.debug(&format!("capture folder {}: {error}", folder.path.display()));
                }
            }
        }
    }

    fn hear(&mut self, noticed: &Receiver<PathBuf>) {
        let patience =
            if self.pending.is_empty() { Duration::from_millis(200) } else { self.settings.settle.min(Duration::from_millis(50)) };
        let mut next = match noticed.recv_timeout(patience) {
            Ok(path) => Some(path),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(patience);
                None
            }
        };
        while let Some(path) = next {
            let own = path.parent().and_then(|parent| self.folders.iter_mut().find(|folder| folder.path == parent));
            if let Some(folder) = own
                && folder::is_meant(&path)
                && !self.pending.notice(path, true)
            {
                folder.due = true;
            }
            next = noticed.try_recv().ok();
        }
    }

    /// Looks at what is pending, and takes what is whole.
    fn ripen(&mut self) {
        for (path, ripe) in self.pending.ripe(self.settings.settle) {
            match ripe {
                Ripe::Gone { noticed: false } => self.pending.forget(&path),
                Ripe::Gone { noticed: true } => {
                    let mark = FileMark { bytes: crate::units::Bytes(0), modified_ns: 0 };
                    self.turn_down(path, mark, FileOutcome::Vanished, "it was gone before it could be read");
                }
                Ripe::Other(what) => {
                    let mark = std::fs::symlink_metadata(&path)
                        .map_or(FileMark { bytes: crate::units::Bytes(0), modified_ns: 0 }, |file| FileMark::of(&file));
                    if !self.known(&path, mark) {
                        self.turn_down(path, mark, FileOutcome::Rejected, &format!("wanted a regular file, found {what}"));
                    }
                }
                Ripe::Settled { mark, since } => {
                    if !self.known(&path, mark) {
                        self.settled(path, mark, since);
                    }
                }
            }
        }
    }

    /// Whether the file was looked at before as it is; it isn't pending any more then.
    fn known(&mut self, path: &Path, mark: FileMark) -> bool {
        let known = self.desk.journal().knows_file(path, mark).unwrap_or(false);
        if known {
            self.pending.forget(path);
        }
        known
    }

    fn settled(&mut self, path: PathBuf, mark: FileMark, since: Duration) {
        match has_end(&path) {
            Ok(true) => {}
            Ok(false) if since < self.settings.unfinished_after => return,
            Ok(false) => {
                let reason = format!("it has no end, and has not grown for {} s", self.settings.unfinished_after.as_secs());
                return self.turn_down(path, mark, FileOutcome::Rejected, &reason);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.turn_down(path, mark, FileOutcome::Rejected, &format!("it can't be read: {error}")),
        }
        if path.to_str().is_none() {
            return self.turn_down(path, mark, FileOutcome::Rejected, "wanted a name in UTF-8, found other bytes");
        }
        let source = match FrameSource::open_as(&path, &self.settings.admits, &self.settings.reading) {
            Ok(source) => source,
            Err(_) if !path.exists() => return,
            Err(error) => return self.turn_down(path, mark, FileOutcome::Rejected, &error.to_string()),
        };
        // Written to while it was read: it is looked at again.
        if std::fs::metadata(&path).map(|file| FileMark::of(&file)).ok() != Some(mark) {
            self.pending.again(&path, Duration::ZERO);
            return;
        }
        match self.desk.captured(&source, mark) {
            Ok(seen) => {
                let what = if seen.new { "a new frame" } else { "known already" };
                self.log.debug(&format!("{}: {what}, {}", path.display(), seen.entry.id));
                self.pending.forget(&path);
            }
            Err(error) => self.later(&path, &error),
        }
    }

    fn turn_down(&mut self, path: PathBuf, mark: FileMark, outcome: FileOutcome, reason: &str) {
        match self.desk.journal().note_file(&path, mark, outcome, reason) {
            Ok(()) => {
                self.desk.count(|counts| counts.rejected += 1);
                self.log.warning(&format!("{}: no frame: {reason}", path.display()));
                self.pending.forget(&path);
            }
            Err(error) => self.later(&path, &error),
        }
    }

    /// It can't be recorded now.
    fn later(&mut self, path: &Path, error: &JournalError) {
        if self.pending.again(path, AGAIN) {
            self.desk.count(|counts| counts.unrecorded += 1);
            self.log.warning(&format!("{}: waits until it can be recorded: {error}", path.display()));
        }
        self.desk.journal_is_full(Some(error.to_string()));
    }
}
