//! The tables, and how a file comes to have them.

use std::path::Path;

use rusqlite::Connection;

use crate::journal::JournalError;

/// Of the tables below; a file says its own in `user_version`.
pub const VERSION: i64 = 2;

/// "uhrj": so that no other program's database is taken for a journal.
const APPLICATION: i64 = 0x7568_726a;

/// What makes version n + 1 of version n. Appended to, never changed.
const STEPS: [&str; 2] = [
    "
CREATE TABLE frames (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  sha256 TEXT NOT NULL,
  path TEXT NOT NULL,
  w INTEGER NOT NULL, h INTEGER NOT NULL, bytes INTEGER NOT NULL,
  seen_at INTEGER NOT NULL,
  state TEXT NOT NULL, reason TEXT,
  ingest_ms REAL,
  geotag TEXT
) STRICT;
CREATE TABLE files (
  path TEXT PRIMARY KEY,
  bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
  outcome TEXT NOT NULL, reason TEXT,
  frame TEXT,
  seen_at INTEGER NOT NULL
) STRICT;
CREATE TABLE questions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  text TEXT NOT NULL,
  budget TEXT, encode_tiles INTEGER, max_new INTEGER,
  seed INTEGER,
  deadline_ms REAL,
  priority TEXT NOT NULL, origin TEXT NOT NULL,
  key TEXT UNIQUE,
  accepted_at INTEGER NOT NULL,
  begun INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'open',
  done_at INTEGER
) STRICT;
CREATE INDEX questions_open ON questions (id) WHERE state = 'open';
CREATE TABLE question_frames (
  question INTEGER NOT NULL REFERENCES questions ON DELETE CASCADE,
  place INTEGER NOT NULL,
  frame TEXT NOT NULL,
  PRIMARY KEY (question, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX question_frames_by_frame ON question_frames (frame, question);
CREATE TABLE answers (
  question INTEGER PRIMARY KEY REFERENCES questions ON DELETE CASCADE,
  text TEXT,
  document TEXT,
  code TEXT, reason TEXT
) STRICT;
CREATE TABLE looked (
  question INTEGER PRIMARY KEY REFERENCES questions ON DELETE CASCADE,
  layers BLOB NOT NULL
) STRICT;
",
    "ALTER TABLE frames ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;",
];

/// Gives an empty file the tables, and one of an earlier version what it lacks.
pub fn prepare(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let sqlite = |what| move |source| JournalError::of(path, what, source);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(sqlite("version"));
    let (version, application) = (number("user_version")?, number("application_id")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite("tables"))?;
    let wrong = |found: String| JournalError::Version { path: path.to_owned(), wanted: VERSION, found };
    if tables > 0 && application != APPLICATION {
        return Err(wrong(format!("another program's database of {tables} tables and indexes")));
    }
    let done = usize::try_from(version).ok().filter(|done| *done <= STEPS.len()).ok_or_else(|| wrong(format!("version {version}")))?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sqlite("begin"))?;
    for step in &STEPS[done..] {
        transaction.execute_batch(step).map_err(sqlite("tables"))?;
    }
    // Written each time: a file that can't be written is found out here and not by the first question.
    transaction.pragma_update(None, "application_id", APPLICATION).map_err(sqlite("version"))?;
    transaction.pragma_update(None, "user_version", VERSION).map_err(sqlite("version"))?;
    transaction.commit().map_err(sqlite("version"))
}

/// Whether the file has just the tables of [`VERSION`], for those who only read.
pub fn check(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let number = |name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(|source| JournalError::of(path, "version", source))
    };
    match (number("user_version")?, number("application_id")?) {
        (VERSION, APPLICATION) => Ok(()),
        (version, APPLICATION) => {
            Err(JournalError::Version { path: path.to_owned(), wanted: VERSION, found: format!("version {version}") })
        }
        _ => Err(JournalError::Version { path: path.to_owned(), wanted: VERSION, found: "another program's database".into() }),
    }
}
