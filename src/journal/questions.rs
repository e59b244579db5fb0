//! Questions and their answers in the tables.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

use crate::journal::names::{value, word};
use crate::journal::{Asked, Filter, Journal, JournalError, Outcome, QuestionEntry, QuestionState};
use crate::units::{FrameId, Millis, QuestionId, Tiles, Tokens, UnixMillis};

/// Most entries of one list.
const MOST: usize = 1_000;

const COLUMNS: &str = "id, text, budget, encode_tiles, max_new, seed, deadline_ms, priority, origin, accepted_at, state, done_at, begun, \
    (SELECT group_concat(frame) FROM (SELECT frame FROM question_frames WHERE question = id ORDER BY place)), \
    (SELECT document FROM answers WHERE question = id), (SELECT code FROM answers WHERE question = id), \
    (SELECT reason FROM answers WHERE question = id), EXISTS (SELECT 1 FROM looked WHERE question = id)";

/// A number that SQLite holds as signed.
pub(super) fn id(number: i64) -> u64 {
    number.cast_unsigned()
}

fn entry(path: &Path, row: &Row<'_>) -> Result<QuestionEntry, JournalError> {
    let sqlite = |source| JournalError::of(path, "question", source);
    let text = |at: usize| row.get::<_, Option<String>>(at).map_err(sqlite);
    let number = |at: usize| row.get::<_, Option<i64>>(at).map_err(sqlite);
    let content = |wanted, found: &str| JournalError::Content { path: path.to_owned(), wanted, found: found.to_owned() };
    let small = |at: usize| Ok::<_, JournalError>(number(at)?.and_then(|number| u32::try_from(number).ok()));
    let needed = |at: usize| Ok::<_, JournalError>(text(at)?.unwrap_or_default());
    let named = |at: usize, wanted| Ok::<_, JournalError>((needed(at)?, wanted));
    let (priority, wanted) = named(7, "a priority")?;
    let priority = value(&priority).ok_or_else(|| content(wanted, &priority))?;
    let (origin, wanted) = named(8, "an origin")?;
    let origin = value(&origin).ok_or_else(|| content(wanted, &origin))?;
    let (state, wanted) = named(10, "a state")?;
    let state: QuestionState = value(&state).ok_or_else(|| content(wanted, &state))?;
    let frames = needed(13)?;
    let frames = frames.split(',').map(|id| id.parse::<FrameId>().map_err(|_| content("frame ids", &frames)));
    let outcome = match (state, text(14)?) {
        (QuestionState::Open, _) => None,
        (QuestionState::Answered, Some(document)) => {
            let document = serde_json::from_str::<Value>(&document).map_err(|_| content("a JSON document", &document))?;
            Some(Outcome::Answered { document })
        }
        _ => Some(Outcome::Refused { code: needed(15)?, reason: needed(16)? }),
    };
    Ok(QuestionEntry {
        id: QuestionId(id(number(0)?.unwrap_or(0))),
        text: needed(1)?,
        frames: frames.collect::<Result<_, _>>()?,
        budget: text(2)?,
        encode_tiles: small(3)?.map(Tiles),
        max_new: small(4)?.map(Tokens),
        seed: number(5)?.map(i64::cast_unsigned),
        deadline_ms: row.get::<_, Option<f64>>(6).map_err(sqlite)?.map(Millis),
        priority,
        origin,
        accepted_at: UnixMillis(number(9)?.unwrap_or(0)),
        state,
        done_at: number(11)?.map(UnixMillis),
        outcome,
        begun: small(12)?.unwrap_or(0),
        looked: number(17)? == Some(1),
    })
}

impl Journal {
    /// Writes a question about `frames`; on disk when this returns.
    ///
    /// # Errors
    /// A full disk, or what else SQLite says; nothing is kept of the question then.
    pub fn accept(&self, asked: &Asked, frames: &[FrameId]) -> Result<QuestionId, JournalError> {
        let mut connection = self.write();
        let error = self.error("question");
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&error)?;
        transaction
            .prepare_cached(
                "INSERT INTO questions (text, budget, encode_tiles, max_new, seed, deadline_ms, priority, origin, key, accepted_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    asked.text,
                    asked.budget,
                    asked.encode_tiles.map(|tiles| tiles.0),
                    asked.max_new.map(|tokens| tokens.0),
                    asked.seed.map(u64::cast_signed),
                    asked.deadline.map(|deadline| deadline.0),
                    word(asked.priority),
                    word(asked.origin),
                    asked.key,
                    UnixMillis::of(SystemTime::now()).0,
                ])
            })
            .map_err(&error)?;
        let question = transaction.last_insert_rowid();
        for (place, frame) in (0_i64..).zip(frames) {
            transaction
                .prepare_cached("INSERT INTO question_frames (question, place, frame) VALUES (?1, ?2, ?3)")
                .and_then(|mut statement| statement.execute(params![question, place, frame.to_string()]))
                .map_err(&error)?;
        }
        transaction.commit().map_err(&error)?;
        Ok(QuestionId(id(question)))
    }

    /// Notes that work on a question begins, so that one which ends the daemon each time is found out.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn begin(&self, question: QuestionId, times: i32) -> Result<(), JournalError> {
        let sql = "UPDATE questions SET begun = max(0, begun + ?2) WHERE id = ?1 AND state = 'open'";
        let connection = self.write();
        let mut statement = connection.prepare_cached(sql).map_err(self.error("question"))?;
        statement.execute(params![question.0.cast_signed(), times]).map_err(self.error("question"))?;
        Ok(())
    }

    /// Writes how a question ended. Whether it is so now: `false` where it had ended before, and nothing is changed.
    ///
    /// # Errors
    /// A disk so full that the reserve does not help, or what else SQLite says.
    pub fn finish(&self, question: QuestionId, outcome: &Outcome, looked: Option<&[u8]>) -> Result<bool, JournalError> {
        match self.try_finish(question, outcome, looked) {
            Err(JournalError::Full { .. }) => {
                self.spend_reserve();
                // The answer comes before its picture.
                self.try_finish(question, outcome, None)
            }
            done => done,
        }
    }

    fn try_finish(&self, question: QuestionId, outcome: &Outcome, looked: Option<&[u8]>) -> Result<bool, JournalError> {
        let keep = self.limits().looked;
        let mut connection = self.write();
        let error = self.error("answer");
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&error)?;
        let number = question.0.cast_signed();
        let (state, text, document, code, reason) = match outcome {
            Outcome::Answered { document } => {
                let text = document.get("text").and_then(Value::as_str);
                (QuestionState::Answered, text, Some(document.to_string()), None, None)
            }
            Outcome::Refused { code, reason } => (QuestionState::Refused, None, None, Some(code), Some(reason)),
        };
        let changed = transaction
            .prepare_cached("UPDATE questions SET state = ?2, done_at = ?3 WHERE id = ?1 AND state = 'open'")
            .and_then(|mut statement| statement.execute(params![number, word(state), UnixMillis::of(SystemTime::now()).0]))
            .map_err(&error)?;
        if changed == 0 {
            return Ok(false);
        }
        transaction
            .prepare_cached("INSERT INTO answers (question, text, document, code, reason) VALUES (?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut statement| statement.execute(params![number, text, document, code, reason]))
            .map_err(&error)?;
        if let Some(layers) = looked {
            let statements = || {
                transaction.execute("INSERT INTO looked (question, layers) VALUES (?1, ?2)", params![number, layers])?;
                let last = number.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX));
                transaction.execute("DELETE FROM looked WHERE question <= ?1", params![last])
            };
            statements().map_err(&error)?;
        }
        transaction.commit().map_err(&error)?;
        Ok(true)
    }

    /// # Errors
    /// What SQLite says; an entry that can't be.
    pub fn question(&self, question: QuestionId) -> Result<Option<QuestionEntry>, JournalError> {
        let connection = self.read();
        let mut statement =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM questions WHERE id = ?1")).map_err(self.error("question"))?;
        let mut rows = statement.query(params![question.0.cast_signed()]).map_err(self.error("question"))?;
        let row = rows.next().map_err(self.error("question"))?;
        row.map(|row| entry(&self.path, row)).transpose()
    }

    /// # Errors
    /// As [`Self::question`].
    pub fn questions(&self, filter: &Filter) -> Result<Vec<QuestionEntry>, JournalError> {
        let connection = self.read();
        let sql = format!(
            "SELECT {COLUMNS} FROM questions WHERE id < ?1 \
             AND (?2 IS NULL OR EXISTS (SELECT 1 FROM question_frames WHERE question = id AND frame = ?2)) \
             AND (?3 IS NULL OR text LIKE ?3 ESCAPE '\\' OR EXISTS (SELECT 1 FROM answers WHERE question = id AND answers.text LIKE ?3 ESCAPE '\\')) \
             ORDER BY id DESC LIMIT ?4"
        );
        let mut statement = connection.prepare_cached(&sql).map_err(self.error("questions"))?;
        let before = filter.before.map_or(i64::MAX, |before| before.0.cast_signed());
        let search = filter.search.as_deref().filter(|search| !search.is_empty()).map(|search| {
            let plain = search.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            format!("%{plain}%")
        });
        let limit = i64::try_from(filter.limit.min(MOST)).unwrap_or(0);
        let frame = filter.frame.map(|frame| frame.to_string());
        let mut rows = statement.query(params![before, frame, search, limit]).map_err(self.error("questions"))?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(self.error("questions"))? {
            entries.push(entry(&self.path, row)?);
        }
        Ok(entries)
    }

    /// Questions that are accepted and not done, oldest first.
    ///
    /// # Errors
    /// As [`Self::question`].
    pub fn open_questions(&self) -> Result<Vec<QuestionEntry>, JournalError> {
        let connection = self.read();
        let sql = format!("SELECT {COLUMNS} FROM questions WHERE state = 'open' ORDER BY id");
        let mut statement = connection.prepare(&sql).map_err(self.error("questions"))?;
        let mut rows = statement.query([]).map_err(self.error("questions"))?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(self.error("questions"))? {
            entries.push(entry(&self.path, row)?);
        }
        Ok(entries)
    }

    /// The question that was accepted with `key`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn question_of(&self, key: &str) -> Result<Option<QuestionId>, JournalError> {
        let connection = self.read();
        let found = connection.query_row("SELECT id FROM questions WHERE key = ?1", params![key], |row| row.get::<_, i64>(0)).optional();
        Ok(found.map_err(self.error("key"))?.map(|number| QuestionId(id(number))))
    }

    /// Compressed layers of an answer's picture, see [`crate::journal::inflated`].
    ///
    /// # Errors
    /// What SQLite says.
    pub fn layers(&self, question: QuestionId) -> Result<Option<Vec<u8>>, JournalError> {
        let connection = self.read();
        let sql = "SELECT layers FROM looked WHERE question = ?1";
        connection.query_row(sql, params![question.0.cast_signed()], |row| row.get(0)).optional().map_err(self.error("layers"))
    }

    /// How a question ended, shared.
    pub(super) fn outcome(&self, question: QuestionId) -> Result<Option<Arc<Outcome>>, JournalError> {
        Ok(self.question(question)?.and_then(|entry| entry.outcome).map(Arc::new))
    }
}
