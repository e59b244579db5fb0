//! The encode budget: a question sees the tiles that its own importance ranks first, and no more are encoded.

mod common;

use std::path::Path;

use common::{path, run};
use serde_json::Value;
use uhr_edge::compress::regions::Method;
use uhr_edge::compress::{Mode, Selector};
use uhr_edge::config::{Budget, Manifest, Profile};
use uhr_edge::imaging::FrameSource;
use uhr_edge::pipeline::{Engines, Pipeline, Request};
use uhr_edge::qualify::draw;
use uhr_edge::units::{Bytes, Px, Tokens};

const QUESTIONS: [&str; 2] = ["is there a red ship?", "where is the yellow plane?"];

/// The documents of `ask`, times, memory and places of files left out.
fn asked(frame: &str, questions: &[&str], more: &[&str]) -> Vec<Value> {
    let mut args = vec!["--profile", "sim", "--json", "ask", frame];
    questions.iter().for_each(|question| args.extend(["-q", question]));
    let output = run(&[&args, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What must be the same for the same question, whenever it is asked.
fn lasting(answer: &Value) -> [Value; 4] {
    let receipt = &answer["receipt"];
    [answer["text"].clone(), receipt["budget"].clone(), receipt["evidence"].clone(), receipt["degraded"].clone()]
}

fn sum(answer: &Value, key: &str) -> u64 {
    answer["receipt"]["budget"]["per_view"].as_array().unwrap().iter().map(|view| view[key].as_u64().unwrap()).sum()
}

#[test]
fn a_question_sees_its_own_tiles_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let frame = folder.path().join("frame.jpg");
    // 4 + 16 + 48 tiles: the finest view would show it enlarged, and is dropped.
    draw(&frame, Px(2_600), Px(1_900), 3).unwrap();
    let frame = path(&frame);
    let all = asked(frame, &QUESTIONS, &[]);
    assert_eq!((sum(&all[0], "tiles_encoded"), sum(&all[0], "tiles_skipped")), (68, 0));
    for covering in ["68", "228"] {
        let covered = asked(frame, &QUESTIONS, &["--encode-tiles", covering]);
        all.iter().zip(&covered).for_each(|(all, covered)| assert_eq!(lasting(all), lasting(covered), "{covering}"));
    }
    let some = asked(frame, &QUESTIONS, &["--encode-tiles", "30"]);
    for answer in &some {
        assert_eq!((sum(answer, "tiles_encoded"), sum(answer, "tiles_skipped")), (30, 38));
        for view in answer["receipt"]["budget"]["per_view"].as_array().unwrap() {
            assert!(view["tokens"].as_u64() <= view["budget"].as_u64(), "{view}");
        }
    }
    // What an earlier question had encoded saves time and changes nothing.
    let alone = asked(frame, &QUESTIONS[1..], &["--encode-tiles", "30"]);
    assert_eq!(lasting(&some[1]), lasting(&alone[0]));
    let coarse = asked(frame, &QUESTIONS[..1], &["--encode-tiles", "20"]);
    assert_eq!((sum(&coarse[0], "tiles_encoded"), sum(&coarse[0], "tokens")), (20, 400));
    for selector in ["topk", "uniform", "anchor-only"] {
        let answer = asked(frame, &QUESTIONS[..1], &["--encode-tiles", "21", "--select", selector, "--budget", "200"]);
        assert!(sum(&answer[0], "tokens") > 0, "{selector}");
    }
    let answer = asked(frame, &QUESTIONS[..1], &["--encode-tiles", "25", "--mode", "coverage", "--budget", "100"]);
    assert_eq!(sum(&answer[0], "tiles_encoded"), 25);
}

#[test]
fn frames_whose_views_gave_way_are_read_again_and_the_time_is_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.jpg", "b.jpg"].map(|name| folder.path().join(name));
    draw(&a, Px(2_600), Px(1_900), 3).unwrap();
    draw(&b, Px(2_600), Px(1_900), 4).unwrap();
    let answers = asked(path(&a), &QUESTIONS, &["--encode-tiles", "30", path(&b)]);
    for (number, answer) in answers.iter().enumerate() {
        let stages = answer["receipt"]["stages_ms"].as_object().unwrap();
        let ms = |key: &str| stages[key].as_f64().unwrap();
        let sums = ["total", "first_token"];
        let sum: f64 = stages.iter().filter(|(key, _)| !sums.contains(&key.as_str())).map(|(_, ms)| ms.as_f64().unwrap()).sum();
        // Nothing is counted twice.
        assert!(sum <= ms("total") && (number > 0 || ms("decode") > 0.0), "{number}: {stages:?}");
        assert_eq!(self::sum(answer, "tiles_encoded"), 60);
    }
}

#[test]
fn regions_made_for_a_smaller_step_are_told_of() {
    let mut profile = Profile::load("sim").unwrap();
    profile.frame.slots = 1;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = Manifest::load(&root.join("models/uhr-nano")).unwrap();
    let engines = Engines::load(&profile, &manifest, &Method::Kmeans).unwrap();
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, Bytes(0)).unwrap();
    let source = FrameSource::open(&root.join("samples/real.jpg"), &pipeline.limits()).unwrap();
    let request = |budget: &str| Request {
        budget: Budget::parse(budget, 4).unwrap(),
        selector: Selector::UhrBat,
        mode: Mode::Paper,
        encode_tiles: None,
        max_new: Tokens(4),
        deadline: None,
    };
    let prompt = pipeline.prompt(QUESTIONS[0]).unwrap();
    let mut plan = pipeline.plan_first(std::slice::from_ref(&source), &prompt, &request("60,60,60,60")).unwrap();
    let (frame, _) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ()).unwrap();
    let mut told = |budget: &str| {
        let mut plan = pipeline.plan_again(&[&frame], &prompt, &request(budget)).unwrap();
        let (answer, _) = pipeline.answer(&[&frame], &prompt, &mut plan, None, &mut |_| ()).unwrap();
        answer.receipt.degraded.into_iter().filter(|line| line.contains("clusters")).collect::<Vec<_>>()
    };
    let line = "view 1344 px: its regions were made for 60 clusters when the frame came, this budget would have 90";
    assert_eq!(told("60,90,40,40"), [line]);
    assert_eq!(told("60,60,60,60"), Vec::<String>::new());
}

#[test]
fn what_can_not_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let frame = folder.path().join("frame.jpg");
    draw(&frame, Px(2_600), Px(1_900), 3).unwrap();
    let cases: [(&[&str], i32, &str); 3] = [
        (&["--encode-tiles", "19"], 3, "wanted at most 19 tiles encoded, the views that are always encoded have 20 tiles"),
        (
            &["--encode-tiles", "30", "--partition", "superpixels"],
            2,
            "wanted a partition that clusters (kmeans or birch), found superpixels",
        ),
        (&["--deadline-ms", "5000"], 3, "wanted a calibration of this device"),
    ];
    for (args, code, message) in cases {
        // In a folder without a calibration, whatever lies in the repository's own.
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano");
        let args = [&["--profile", "sim", "--model", path(&model), "ask", path(&frame), QUESTIONS[0]], args].concat();
        let output = common::command().args(&args).current_dir(folder.path()).output().unwrap();
        let said = (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(said.0 == code && said.1.contains(message), "{args:?}: {said:?}");
    }
}
