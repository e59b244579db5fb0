//! Profiles and manifests.

use uhr_edge::config::{Manifest, Profile};

pub fn run(bytes: &[u8]) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = folder.path().join("model.toml");
    std::fs::write(&file, bytes).unwrap();
    let _ = Manifest::load(folder.path());
    let _ = Profile::load(file.to_str().unwrap());
}
