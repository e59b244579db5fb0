//! What goes when the journal gets large: answered questions first, oldest first; unanswered ones never.
//!
//! # Why
//! By size and order, not by age: a board's clock may step by years when it first hears of the time, and nothing may be lost for that.

use std::sync::atomic::Ordering;

use rusqlite::params;

use crate::journal::{Journal, JournalError};
use crate::units::Bytes;

/// Above this share of its limit the journal is pruned, down to the other. In per cent.
const ABOVE: u64 = 85;
const DOWN_TO: u64 = 75;
/// Above this share nothing new is accepted: the rest is for answers of what was.
const SHUT: u64 = 95;
/// Rows that go at once.
const AT_ONCE: i64 = 64;

impl Journal {
    /// Prunes where it is time to. How many questions went.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn prune(&self) -> Result<u64, JournalError> {
        let most = self.limits().max.0;
        if self.used()?.0 <= most / 100 * ABOVE {
            return Ok(0);
        }
        let mut gone = 0;
        while self.used()?.0 > most / 100 * DOWN_TO {
            let connection = self.write();
            let error = self.error("retention");
            let questions = connection
                .execute(
                    "DELETE FROM questions WHERE id IN (SELECT id FROM questions WHERE state <> 'open' ORDER BY id LIMIT ?1)",
                    params![AT_ONCE],
                )
                .map_err(&error)?;
            // Files and frames that no question that is kept is about; the newest stay.
            let frames = connection
                .execute(
                    "DELETE FROM frames WHERE number IN (SELECT number FROM frames f WHERE state IN ('ready', 'failed', 'dropped') \
                     AND NOT EXISTS (SELECT 1 FROM question_frames q WHERE q.frame = f.id) \
                     AND number < (SELECT max(number) FROM frames) - 1000 ORDER BY number LIMIT ?1)",
                    params![AT_ONCE],
                )
                .map_err(&error)?;
            drop(connection);
            let files = self.forget_files()?;
            gone += questions as u64;
            if questions + frames + files == 0 {
                break;
            }
        }
        self.pruned.fetch_add(gone, Ordering::Relaxed);
        Ok(gone)
    }

    /// Files that are gone and stand for no frame that is kept. One that is still there must stay known: it would be taken for a new one.
    fn forget_files(&self) -> Result<usize, JournalError> {
        let connection = self.write();
        let error = self.error("retention");
        let sql = "SELECT path FROM files l WHERE NOT EXISTS (SELECT 1 FROM frames f WHERE f.id = l.frame) ORDER BY seen_at LIMIT 1000";
        let mut statement = connection.prepare_cached(sql).map_err(&error)?;
        let paths = statement.query_map([], |row| row.get::<_, String>(0)).map_err(&error)?.collect::<Result<Vec<_>, _>>();
        let mut gone = 0;
        for path in paths.map_err(&error)?.iter().filter(|path| std::fs::symlink_metadata(path).is_err()) {
            gone += connection.execute("DELETE FROM files WHERE path = ?1", params![path]).map_err(&error)?;
        }
        Ok(gone)
    }

    /// Whether there is room for something new and for its answer.
    ///
    /// # Errors
    /// [`JournalError::Full`] where there isn't; what else SQLite says.
    pub fn has_room(&self) -> Result<(), JournalError> {
        let most = self.limits().max;
        let mut used = self.used()?;
        if used.0 > most.0 / 100 * SHUT {
            self.prune()?;
            used = self.used()?;
        }
        if used.0 > most.0 / 100 * SHUT {
            let found = format!("{used} in use of the {most} that [journal] max-mib allows, by questions without an answer");
            return Err(JournalError::Full { path: self.path.clone(), found });
        }
        if !self.hold_reserve() {
            let found = format!("a disk without the {} that are held back for answers", Bytes(1 << 20));
            return Err(JournalError::Full { path: self.path.clone(), found });
        }
        Ok(())
    }
}
