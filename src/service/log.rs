//! What the daemon tells on stderr: a line an event, with a level that systemd understands.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::config::LogLevel;

/// Lines up to a level that may change while the daemon runs. A clone is the same.
#[derive(Clone)]
pub struct Log {
    level: Arc<AtomicU8>,
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

impl Log {
    #[must_use]
    pub fn new(level: LogLevel) -> Self {
        Self { level: Arc::new(AtomicU8::new(number(level))), systemd: std::env::var_os("JOURNAL_STREAM").is_some() }
    }

    pub fn set(&self, level: LogLevel) {
        self.level.store(number(level), Ordering::Relaxed);
    }

    fn say(&self, level: LogLevel, text: &str) {
        let number = number(level);
        if number > self.level.load(Ordering::Relaxed) {
            return;
        }
        // A line stays a line, whatever a file is called.
        let text = text.replace(|c: char| c.is_control(), " ");
        let line = if self.systemd { format!("<{number}>{text}\n") } else { format!("uhr-edge: {text}\n") };
        // Nobody is left to tell when stderr is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
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
