//! `plan` and `plan --all`: what fits, what would make it fit, and floors, through the command line.

mod common;

use std::fs;

use common::{documents, refusal, run};
use serde_json::Value;
use uhr_edge::board;
use uhr_edge::compress::regions::Method;
use uhr_edge::config::{Manifest, Profile};
use uhr_edge::pipeline::{Engines, Pipeline};
use uhr_edge::planner::{Calibration, Fit, Stage};
use uhr_edge::units::Bytes;

const SPEC: &str = "models/specs/qwen2-7b-clip-l.toml";

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The row of `model` on `profile` in the document of `plan --all`.
fn row<'a>(document: &'a Value, profile: &str, model: &str) -> &'a Value {
    let named = |list: &'a Value, key: &str, name: &str| list.as_array().unwrap().iter().find(|one| one[key] == name).unwrap();
    named(&named(&document["profiles"], "profile", profile)["models"], "model", model)
}

#[test]
fn floors_of_all_profiles_and_models() {
    let documents = documents(&["--json", "plan", "--all"]);
    let [document] = &documents[..] else { panic!("one document") };
    assert_eq!(document["profiles"].as_array().unwrap().len(), 7);
    // Seconds of the networks, computed by hand from work and rates: first question, 1,024 and 4,096 tokens kept, 64 out.
    for (profile, floors) in [("orin-nano-8", [8.8, 11.5]), ("agx-orin-64", [3.8, 4.9]), ("a6000", [1.0, 1.3])] {
        let row = row(document, profile, "qwen2-7b-clip-l");
        for ((question, wanted), kept) in row["questions"].as_array().unwrap().iter().zip(floors).zip(["1024", "4096"]) {
            let [first, second] = ["first", "second"].map(|key| &question[key]);
            let networks = first["networks_ms"].as_f64().unwrap() / 1e3;
            assert!((networks / wanted - 1.0).abs() < 0.1, "{profile}: wanted {wanted} s, found {networks}");
            assert_eq!((&question["kept"], &question["new_tokens"]), (&kept.into(), &64.into()));
            assert!(second["networks_ms"].as_f64() < first["networks_ms"].as_f64());
            let sum = first["networks_ms"].as_f64().unwrap() + first["cpu_ms"].as_f64().unwrap();
            assert!((first["floor_ms"].as_f64().unwrap() / sum - 1.0).abs() < 1e-9);
        }
    }
    // On 8 GB the paper's model wants 4-bit embeddings, the 3B fits as it is.
    let paper = row(document, "orin-nano-8", "qwen2-7b-clip-l");
    assert_eq!((&paper["fits"], &paper["would_fit"][0]["embedding_bits"]), (&false.into(), &4.25.into()));
    assert!(paper["short_mib"].as_u64().unwrap() > 0);
    for (profile, model) in [("orin-nano-8", "qwen2.5-3b-clip-l"), ("orin-nano-8", "uhr-nano"), ("orin-nx-16", "qwen2-7b-clip-l")] {
        assert_eq!(row(document, profile, model)["fits"], true, "{model} on {profile}");
    }
}

#[test]
fn the_table_that_docs_show() {
    let (text, docs) = (stdout(&["plan", "--all"]), fs::read_to_string("docs/devices.md").unwrap());
    assert!(text.contains("Nothing here was run on the devices"));
    // Rows of specs depend on no machine but for the width of its vectors, which sizes the regions' workspace.
    let rows = |text: &str| -> Vec<Vec<String>> {
        let rows = text.lines().filter(|line| line.starts_with("  qwen"));
        rows.map(|line| line.split_whitespace().map(String::from).collect()).collect()
    };
    let (found, shown) = (rows(&text), rows(&docs));
    assert_eq!((found.len(), shown.len()), (28, 28));
    for (found, shown) in found.iter().zip(&shown) {
        assert_eq!((&found[0], &found[3..]), (&shown[0], &shown[3..]), "docs/devices.md is old: uhr-edge plan --all");
        let [found, shown] = [found, shown].map(|row| row[1].parse::<f64>().unwrap());
        assert!((found / shown - 1.0).abs() < 0.05, "wanted about {shown} MiB, found {found}");
    }
}

#[test]
fn a_budget_takes_the_place_of_the_two_and_a_profile_that_refuses_it_says_so() {
    let documents = documents(&["--json", "plan", "--all", "--budget", "xlrs"]);
    let question = |profile| &row(&documents[0], profile, "qwen2-7b-clip-l")["questions"][0];
    assert_eq!(question("thor")["kept"], "11100");
    let refused = question("orin-nano-8")["refused"].as_str().unwrap();
    assert!(refused.contains("wanted 11100 tokens of the frames, the profile allows 6000 tokens"), "{refused}");
}

#[test]
fn the_papers_model_is_refused_on_8_gb_with_the_shortfall_and_what_would_fit() {
    let nano = ["--profile", "orin-nano-8", "--model", SPEC, "plan"];
    let (code, message) = refusal(&nano);
    assert_eq!(code, 1, "{message}");
    let short = message.split(" MiB more than the 6400 MiB allowed").next().unwrap().rsplit(' ').next().unwrap();
    assert!((100..3_000).contains(&short.parse::<u64>().unwrap()), "{message}");
    assert!(message.contains("with 4-bit embeddings the largest preset that fits is ablation of 3440 tokens"), "{message}");
    // What the message says would do does.
    let fits = stdout(&[&nano[..], &["--embedding-bits", "4.25", "--max-visual-tokens", "3440", "--budget", "ablation"]].concat());
    assert!(fits.contains("of 6400 MiB allowed") && fits.contains("floors, nothing was measured"), "{fits}");
    let (code, message) = refusal(&[&nano[..], &["--embedding-bits", "4.25", "--budget", "bench"]].concat());
    assert!(code == 1 && message.contains("would fit with no budget above ablation of 3440 tokens"), "{message}");
}

#[test]
fn a_plan_says_stages_of_a_first_and_a_second_question() {
    let documents = documents(&["--json", "plan", "--frame", "5000x4000"]);
    let predicted = &documents[0]["predicted"];
    assert_eq!((&predicted["floors"], &predicted["frame_px"]), (&true.into(), &serde_json::json!([5000, 4000])));
    let ms = |question: &str, stage: &str| predicted[question]["stages"][stage]["p50_ms"].as_f64().unwrap();
    assert!(ms("first", "encode") > 0.0 && ms("second", "encode") == 0.0);
    assert_eq!(ms("first", "prefill"), ms("second", "prefill"));
    assert!(predicted["tflop"]["encode"].as_f64().unwrap() > 0.0);
    assert_eq!(predicted["first"]["total"]["bound_ms"], Value::Null);
    assert_eq!(documents[0]["frame"].as_array().unwrap().len(), 4);
    let text = stdout(&["plan"]);
    assert!(text.contains("KV cache") && text.contains("a frame of 4032 x 4032 px") && text.contains("generate"), "{text}");
}

#[test]
fn a_calibration_turns_floors_into_medians_and_bounds() {
    let (profile, manifest) = (Profile::load("host").unwrap(), Manifest::load("models/uhr-nano".as_ref()).unwrap());
    let engines = Engines::load(&profile, &manifest, &Method::Kmeans).unwrap();
    let pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, Bytes(0)).unwrap();
    let fit = Fit { base_ms: 10.0, factor: 2.0, bound_ratio: 1.5, n: 299, from_ms: 0.0, to_ms: 1e6 };
    let calibration = Calibration {
        format: 1,
        identity: pipeline.identity(&board::device()),
        stages: Stage::ALL.iter().map(|stage| (stage.name().to_owned(), fit)).collect(),
        kinds: ["a JPEG".to_owned()].into(),
        projected_share: 0.0,
        tiles_share: 0.5,
        steps: 8.0,
        step_bound_ms: 5.0,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qualification.json");
    fs::write(&path, serde_json::json!({"calibration": calibration}).to_string()).unwrap();
    let encode = |args: &[&str]| documents(args)[0]["predicted"]["first"]["stages"]["encode"].clone();
    let (floor, calibrated) = (encode(&["--json", "plan"]), encode(&["--json", "--calibration", common::path(&path), "plan"]));
    let [floor, p50, bound] = [&floor["p50_ms"], &calibrated["p50_ms"], &calibrated["bound_ms"]].map(|ms| ms.as_f64().unwrap());
    assert!((p50 - (10.0 + 2.0 * floor)).abs() < 1e-6 && (bound - 1.5 * p50).abs() < 1e-6, "{floor} {p50} {bound}");
    let text = stdout(&["--calibration", common::path(&path), "plan"]);
    assert!(text.contains("calibrated on ") && text.contains("second p50") && !text.contains("floors"), "{text}");
    let far = Calibration {
        stages: Stage::ALL.iter().map(|stage| (stage.name().to_owned(), Fit { to_ms: 1e-3, ..fit })).collect(),
        ..calibration
    };
    fs::write(&path, serde_json::json!({"calibration": far}).to_string()).unwrap();
    let text = stdout(&["--calibration", common::path(&path), "plan"]);
    assert!(text.contains("of a size that was not measured, and in proportion to the nearest that was: decode, views"), "{text}");
    // One of another profile is none for this.
    let (code, message) = refusal(&["--profile", "a6000", "--calibration", common::path(&path), "plan"]);
    assert!(code == 5 && message.contains("another profile"), "{message}");
}

#[test]
fn a_spec_is_for_plan_alone() {
    for command in [&["ask", "samples/drawn.jpg", "is there a ship?"][..], &["views", "samples/drawn.jpg", "--sum"]] {
        let (code, message) = refusal(&[&["--model", SPEC], command].concat());
        assert_eq!(code, 2, "{message}");
        assert!(message.contains("no weights") && message.contains("only `plan` takes it"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::copy(SPEC, folder.path().join("model.toml")).unwrap();
    let (code, message) = refusal(&["--model", common::path(folder.path()), "ask", "samples/drawn.jpg", "is there a ship?"]);
    assert!(code == 2 && message.contains("no weights"), "{message}");
    let (code, message) = refusal(&["plan", "--embedding-bits", "4.25"]);
    assert!(code == 2 && message.contains("--embedding-bits: wanted a spec"), "{message}");
    let (code, message) = refusal(&["--model", SPEC, "--calibration", "none.json", "plan"]);
    assert!(code == 2 && message.contains("--calibration: wanted a package"), "{message}");
    let (code, message) = refusal(&["--model", SPEC, "plan", "--partition", "segmenter"]);
    assert!(code == 2 && message.contains("qwen2-7b-clip-l"), "{message}");
}

#[test]
fn bad_specs_are_refused_by_the_key() {
    let spec = fs::read_to_string(SPEC).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spec.toml");
    let cases = [
        ("layers = 28", "layers = 28\ndepth = 28", "unknown field `depth`"),
        ("layers = 28", "layers = 0", "shape.layers = 0: wanted 1 to 1024"),
        ("\nbits = 4.25", "\nbits = 0", "shape.bits = 0: wanted above 0, to 32"),
        ("tied-embeddings = false", "", "missing field `tied-embeddings`"),
    ];
    for (there, instead, message) in cases {
        assert!(spec.contains(there), "{there}");
        fs::write(&path, spec.replacen(there, instead, 1)).unwrap();
        let (code, found) = refusal(&["--profile", "agx-orin-64", "--model", common::path(&path), "plan"]);
        assert!(code == 5 && found.contains(message), "{instead}: {code} {found}");
    }
    fs::write(&path, spec.replacen("\nbits = 4.25", "\nbits = 3.7", 1)).unwrap();
    let text = stdout(&["--profile", "agx-orin-64", "--model", common::path(&path), "plan"]);
    assert!(text.contains("qwen2-7b-clip-l on agx-orin-64"), "{text}");
}
