//! What all lines of a daemon have together: the settings that ground stations change, and what was heard with each key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::Desk;
use crate::link::key::Key;
use crate::link::sign::{Floors, Timestamps};
use crate::link::standard::param::Params;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under the lock is whole by the time anything could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Settings {
    params: Params,
    kept: Params,
}

/// Of all lines. A clone is the same.
#[derive(Clone)]
pub struct Shared {
    desk: Desk,
    settings: Arc<Mutex<Settings>>,
    keys: Arc<Mutex<Vec<(String, Timestamps)>>>,
}

/// The journal's memory of one key's timestamps.
struct JournalFloors {
    desk: Desk,
    name: String,
}

impl Floors for JournalFloors {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.desk.journal().link_memory(&self.name).map_err(|error| error.to_string())
    }
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        self.desk.journal().keep_link_memory(&self.name, memory).map_err(|error| error.to_string())
    }
}

impl Shared {
    /// As the journal has them.
    pub fn open(desk: &Desk) -> Self {
        let mut params = Params::default();
        let kept = desk.journal().link_memory("params").ok().flatten();
        if let Some(kept) = kept.and_then(|bytes| serde_json::from_slice::<Vec<(String, f32)>>(&bytes).ok()) {
            for (name, value) in kept {
                // One that is gone, or whose range changed, is as if it had never been set.
                let _ = params.set(&name, value);
            }
        }
        let settings = Arc::new(Mutex::new(Settings { params, kept: params }));
        Self { desk: desk.clone(), settings, keys: Arc::default() }
    }

    pub fn params(&self) -> Params {
        lock(&self.settings).params
    }

    /// Hands on what a line changed since it saw `seen`, and gives it what others changed.
    pub fn sync(&self, own: &mut Params, seen: &mut Params) {
        let mut settings = lock(&self.settings);
        settings.params.follow(seen, own);
        (*own, *seen) = (settings.params, settings.params);
    }

    /// Writes the settings where they changed since they were written.
    ///
    /// # Errors
    /// What the journal says; the next call tries again.
    pub fn keep(&self) -> Result<(), String> {
        let mut settings = lock(&self.settings);
        if settings.params == settings.kept {
            return Ok(());
        }
        let list: Vec<(&str, f32)> = settings.params.list().collect();
        let bytes = serde_json::to_vec(&list).map_err(|error| error.to_string())?;
        self.desk.journal().keep_link_memory("params", &bytes).map_err(|error| error.to_string())?;
        settings.kept = settings.params;
        Ok(())
    }

    /// What was heard with `key`, on whichever line.
    ///
    /// # Errors
    /// A journal that can't be read.
    pub fn timestamps(&self, key: &Key) -> Result<Timestamps, String> {
        let name = format!("timestamps of key {}", key.name());
        let mut keys = lock(&self.keys);
        if let Some((_, timestamps)) = keys.iter().find(|(other, _)| *other == name) {
            return Ok(timestamps.clone());
        }
        let timestamps = Timestamps::open(Box::new(JournalFloors { desk: self.desk.clone(), name: name.clone() }))?;
        keys.push((name, timestamps.clone()));
        Ok(timestamps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::{Limits, Reading};
    use crate::journal::{DeskLimits, Journal, JournalLimits};
    use crate::units::{Bytes, Px};

    fn desk(folder: &std::path::Path) -> Desk {
        let journal = Journal::open(&folder.join("journal.sqlite"), JournalLimits { max: Bytes(64 << 20), looked: 1 }).unwrap();
        let limits = DeskLimits {
            places: 8,
            backlog: 8,
            text: Bytes(4_096),
            frames: 4,
            brought: folder.join("brought"),
            picture: Bytes(1 << 20),
            brought_max: Bytes(1 << 20),
            admits: Limits { max_side: Px(8_192), max_pixels: 1 << 26, whole: Bytes(0) },
            reading: Reading::default(),
        };
        Desk::new(journal, limits).unwrap()
    }

    #[test]
    fn lines_overwrite_none_of_each_others_settings() {
        let folder = tempfile::tempdir().unwrap();
        {
            let shared = Shared::open(&desk(folder.path()));
            let mut lines = [(shared.params(), shared.params()), (shared.params(), shared.params())];
            lines[0].0.set("UHR_TOKBUD", 600.0).unwrap();
            lines[1].0.set("UHR_MAXNEW", 32.0).unwrap();
            for (own, seen) in &mut lines {
                shared.sync(own, seen);
            }
            let (own, seen) = &mut lines[0];
            shared.sync(own, seen);
            assert_eq!((own.budget(), own.max_new()), (Some(600), Some(32)));
            shared.keep().unwrap();
        }
        let params = Shared::open(&desk(folder.path())).params();
        assert_eq!((params.budget(), params.max_new()), (Some(600), Some(32)));
    }

    #[test]
    fn a_key_has_one_memory() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::open(&desk(folder.path()));
        let key = |text| Key::from_passphrase(text).unwrap();
        for text in ["of the test's own", "of the test's own", "somebody else's"] {
            shared.timestamps(&key(text)).unwrap();
        }
        assert_eq!(lock(&shared.keys).len(), 2);
    }
}
