//! The folder that packs of tiles and thumbnails are kept in, of bounded size: what wasn't looked at for longest goes first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::imaging::zoom::{ZoomError, file_error};
use crate::units::{Bytes, FrameId};

const PACK: &str = "zoom";
const THUMBNAIL: &str = "jpg";
const DRAFT: &str = ".draft";

/// A folder of the program's own. Only files of its own names are ever removed.
pub struct ZoomFolder {
    path: PathBuf,
    limit: Bytes,
}

impl ZoomFolder {
    /// Makes the folder where there is none and drops what an earlier run left unfinished. `limit`: most that it may hold.
    ///
    /// # Errors
    /// A folder that can't be made or read.
    pub fn open(path: &Path, limit: Bytes) -> Result<Self, ZoomError> {
        fs::create_dir_all(path).map_err(|error| file_error(path, error))?;
        let entries = fs::read_dir(path).map_err(|error| file_error(path, error))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let folder = Self { path: path.to_owned(), limit };
        folder.make_room(Bytes(0))?;
        Ok(folder)
    }

    #[must_use]
    pub fn pack(&self, id: FrameId) -> PathBuf {
        self.path.join(format!("{id}.{PACK}"))
    }

    #[must_use]
    pub fn thumbnail(&self, id: FrameId) -> PathBuf {
        self.path.join(format!("{id}.{THUMBNAIL}"))
    }

    /// A file that is gone unless it gets a name.
    pub(super) fn draft(&self) -> Result<tempfile::NamedTempFile, ZoomError> {
        tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.path).map_err(|error| file_error(&self.path, error))
    }

    /// Keeps a thumbnail.
    ///
    /// # Errors
    /// A folder that is too small or can't be written.
    pub fn keep_thumbnail(&self, id: FrameId, jpeg: &[u8]) -> Result<(), ZoomError> {
        use std::io::Write;
        self.make_room(Bytes::of::<u8>(jpeg.len()))?;
        let path = self.thumbnail(id);
        let mut draft = self.draft()?;
        let written = draft.write_all(jpeg).and_then(|()| draft.persist(&path).map_err(|error| error.error));
        written.map(drop).map_err(|error| file_error(&path, error))
    }

    /// Notes that a file was looked at; a folder that can't be written forgets it.
    pub fn touch(&self, path: &Path) {
        if let Ok(file) = fs::File::open(path) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Drops what wasn't looked at for longest until `wanted` more fit.
    ///
    /// # Errors
    /// More than the folder may ever hold; a folder that can't be read.
    pub fn make_room(&self, wanted: Bytes) -> Result<(), ZoomError> {
        if wanted > self.limit {
            return Err(ZoomError::Full { wanted, allowed: self.limit });
        }
        let entries = fs::read_dir(&self.path).map_err(|error| file_error(&self.path, error))?;
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter(|entry| {
                let ending = entry.path().extension().map(|ending| ending.to_string_lossy().into_owned());
                matches!(ending.as_deref(), Some(PACK | THUMBNAIL))
            })
            .filter_map(|entry| {
                let data = entry.metadata().ok()?;
                Some((data.modified().unwrap_or(SystemTime::UNIX_EPOCH), data.len(), entry.path()))
            })
            .collect();
        let mut held: u64 = files.iter().map(|(_, len, _)| len).sum();
        files.sort();
        for (_, len, path) in files {
            if held.saturating_add(wanted.0) <= self.limit.0 {
                break;
            }
            fs::remove_file(&path).map_err(|error| file_error(&path, error))?;
            held -= len;
        }
        Ok(())
    }
}
