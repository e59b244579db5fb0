//! Profiles, manifests, and records of engines.

use uhr_edge::config::{Manifest, Profile};
use uhr_edge::engine::tensorrt::{RECORD, Record};

pub fn run(bytes: &[u8]) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = folder.path().join("model.toml");
    std::fs::write(&file, bytes).unwrap();
    let _ = Manifest::load(folder.path());
    let _ = Profile::load(file.to_str().unwrap());
    std::fs::rename(&file, folder.path().join(RECORD)).unwrap();
    let _ = Record::read(folder.path());
}
