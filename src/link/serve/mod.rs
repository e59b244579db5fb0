//! A link in the daemon: one thread a line, between the line and the desk.

mod answers;
mod asking;
mod files;
mod follow;
mod host;
mod run;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crate::config::Link;
use crate::geometry::GeometryError;
use crate::imaging::{Limits, Reading};
use crate::journal::Desk;
use crate::link::key::{Key, KeyError};
use crate::link::picture::{MOST_DETAIL, picture_bytes};
use crate::link::served::Served;
use crate::link::sign::Signing;
use crate::link::standard::ftp;
use crate::link::transport::Line;
use crate::units::{Bytes, Px};
use run::Runner;
use shared::Shared;

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
    // Files that FTP has open, and the answer that was read last.
    let line = Served::bytes() + Bytes::of::<Runner>(1) + Bytes((3 * ftp::MAX_FILE) as u64);
    let pictures = (0..files::KEPT).map(|_| MOST_DETAIL).sum::<Bytes>() + picture_bytes(max_side)?;
    Ok((0..lines).map(|_| line).sum::<Bytes>() + pictures)
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

/// Serves `desk` on all lines of the settings until `stop` is set.
///
/// # Errors
/// A line without a key that others could send on, a key that can't be read, a journal that can't be: nothing has been started then.
pub fn serve(desk: &Desk, settings: &LinkSettings, stop: &Arc<AtomicBool>, say: &Say) -> Result<Running, LinkError> {
    let shared = Shared::open(desk);
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
        let signing = key.map(|key| shared.timestamps(&key).map(|timestamps| Signing::sharing(key, number, timestamps))).transpose();
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
        let files = files.of_line(line.rate);
        let runner = Runner::new(desk.clone(), files, &line, signing, open, shared.clone(), presets, key_path);
        let (stop, say) = (Arc::clone(stop), Arc::clone(say));
        say(&format!("link {name}: {}", line.rate));
        threads.push(start("link", Box::new(move || runner.run(&stop, &say)))?);
    }
    // Nobody could ask for one.
    if threads.is_empty() {
        return Ok(Running(threads));
    }
    let (stop, say) = (Arc::clone(stop), Arc::clone(say));
    threads.push(start("pictures", Box::new(move || painter.run(&stop, &*say)))?);
    Ok(Running(threads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_thread_that_ends_by_itself_is_seen() {
        let (go, waits) = std::sync::mpsc::channel::<()>();
        let running = Running(vec![std::thread::spawn(move || assert!(waits.recv().is_err()))]);
        assert!(!running.any_ended());
        drop(go);
        let begun = std::time::Instant::now();
        while !running.any_ended() {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        running.join();
    }
}
