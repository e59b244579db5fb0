//! Packages, verified and taken in whole or not at all.

mod common;

use std::path::{Path, PathBuf};

use common::{documents, path, refusal, run};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A copy of the committed package with a self-test that wants `tokens`.
fn package(folder: &Path, tokens: &str) -> PathBuf {
    let dir = folder.join("package");
    std::fs::create_dir(&dir).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano");
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let picture = common::jpeg(400, 300, mozjpeg::ColorSpace::JCS_RGB, false);
    let digest = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let graph = b"a graph that only a GPU would read";
    std::fs::create_dir(dir.join("tensorrt")).unwrap();
    std::fs::write(dir.join("tensorrt/step.onnx"), graph).unwrap();
    std::fs::write(dir.join("test.jpg"), &picture).unwrap();
    let text = std::fs::read_to_string(model.join("model.toml")).unwrap();
    let (head, files) = text.split_once("[files]").unwrap();
    let head = head.split("[self-test]").next().unwrap();
    let own = format!("\"test.jpg\" = \"{}\"\n\"tensorrt/step.onnx\" = \"{}\"", digest(&picture), digest(graph));
    let test = format!("[self-test]\nimage = \"test.jpg\"\nquestion = \"is there a red ship?\"\nbudget = \"300\"\ntokens = {tokens}\n");
    std::fs::write(dir.join("model.toml"), format!("{head}{test}\n[files]\n{own}{files}")).unwrap();
    dir
}

/// What the self-test of the package answers.
fn answered() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = refusal(&["model", "verify", path(&package(folder.path(), "[0]"))]);
    assert!(code == 1 && said.contains("wanted tokens [0], found ["), "{code}: {said}");
    said.rsplit_once("found ").unwrap().1.trim().to_owned()
}

#[test]
fn the_committed_package_holds() {
    let output = run(&["--json", "model", "verify", "models/uhr-nano"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["model"].as_str().unwrap().starts_with("uhr-nano@"), "{found}");
    assert!(found["planned_bytes"].as_u64() <= found["limit_bytes"].as_u64(), "{found}");
    assert!(!found["self_test"].as_array().unwrap().is_empty(), "{found}");
}

#[test]
fn a_package_is_taken_in_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = answered();
    let dir = package(folder.path(), &tokens);
    let to = folder.path().join("models/mine");
    let output = run(&["model", "import", path(&dir), "--to", path(&to)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("self-test: the") && said.contains("imported as"), "{said}");
    assert!(to.join("tensorrt/step.onnx").is_file());
    let document = documents(&["--model", path(&to), "--json", "ask", "samples/real.jpg", "is there a tent?", "--budget", "300"]).remove(0);
    assert!(document["text"].is_string());
    // One that is there stays as it is.
    let (code, said) = refusal(&["model", "import", path(&dir), "--to", path(&to)]);
    assert!(code == 1 && said.contains("wanted a folder that is not there yet"), "{code}: {said}");
    // Damaged, or with another answer: nothing of it is left.
    let mut bytes = std::fs::read(dir.join("projector.onnx")).unwrap();
    bytes[9] ^= 1;
    std::fs::write(dir.join("projector.onnx"), bytes).unwrap();
    let other = folder.path().join("models/other");
    let (code, said) = refusal(&["model", "import", path(&dir), "--to", path(&other)]);
    assert!(code != 0 && said.contains("projector.onnx") && said.contains("wanted"), "{code}: {said}");
    std::fs::remove_dir_all(&dir).unwrap();
    let dir = package(folder.path(), "[1, 2, 3]");
    let (code, said) = refusal(&["model", "import", path(&dir), "--to", path(&other)]);
    assert!(code == 1 && said.contains("wanted tokens [1, 2, 3], found ["), "{code}: {said}");
    let left: Vec<_> = std::fs::read_dir(folder.path().join("models")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"]);
}

#[test]
fn a_self_test_must_be_one() {
    for (tokens, wanted) in [("[]", "self-test.tokens = 0 of them: wanted 1 to 64"), ("[-1]", "invalid value")] {
        let folder = tempfile::tempdir().unwrap();
        let (code, said) = refusal(&["model", "verify", path(&package(folder.path(), tokens))]);
        assert!(code != 0 && said.contains(wanted), "{code}: {said}");
    }
}
