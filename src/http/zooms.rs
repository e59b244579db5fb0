//! The viewer's tiles and thumbnails: made one at a time on a thread of their own, on demand.
//!
//! # Why
//! A frame's tiles take seconds of one core and are wanted by a person who waits for them; the pipeline has the others. A second thread would make both
//! frames late and hold twice the memory.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::http::{HttpError, HttpSettings};
use crate::imaging::{self, FrameSource, Limits, Pack, Reading, ZoomError, ZoomFolder};
use crate::journal::FrameEntry;
use crate::kernels::Isa;
use crate::units::FrameId;

/// Frames and thumbnails that wait.
const WAITING: usize = 64;
/// Packs held open.
const OPEN: usize = 8;
/// Failures remembered.
const FAILURES: usize = 256;

/// How far a frame's tiles are.
pub enum ZoomState {
    Absent,
    /// Waiting its turn or being made.
    Preparing {
        share: f64,
    },
    Ready(Arc<Pack>),
    Failed {
        reason: String,
    },
}

/// Why there is no thumbnail.
#[derive(Debug)]
pub enum NoThumbnail {
    Busy,
    Failed(String),
}

/// What the thread needs to know of a frame.
#[derive(Clone)]
struct Target {
    id: FrameId,
    sha256: String,
    path: PathBuf,
}

struct Miniature {
    target: Target,
    done: oneshot::Sender<Result<Vec<u8>, NoThumbnail>>,
}

#[derive(Default)]
struct Work {
    /// Being made, with the share done.
    making: Option<(FrameId, f64)>,
    packs: VecDeque<Target>,
    thumbnails: VecDeque<Miniature>,
    failed: HashMap<FrameId, String>,
    /// Used last at the back.
    open: VecDeque<(FrameId, Arc<Pack>)>,
}

struct Inner {
    work: Mutex<Work>,
    more: Condvar,
    stop: AtomicBool,
    folder: ZoomFolder,
    limits: Limits,
    reading: Reading,
}

pub struct Zooms {
    inner: Arc<Inner>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Zooms {
    pub fn start(settings: &HttpSettings) -> Result<Self, HttpError> {
        let inner = Arc::new(Inner {
            work: Mutex::default(),
            more: Condvar::new(),
            stop: AtomicBool::new(false),
            folder: ZoomFolder::open(&settings.zoom_folder, settings.zoom_most)?,
            limits: settings.frame,
            reading: settings.reading,
        });
        let own = Arc::clone(&inner);
        let thread = std::thread::Builder::new().name("zoom".into()).spawn(move || own.work()).map_err(HttpError::Runtime)?;
        Ok(Self { inner, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread; a frame that is at work leaves nothing behind.
    pub fn stop(&self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        // The thread looks at the flag before it waits, under the same lock.
        drop(self.inner.lock());
        self.inner.more.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// How far a frame's tiles are. Reads the pack's index where they are ready and weren't looked at lately.
    pub fn state(&self, id: FrameId) -> ZoomState {
        {
            let mut work = self.inner.lock();
            if let Some(at) = work.open.iter().position(|(open, _)| *open == id)
                && let Some(entry) = work.open.remove(at)
            {
                let pack = Arc::clone(&entry.1);
                work.open.push_back(entry);
                return ZoomState::Ready(pack);
            }
            if let Some((_, share)) = work.making.filter(|(making, _)| *making == id) {
                return ZoomState::Preparing { share };
            }
            if work.packs.iter().any(|target| target.id == id) {
                return ZoomState::Preparing { share: 0.0 };
            }
            if let Some(reason) = work.failed.get(&id) {
                return ZoomState::Failed { reason: reason.clone() };
            }
        }
        let path = self.inner.folder.pack(id);
        match Pack::open(&path, id) {
            Ok(None) => ZoomState::Absent,
            Ok(Some(pack)) => {
                self.inner.folder.touch(&path);
                let pack = Arc::new(pack);
                let mut work = self.inner.lock();
                work.open.push_back((id, Arc::clone(&pack)));
                if work.open.len() > OPEN {
                    work.open.pop_front();
                }
                ZoomState::Ready(pack)
            }
            // A pack that a power cut left is made anew.
            Err(ZoomError::Pack { .. }) => {
                let _ = std::fs::remove_file(&path);
                ZoomState::Absent
            }
            Err(error) => ZoomState::Failed { reason: error.to_string() },
        }
    }

    /// Has the frame's tiles made, unless they are there or on their way. `false`: too many wait.
    pub fn prepare(&self, frame: &FrameEntry) -> bool {
        self.inner.lock().failed.remove(&frame.id);
        if !matches!(self.state(frame.id), ZoomState::Absent | ZoomState::Failed { .. }) {
            return true;
        }
        let mut work = self.inner.lock();
        if work.packs.len() >= WAITING {
            return false;
        }
        work.packs.push_back(Target::of(frame));
        self.inner.more.notify_one();
        true
    }

    /// A thumbnail that was made before.
    pub fn kept_thumbnail(&self, id: FrameId) -> Option<Vec<u8>> {
        let path = self.inner.folder.thumbnail(id);
        let jpeg = std::fs::read(&path).ok()?;
        self.inner.folder.touch(&path);
        Some(jpeg)
    }

    /// Has a thumbnail made.
    pub fn make_thumbnail(&self, frame: &FrameEntry) -> oneshot::Receiver<Result<Vec<u8>, NoThumbnail>> {
        let (done, made) = oneshot::channel();
        let mut work = self.inner.lock();
        // Those who asked and left don't count.
        work.thumbnails.retain(|waiting| !waiting.done.is_closed());
        if work.thumbnails.len() >= WAITING {
            let _ = done.send(Err(NoThumbnail::Busy));
        } else {
            work.thumbnails.push_back(Miniature { target: Target::of(frame), done });
            self.inner.more.notify_one();
        }
        made
    }
}

impl Target {
    fn of(frame: &FrameEntry) -> Self {
        Self { id: frame.id, sha256: frame.sha256.clone(), path: frame.path.clone() }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn work(&self) {
        loop {
            let mut work = self.lock();
            while work.packs.is_empty() && work.thumbnails.is_empty() && !self.stopping() {
                work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
            }
            if self.stopping() {
                return;
            }
            // A person waits for tiles in front of a spinner, for thumbnails beside it.
            if let Some(target) = work.packs.pop_front() {
                work.making = Some((target.id, 0.0));
                drop(work);
                let outcome = self.pack(&target);
                let mut work = self.lock();
                work.making = None;
                if let Err(error) = outcome {
                    if work.failed.len() >= FAILURES {
                        work.failed.clear();
                    }
                    work.failed.insert(target.id, error.to_string());
                }
            } else if let Some(Miniature { target, done }) = work.thumbnails.pop_front() {
                drop(work);
                if !done.is_closed() {
                    let _ = done.send(self.thumbnail(&target).map_err(|error| NoThumbnail::Failed(error.to_string())));
                }
            }
        }
    }

    fn source(&self, target: &Target) -> Result<FrameSource, ZoomError> {
        let source = FrameSource::open_as(&target.path, &self.limits, &self.reading)?;
        let found = source.digest.to_string();
        if found != target.sha256 {
            let (path, wanted) = (target.path.clone(), target.sha256.clone());
            return Err(imaging::ImagingError::Changed { path, wanted, found }.into());
        }
        Ok(source)
    }

    fn pack(&self, target: &Target) -> Result<(), ZoomError> {
        let source = self.source(target)?;
        imaging::prepare(&source, &self.limits, &self.folder, Isa::detect(), &mut |share| {
            if let Some((_, done)) = &mut self.lock().making {
                *done = share;
            }
            if self.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn thumbnail(&self, target: &Target) -> Result<Vec<u8>, ZoomError> {
        // Asked for twice at once, it is there the second time.
        if let Ok(jpeg) = std::fs::read(self.folder.thumbnail(target.id)) {
            return Ok(jpeg);
        }
        let jpeg = imaging::thumbnail(&self.source(target)?, &self.limits, Isa::detect())?;
        self.folder.keep_thumbnail(target.id, &jpeg)?;
        Ok(jpeg)
    }
}
