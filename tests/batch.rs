//! `batch`: frames times questions, once each, whatever happens in between.

mod common;

use common::daemon::{Place, frame};
use common::{command, path, refusal, run};
use serde_json::Value;

fn lines(file: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_frame_is_asked_each_question_once_and_a_stopped_batch_goes_on() {
    let place = Place::new("");
    for number in 0..4 {
        std::fs::write(place.frames().join(format!("{number}.jpg")), frame(number)).unwrap();
    }
    std::fs::write(place.frames().join("notes.txt"), "no frame").unwrap();
    let questions = place.folder.path().join("questions.txt");
    std::fs::write(&questions, "is there a car?\n\nhow many ships are there?\nwhat is it?\n").unwrap();
    let out = place.folder.path().join("out.jsonl");
    let frames = place.frames();
    let args = ["--profile", path(&place.profile), "--json", "batch", path(&frames), path(&questions), "--out", path(&out)];
    let tally = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tally: Value = serde_json::from_slice(&output.stdout).unwrap();
        ["answered", "refused", "before"].map(|key| tally[key].as_u64().unwrap())
    };
    assert_eq!(tally(&args), [12, 0, 0]);
    let all = lines(&out);
    // One ingest a frame: the first of its questions pays.
    let paid = all.iter().filter(|line| line["answer"]["receipt"]["stages_ms"]["views"].as_f64().unwrap() > 0.0).count();
    assert_eq!((all.len(), paid), (12, 4));
    assert_eq!(tally(&args), [0, 0, 12]);
    // Another budget is another batch.
    let (code, message) = refusal(&[&args[..], &["--budget", "300"]].concat());
    assert!(code == 1 && message.contains("line 1: wanted an answer under") && message.contains("found one under"), "{code} {message}");
    assert_eq!(tally(&args), [0, 0, 12]);
    // Cut in the middle of a line.
    let text = std::fs::read_to_string(&out).unwrap();
    std::fs::write(&out, &text[..text.len() * 6 / 10]).unwrap();
    let whole = text[..text.len() * 6 / 10].matches('\n').count() as u64;
    assert_eq!(tally(&args), [12 - whole, 0, whole]);
    let again = lines(&out);
    let answers = |lines: &[Value]| {
        let mut answers: Vec<String> =
            lines.iter().map(|line| format!("{} {} {}", line["frame"], line["question"], line["answer"]["text"])).collect();
        answers.sort_unstable();
        answers
    };
    assert_eq!(answers(&all), answers(&again));
    // Killed while it works, it goes on.
    std::fs::remove_file(&out).unwrap();
    for _ in 0..5 {
        let mut child = command().args(args).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(450));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let [answered, refused, before] = tally(&args);
    assert_eq!((answered + before, refused), (12, 0));
    assert_eq!(answers(&lines(&out)), answers(&all));
}

#[test]
fn what_can_not_be_is_said() {
    let place = Place::new("");
    std::fs::write(place.frames().join("a.jpg"), frame(1)).unwrap();
    std::fs::write(place.frames().join("b.jpg"), "no picture").unwrap();
    let questions = place.folder.path().join("questions.txt");
    std::fs::write(&questions, "is there a car?\n").unwrap();
    let (out, frames) = (place.folder.path().join("out.jsonl"), place.frames());
    let args = |frames, questions, out| ["--profile", path(&place.profile), "batch", path(frames), path(questions), "--out", path(out)];
    let (code, message) = refusal(&args(&frames, &questions, &out));
    assert!(code == 1 && message.contains("1 refused"), "{code} {message}");
    let lines = lines(&out);
    assert!(lines[0]["answer"]["text"].is_string() && lines[1]["error"].as_str().unwrap().contains("wanted a JPEG"), "{lines:?}");
    let empty = place.folder.path().join("empty.txt");
    std::fs::write(&empty, "\n").unwrap();
    assert_eq!(refusal(&args(&frames, &empty, &out)).0, 2);
    let (code, message) = refusal(&args(&frames, &questions, &questions));
    assert!(code == 1 && message.contains("line 1: wanted a line of a batch"), "{code} {message}");
    assert_eq!(std::fs::read_to_string(&questions).unwrap(), "is there a car?\n");
}
