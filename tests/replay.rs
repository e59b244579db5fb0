//! `replay`: from the journal to the same selection and the same text, by the committed model.

mod common;

use common::daemon::Place;
use common::{path, run};
use serde_json::{Value, json};

fn replayed(place: &Place, id: &str) -> (i32, Value) {
    let journal = place.journal();
    let output = run(&["--profile", path(&place.profile), "--json", "replay", id, "--journal", path(&journal)]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let document = serde_json::from_slice(&output.stdout).unwrap_or(Value::String(text));
    (output.status.code().unwrap(), document)
}

#[test]
fn the_same_comes_of_it_again_and_what_does_not_is_named() {
    let place = Place::new("");
    // The committed model, with few clusters.
    let text = std::fs::read_to_string(&place.profile).unwrap();
    let text = text.replace("vision = \"scripted\"", "vision = \"onnx\"").replace("language = \"scripted\"", "language = \"gguf\"");
    std::fs::write(&place.profile, text).unwrap();
    let daemon = place.start();
    std::fs::copy("samples/real.jpg", place.frames().join("a.jpg")).unwrap();
    daemon.until("the frame", |status| status.frames.taken_in == 1);
    let questions = [
        json!({"text": "is there a blue tent?"}),
        json!({"text": "how many red ships are there?", "budget": "600", "max_new": 4}),
        json!({"text": "where is the tent?", "seed": 5}),
    ];
    for (number, question) in questions.iter().enumerate() {
        place.ask(&format!("q{number}"), question);
        assert!(place.answer(&format!("q{number}"))["answer"]["text"].is_string());
    }
    place.ask("refused", &json!({"text": "why?", "budget": "huge"}));
    place.answer("refused");
    // While the daemon runs, and after.
    for id in ["1", "2", "3"] {
        assert_eq!(replayed(&place, id), (0, json!({"question": id.parse::<u64>().unwrap(), "same": true, "differences": []})));
    }
    assert_eq!(daemon.end(), 0);
    assert_eq!(replayed(&place, "1").0, 0);
    for (id, message) in [("4", "found a refusal"), ("5", "wanted one that the journal has")] {
        let (code, document) = replayed(&place, id);
        assert!(code == 1 && document.as_str().is_some_and(|text| text.contains(message)), "{code} {document}");
    }
    // A journal that says otherwise.
    let connection = rusqlite::Connection::open(place.journal()).unwrap();
    let sql = "UPDATE answers SET document = json_set(document, '$.text', 'a green tent', '$.receipt.budget.per_view[0].kept', 1) WHERE question = 1";
    connection.execute(sql, []).unwrap();
    let (code, document) = replayed(&place, "1");
    let fields: Vec<&str> = document["differences"].as_array().unwrap().iter().map(|found| found["field"].as_str().unwrap()).collect();
    assert_eq!((code, &fields[..]), (1, &["receipt.budget.per_view[0].kept", "text"][..]));
    // Another file under its name.
    std::fs::write(place.frames().join("a.jpg"), common::daemon::frame(1)).unwrap();
    let (code, document) = replayed(&place, "2");
    assert!(code == 1 && document.as_str().is_some_and(|text| text.contains("wanted sha256")), "{code} {document}");
}
