//! What a ground station keeps between two commands: which questions have no answer yet, and which timestamps were heard.

use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::CliError;
use crate::config::user_folder;
use crate::link::key::Key;
use crate::link::sign::{Floors, merged};
use crate::link::wire::{Number, Session};

/// A question that was sent and has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenQuestion {
    pub link: String,
    pub session: u32,
    pub number: u32,
    /// The whole query, as it was sent: the same words later are the same question.
    pub query: String,
}

/// The folder.
#[derive(Clone)]
pub struct State {
    folder: PathBuf,
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

impl State {
    /// The folder, made where it isn't there.
    pub fn open(folder: Option<&Path>) -> Result<Self, CliError> {
        let folder = folder.map(Path::to_owned).or_else(|| user_folder("XDG_STATE_HOME", ".local/state"));
        let folder = folder.ok_or_else(|| CliError::Usage("--state: wanted a folder, found none and no home".into()))?;
        std::fs::create_dir_all(&folder).map_err(|error| CliError::Output(format!("{}: {error}", folder.display())))?;
        Ok(Self { folder })
    }

    fn questions(&self) -> PathBuf {
        self.folder.join("open.json")
    }

    fn all(&self) -> Vec<OpenQuestion> {
        std::fs::read(self.questions()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn keep(&self, all: &[OpenQuestion]) -> Result<(), CliError> {
        let path = self.questions();
        let bytes = serde_json::to_vec_pretty(all).map_err(|error| CliError::Output(error.to_string()))?;
        write(&path, &bytes).map_err(|error| CliError::Output(format!("{}: {error}", path.display())))
    }

    /// The same query over the same link that has no answer yet.
    #[must_use]
    pub fn unanswered(&self, link: &str, query: &str) -> Option<OpenQuestion> {
        self.all().into_iter().find(|open| open.link == link && open.query == query)
    }

    pub fn add(&self, open: OpenQuestion) -> Result<(), CliError> {
        let mut all = self.all();
        // Hundreds that nobody came back for would only be in the way.
        let from = all.len().saturating_sub(99);
        all.drain(..from);
        all.push(open);
        self.keep(&all)
    }

    pub fn remove(&self, gone: &OpenQuestion) -> Result<(), CliError> {
        let mut all = self.all();
        all.retain(|open| open != gone);
        self.keep(&all)
    }

    /// The memory of timestamps of one key, on whichever line: what was recorded on one would be new on the other.
    #[must_use]
    pub fn floors(&self, key: &Key) -> Box<dyn Floors> {
        Box::new(FileFloors(self.folder.join(format!("heard-{}", key.name()))))
    }

    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.folder.join("history")
    }
}

struct FileFloors(PathBuf);

impl Floors for FileFloors {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        match std::fs::read(&self.0) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.0.display())),
        }
    }
    /// With what another command of the same key heard meanwhile.
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        let path = self.0.clone();
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut name = path.clone().into_os_string();
        name.push(".lock");
        let one = std::fs::File::options().create(true).truncate(false).write(true).open(name).map_err(wrong)?;
        one.lock().map_err(wrong)?;
        let memory = match self.load()? {
            Some(other) => merged(&other, memory)?,
            None => memory.to_owned(),
        };
        write(&path, &memory).map_err(wrong)
    }
}

/// A session that nobody else has, out of the system's random numbers.
#[must_use]
pub fn session() -> (Session, Number) {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (Session((random >> 32) as u32), Number(random as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::clock::{At, Now};
    use crate::link::dialect::{HEARTBEAT_DATA, MavMessage};
    use crate::link::frame::{self, Source};
    use crate::link::sign::{NoFloors, Signing};
    use crate::units::UnixMillis;

    #[test]
    fn commands_side_by_side_lose_nothing_of_what_each_heard() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Some(folder.path())).unwrap();
        let key = Key::from_passphrase("of the test's own").unwrap();
        let now = Now::new(At::default(), UnixMillis(1_800_000_000_000));
        let open = || Signing::new(key.clone(), 255, state.floors(&key)).unwrap();
        let (mut one, mut other) = (open(), open());
        let packet = |system| {
            let mut raw = mavlink_core::MAVLinkV2MessageRaw::new();
            frame::write_for_signing(&mut raw, Source { system, component: 191 }, 0, &MavMessage::HEARTBEAT(HEARTBEAT_DATA::DEFAULT));
            Signing::new(key.clone(), 0, Box::<NoFloors>::default()).unwrap().sign(&mut raw, now);
            raw
        };
        let (a, b) = (packet(1), packet(2));
        let source = |system| Source { system, component: 191 };
        assert!(one.verify(&a, source(1), now).is_ok() && other.verify(&b, source(2), now).is_ok());
        let mut third = open();
        assert!(third.verify(&a, source(1), now).is_err() && third.verify(&b, source(2), now).is_err());
    }
}
