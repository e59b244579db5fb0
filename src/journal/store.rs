//! The file: opened by one daemon at a time, written by one connection, read by another.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::journal::{JournalError, schema};
use crate::units::Bytes;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Of the file. Its log beside it holds 8 MiB more at most.
    pub max: Bytes,
    /// Picture layers of as many last answers.
    pub looked: u64,
}

/// Room that is held back beside the journal, for the answers of what was accepted when the disk fills up.
const RESERVE: Bytes = Bytes(1 << 20);

/// Another program may hold the file for a moment.
const BUSY: Duration = Duration::from_secs(5);

/// The journal's file.
pub struct Journal {
    pub(super) path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Held as long as the journal is; `None` where it is only read.
    _lock: Option<File>,
    limits: Mutex<JournalLimits>,
    pub(super) pruned: AtomicU64,
}

/// `path` with `ending` after its name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl JournalError {
    /// What SQLite says, sorted.
    pub(super) fn of(path: &Path, what: &'static str, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path, found: source.to_string() },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path, found: source.to_string() },
            _ => Self::Sqlite { path, what, source: Box::new(source) },
        }
    }
}

impl Journal {
    /// Opens the journal at `path` to write, or makes it, with the folder it is in.
    ///
    /// # Errors
    /// A file that another daemon holds, that can only be read, or that is of another version or program.
    pub fn open(path: &Path, limits: JournalLimits) -> Result<Self, JournalError> {
        let file = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                JournalError::ReadOnly { path: path.to_owned(), found: source.to_string() }
            }
            _ => JournalError::File { path: path.to_owned(), source },
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(file)?;
        }
        let lock = File::options().create(true).truncate(false).write(true).open(beside(path, ".lock")).map_err(file)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(JournalError::Taken { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(file(source)),
        }
        let sqlite = |what| move |source| JournalError::of(path, what, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut writer = Connection::open_with_flags(path, flags).map_err(sqlite("open"))?;
        if writer.is_readonly("main").map_err(sqlite("open"))? {
            return Err(JournalError::ReadOnly { path: path.to_owned(), found: "a file without permission to write".into() });
        }
        writer.busy_timeout(BUSY).map_err(sqlite("open"))?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON"), ("journal_size_limit", "8388608")] {
            writer.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                error => Err(sqlite("open")(error)),
            })?;
        }
        schema::prepare(&mut writer, path)?;
        let journal = Self {
            path: path.to_owned(),
            reader: Mutex::new(Self::reader(path)?),
            writer: Mutex::new(writer),
            _lock: Some(lock),
            limits: Mutex::new(limits),
            pruned: AtomicU64::new(0),
        };
        journal.set_limits(limits)?;
        journal.hold_reserve();
        Ok(journal)
    }

    /// Opens a journal to read, also while a daemon is at work on it.
    ///
    /// # Errors
    /// No such file, or one of another version or program.
    pub fn open_read(path: &Path) -> Result<Self, JournalError> {
        if !path.is_file() {
            return Err(JournalError::Missing { path: path.to_owned() });
        }
        let [writer, reader] = [Self::reader(path)?, Self::reader(path)?];
        schema::check(&reader, path)?;
        let limits = Mutex::new(JournalLimits { max: Bytes(0), looked: 0 });
        let (writer, reader) = (Mutex::new(writer), Mutex::new(reader));
        Ok(Self { path: path.to_owned(), writer, reader, _lock: None, limits, pruned: AtomicU64::new(0) })
    }

    fn reader(path: &Path) -> Result<Connection, JournalError> {
        let sqlite = |source| JournalError::of(path, "open", source);
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(sqlite)?;
        connection.busy_timeout(BUSY).map_err(sqlite)?;
        Ok(connection)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a daemon is at work on the journal at `path`.
    #[must_use]
    pub fn in_use(path: &Path) -> bool {
        File::options().write(true).open(beside(path, ".lock")).is_ok_and(|lock| lock.try_lock().is_err())
    }

    pub(super) fn write(&self) -> MutexGuard<'_, Connection> {
        // A panic in a statement leaves the connection whole: an open transaction was rolled back as it went.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn error(&self, what: &'static str) -> impl Fn(rusqlite::Error) -> JournalError + '_ {
        move |source| JournalError::of(&self.path, what, source)
    }

    #[must_use]
    pub fn limits(&self) -> JournalLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps to other limits from now on.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn set_limits(&self, limits: JournalLimits) -> Result<(), JournalError> {
        let connection = self.write();
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(self.error("limits"))?;
        let pages = i64::try_from(limits.max.0).unwrap_or(i64::MAX) / page.max(1);
        // SQLite itself never lets the file grow beyond.
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).map_err(self.error("limits"))?;
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        Ok(())
    }

    /// What of the file is in use.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn used(&self) -> Result<Bytes, JournalError> {
        let connection = self.read();
        let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(self.error("size"));
        let pages = number("page_count")? - number("freelist_count")?;
        Ok(Bytes(u64::try_from(pages * number("page_size")?).unwrap_or(0)))
    }

    /// Questions that went by retention since the start.
    #[must_use]
    pub fn pruned(&self) -> u64 {
        self.pruned.load(Ordering::Relaxed)
    }

    fn reserve(&self) -> PathBuf {
        beside(&self.path, ".reserve")
    }

    /// Brings the log into the file, so that it stands alone. It does without, too.
    pub fn tidy(&self) {
        let _ = self.write().pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
    }

    /// Whether the reserve is there; it is made where it isn't and there is room.
    pub fn hold_reserve(&self) -> bool {
        let path = self.reserve();
        if std::fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE.0) {
            return true;
        }
        let make = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            // Zeros are written, not left out: a hole would hold nothing back.
            for _ in 0..RESERVE.0 / 4096 {
                file.write_all(&[0; 4096])?;
            }
            file.sync_all()
        };
        if make().is_ok() {
            return true;
        }
        self.spend_reserve();
        false
    }

    /// Gives the reserve up for what must be written now.
    pub(super) fn spend_reserve(&self) {
        let _ = std::fs::remove_file(self.reserve());
    }
}
