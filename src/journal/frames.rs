//! Frames, and the files of the capture folders, in the tables.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use crate::imaging::FrameSource;
use crate::journal::names::{value, word};
use crate::journal::questions::id;
use crate::journal::{FrameEntry, FrameState, Journal, JournalError};
use crate::units::{Bytes, FrameId, FrameNumber, Millis, UnixMillis};

const COLUMNS: &str = "number, id, sha256, path, w, h, bytes, seen_at, state, reason, ingest_ms, geotag, begun";

/// A file as it was looked at: the same mark, the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMark {
    pub bytes: Bytes,
    /// Of its last change, of its bytes, name or rights: nanoseconds since 1970 by the file system, which nobody can set back.
    pub changed_ns: i64,
}

impl FileMark {
    #[must_use]
    pub fn of(file: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { bytes: Bytes(file.len()), changed_ns: file.ctime().saturating_mul(1_000_000_000).saturating_add(file.ctime_nsec()) }
    }
}

/// What became of a file that is no new frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOutcome {
    /// Its bytes are a frame's that is known.
    Duplicate,
    /// It is no picture, one that is not admitted, or one that was never finished.
    Rejected,
    /// It was gone before it could be read.
    Vanished,
}

impl FileOutcome {
    fn word(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Vanished => "vanished",
        }
    }
}

/// A frame that was handed in, and whether it is new.
#[derive(Clone, Debug)]
pub struct Seen {
    pub entry: FrameEntry,
    pub new: bool,
}

fn entry(path: &Path, row: &Row<'_>) -> Result<FrameEntry, JournalError> {
    let sqlite = |source| JournalError::of(path, "frame", source);
    let content = |wanted, found: &str| JournalError::Content { path: path.to_owned(), wanted, found: found.to_owned() };
    let text = |at: usize| row.get::<_, String>(at).map_err(sqlite);
    let number = |at: usize| row.get::<_, i64>(at).map_err(sqlite);
    let small = |at: usize| Ok::<_, JournalError>(u32::try_from(number(at)?).unwrap_or(0));
    let (own, state) = (text(1)?, text(8)?);
    let geotag: Option<String> = row.get(11).map_err(sqlite)?;
    Ok(FrameEntry {
        number: FrameNumber(id(number(0)?)),
        id: own.parse().map_err(|_| content("a frame's id", &own))?,
        sha256: text(2)?,
        path: text(3)?.into(),
        w: small(4)?,
        h: small(5)?,
        bytes: id(number(6)?),
        seen_at: UnixMillis(number(7)?),
        state: value(&state).ok_or_else(|| content("a frame's state", &state))?,
        reason: row.get(9).map_err(sqlite)?,
        in_slot: false,
        ingest_ms: row.get::<_, Option<f64>>(10).map_err(sqlite)?.map(Millis),
        geotag: geotag.and_then(|text| serde_json::from_str(&text).ok()),
        begun: small(12)?,
    })
}

impl Journal {
    /// Records a frame's file. One whose bytes are known is a duplicate; where the known one's file is gone, this stands for it from now on.
    ///
    /// # Errors
    /// A full disk, a path that is no text, or what else SQLite says.
    pub fn see(&self, source: &FrameSource, mark: FileMark) -> Result<Seen, JournalError> {
        let path = source.path.to_str().ok_or_else(|| JournalError::Content {
            path: self.path.clone(),
            wanted: "a file whose path is UTF-8",
            found: source.path.display().to_string(),
        })?;
        let own = source.id();
        let known = self.frame(own)?;
        let moved = known.as_ref().is_some_and(|known| known.path != source.path && !known.path.is_file());
        let error = self.error("frame");
        let now = UnixMillis::of(SystemTime::now()).0;
        {
            let mut connection = self.write();
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&error)?;
            let outcome = match &known {
                None => {
                    let (w, h) = source.size();
                    let geotag = source.geotag.as_ref().and_then(|geotag| serde_json::to_string(geotag).ok());
                    let values = params![
                        own.to_string(),
                        source.digest.to_string(),
                        path,
                        w.0,
                        h.0,
                        mark.bytes.0.cast_signed(),
                        now,
                        word(FrameState::Waiting),
                        geotag
                    ];
                    let sql = "INSERT INTO frames (id, sha256, path, w, h, bytes, seen_at, state, geotag) \
                               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                    transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(&error)?;
                    "frame"
                }
                Some(known) => {
                    if moved {
                        transaction
                            .execute("UPDATE frames SET path = ?2 WHERE number = ?1", params![known.number.0.cast_signed(), path])
                            .map_err(&error)?;
                    }
                    // What could not be taken in may be another's fault: a file that is new is tried.
                    if known.state == FrameState::Failed {
                        let sql = "UPDATE frames SET state = ?2, reason = NULL, begun = 0 WHERE number = ?1";
                        let values = params![known.number.0.cast_signed(), word(FrameState::Waiting)];
                        transaction.execute(sql, values).map_err(&error)?;
                    }
                    if moved || known.path == source.path { "frame" } else { FileOutcome::Duplicate.word() }
                }
            };
            transaction
                .prepare_cached(NOTE)
                .and_then(|mut statement| {
                    let none = None::<&str>;
                    statement.execute(params![path, mark.bytes.0.cast_signed(), mark.changed_ns, outcome, none, own.to_string(), now])
                })
                .map_err(&error)?;
            transaction.commit().map_err(&error)?;
        }
        let entry = self.frame(own)?.ok_or_else(|| JournalError::Content {
            path: self.path.clone(),
            wanted: "the frame that was just written",
            found: own.to_string(),
        })?;
        Ok(Seen { entry, new: known.is_none() })
    }

    /// Paths that a frame's bytes were seen under, the frame's own first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn files_of(&self, frame: FrameId) -> Result<Vec<std::path::PathBuf>, JournalError> {
        let connection = self.read();
        let sql = "SELECT path FROM frames WHERE id = ?1 UNION ALL SELECT path FROM files WHERE frame = ?1 LIMIT 64";
        let mut statement = connection.prepare_cached(sql).map_err(self.error("files"))?;
        let rows = statement.query_map(params![frame.to_string()], |row| row.get::<_, String>(0)).map_err(self.error("files"))?;
        rows.map(|path| path.map(Into::into)).collect::<Result<_, _>>().map_err(self.error("files"))
    }

    /// Records what became of a file that is no new frame.
    ///
    /// # Errors
    /// A full disk, or what else SQLite says.
    pub fn note_file(&self, path: &Path, mark: FileMark, outcome: FileOutcome, reason: &str) -> Result<(), JournalError> {
        let now = UnixMillis::of(SystemTime::now()).0;
        let connection = self.write();
        let mut statement = connection.prepare_cached(NOTE).map_err(self.error("file"))?;
        let path = path.to_string_lossy();
        let values = params![path, mark.bytes.0.cast_signed(), mark.changed_ns, outcome.word(), reason, None::<&str>, now];
        statement.execute(values).map_err(self.error("file"))?;
        Ok(())
    }

    /// Whether a file was looked at already when it had just this mark.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn knows_file(&self, path: &Path, mark: FileMark) -> Result<bool, JournalError> {
        let connection = self.read();
        let sql = "SELECT 1 FROM files WHERE path = ?1 AND bytes = ?2 AND modified_ns = ?3 AND outcome <> 'vanished'";
        let mut statement = connection.prepare_cached(sql).map_err(self.error("file"))?;
        let values = params![path.to_string_lossy(), mark.bytes.0.cast_signed(), mark.changed_ns];
        statement.exists(values).map_err(self.error("file"))
    }

    /// Files that are no frames: path, outcome and reason, the last first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn other_files(&self, limit: usize) -> Result<Vec<(String, String, String)>, JournalError> {
        let connection = self.read();
        let sql = "SELECT path, outcome, coalesce(reason, '') FROM files WHERE outcome <> 'frame' ORDER BY seen_at DESC, path LIMIT ?1";
        let mut statement = connection.prepare_cached(sql).map_err(self.error("files"))?;
        let rows =
            statement.query_map(params![i64::try_from(limit).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.map_err(self.error("files"))?.collect::<Result<_, _>>().map_err(self.error("files"))
    }

    /// Notes that a frame's taking in begins, so that one which ends the daemon each time is found out; or, −1, that it ended without a fault of its own.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn begin_frame(&self, frame: FrameId, times: i32) -> Result<(), JournalError> {
        let connection = self.write();
        let sql = "UPDATE frames SET begun = max(0, begun + ?2) WHERE id = ?1";
        let mut statement = connection.prepare_cached(sql).map_err(self.error("frame"))?;
        statement.execute(params![frame.to_string(), times]).map_err(self.error("frame"))?;
        Ok(())
    }

    /// Writes what became of a frame.
    ///
    /// # Errors
    /// A full disk, or what else SQLite says.
    pub fn frame_is(&self, frame: FrameId, state: FrameState, reason: Option<&str>, ingest: Option<Millis>) -> Result<(), JournalError> {
        let sql = "UPDATE frames SET state = ?2, reason = ?3, ingest_ms = coalesce(?4, ingest_ms), begun = 0 WHERE id = ?1";
        let connection = self.write();
        let mut statement = connection.prepare_cached(sql).map_err(self.error("frame"))?;
        statement.execute(params![frame.to_string(), word(state), reason, ingest.map(|ms| ms.0)]).map_err(self.error("frame"))?;
        Ok(())
    }

    /// # Errors
    /// What SQLite says; an entry that can't be.
    pub fn frame(&self, frame: FrameId) -> Result<Option<FrameEntry>, JournalError> {
        self.one(&format!("SELECT {COLUMNS} FROM frames WHERE id = ?1"), params![frame.to_string()])
    }

    /// The frame that was taken in last.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn newest(&self) -> Result<Option<FrameEntry>, JournalError> {
        self.one(&format!("SELECT {COLUMNS} FROM frames WHERE state = 'ready' ORDER BY number DESC LIMIT 1"), params![])
    }

    fn one(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Option<FrameEntry>, JournalError> {
        let connection = self.read();
        let mut statement = connection.prepare_cached(sql).map_err(self.error("frame"))?;
        let mut rows = statement.query(values).map_err(self.error("frame"))?;
        let row = rows.next().map_err(self.error("frame"))?;
        row.map(|row| entry(&self.path, row)).transpose()
    }

    /// Newest first, at most 1,000; `state`: only those.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn frames(&self, limit: usize, before: Option<FrameNumber>, state: Option<FrameState>) -> Result<Vec<FrameEntry>, JournalError> {
        let connection = self.read();
        let sql = format!("SELECT {COLUMNS} FROM frames WHERE number < ?1 AND (?2 IS NULL OR state = ?2) ORDER BY number DESC LIMIT ?3");
        let mut statement = connection.prepare_cached(&sql).map_err(self.error("frames"))?;
        let before = before.map_or(i64::MAX, |before| before.0.cast_signed());
        let limit = i64::try_from(limit.min(1_000)).unwrap_or(0);
        let mut rows = statement.query(params![before, state.map(word), limit]).map_err(self.error("frames"))?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(self.error("frames"))? {
            entries.push(entry(&self.path, row)?);
        }
        Ok(entries)
    }

    /// How many frames are in `state`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn count_frames(&self, state: FrameState) -> Result<u64, JournalError> {
        let connection = self.read();
        let sql = "SELECT count(*) FROM frames WHERE state = ?1";
        let count = connection.query_row(sql, params![word(state)], |row| row.get::<_, i64>(0)).optional();
        Ok(id(count.map_err(self.error("frames"))?.unwrap_or(0)))
    }
}

const NOTE: &str = "INSERT INTO files (path, bytes, modified_ns, outcome, reason, frame, seen_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
    ON CONFLICT (path) DO UPDATE SET bytes = ?2, modified_ns = ?3, outcome = ?4, reason = ?5, frame = ?6, seen_at = ?7";
