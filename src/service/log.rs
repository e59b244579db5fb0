//! What the daemon tells on stderr: a line an event, with a level that systemd understands.
//!
//! # Why
//! Whoever reads stderr may stop reading. A thread of its own writes; a line that it has no room for is counted, and no other thread waits for it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::config::LogLevel;

/// Lines that may wait to be written.
const LINES: usize = 1_024;
/// How long the last lines are waited for at the end.
const PATIENCE: Duration = Duration::from_secs(1);

enum Word {
    Line(String),
    Flush(SyncSender<()>),
}

/// Lines up to a level that may change while the daemon runs. A clone is the same.
#[derive(Clone)]
pub struct Log {
    level: Arc<AtomicU8>,
    lost: Arc<AtomicU64>,
    words: SyncSender<Word>,
    /// Systemd reads stderr: it takes `<6>` for a level.
    systemd: bool,
}

fn number(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 3,
        LogLevel::Warning => 4,
        LogLevel::Info => 6,
        LogLevel::Debug => 7,
    }
}

fn write(words: &Receiver<Word>, lost: &AtomicU64) {
    for word in words {
        // Nobody is left to tell when stderr is gone.
        let say = |line: &str| drop(std::io::stderr().lock().write_all(line.as_bytes()));
        match word {
            Word::Line(line) => say(&line),
            Word::Flush(done) => drop(done.try_send(())),
        }
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => say(&format!("uhr-edge: {lost} lines before this one were lost: stderr was not read\n")),
        }
    }
}

impl Log {
    /// # Errors
    /// A thread that the system doesn't give.
    pub fn new(level: LogLevel) -> std::io::Result<Self> {
        let (words, told) = sync_channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new().name("log".into()).spawn(move || write(&told, &counted))?;
        Ok(Self { level: Arc::new(AtomicU8::new(number(level))), lost, words, systemd: std::env::var_os("JOURNAL_STREAM").is_some() })
    }

    pub fn set(&self, level: LogLevel) {
        self.level.store(number(level), Ordering::Relaxed);
    }

    /// Waits until what was said is written, a second at most.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.words.try_send(Word::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(PATIENCE);
        }
    }

    fn say(&self, level: LogLevel, text: &str) {
        let number = number(level);
        if number > self.level.load(Ordering::Relaxed) {
            return;
        }
        // A line stays a line, whatever a file is called.
        let text = text.replace(|c: char| c.is_control(), " ");
        let line = if self.systemd { format!("<{number}>{text}\n") } else { format!("uhr-edge: {text}\n") };
        if self.words.try_send(Word::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn error(&self, text: &str) {
        self.say(LogLevel::Error, text);
    }
    pub fn warning(&self, text: &str) {
        self.say(LogLevel::Warning, text);
    }
    pub fn info(&self, text: &str) {
        self.say(LogLevel::Info, text);
    }
    pub fn debug(&self, text: &str) {
        self.say(LogLevel::Debug, text);
    }
}
