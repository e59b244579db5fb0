//! What a profile says of the daemon: `[serve]` and `[journal]`. A profile without them has what [`Serve::default`] and [`JournalSettings::default`] say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// What the daemon tells on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warning,
    #[default]
    Info,
    Debug,
}

/// The daemon's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Folders that are watched for frames.
    pub capture: Vec<PathBuf>,
    /// Where HTTP is served; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// Questions that may wait.
    pub queue: usize,
    /// Frames that may wait for their ingest.
    pub backlog: usize,
    /// A file is whole when its size has stood for so long and its end is there.
    pub settle: Duration,
    /// A file that has not grown for so long and still lacks its end is given up.
    pub unfinished_after: Duration,
    /// What no stage may exceed before the daemon counts as hung.
    pub stage_limit: Duration,
    /// How long the question at hand may go on when the daemon is told to end.
    pub stop_after: Duration,
    /// A picture that is brought by HTTP, and all that are kept of them.
    pub picture_max: Bytes,
    pub brought_max: Bytes,
    pub log: LogLevel,
}

/// The journal's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    pub file: PathBuf,
    /// What the file may grow to.
    pub max: Bytes,
    /// Picture layers of as many last answers.
    pub keep_looked: u64,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            capture: Vec::new(),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 8470))),
            queue: 64,
            backlog: 32,
            settle: Duration::from_millis(200),
            unfinished_after: Duration::from_secs(10),
            stage_limit: Duration::from_secs(120),
            stop_after: Duration::from_secs(10),
            picture_max: Bytes(64 << 20),
            brought_max: Bytes(1 << 30),
            log: LogLevel::Info,
        }
    }
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { file: PathBuf::from("uhr-edge/journal.sqlite"), max: Bytes(256 << 20), keep_looked: 200 }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ServeFile {
    capture: Option<Vec<PathBuf>>,
    /// `ADDR:PORT`, or "off".
    http: Option<String>,
    queue: Option<usize>,
    backlog: Option<usize>,
    settle_ms: Option<u64>,
    unfinished_after_s: Option<u64>,
    stage_limit_s: Option<u64>,
    stop_after_s: Option<u64>,
    picture_max_mib: Option<u64>,
    brought_max_mib: Option<u64>,
    log: Option<LogLevel>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct JournalFile {
    file: Option<PathBuf>,
    max_mib: Option<u64>,
    keep_looked: Option<u64>,
}

type Wrong = (&'static str, String, &'static str);

fn within(key: &'static str, value: u64, range: std::ops::RangeInclusive<u64>, wanted: &'static str) -> Result<(), Wrong> {
    if range.contains(&value) { Ok(()) } else { Err((key, value.to_string(), wanted)) }
}

impl ServeFile {
    pub(super) fn check(self) -> Result<Serve, Wrong> {
        let usual = Serve::default();
        let serve = Serve {
            capture: self.capture.unwrap_or_default(),
            http: match self.http.as_deref() {
                None => usual.http,
                Some("off") => None,
                Some(text) => Some(text.parse().map_err(|_| ("serve.http", text.to_owned(), "ADDRESS:PORT or \"off\""))?),
            },
            queue: self.queue.unwrap_or(usual.queue),
            backlog: self.backlog.unwrap_or(usual.backlog),
            settle: self.settle_ms.map_or(usual.settle, Duration::from_millis),
            unfinished_after: self.unfinished_after_s.map_or(usual.unfinished_after, Duration::from_secs),
            stage_limit: self.stage_limit_s.map_or(usual.stage_limit, Duration::from_secs),
            stop_after: self.stop_after_s.map_or(usual.stop_after, Duration::from_secs),
            picture_max: self.picture_max_mib.map_or(usual.picture_max, mib),
            brought_max: self.brought_max_mib.map_or(usual.brought_max, mib),
            log: self.log.unwrap_or_default(),
        };
        within("serve.queue", serve.queue as u64, 1..=1_024, "1 to 1024")?;
        within("serve.backlog", serve.backlog as u64, 1..=1_024, "1 to 1024")?;
        within("serve.capture", serve.capture.len() as u64, 0..=16, "at most 16 folders")?;
        within("serve.settle-ms", u64::try_from(serve.settle.as_millis()).unwrap_or(u64::MAX), 1..=60_000, "1 to 60000")?;
        within("serve.unfinished-after-s", serve.unfinished_after.as_secs(), 1..=86_400, "1 to 86400")?;
        within("serve.stage-limit-s", serve.stage_limit.as_secs(), 1..=86_400, "1 to 86400")?;
        within("serve.stop-after-s", serve.stop_after.as_secs(), 0..=3_600, "0 to 3600")?;
        within("serve.picture-max-mib", serve.picture_max.0 >> 20, 1..=1 << 12, "1 to 4096")?;
        within("serve.brought-max-mib", serve.brought_max.0 >> 20, 1..=1 << 20, "1 to 1048576")?;
        Ok(serve)
    }
}

impl JournalFile {
    pub(super) fn check(self) -> Result<JournalSettings, Wrong> {
        let usual = JournalSettings::default();
        let journal = JournalSettings {
            file: self.file.unwrap_or(usual.file),
            max: self.max_mib.map_or(usual.max, mib),
            keep_looked: self.keep_looked.unwrap_or(usual.keep_looked),
        };
        within("journal.max-mib", journal.max.0 >> 20, 2..=1 << 20, "2 to 1048576")?;
        within("journal.keep-looked", journal.keep_looked, 0..=1 << 32, "0 to 4294967296")?;
        Ok(journal)
    }
}

fn mib(mib: u64) -> Bytes {
    Bytes(mib.saturating_mul(1 << 20))
}
