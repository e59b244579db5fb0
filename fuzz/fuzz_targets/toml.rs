//! Profiles and manifests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uhr_edge::config::{Manifest, Profile};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = folder.path().join("model.toml");
    std::fs::write(&file, bytes).unwrap();
    let _ = Manifest::load(folder.path());
    let _ = Profile::load(file.to_str().unwrap());
});
