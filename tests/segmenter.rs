//! `--partition segmenter`: a package's ONNX labels the frame's pixels, and its map votes for tokens. The models are made by tests/fixtures/segmenters.py.

mod common;

use std::path::{Path, PathBuf};

use common::path;
use sha2::{Digest, Sha256};
use uhr_edge::compress::MASKED;
use uhr_edge::compress::regions::Voter;
use uhr_edge::geometry::{Layout, VisionShape};
use uhr_edge::kernels::Pool;
use uhr_edge::units::Px;

const QUESTION: &str = "is there a red ship?";

/// A copy of the committed package with a segmenter.
fn package(segmenter: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let model = root.join("models/uhr-nano");
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    std::fs::write(folder.path().join("segmenter.onnx"), segmenter).unwrap();
    let digest: String = Sha256::digest(segmenter).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::fs::read_to_string(model.join("model.toml")).unwrap();
    let text = text.replace("[vision]\n", "[vision]\nsegmenter = \"segmenter.onnx\"\n");
    let text = text.replace("[files]\n", &format!("[files]\n\"segmenter.onnx\" = \"{digest}\"\n"));
    std::fs::write(folder.path().join("model.toml"), text).unwrap();
    folder
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Red on the left, blue on the right, black below.
fn class(x: u32, y: u32) -> u32 {
    match (x < 32, y < 32) {
        (_, false) => 0,
        (true, _) => 1,
        (false, _) => 2,
    }
}

#[test]
fn logits_and_labels_of_a_segmenter_make_the_same_regions() {
    let folder = tempfile::tempdir().unwrap();
    let frame = folder.path().join("frame.png");
    let pixels: Vec<u8> =
        (0..960 * 1_280).flat_map(|at| [[0, 0, 0], [250, 0, 0], [0, 0, 250]][class(at % 1_280 / 20, at / 1_280 / 20) as usize]).collect();
    std::fs::write(&frame, common::png(1_280, 960, png::ColorType::Rgb, &pixels)).unwrap();
    let ask = |model: &Path| {
        let args = ["--profile", "sim", "--model", path(model), "--json", "ask", path(&frame), QUESTION, "--partition", "segmenter"];
        common::documents(&args).remove(0)
    };
    let (logits, labels) = (package(&fixture("segmenter_logits.onnx")), package(&fixture("segmenter_labels.onnx")));
    let (logits, labels) = (ask(logits.path()), ask(labels.path()));
    assert_eq!(logits["receipt"]["engines"]["partition"], "segmenter");
    assert_eq!(logits["receipt"]["budget"], labels["receipt"]["budget"]);
    // What the map itself gives.
    let shape = VisionShape::new([672, 1344, 2688, 4032].map(Px).to_vec(), Px(336), Px(14), [0.5; 3], [0.25; 3]).unwrap();
    let layout = Layout::new(&shape, Px(1_280), Px(960)).unwrap();
    let mut voter = Voter::new(&shape, Px(64), 1);
    let mut votes = vec![MASKED; shape.all_tokens().get()];
    voter.start(&layout, &|_| true, (Px(64), Px(48)), &mut votes).unwrap();
    let pool = Pool::new(1);
    (0..48).for_each(|y| voter.row(&(0..64).map(|x| class(x, y)).collect::<Vec<_>>(), &pool, &mut votes));
    let mut rest = &votes[..];
    for (view, used) in layout.views().iter().zip(logits["receipt"]["budget"]["per_view"].as_array().unwrap()) {
        let (own, after) = rest.split_at(view.tokens().get());
        rest = after;
        let background = own.iter().filter(|&&label| label == 0).count();
        assert!(background > 0 && own.contains(&1) && own.contains(&2));
        assert_eq!(used["regions"], if view.dropped { 0 } else { background + 2 });
    }
}

#[test]
fn packages_without_a_segmenter_or_with_another_graph_are_refused() {
    let frame = "samples/real.jpg";
    let (code, message) = common::refusal(&["--profile", "sim", "ask", frame, QUESTION, "--partition", "segmenter"]);
    assert!(code == 2 && message.contains("vision.segmenter") && message.contains("uhr-nano"), "{code} {message}");
    let ask = |segmenter: &[u8]| {
        let package = package(segmenter);
        common::refusal(&["--profile", "sim", "--model", path(package.path()), "ask", frame, QUESTION, "--partition", "segmenter"])
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let encoder = std::fs::read(root.join("models/uhr-nano/encoder.onnx")).unwrap();
    let projector = std::fs::read(root.join("models/uhr-nano/projector.onnx")).unwrap();
    for (bytes, words) in [
        (&encoder, ["output 0", "f32 [1, C, 336, 336]"]),
        (&projector, ["input 0", "f32 [n, 3, H, W]"]),
        (&b"not a graph".to_vec(), ["segmenter.onnx", "segmenter.onnx"]),
    ] {
        let (code, message) = ask(bytes);
        assert!(code == 5 && words.iter().all(|word| message.contains(word)), "{code} {message}");
    }
}
