//! What systemd is told, by a thread that may wait for it.
//!
//! # Why
//! Its socket blocks when it is full, and nobody but the one who speaks to it may stand still for that.

use std::sync::mpsc::{SyncSender, sync_channel};

use sd_notify::NotifyState;

/// What systemd is told.
pub enum Word {
    Ready,
    Reloading,
    Watchdog,
    Status(String),
    Stopping,
}

/// Words that wait for a socket whose other end is slow.
const WORDS: usize = 16;

/// Tells systemd on a thread of its own; without systemd there is nobody to tell.
///
/// # Errors
/// A thread that the system doesn't give.
pub fn herald() -> std::io::Result<SyncSender<Word>> {
    let (words, spoken) = sync_channel::<Word>(WORDS);
    std::thread::Builder::new().name("systemd".into()).spawn(move || {
        for word in spoken {
            let _ = match word {
                Word::Ready => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("ready")]),
                Word::Reloading => NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
                Word::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
                Word::Status(line) => sd_notify::notify(&[NotifyState::Status(&line)]),
                Word::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
            };
        }
    })?;
    Ok(words)
}
