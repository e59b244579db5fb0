//! The tree of files that FTP and our own client read: answers, and pictures that are drawn when somebody wants them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::imaging::{Limits, Reading};
use crate::journal::{Desk, Filter, Outcome, QuestionEntry, QuestionState};
use crate::link::metadata;
use crate::link::picture::{self, PictureKind, detail_bytes};
use crate::link::standard::ftp::{EachEntry, Found, MAX_FILE, Tree};
use crate::units::{Bytes, BytesPerSecond, QuestionId};

/// Pictures that are kept, and those that wait to be drawn.
pub const KEPT: usize = 8;
const WAITING: usize = 4;
/// Questions that are listed.
const LISTED: usize = 32;

type Key = (QuestionId, PictureKind);

/// Drawn pictures, the one drawn last at the end; `None`: it is waited for.
type Kept = Arc<Mutex<Vec<(Key, Option<Drawn>)>>>;

/// A drawn picture, or the fact that there is none.
type Drawn = Result<Arc<[u8]>, ()>;

/// The files, as one line sees them. A clone is the same files.
#[derive(Clone)]
pub struct Files {
    desk: Desk,
    kept: Kept,
    wanted: SyncSender<Key>,
    /// Most bytes of a detail.
    detail: Bytes,
    metadata: [Arc<[u8]>; 2],
    /// The answer that was read last: it is read in pieces.
    document: Option<(QuestionId, Arc<[u8]>)>,
}

/// Draws what is wanted, on a thread of its own; ends with `stop`.
pub struct Painter {
    desk: Desk,
    kept: Kept,
    wanted: Receiver<Key>,
    limits: Limits,
    reading: Reading,
}

/// The files of `desk`, and who draws its pictures.
#[must_use]
pub fn files(desk: &Desk, limits: Limits, reading: Reading) -> (Files, Painter) {
    let (wanted, wants) = sync_channel(WAITING);
    let kept = Kept::default();
    let painter = Painter { desk: desk.clone(), kept: Arc::clone(&kept), wanted: wants, limits, reading };
    let metadata = [metadata::GENERAL, metadata::PARAMETERS].map(|text| Arc::from(text.as_bytes()));
    (Files { desk: desk.clone(), kept, wanted, detail: detail_bytes(BytesPerSecond(0)), metadata, document: None }, painter)
}

fn lock(kept: &Kept) -> std::sync::MutexGuard<'_, Vec<(Key, Option<Drawn>)>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Painter {
    pub fn run(self, stop: &std::sync::atomic::AtomicBool, say: &dyn Fn(&str)) {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let key = match self.wanted.recv_timeout(Duration::from_millis(100)) {
                Ok(key) => key,
                Err(RecvTimeoutError::Timeout) => continue,
                // There is no line that could ask.
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let drawn = self.draw(key).map_err(|reason| say(&format!("picture of answer {}: {reason}", key.0)));
            if let Some((_, place)) = lock(&self.kept).iter_mut().find(|(other, _)| *other == key) {
                *place = Some(drawn);
            }
        }
    }

    fn draw(&self, (id, kind): Key) -> Result<Arc<[u8]>, String> {
        let entry = self.desk.question(id).map_err(|error| error.to_string())?.ok_or("no such question")?;
        let Some(Outcome::Answered { document }) = &entry.outcome else { return Err("not answered".into()) };
        let frame = entry.frames.first().ok_or("no frame")?;
        let frame = self.desk.frame(frame).map_err(|error| error.to_string())?.ok_or("the frame is no longer known")?;
        let document = serde_json::to_value(document).map_err(|error| error.to_string())?;
        picture::draw(&frame, &document, kind, &self.limits, &self.reading).map(Arc::from).map_err(|error| error.to_string())
    }
}

/// `/answers/ID/NAME`.
fn answer(path: &str) -> Option<(QuestionId, &str)> {
    let (id, name) = path.strip_prefix("/answers/")?.split_once('/')?;
    Some((QuestionId(id.parse().ok()?), name))
}

impl Files {
    /// The same files as a line of such a rate has them.
    #[must_use]
    pub fn of_line(&self, rate: BytesPerSecond) -> Self {
        Self { detail: detail_bytes(rate), ..self.clone() }
    }

    fn question(&self, id: QuestionId) -> Option<QuestionEntry> {
        self.desk.question(id).ok().flatten()
    }

    fn document(&mut self, id: QuestionId) -> Found {
        if let Some((_, bytes)) = self.document.as_ref().filter(|(other, _)| *other == id) {
            return Found::File(Arc::clone(bytes));
        }
        let document = match self.question(id).and_then(|entry| entry.outcome) {
            Some(Outcome::Answered { document }) => serde_json::to_vec(&document),
            Some(refused @ Outcome::Refused { .. }) => serde_json::to_vec(&refused),
            None => return Found::Missing,
        };
        let Some(bytes) = document.ok().filter(|bytes| bytes.len() <= MAX_FILE) else { return Found::Missing };
        let (_, bytes) = self.document.insert((id, bytes.into()));
        Found::File(Arc::clone(bytes))
    }

    fn picture(&self, key: Key) -> Found {
        let mut kept = lock(&self.kept);
        match kept.iter().find(|(other, _)| *other == key) {
            Some((_, Some(Ok(bytes)))) => return Found::File(Arc::clone(bytes)),
            Some((_, Some(Err(())))) => return Found::Missing,
            Some((_, None)) => return Found::Later,
            None => {}
        }
        if self.question(key.0).is_none_or(|entry| entry.state != QuestionState::Answered) {
            return Found::Missing;
        }
        if kept.len() == KEPT {
            let Some(old) = kept.iter().position(|(_, drawn)| drawn.is_some()) else { return Found::Later };
            kept.remove(old);
        }
        if self.wanted.try_send(key).is_ok() {
            kept.push((key, None));
        }
        Found::Later
    }

    fn drawn(&self, key: Key) -> u32 {
        let kept = lock(&self.kept);
        let bytes =
            kept.iter().find(|(other, _)| *other == key).and_then(|(_, drawn)| drawn.as_ref()?.as_ref().ok().map(|bytes| bytes.len()));
        bytes.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0)
    }
}

impl Tree for Files {
    fn open(&mut self, path: &str) -> Found {
        match path {
            "/general.json" | "general.json" => return Found::File(Arc::clone(&self.metadata[0])),
            "/parameters.json" | "parameters.json" => return Found::File(Arc::clone(&self.metadata[1])),
            _ => {}
        }
        match answer(path) {
            Some((id, "answer.json")) => self.document(id),
            Some((id, "evidence.jpg")) => self.picture((id, PictureKind::Evidence(self.detail))),
            Some((id, "glimpse.jpg")) => self.picture((id, PictureKind::Glimpse)),
            _ => Found::Missing,
        }
    }

    fn list(&mut self, path: &str, each: &mut EachEntry<'_>) -> bool {
        let length = |text: &str| u32::try_from(text.len()).ok();
        match path.trim_end_matches('/') {
            "" => {
                each("answers", None);
                each("general.json", length(metadata::GENERAL));
                each("parameters.json", length(metadata::PARAMETERS));
                true
            }
            "/answers" | "answers" => {
                let Ok(entries) = self.desk.questions(&Filter { limit: LISTED, ..Filter::default() }) else { return false };
                entries.iter().for_each(|entry| each(&entry.id.to_string(), None));
                true
            }
            folder => {
                let id = folder.strip_prefix("/answers/").and_then(|id| id.parse().ok()).map(QuestionId);
                let Some(entry) = id.and_then(|id| self.question(id)) else { return false };
                if let Found::File(bytes) = self.document(entry.id) {
                    each("answer.json", u32::try_from(bytes.len()).ok());
                }
                if entry.state == QuestionState::Answered {
                    each("evidence.jpg", Some(self.drawn((entry.id, PictureKind::Evidence(self.detail)))));
                    each("glimpse.jpg", Some(self.drawn((entry.id, PictureKind::Glimpse))));
                }
                true
            }
        }
    }
}
