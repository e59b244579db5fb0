//! Latency qualification through the command line, on small frames and scripted engines: what is written, what it says, and when it refuses.

mod common;

use std::path::Path;

use common::{command, path, refusal, run};
use serde_json::Value;
use uhr_edge::qualify::draw;
use uhr_edge::units::Px;

fn frames() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    draw(&folder.path().join("a.jpg"), Px(700), Px(500), 1).unwrap();
    draw(&folder.path().join("b.jpg"), Px(1_000), Px(800), 2).unwrap();
    folder
}

fn qualify(frames: &Path, out: &Path, n: &str, more: &[&str]) -> (Option<i32>, String) {
    let args = ["--profile", "sim", "qualify", "--frames", path(frames), "-n", n, "--ingests", n, "--fresh", "4", "--out", path(out)];
    let output = run(&[&args, more].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn document(out: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(out.join("qualification.json")).unwrap()).unwrap()
}

fn outcome<'a>(document: &'a Value, what: &str) -> &'a str {
    let verdicts = document["verdicts"].as_array().unwrap();
    verdicts.iter().find(|verdict| verdict["what"] == what).unwrap()["outcome"].as_str().unwrap()
}

#[test]
fn enough_questions_make_a_bound_and_a_calibration_that_deadlines_are_kept_against() {
    let (frames, out) = (frames(), tempfile::tempdir().unwrap());
    let (_, said) = qualify(frames.path(), out.path(), "299", &["--limit-question-ms", "1e9", "--limit-ingest-ms", "1e9"]);
    let document = document(out.path());
    for what in ["token budgets", "memory", "question, 99th percentile", "ingest, 95th percentile"] {
        assert_eq!(outcome(&document, what), "met", "{what}: {said}");
    }
    for step in document["steps"].as_array().unwrap() {
        let times = &step["distribution"];
        let ms = |key: &str| times[key].as_f64().unwrap();
        assert!(
            ms("p50_ms") <= ms("p95_ms")
                && ms("p95_ms") <= ms("p99_ms")
                && ms("p99_ms") <= ms("bound_ms")
                && ms("bound_ms") <= ms("max_ms")
        );
        assert_eq!((times["n"].as_u64(), step["over_budget"].as_u64()), (Some(299), Some(0)));
    }
    let junit = std::fs::read_to_string(out.path().join("junit.xml")).unwrap();
    let junit = roxmltree::Document::parse(&junit).unwrap();
    let cases = junit.descendants().filter(|node| node.has_tag_name("testcase")).count();
    assert_eq!(cases, document["verdicts"].as_array().unwrap().len());
    let html = std::fs::read_to_string(out.path().join("report.html")).unwrap();
    assert!(html.contains("99th percentile"));

    // The planner uses it from then on.
    let calibration = out.path().join("qualification.json");
    let frame = frames.path().join("a.jpg");
    let ask = |deadline: &str| {
        let args = ["--profile", "sim", "--calibration", path(&calibration), "--json", "ask", path(&frame), "is there a red ship?"];
        run(&[&args[..], &["--deadline-ms", deadline]].concat())
    };
    let answer: Value = serde_json::from_slice(&ask("600000").stdout).unwrap();
    let receipt = &answer["receipt"];
    assert_eq!((&receipt["plan"]["began"], receipt["plan"]["deadline_ms"].as_f64()), (&Value::from("asked"), Some(600_000.0)));
    let total = &receipt["predicted_ms"]["total"];
    assert!(total["p50"].as_f64() > Some(0.0) && total["p50"].as_f64() <= total["p99"].as_f64());
    // The smallest deadline of a refusal would do.
    let refused = ask("1");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    let smallest = said.rsplit_once("would do is ").unwrap().1.trim().trim_end_matches(" ms").parse::<f64>().unwrap();
    let again = ask(&format!("{}", smallest.ceil()));
    assert_eq!(again.status.code(), Some(0), "{smallest}: {}", String::from_utf8_lossy(&again.stderr));
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(!again["receipt"]["degraded"].as_array().unwrap().is_empty());

    // Files of a kind that wasn't measured take a time of their own.
    let png = frames.path().join("c.png");
    std::fs::write(&png, common::png(60, 40, png::ColorType::Rgb, &[90; 60 * 40 * 3])).unwrap();
    let args = ["--profile", "sim", "--calibration", path(&calibration), "ask", path(&png), "is there a red ship?"];
    let (code, said) = refusal(&[&args[..], &["--deadline-ms", "600000"]].concat());
    assert!(code == 3 && said.contains("wanted a JPEG, whose decoding was calibrated, found a PNG"), "{code} {said}");
    let unpredicted = common::documents(&[&["--json"], &args[..]].concat());
    assert_eq!(unpredicted[0]["receipt"]["plan"]["unmeasured"].as_array().unwrap()[..2], ["decode", "views"]);

    // Of another profile, model or device it is refused; so is one that rests on too little, and one that is no such document.
    let changed = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&calibration).unwrap();
        assert!(text.contains(from), "{from}");
        let other = out.path().join("other.json");
        std::fs::write(&other, text.replace(from, to)).unwrap();
        refusal(&["--profile", "sim", "--calibration", path(&other), "ask", path(&frame), "is there a red ship?"])
    };
    let cases = [
        ("\"profile\": \"sim\"", "\"profile\": \"host\"", "of another profile: wanted sim, found host"),
        ("uhr-nano@", "uhr-nano@0", "of another model"),
        (" CPUs", " CPUs of old", "of another device"),
        ("\"power_mode\": null", "\"power_mode\": \"15W\"", "of another power mode: wanted none, found 15W"),
        ("\"n\": 299,", "\"n\": 298,", "needs 299 measurements, found 298"),
        ("\"n\": 299,", "\"n\": 29.5,", "invalid type"),
        ("\"format\": 1,", "\"format\": 2,", "wanted format 1, found 2"),
        ("\"base_ms\": ", "\"base_ms\": -", "wanted numbers from 0 to 1e9"),
        ("; paper", "; released", "of another set of engines"),
        (" iterations", " rounds", "of another profile's settings"),
    ];
    for (from, to, message) in cases {
        let (code, said) = changed(from, to);
        assert!(code == 5 && said.contains(message), "{to}: {code} {said}");
    }
}

#[test]
fn too_few_questions_show_nothing_and_tight_limits_are_not_met() {
    let (frames, out) = (frames(), tempfile::tempdir().unwrap());
    let (code, at_first) = qualify(frames.path(), out.path(), "8", &["--limit-question-ms", "1e9"]);
    assert_eq!(code, Some(4), "{at_first}");
    assert_eq!(outcome(&document(out.path()), "question, 99th percentile"), "not-shown");
    assert_eq!(outcome(&document(out.path()), "ingest, 95th percentile"), "no-limit");
    let frame = frames.path().join("a.jpg");
    let calibration = out.path().join("qualification.json");
    let (code, said) = refusal(&["--profile", "sim", "--calibration", path(&calibration), "ask", path(&frame), "is there a red ship?"]);
    assert!(code == 5 && said.contains("a bound on its 95th percentile needs 59 measurements, found "), "{code} {said}");
    // In the usual place it does no harm, where no deadline needs it.
    assert!(at_first.contains("no deadline can be kept against this calibration"), "{at_first}");
    let usual = out.path().join("qualification");
    std::fs::create_dir(&usual).unwrap();
    std::fs::copy(&calibration, usual.join("qualification.json")).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano");
    let ask = ["--profile", "sim", "--model", path(&model), "ask", path(&frame), "is there a red ship?"];
    let there = |more: &[&str]| command().current_dir(out.path()).args([&ask[..], more].concat()).output().unwrap();
    assert!(there(&[]).status.success());
    assert_eq!(there(&["--deadline-ms", "600000"]).status.code(), Some(5));
    let (code, said) = qualify(frames.path(), out.path(), "8", &["--limit-question-ms", "0.001"]);
    assert_eq!(code, Some(4), "{said}");
    assert_eq!(outcome(&document(out.path()), "question, 99th percentile"), "not-met");
}

#[test]
fn the_process_lives_within_its_plan_and_fifteen_per_cent() {
    let (frames, out) = (frames(), tempfile::tempdir().unwrap());
    qualify(frames.path(), out.path(), "2", &[]);
    let planned = document(out.path())["memory"]["planned"].as_u64().unwrap();
    // Data that a process may write; what is more can't be had.
    let limited = |share: u64| {
        let args = "--profile sim --quiet qualify --frames \"$2\" -n 30 --ingests 2 --fresh 10 --out \"$3\"";
        let script = format!("ulimit -d {} && exec \"$1\" {args}", planned * share / 100 / 1024);
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(env!("CARGO_MANIFEST_DIR"));
        shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_uhr-edge"), path(frames.path()), path(out.path())]).output().unwrap()
    };
    let within = limited(115);
    let said = String::from_utf8_lossy(&within.stderr).into_owned();
    assert_eq!((within.status.code(), document(out.path())["steps"][0]["distribution"]["n"].as_u64()), (Some(4), Some(30)), "{said}");
    assert_ne!(limited(30).status.code(), Some(4), "a limit that doesn't bite shows nothing");
}

#[test]
fn bad_input_is_named() {
    let (frames, empty) = (frames(), tempfile::tempdir().unwrap());
    let bad = empty.path().join("questions.txt");
    std::fs::write(&bad, "\n\n").unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["qualify", "--frames", path(empty.path())], "wanted a folder of frames, found none"),
        (&["qualify", "--frames", "/nowhere"], "wanted a folder of frames"),
        (&["qualify", "--frames", path(frames.path()), "--questions", path(&bad)], "wanted a question a line, found none"),
        (&["qualify", "--limit-question-ms", "nan"], "--limit-question-ms: wanted a number above 0, found NaN"),
        (&["sim", "samples/throttling.toml", "--hours", "1e300"], "--hours: wanted a number above 0, at most 876600"),
        (&["qualify", "--power-modes", "15W"], "power mode: wanted 15W, found a board without any"),
        (&["sim", "/nowhere.toml"], "wanted a trace"),
        (&["sim", "samples/throttling.toml", "--hours", "0"], "--hours: wanted a number above 0"),
    ];
    for (args, message) in cases {
        let (code, said) = refusal(&[&["--profile", "sim"], args].concat());
        assert!(code != 0 && said.contains(message), "{args:?}: {code} {said}");
    }
}
