//! The main job through the command line: one ingest, several questions, a receipt that keeps its budgets.

mod common;

use common::path;
use serde_json::Value;

const FRAME: &str = "samples/drawn.jpg";
const INGEST: [&str; 4] = ["decode", "views", "encode", "regions"];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn questions_share_one_ingest_and_keep_their_budgets() {
    let folder = tempfile::tempdir().unwrap();
    let overlay = folder.path().join("overlay.png");
    let args =
        ["--json", "ask", FRAME, "-q", "how many yellow planes are there?", "-q", "where is the red plane?", "--overlay", path(&overlay)];
    let documents = common::documents(&args);
    assert_eq!(documents.len(), 2);
    for document in &documents {
        let receipt = &document["receipt"];
        assert!(!document["text"].as_str().unwrap().is_empty());
        assert_eq!(receipt["budget"]["total"], 3_000);
        for (view, budget) in receipt["budget"]["per_view"].as_array().unwrap().iter().zip([80, 320, 600, 2_000]) {
            assert_eq!(view["budget"], budget);
            assert!(number(&view["tokens"]) <= f64::from(budget));
            assert_eq!(number(&view["kept"]) + number(&view["merged"]), number(&view["tokens"]));
        }
        let memory = &receipt["memory"];
        assert!(number(&memory["peak_bytes"]) <= 1.1 * number(&memory["planned_bytes"]), "{memory}");
        assert_eq!((&receipt["frames"][0]["w"], &receipt["frames"][0]["h"]), (&4_520.into(), &4_384.into()));
        assert!(number(&receipt["stages_ms"]["prefill"]) > 0.0);
        // The stages account for the whole: work that none of them owns to would show here.
        let stages = receipt["stages_ms"].as_object().unwrap();
        let sum: f64 = stages.iter().filter(|(name, _)| *name != "total" && *name != "first_token").map(|(_, ms)| number(ms)).sum();
        let total = number(&receipt["stages_ms"]["total"]);
        assert!(sum <= total * 1.001 && sum >= total * 0.7, "stages {sum} of {total} ms");
    }
    let stage = |document: &Value, stage: &str| number(&document["receipt"]["stages_ms"][stage]);
    for name in INGEST {
        assert!(stage(&documents[0], name) > 0.0, "{name}");
        assert_eq!(stage(&documents[1], name), 0.0, "{name}");
    }
    let header = std::fs::read(&overlay).unwrap();
    assert!(header.starts_with(b"\x89PNG"));
}

#[test]
fn sixteen_threads_keep_to_the_plan() {
    let document =
        common::documents(&["--profile", "a6000", "--json", "ask", "samples/real.jpg", "is there a tent?", "--budget", "300"]).remove(0);
    let memory = &document["receipt"]["memory"];
    assert!(number(&memory["peak_bytes"]) <= 1.1 * number(&memory["planned_bytes"]), "{memory}");
}

#[test]
fn the_same_question_gives_the_same_answer_alone_and_after_another() {
    let ask = |questions: &[&str]| {
        let mut args = vec!["--json", "ask", "samples/real.jpg", "--budget", "300"];
        questions.iter().for_each(|question| args.extend(["-q", question]));
        common::documents(&args)
    };
    let (alone, after) = (ask(&["is there a blue tent?"]), ask(&["how many red ships are there?", "is there a blue tent?"]));
    for key in ["text", "finish"] {
        assert_eq!(alone[0][key], after[1][key]);
    }
    for key in ["budget", "evidence", "degraded"] {
        assert_eq!(alone[0]["receipt"][key], after[1]["receipt"][key]);
    }
}

#[test]
fn presets_and_lists_are_kept_by_a_scripted_engine() {
    for (budget, wanted) in [
        ("onboard", [80, 320, 600, 2_000]),
        ("bench", [80, 320, 1_600, 4_000]),
        ("xlrs", [180, 1_320, 1_600, 8_000]),
        ("ablation", [120, 320, 600, 2_400]),
        ("0,7,0,1", [0, 7, 0, 1]),
        ("4,9999,1,1", [4, 9_999, 1, 1]),
    ] {
        let documents = common::documents(&["--profile", "sim", "--json", "ask", FRAME, "is there a tent?", "--budget", budget]);
        let views = documents[0]["receipt"]["budget"]["per_view"].as_array().unwrap();
        for (view, wanted) in views.iter().zip(wanted) {
            assert_eq!(view["budget"], wanted);
            assert!(view["tokens"].as_u64().unwrap() <= wanted);
            // A view without a budget isn't encoded; the anchor always is.
            assert_eq!(view["tiles_encoded"] == 0, wanted == 0 && view["view_px"] != 672, "{view}");
        }
        let engines = documents[0]["receipt"]["engines"].to_string();
        assert!(engines.contains("scripted") && !engines.contains("tract"), "{engines}");
    }
}

#[test]
fn the_partition_asked_for_makes_the_regions_and_stands_in_the_receipt() {
    let ask = |args: &[&str]| {
        let mut all = vec!["--profile", "sim", "--json", "ask", FRAME, "is there a tent?"];
        all.extend(args);
        common::documents(&all).remove(0)
    };
    for method in ["kmeans", "birch", "superpixels"] {
        let document = ask(&["--partition", method, "--clusters", "50"]);
        assert_eq!(document["receipt"]["engines"]["partition"], method);
        for view in document["receipt"]["budget"]["per_view"].as_array().unwrap() {
            assert!((1..=50).contains(&view["regions"].as_u64().unwrap()), "{method}: {view}");
        }
    }
    let (code, message) = common::refusal(&["ask", FRAME, "why?", "--partition", "guess"]);
    assert!(code == 2 && message.contains("guess") && message.contains("kmeans"), "{code} {message}");
}
