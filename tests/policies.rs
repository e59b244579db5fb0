//! Policies, modes, selectors and several frames through the whole path, by the receipt. Scripted engines unless a model is needed.

mod common;

use std::path::{Path, PathBuf};

use common::path;
use serde_json::Value;
use sha2::{Digest, Sha256};

const DRAWN: &str = "samples/drawn.jpg";
const REAL: &str = "samples/real.jpg";
const QUESTION: &str = "is there a red ship?";

fn ask(frames: &[&str], more: &[&str]) -> Value {
    let mut args = vec!["--profile", "sim", "--json", "ask"];
    args.extend(frames);
    args.push(QUESTION);
    args.extend(more);
    common::documents(&args).remove(0)
}

/// Numbers of a view's receipt, by key.
fn of(view: &Value, key: &str) -> u64 {
    view[key].as_u64().unwrap_or_else(|| panic!("{key} in {view}"))
}

fn views(document: &Value) -> Vec<Value> {
    document["receipt"]["budget"]["per_view"].as_array().unwrap().clone()
}

#[test]
fn plain_selectors_keep_to_the_budget_and_merge_nothing() {
    let budget = [40, 160, 300, 1_000];
    let total: u64 = budget.iter().sum();
    for selector in ["topk", "uniform", "anchor-only"] {
        let document = ask(&[DRAWN], &["--select", selector, "--budget", "40,160,300,1000"]);
        assert_eq!(document["receipt"]["select"], selector);
        let views = views(&document);
        let kept: u64 = views.iter().map(|view| of(view, "kept")).sum();
        for (view, allowed) in views.iter().zip(budget) {
            assert_eq!((of(view, "merged"), of(view, "regions")), (0, 0), "{selector}");
            assert!(of(view, "tokens") <= of(view, "budget"), "{selector}: {view}");
            assert!(selector != "uniform" || of(view, "tokens") == allowed, "{selector}: {view}");
            assert!(selector != "anchor-only" || (of(view, "tokens") > 0) == (view["view_px"] == 672), "{selector}: {view}");
        }
        assert_eq!(kept, total, "{selector}");
    }
    // All tokens are more than any profile has room for: refused before any work, with both figures.
    let (code, said) = common::refusal(&["--profile", "sim", "ask", DRAWN, QUESTION, "--select", "dense"]);
    assert!(code == 3 && said.contains("the profile allows 11100"), "{code} {said}");
    // Several frames are admitted together.
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("half.png");
    std::fs::write(&half, common::png(1_344, 690, png::ColorType::Rgb, &vec![90; 1_344 * 690 * 3])).unwrap();
    let (code, said) = common::refusal(&["--profile", "sim", "ask", path(&half), path(&half), path(&half), QUESTION, "--select", "dense"]);
    assert!(code == 3 && said.contains("of the frames, the profile allows 11100"), "{code} {said}");
    // A small frame fits: it has two views.
    let small = folder.path().join("small.png");
    std::fs::write(&small, common::png(900, 300, png::ColorType::Rgb, &vec![77; 900 * 300 * 3])).unwrap();
    let document = ask(&[path(&small)], &["--select", "dense"]);
    let kept: Vec<u64> = views(&document).iter().map(|view| of(view, "tokens")).collect();
    assert_eq!(kept, [48 * 16, 96 * 32, 0, 0]);
    let (code, said) = common::refusal(&["ask", DRAWN, QUESTION, "--select", "best"]);
    assert!(code == 2 && said.contains("best") && said.contains("topk"), "{said}");
}

#[test]
fn coverage_leaves_no_region_without_a_token_and_clusters_anew_where_it_must() {
    for (policy, anew) in [("paper", false), ("released", true)] {
        let document = ask(&[DRAWN], &["--mode", "coverage", "--policy", policy, "--budget", "50,200,300,700"]);
        assert_eq!((&document["receipt"]["mode"], &document["receipt"]["policy"]), (&"coverage".into(), &policy.into()));
        for view in views(&document) {
            assert_eq!(of(&view, "regions_starved"), 0, "{policy}: {view}");
            assert!(of(&view, "regions") <= of(&view, "tokens") && of(&view, "tokens") <= of(&view, "budget"), "{policy}: {view}");
            // `released` clusters into 600 whatever the budget; where that is more, coverage has fewer made.
            assert_eq!(view["reclustered"], anew && of(&view, "budget") < 600, "{policy}: {view}");
        }
    }
    // A map's regions can't be made fewer.
    let folder = tempfile::tempdir().unwrap();
    let (frame, map) = (folder.path().join("frame.png"), folder.path().join("map.png"));
    std::fs::write(&frame, common::png(900, 300, png::ColorType::Rgb, &vec![77; 900 * 300 * 3])).unwrap();
    std::fs::write(&map, common::png(900, 300, png::ColorType::Grayscale, &vec![0; 900 * 300])).unwrap();
    let labels = format!("labels={}", path(&map));
    let args = ["--profile", "sim", "ask", path(&frame), QUESTION, "--mode", "coverage", "--partition", &labels, "--budget", "50,60,0,0"];
    let (code, said) = common::refusal(&args);
    assert!(
        code == 3 && said.contains("coverage: wanted a budget of at least one token for each of 768 regions, found 50"),
        "{code} {said}"
    );
}

#[test]
fn released_keeps_padding_and_counts_tokens_tile_by_tile() {
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide.png");
    let pixels: Vec<u8> = (0..2_000 * 500).flat_map(|at| [(at % 2_000 / 8) as u8, (at / 2_000 / 2) as u8, 90]).collect();
    std::fs::write(&wide, common::png(2_000, 500, png::ColorType::Rgb, &pixels)).unwrap();
    let sum = |document: &Value, key: &str| views(document).iter().map(|view| of(view, key)).sum::<u64>();
    let (paper, released) = (ask(&[path(&wide)], &["--budget", "300"]), ask(&[path(&wide)], &["--budget", "300", "--policy", "released"]));
    assert_eq!(sum(&paper, "tiles_encoded"), sum(&released, "tiles_encoded"));
    for document in [&paper, &released] {
        let boxes = document["receipt"]["evidence"].as_array().unwrap();
        for place in boxes {
            let end = |at: &str, length: &str| place[at].as_f64().unwrap() + place[length].as_f64().unwrap();
            assert!(end("x", "w") <= 2_000.0 && end("y", "h") <= 500.0, "{place}");
            assert!(place["w"].as_f64().unwrap() * place["h"].as_f64().unwrap() > 0.0, "{place}");
        }
    }
    assert_eq!(released["receipt"]["policy"], "released");
}

#[test]
fn several_frames_share_the_budget_and_each_has_its_own_lines() {
    let document = ask(&[DRAWN, REAL, DRAWN], &["--budget", "100,200,301,500"]);
    let lines = views(&document);
    assert_eq!(lines.len(), 12);
    let first: Vec<u64> = lines[..4].iter().map(|view| of(view, "budget")).collect();
    assert_eq!(first, [34, 68, 101, 168]);
    let second: Vec<u64> = lines[4..8].iter().map(|view| of(view, "budget")).collect();
    // A frame of 2,472 px has no view of 4,032.
    assert_eq!(second, [33, 66, 100 + 166, 0]);
    assert!(lines.iter().zip((0..3).flat_map(|frame| [frame; 4])).all(|(view, frame)| of(view, "frame") == frame));
    assert!(lines.iter().map(|view| of(view, "tokens")).sum::<u64>() <= 1_101);
    let frames = document["receipt"]["frames"].as_array().unwrap();
    assert!(frames.len() == 3 && frames[0] == frames[2] && frames[0]["w"] == 4_520 && frames[1]["w"] == 2_299);
    let notes = document["receipt"]["degraded"].to_string();
    assert!(notes.contains("frame 2: view 4032 px dropped"), "{notes}");
    // The same frame twice is seen twice: its places are those it has alone.
    let alone = ask(&[DRAWN], &["--budget", "33,66,100,166"]);
    let of_frame = |document: &Value, frame: u64| {
        let boxes = document["receipt"]["evidence"].as_array().unwrap().iter().filter(|place| place["frame"] == frame);
        boxes.map(|place| (place["x"].clone(), place["y"].clone(), place["score"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(of_frame(&document, 2), of_frame(&alone, 0));
    let (code, said) = common::refusal(&["--profile", "sim", "ask", DRAWN, REAL, DRAWN, REAL, DRAWN, QUESTION]);
    assert!(code == 2 && said.contains("one to 4 frames") && said.contains("found 5"), "{code} {said}");
}

/// A copy of the committed package with an MLP over its selected tokens.
fn package(mlp: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("models/uhr-nano")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let bytes = std::fs::read(root.join("tests/fixtures").join(mlp)).unwrap();
    std::fs::write(folder.path().join("mlp.onnx"), &bytes).unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::fs::read_to_string(folder.path().join("model.toml")).unwrap();
    let text = text.replace("[vision]\n", "[vision]\nselected-token-mlp = \"mlp.onnx\"\n");
    let text = text.replace("[files]\n", &format!("[files]\n\"mlp.onnx\" = \"{digest}\"\n"));
    std::fs::write(folder.path().join("model.toml"), text).unwrap();
    folder
}

#[test]
fn the_selected_tokens_mlp_is_run_and_checked() {
    let questions =
        ["is there a yellow house?", "how many yellow planes are there?", "what colour is the truck?", "where is the red plane?"];
    let answers = |model: &Path| {
        let mut args = vec!["--model", path(model), "--json", "ask", DRAWN, "--budget", "300"];
        questions.iter().for_each(|question| args.extend(["-q", question]));
        common::documents(&args).iter().map(|document| document["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let plain = answers(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano"));
    assert_eq!(answers(package("mlp_same.onnx").path()), plain);
    assert_ne!(answers(package("mlp_nothing.onnx").path()), plain, "tokens made 0 must change an answer");
    let narrow = package("mlp_narrow.onnx");
    let (code, said) = common::refusal(&["--model", path(narrow.path()), "ask", DRAWN, QUESTION]);
    assert!(code == 5 && said.contains("mlp.onnx") && said.contains("128") && said.contains("64"), "{code} {said}");
}
