//! Pictures that come by HTTP.

use std::sync::PoisonError;

use crate::imaging::{Format, FrameSource};
use crate::journal::{Desk, FileMark, FrameEntry, JournalError, Refused};
use crate::units::{Bytes, FrameId};

impl Desk {
    /// Takes in a picture that came by HTTP: written to the daemon's own folder, then as any captured file.
    ///
    /// # Errors
    /// What is no picture, or not admitted; a full disk.
    pub fn bring(&self, bytes: &[u8]) -> Result<FrameEntry, Refused> {
        let limits = &self.inner.limits;
        let (wanted, allowed) = (Bytes::of::<u8>(bytes.len()), limits.picture.min(limits.brought_max));
        if wanted > allowed {
            return Err(Refused::LargePicture { wanted, allowed });
        }
        if self.state().stopping {
            return Err(Refused::Stopping);
        }
        // One at a time: the folder's size is counted.
        let _one = self.inner.bringing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source: std::io::Error| {
            let path = limits.brought.clone();
            Refused::from(match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    JournalError::Full { path, found: source.to_string() }
                }
                _ => JournalError::File { path, source },
            })
        };
        std::fs::create_dir_all(&limits.brought).map_err(failed)?;
        self.make_room(wanted).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(&limits.brought).map_err(failed)?;
        std::io::Write::write_all(&mut file, bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        let picture = |error| Refused::Picture(Box::new(error));
        let source = FrameSource::open_as(file.path(), &limits.admits, &limits.reading).map_err(picture)?;
        let ending = match source.format {
            Format::Jpeg => "jpg",
            Format::Png => "png",
            Format::Tiff(_) => "tif",
            Format::WebP => "webp",
        };
        let path = limits.brought.join(format!("{}.{ending}", source.id()));
        file.persist(&path).map_err(|error| failed(error.error))?;
        let mark = FileMark::of(&std::fs::metadata(&path).map_err(failed)?);
        Ok(self.captured(&FrameSource { path, ..source }, mark)?.entry)
    }

    /// Removes the oldest of the pictures that were brought until `wanted` more fits, those that a question waits for left out.
    fn make_room(&self, wanted: Bytes) -> std::io::Result<()> {
        let limits = &self.inner.limits;
        let mut files = Vec::new();
        for file in std::fs::read_dir(&limits.brought)? {
            let (file, mark) = match file.and_then(|file| Ok((file.path(), FileMark::of(&file.metadata()?)))) {
                Ok(found) => found,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            files.push((mark.modified_ns, mark.bytes, file));
        }
        files.sort_unstable();
        let mut all: Bytes = files.iter().map(|(_, bytes, _)| *bytes).sum();
        for (_, bytes, path) in files {
            if all + wanted <= limits.brought_max {
                break;
            }
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<FrameId>().ok());
            let state = self.state();
            if id.is_some_and(|id| state.queue.wants(id) || state.about.contains(&id)) {
                continue;
            }
            std::fs::remove_file(&path)?;
            all = all - bytes;
        }
        Ok(())
    }
}
