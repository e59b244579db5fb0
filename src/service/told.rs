//! The status document for who asks on this machine: a socket beside the journal that says it to each who connects.
//!
//! # Why
//! A file would need the disk, which may be full, and would outlive the daemon. The socket needs neither and says nothing when nobody is there.

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::journal::{Desk, Journal, Status};
use crate::service::ServiceError;

/// Who doesn't read is left.
const PATIENCE: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(50);
/// A status document is no larger.
const LARGEST: u64 = 1 << 20;

/// The socket's path beside the journal's file.
#[must_use]
pub fn socket(journal: &Path) -> PathBuf {
    let mut path = journal.as_os_str().to_owned();
    path.push(".status");
    path.into()
}

/// Opens the socket; one that a daemon left behind goes.
///
/// # Errors
/// A path that is too long for a socket, or that can't be made.
pub fn listen(journal: &Path) -> std::io::Result<UnixListener> {
    let path = socket(journal);
    if std::fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket()) {
        std::fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers until `stop` is set.
pub fn serve(listener: &UnixListener, desk: &Desk, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let text = serde_json::to_string(&*desk.status()).unwrap_or_default();
                // Who asks may be gone by now.
                let _ = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                let _ = stream.write_all(text.as_bytes());
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// What the daemon on `journal` says of itself.
///
/// # Errors
/// No daemon there, or none that answers.
pub fn status(journal: &Path) -> Result<Status, ServiceError> {
    let silent = |found: String| ServiceError::Silent { path: journal.to_owned(), found };
    let ask = || -> std::io::Result<String> {
        let stream = UnixStream::connect(socket(journal))?;
        stream.set_read_timeout(Some(PATIENCE * 5))?;
        let mut text = String::new();
        stream.take(LARGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    if !Journal::in_use(journal) {
        return Err(silent("no daemon at work on it".into()));
    }
    let text = ask().map_err(|error| silent(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| silent(error.to_string()))
}
