//! What the fuzzer calls, once over what it starts from: seeds and files of this repository, each whole, cut short and with a bit turned.

#[path = "../fuzz/bodies/frame.rs"]
mod frame;
#[path = "../fuzz/bodies/gguf.rs"]
mod gguf;
#[path = "../fuzz/bodies/http.rs"]
mod http;
#[path = "../fuzz/bodies/labels.rs"]
mod labels;
#[path = "../fuzz/bodies/link_fragments.rs"]
mod link_fragments;
#[path = "../fuzz/bodies/link_parser.rs"]
mod link_parser;
#[path = "../fuzz/bodies/link_text.rs"]
mod link_text;
#[path = "../fuzz/bodies/link_verifier.rs"]
mod link_verifier;
#[path = "../fuzz/bodies/tensors.rs"]
mod tensors;
#[path = "../fuzz/bodies/tokenizer.rs"]
mod tokenizer;
#[path = "../fuzz/bodies/toml.rs"]
mod toml;

use std::path::{Path, PathBuf};

/// All of a folder's files, in order.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// `run` over each of `files`, whole, half and with a bit turned in the middle.
fn over(files: &[PathBuf], run: fn(&[u8])) {
    for file in files {
        let mut bytes = std::fs::read(file).unwrap();
        let half = bytes.len() / 2;
        run(&bytes);
        run(&bytes[..half]);
        bytes[half] ^= 0x10;
        run(&bytes);
    }
}

fn of_package(name: &str) -> [PathBuf; 1] {
    [Path::new(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano").join(name)]
}

#[test]
fn the_links() {
    over(&files("fuzz/seeds/link_parser"), link_parser::run);
    over(&files("fuzz/seeds/link_fragments"), link_fragments::run);
    over(&files("fuzz/seeds/link_verifier"), link_verifier::run);
    over(&files("fuzz/seeds/link_text"), link_text::run);
}

#[test]
fn those_of_frames_and_maps() {
    let pictures: Vec<PathBuf> = files("samples").into_iter().filter(|path| path.extension().is_some_and(|end| end == "jpg")).collect();
    over(&pictures, frame::run);
    over(&pictures, labels::run);
}

#[test]
fn those_of_a_package() {
    over(&of_package("decoder.gguf"), gguf::run);
    over(&of_package("tokenizer.json"), tokenizer::run);
    over(&of_package("model.toml"), toml::run);
    over(&of_package("positions.safetensors"), tensors::run);
    over(&files("firmware-config"), toml::run);
}

#[test]
fn those_of_http() {
    over(&files("fuzz/seeds/http"), http::run);
}
