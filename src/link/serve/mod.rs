//! A link in the daemon: one thread a line, between the line and the desk.

mod answers;
mod asking;
mod files;
mod follow;
mod host;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crate::config::Link;
use crate::geometry::GeometryError;
use crate::imaging::{Limits, Reading};
use crate::journal::{Desk, Journal};
use crate::link::key::{Key, KeyError};
use crate::link::node::Node;
use crate::link::picture::picture_bytes;
use crate::link::served::Served;
use crate::link::sign::{Floors, Signing};
use crate::link::standard::ftp;
use crate::link::transport::Line;
use crate::units::{Bytes, Px};
use run::Runner;

/// Why a link doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("link {line}: wanted a key (key-file, --key), a loopback address, or insecure = true; found none of them")]
    NoKey { line: String },
    #[error("link {line}: {source}")]
    Key { line: String, source: KeyError },
    #[error("link {line}: wanted a memory of what was heard, found {found}")]
    Memory { line: String, found: String },
    #[error("link {line}: {source}")]
    Open { line: String, source: std::io::Error },
    #[error("link: wanted a thread, found {0}")]
    Thread(std::io::Error),
}

/// What the link is made of.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    pub link: Link,
    /// For the pictures of answers.
    pub limits: Limits,
    pub reading: Reading,
}

/// What the link says of itself, for the log: never a key, never a payload.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// What `lines` lines hold, their pictures and files included, for frames of at most `max_side` pixels a side.
///
/// # Errors
/// As [`picture_bytes`].
pub fn link_bytes(lines: usize, max_side: Px) -> Result<Bytes, GeometryError> {
    let line = Served::bytes() + Bytes::of::<Node>(1) + Bytes((2 * ftp::MAX_FILE) as u64);
    Ok((0..lines).map(|_| line).sum::<Bytes>() + picture_bytes(max_side)?)
}

/// The link's threads; they end after `stop` was set.
pub struct Running(Vec<JoinHandle<()>>);

impl Running {
    /// Whether a thread ended by itself.
    #[must_use]
    pub fn any_ended(&self) -> bool {
        self.0.iter().any(JoinHandle::is_finished)
    }

    /// Waits for the threads; `stop` must be set.
    pub fn join(self) {
        for thread in self.0 {
            let _ = thread.join();
        }
    }
}

/// The journal's memory of one line's timestamps.
struct JournalFloors {
    desk: Desk,
    name: String,
}

impl Floors for JournalFloors {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.desk.journal().link_memory(&self.name).map_err(|error| error.to_string())
    }
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        self.desk.journal().keep_link_memory(&self.name, memory).map_err(|error| error.to_string())
    }
}

/// The settings that ground stations changed, as the journal has them.
fn params(journal: &Journal) -> crate::link::standard::param::Params {
    let mut params = crate::link::standard::param::Params::default();
    let kept = journal.link_memory("params").ok().flatten();
    if let Some(kept) = kept.and_then(|bytes| serde_json::from_slice::<Vec<(String, f32)>>(&bytes).ok()) {
        for (name, value) in kept {
            // One that is gone, or whose range changed, is as if it had never been set.
            let _ = params.set(&name, value);
        }
    }
    params
}

/// Serves `desk` on all lines of the settings until `stop` is set.
///
/// # Errors
/// A line without a key that others could send on, a key that can't be read, a journal that can't be: nothing has been started then.
pub fn serve(desk: &Desk, settings: &LinkSettings, stop: &Arc<AtomicBool>, say: &Say) -> Result<Running, LinkError> {
    let mut lines = Vec::new();
    for (number, line) in (0_u8..).zip(&settings.link.lines) {
        let name = line.to.to_string();
        let key = match &line.key {
            Some(path) => Some(Key::load(path).map_err(|source| LinkError::Key { line: name.clone(), source })?),
            None if line.insecure || line.to.is_loopback() => {
                say(&format!("link {name}: no key: whoever can send to it is answered"));
                None
            }
            None => return Err(LinkError::NoKey { line: name }),
        };
        let floors = JournalFloors { desk: desk.clone(), name: format!("timestamps {name}") };
        let signing = key.map(|key| Signing::new(key, number, Box::new(floors))).transpose();
        let signing = signing.map_err(|found| LinkError::Memory { line: name.clone(), found })?;
        let open = Line::to(&line.to).map_err(|source| LinkError::Open { line: name.clone(), source })?;
        lines.push((name, line.clone(), signing, open));
    }
    let (files, painter) = files::files(desk, settings.limits, settings.reading);
    let mut threads = Vec::new();
    let start =
        |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(work).map_err(LinkError::Thread);
    for (name, line, signing, open) in lines {
        let key_path: Option<PathBuf> = line.key.clone();
        let presets = settings.link.presets.clone();
        let runner = Runner::new(desk.clone(), files.clone(), &line, signing, open, params(desk.journal()), presets, key_path);
        let (stop, say) = (Arc::clone(stop), Arc::clone(say));
        say(&format!("link {name}: {}", line.rate));
        threads.push(start("link", Box::new(move || runner.run(&stop, &say)))?);
    }
    let (stop, say) = (Arc::clone(stop), Arc::clone(say));
    threads.push(start("pictures", Box::new(move || painter.run(&stop, &*say)))?);
    Ok(Running(threads))
}
