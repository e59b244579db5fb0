//! What the link keeps in the journal: a few small blobs by name, and places of frames whose files have none.
//!
//! The table is the link's own and made when it is first written to; journals of before have none and need none.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::journal::{Journal, JournalError};
use crate::units::FrameId;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS link_memory (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT";

impl Journal {
    /// What was kept under `name`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn link_memory(&self, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let connection = self.read();
        let error = self.error("link");
        let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'link_memory'";
        if connection.query_row(there, [], |row| row.get::<_, i64>(0)).map_err(&error)? == 0 {
            return Ok(None);
        }
        let sql = "SELECT value FROM link_memory WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get(0)).optional().map_err(&error)
    }

    /// Keeps `value` under `name`; on disk when this returns.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep_link_memory(&self, name: &str, value: &[u8]) -> Result<(), JournalError> {
        let connection = self.write();
        let error = self.error("link");
        connection.execute_batch(TABLE).map_err(&error)?;
        let sql = "INSERT INTO link_memory (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params![name, value])).map(drop).map_err(&error)
    }

    /// Gives a frame a place, where its file has none; whether it took it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn place_frame(&self, frame: FrameId, tag: &Value) -> Result<bool, JournalError> {
        let sql = "UPDATE frames SET geotag = ?2 WHERE id = ?1 AND geotag IS NULL";
        let connection = self.write();
        let placed = connection.execute(sql, params![frame.to_string(), tag.to_string()]).map_err(self.error("link"))?;
        Ok(placed > 0)
    }
}
