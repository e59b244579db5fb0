//! One capture folder: whether it is there, whether it is watched, and what is in it.

use std::path::{Path, PathBuf};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::journal::FileMark;

/// A folder, which may come and go.
pub struct Folder {
    pub path: PathBuf,
    /// It is to be read whole.
    pub due: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Missing,
    /// By the number of its directory: another one may come in its place.
    Watched(u64),
    Read(String),
}

/// Endings of files that somebody still works on.
const UNFINISHED: [&str; 5] = [".part", ".tmp", ".partial", ".crdownload", "~"];

/// Whether a file of that name may be a frame.
#[must_use]
pub fn is_meant(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    !name.starts_with('.') && !UNFINISHED.iter().any(|ending| name.ends_with(ending))
}

impl Folder {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, due: false, state: State::Missing }
    }

    /// For people.
    #[must_use]
    pub fn state(&self) -> String {
        match &self.state {
            State::Missing => "missing".into(),
            State::Watched(_) => "watched".into(),
            State::Read(why) => format!("read every minute: {why}"),
        }
    }

    /// Looks whether it is there; one that came is watched and to be read.
    pub fn look(&mut self, watcher: Option<&mut RecommendedWatcher>) {
        use std::os::unix::fs::MetadataExt;
        let there = std::fs::metadata(&self.path).ok().filter(std::fs::Metadata::is_dir).map(|folder| folder.ino());
        let now = match (there, &self.state) {
            (None, _) => State::Missing,
            (Some(number), State::Watched(watched)) if *watched == number => return,
            (Some(_), State::Read(_)) => return,
            (Some(number), _) => match watcher {
                None => State::Read("no notices".into()),
                Some(watcher) => {
                    // A watch of what was there before is of no use any more.
                    let _ = watcher.unwatch(&self.path);
                    match watcher.watch(&self.path, RecursiveMode::NonRecursive) {
                        Ok(()) => State::Watched(number),
                        Err(error) => State::Read(error.to_string()),
                    }
                }
            },
        };
        self.due |= now != State::Missing;
        self.state = now;
    }

    /// Files in it that may be frames, with their marks, by the time of their last change, then by name.
    ///
    /// # Errors
    /// A folder that can't be read.
    pub fn files(&self) -> std::io::Result<Vec<(FileMark, PathBuf)>> {
        let mut files = Vec::new();
        for file in std::fs::read_dir(&self.path)?.flatten() {
            let (path, kind) = (file.path(), file.file_type());
            if is_meant(&path) && kind.is_ok_and(|kind| !kind.is_dir()) {
                // Gone by now: it needs no look.
                if let Ok(data) = file.metadata() {
                    files.push((FileMark::of(&data), path));
                }
            }
        }
        files.sort_unstable_by(|(a, x), (b, y)| a.modified_ns.cmp(&b.modified_ns).then(x.cmp(y)));
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_names_are_left_alone() {
        let cases = [("a.jpg", true), (".a.jpg", false), ("a.jpg.part", false), ("A.TMP", false), ("a.jpg~", false), ("readme.txt", true)];
        for (name, wanted) in cases {
            assert_eq!(is_meant(Path::new("/frames").join(name).as_path()), wanted, "{name}");
        }
    }

    #[test]
    fn files_come_by_their_time_and_folders_dont() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b.jpg", "a.jpg", "x.part"] {
            std::fs::write(root.path().join(name), name).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::fs::create_dir(root.path().join("deeper")).unwrap();
        let folder = Folder::new(root.path().to_owned());
        let names: Vec<_> = folder.files().unwrap().iter().map(|(_, path)| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["b.jpg", "a.jpg"]);
        assert!(Folder::new(root.path().join("none")).files().is_err());
    }
}
