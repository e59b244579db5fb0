//! Files that were noticed and are not yet known to be whole.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::journal::FileMark;

/// Most files that are pending at once; the rest is found by reading the folder again.
const MOST: usize = 1_024;

/// How a file stands that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Ripe {
    /// Its size and its time have stood, for `since` by now.
    Settled { mark: FileMark, since: Duration },
    /// It isn't there; `noticed`: it was, by the system's word.
    Gone { noticed: bool },
    /// No regular file.
    Other(&'static str),
}

struct File {
    mark: Option<FileMark>,
    /// When the mark last changed.
    since: Instant,
    noticed: bool,
    /// Not to be looked at before.
    not_before: Instant,
    /// It is known that it waits.
    waits: bool,
    number: u64,
}

/// Files by path.
#[derive(Default)]
pub struct Pending {
    files: BTreeMap<PathBuf, File>,
    noticed: u64,
}

impl Pending {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A file is to be looked at; `noticed`: by the system's word, not by reading the folder. Whether there was room.
    pub fn notice(&mut self, path: PathBuf, noticed: bool) -> bool {
        if let Some(file) = self.files.get_mut(&path) {
            file.noticed |= noticed;
            return true;
        }
        if self.files.len() >= MOST {
            return false;
        }
        self.noticed += 1;
        let now = Instant::now();
        self.files.insert(path, File { mark: None, since: now, noticed, not_before: now, waits: false, number: self.noticed });
        true
    }

    pub fn forget(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The file is looked at again in a while. Whether that is new.
    pub fn again(&mut self, path: &Path, after: Duration) -> bool {
        let Some(file) = self.files.get_mut(path) else { return false };
        let new = !file.waits;
        (file.not_before, file.waits) = (Instant::now() + after, !after.is_zero());
        if after.is_zero() {
            file.mark = None;
        }
        new
    }

    /// Looks at all that are due, in the order in which they were noticed.
    pub fn ripe(&mut self, settle: Duration) -> Vec<(PathBuf, Ripe)> {
        let now = Instant::now();
        let mut ripe = Vec::new();
        for (path, file) in self.files.iter_mut().filter(|(_, file)| file.not_before <= now) {
            let found = match std::fs::symlink_metadata(path) {
                Err(_) => Ripe::Gone { noticed: file.noticed || file.mark.is_some() },
                Ok(data) if data.is_file() => {
                    let mark = FileMark::of(&data);
                    if file.mark != Some(mark) {
                        (file.mark, file.since) = (Some(mark), Instant::now());
                        continue;
                    }
                    let since = file.since.elapsed();
                    if since < settle {
                        continue;
                    }
                    Ripe::Settled { mark, since }
                }
                Ok(data) => {
                    let kind = data.file_type();
                    Ripe::Other(match () {
                        () if kind.is_symlink() => "a symbolic link",
                        () if kind.is_dir() => "a folder",
                        () if kind.is_fifo() => "a pipe",
                        () if kind.is_socket() => "a socket",
                        () => "a device",
                    })
                }
            };
            ripe.push((file.number, path.clone(), found));
        }
        ripe.sort_unstable_by_key(|(number, ..)| *number);
        ripe.into_iter().map(|(_, path, found)| (path, found)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_is_not_settled() {
        let root = tempfile::tempdir().unwrap();
        let [path, link, none] = ["a.jpg", "link.jpg", "none.jpg"].map(|name| root.path().join(name));
        std::fs::write(&path, "a").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let mut pending = Pending::default();
        for path in [&path, &link, &none] {
            assert!(pending.notice(path.clone(), true));
        }
        let settle = Duration::from_millis(20);
        let found = pending.ripe(settle);
        assert_eq!(found, [(link.clone(), Ripe::Other("a symbolic link")), (none.clone(), Ripe::Gone { noticed: true })]);
        pending.forget(&link);
        pending.forget(&none);
        std::thread::sleep(settle);
        std::fs::write(&path, "more").unwrap();
        assert_eq!(pending.ripe(settle), []);
        std::thread::sleep(settle);
        assert!(matches!(&pending.ripe(settle)[..], [(_, Ripe::Settled { mark, .. })] if mark.bytes.0 == 4));
        assert!(pending.again(&path, Duration::from_secs(60)) && !pending.again(&path, Duration::from_secs(60)));
        assert_eq!(pending.ripe(settle), []);
        for number in 0..2_000 {
            pending.notice(root.path().join(number.to_string()), false);
        }
        assert_eq!(pending.files.len(), MOST);
    }
}
