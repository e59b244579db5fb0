//! The journal by itself: kept once, bounded, one at a time, and open to others.

mod common;

use std::time::Duration;

use serde_json::json;
use uhr_edge::imaging::{FrameSource, Limits, Reading};
use uhr_edge::journal::{
    Asked, Desk, DeskLimits, FileMark, Filter, FrameRef, FrameState, Journal, JournalError, JournalLimits, Origin, Outcome, Progress,
    QuestionState, Refused, Work,
};
use uhr_edge::units::{Bytes, FrameId, Millis, Px, QuestionId};

const LIMITS: JournalLimits = JournalLimits { max: Bytes(2 << 20), looked: 3 };

struct Around {
    folder: tempfile::TempDir,
}

impl Around {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("journal.sqlite")
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.file(), LIMITS).unwrap()
    }

    fn desk(&self, places: usize) -> Desk {
        let limits = DeskLimits {
            places,
            backlog: 4,
            text: Bytes(4_096),
            frames: 4,
            brought: self.folder.path().join("brought"),
            picture: Bytes(1 << 20),
            brought_max: Bytes(30_000),
            admits: Limits { max_side: Px(4_096), max_pixels: 10_000_000, whole: Bytes(1 << 24) },
            reading: Reading::default(),
        };
        Desk::new(self.journal(), limits).unwrap()
    }

    /// A desk with a frame.
    fn with_frame(&self, places: usize) -> (Desk, FrameId) {
        let desk = self.desk(places);
        let entry = desk.bring(&common::daemon::frame(1)).unwrap();
        (desk, entry.id)
    }
}

fn about(frame: FrameId, text: &str) -> Asked {
    Asked::new(text, vec![FrameRef::Id(frame)], Origin::Http)
}

fn answered(text: &str) -> Outcome {
    Outcome::Answered { document: json!({"text": text, "finish": "stop", "receipt": {"evidence": []}}) }
}

fn taken(desk: &Desk) -> Option<QuestionId> {
    match desk.next_work(Duration::from_millis(1)) {
        Work::Question(work) => Some(work.id),
        _ => None,
    }
}

#[test]
fn an_accepted_question_ends_once_and_outlives_its_daemon() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(8);
    let ids: Vec<QuestionId> = (0..3).map(|number| desk.ask(about(frame, &format!("why {number}?"))).unwrap()).collect();
    let keyed = Asked { key: Some("mine".into()), ..about(frame, "once?") };
    let once = desk.ask(keyed.clone()).unwrap();
    assert_eq!(desk.ask(keyed.clone()).unwrap(), once);
    let follow = desk.follow(ids[0]).unwrap();
    assert!(matches!(*follow.borrow(), Progress::Queued { ahead: 0 }));
    assert!(matches!(*desk.follow(ids[2]).unwrap().borrow(), Progress::Queued { ahead: 2 }));
    assert_eq!(taken(&desk), Some(ids[0]));
    desk.working(ids[0], "prefill", 0.5, "a");
    assert!(matches!(&*follow.borrow(), Progress::Working { stage, text, .. } if stage == "prefill" && text == "a"));
    desk.finish(ids[0], answered("because"), Some(&uhr_edge::journal::deflated("[]").unwrap())).unwrap();
    desk.finish(ids[0], answered("another"), None).unwrap();
    assert_eq!(desk.question(ids[0]).unwrap().unwrap().outcome, Some(answered("because")));
    assert_eq!(desk.looked(ids[0]).unwrap().as_deref(), Some("[]"));
    assert!(matches!(&*follow.borrow(), Progress::Done(outcome) if **outcome == answered("because")));
    drop((desk, follow));
    // The next one goes on.
    let desk = around.desk(2);
    assert!(matches!(&*desk.follow(ids[0]).unwrap().borrow(), Progress::Done(outcome) if **outcome == answered("because")));
    assert_eq!(desk.ask(keyed).unwrap(), once);
    // Its places are fewer than what waits: nothing of that is lost, and nothing new fits.
    assert!(matches!(desk.ask(about(frame, "more?")), Err(Refused::Full { places: 2 })));
    assert_eq!([taken(&desk), taken(&desk), taken(&desk)], [Some(ids[1]), Some(ids[2]), Some(once)]);
    assert!(desk.follow(QuestionId(99)).is_none());
}

#[test]
fn what_can_not_be_asked_is_refused_and_leaves_nothing() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(8);
    let newest = |text: &str| Asked::new(text, vec![FrameRef::Newest], Origin::Link);
    let cases = [
        (about(frame, " "), "bad-question"),
        (about(frame, &"a".repeat(5_000)), "bad-question"),
        (about(FrameId([9; 8]), "why?"), "no-frame"),
        (newest("why?"), "no-frame"),
        (Asked::new("why?", vec![FrameRef::Id(frame); 5], Origin::Http), "bad-question"),
        (Asked { deadline: Some(Millis(f64::NAN)), ..about(frame, "why?") }, "bad-question"),
        (Asked { budget: Some("1".repeat(300)), ..about(frame, "why?") }, "bad-question"),
    ];
    for (asked, code) in cases {
        let text = format!("{asked:?}");
        let error = desk.ask(asked).unwrap_err();
        assert_eq!(error.code(), code, "{text}: {error}");
    }
    assert!(desk.questions(&Filter::default()).unwrap().is_empty());
    desk.stop();
    assert_eq!(desk.ask(about(frame, "why?")).unwrap_err().code(), "stopping");
}

#[test]
fn pictures_that_are_brought_are_bounded() {
    let around = Around::new();
    let (desk, first) = around.with_frame(8);
    assert_eq!(desk.bring(b"no picture").unwrap_err().code(), "bad-picture");
    assert_eq!(desk.bring(&[0; 40_000]).unwrap_err().code(), "bad-picture");
    assert_eq!(desk.bring(&common::daemon::frame(1)).unwrap().id, first);
    desk.ask(about(first, "why?")).unwrap();
    let entries: Vec<_> = (2..20).map(|number| desk.bring(&common::daemon::frame(number)).unwrap()).collect();
    let sizes = std::fs::read_dir(around.folder.path().join("brought")).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= 30_000);
    // The first is asked about; the others went from the oldest on.
    assert!(desk.frame(&first).unwrap().unwrap().path.is_file() && !entries[0].path.is_file() && entries[17].path.is_file());
}

#[test]
fn one_daemon_a_journal_and_no_other_programs_file() {
    let around = Around::new();
    let journal = around.journal();
    let error = Journal::open(&around.file(), LIMITS).err().unwrap();
    assert!(matches!(error, JournalError::Taken { .. }) && error.to_string().contains("journal.sqlite"), "{error}");
    assert!(Journal::in_use(&around.file()));
    // By another name too, and beside it: the spool and the pictures are the folder's.
    let other = around.folder.path().join("elsewhere");
    std::os::unix::fs::symlink(around.file(), &other).unwrap();
    for path in [&other, &around.file().with_file_name("second.sqlite")] {
        assert!(matches!(Journal::open(path, LIMITS).err(), Some(JournalError::Taken { .. })), "{}", path.display());
        assert!(Journal::in_use(path));
    }
    // Reading goes on beside it.
    assert!(Journal::open_read(&around.file()).unwrap().questions(&Filter::default()).unwrap().is_empty());
    drop(journal);
    assert!(!Journal::in_use(&around.file()));
    let other = around.folder.path().join("other.sqlite");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let newer = around.folder.path().join("newer.sqlite");
    drop(Journal::open(&newer, LIMITS).unwrap());
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let text = around.folder.path().join("text.sqlite");
    std::fs::write(&text, "a text that is no database".repeat(100)).unwrap();
    for (path, message) in [
        (other, "another program's database"),
        (newer, "wanted a journal of version 2, found version 99"),
        (text, "file is not a database"),
    ] {
        for error in [Journal::open(&path, LIMITS).err().unwrap(), Journal::open_read(&path).err().unwrap()] {
            assert!(error.to_string().contains(message), "{}: {error}", path.display());
        }
    }
    assert!(matches!(Journal::open_read(&around.folder.path().join("none")), Err(JournalError::Missing { .. })));
}

#[test]
fn one_of_an_earlier_version_is_brought_up_with_all_that_it_holds() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(8);
    let question = desk.ask(about(frame, "why?")).unwrap();
    drop(desk);
    // What version 2 added.
    let file = rusqlite::Connection::open(around.file()).unwrap();
    file.execute_batch("ALTER TABLE frames DROP COLUMN begun; PRAGMA user_version = 1;").unwrap();
    drop(file);
    let old = Journal::open_read(&around.file()).err().unwrap().to_string();
    assert!(old.contains("wanted a journal of version 2, found version 1; `uhr-edge serve` brings an earlier one up"), "{old}");
    let journal = around.journal();
    assert_eq!(journal.questions(&Filter::default()).unwrap()[0].id, question);
    assert_eq!(journal.frame(frame).unwrap().unwrap().begun, 0);
}

#[test]
fn a_frame_counts_how_often_it_was_begun_until_it_comes_to_an_end() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(8);
    let journal = desk.journal();
    let begun = || journal.frame(frame).unwrap().unwrap().begun;
    for wanted in [1, 2, 3] {
        journal.begin_frame(frame, 1).unwrap();
        assert_eq!(begun(), wanted);
    }
    journal.begin_frame(frame, -1).unwrap();
    assert_eq!(begun(), 2);
    journal.frame_is(frame, FrameState::Ready, None, None).unwrap();
    assert_eq!(begun(), 0);
    journal.begin_frame(frame, -1).unwrap();
    assert_eq!(begun(), 0);
}

#[test]
fn it_stays_within_its_size_and_unanswered_questions_stay() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(64);
    let kept: Vec<QuestionId> = (0..5).map(|number| desk.ask(about(frame, &format!("kept {number}?"))).unwrap()).collect();
    let long = "a long answer ".repeat(1_000);
    let mut last = kept[4];
    for number in 0..400 {
        last = desk.ask(about(frame, &format!("gone {number}?"))).unwrap();
        while taken(&desk).is_some() {}
        desk.finish(last, answered(&long), Some(&[7; 900])).unwrap();
        desk.journal().prune().unwrap();
        assert!(std::fs::metadata(around.file()).unwrap().len() <= LIMITS.max.0);
    }
    assert!(desk.journal().pruned() > 100);
    let left = desk.questions(&Filter { limit: 1_000, ..Filter::default() }).unwrap();
    assert!(left.len() > 20 && left[0].id == last);
    // The oldest answered went, and what is left is without a gap.
    let done: Vec<u64> = left.iter().filter(|entry| entry.state == QuestionState::Answered).map(|entry| entry.id.0).collect();
    assert!(done.windows(2).all(|pair| pair[0] == pair[1] + 1) && done[0] == last.0, "{done:?}");
    assert!(kept.iter().all(|id| left.iter().any(|entry| entry.id == *id && entry.state == QuestionState::Open)));
    // Layers of the last three.
    assert_eq!(left.iter().filter(|entry| entry.looked).count(), 3);
    // Full of questions without an answer: nothing new, and answers still fit.
    let mut open = Vec::new();
    let refused = loop {
        match desk.ask(about(frame, &"why ".repeat(1_000))) {
            Ok(id) => open.push(id),
            Err(error) => break error,
        }
        while taken(&desk).is_some() {}
        assert!(open.len() < 2_000);
    };
    assert_eq!(refused.code(), "disk-full", "{refused}");
    assert!(refused.to_string().contains("max-mib"), "{refused}");
    for id in open {
        desk.finish(id, answered("short"), None).unwrap();
    }
    desk.ask(about(frame, "and now?")).unwrap();
}

#[test]
fn on_a_full_disk_what_was_accepted_can_still_be_answered() {
    let around = Around::new();
    let Some(small) = common::daemon::Small::mount(around.folder.path()) else {
        println!("not shown: this user may not mount a small file system");
        return;
    };
    let (desk, frame) = around.with_frame(32);
    let ids: Vec<QuestionId> = (0..16).map(|number| desk.ask(about(frame, &format!("why {number}?"))).unwrap()).collect();
    small.fill();
    let refused = desk.ask(about(frame, "one more?")).unwrap_err();
    assert_eq!(refused.code(), "disk-full", "{refused}");
    assert_eq!(desk.bring(&common::daemon::frame(2)).unwrap_err().code(), "disk-full");
    let reserve = around.folder.path().join("journal.sqlite.reserve");
    for id in &ids {
        desk.finish(*id, answered(&"a long answer ".repeat(500)), Some(&[7; 2_000])).unwrap();
        assert!(matches!(desk.question(*id).unwrap().unwrap().outcome, Some(Outcome::Answered { .. })));
    }
    assert!(!reserve.exists(), "the reserve was needed");
    assert_eq!(desk.ask(about(frame, "and now?")).unwrap_err().code(), "disk-full");
    small.empty();
    desk.ask(about(frame, "and now?")).unwrap();
    assert!(reserve.exists());
    assert_eq!(desk.questions(&Filter::default()).unwrap().len(), 17);
    // What is open outlives it.
    drop(desk);
    assert!(taken(&around.desk(4)).is_some());
    drop(small);
}

#[test]
fn a_clock_that_steps_loses_nothing() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(8);
    let [long, past, future] = [Some(Millis(1e9)), Some(Millis(60_000.0)), Some(Millis(60_000.0))]
        .map(|deadline| desk.ask(Asked { deadline, ..about(frame, "why?") }).unwrap());
    drop(desk);
    let connection = rusqlite::Connection::open(around.file()).unwrap();
    // As if the clock had been years ahead, or behind, when it was accepted.
    for (id, at) in [(past, 0_i64), (future, 32_503_680_000_000)] {
        connection.execute("UPDATE questions SET accepted_at = ?2 WHERE id = ?1", rusqlite::params![id.0 as i64, at]).unwrap();
    }
    drop(connection);
    let desk = around.desk(8);
    let mut left = std::collections::HashMap::new();
    while let Work::Question(work) = desk.next_work(Duration::from_millis(1)) {
        left.insert(work.id, work.left().unwrap().0);
    }
    assert_eq!(left.len(), 3);
    // One has passed for what anybody can know, one begins anew.
    assert!(left[&past] == 0.0 && left[&future] > 59_000.0 && left[&long] > 9e8, "{left:?}");
}

#[test]
fn lists_are_searched_and_exported() {
    let around = Around::new();
    let (desk, frame) = around.with_frame(8);
    let place = json!({"frame": 0, "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0, "score": 0.5,
        "wgs84": {"corners": [[50.0, 8.0], [50.0, 9.0], [49.0, 9.0], [49.0, 8.0]], "error_m": 6.0}});
    let [a, b, c] = ["Is there a RED car?", "100 % of what?", "how many?"].map(|text| desk.ask(about(frame, text)).unwrap());
    let document = json!({"text": "a blue one", "receipt": {"evidence": [place, {"frame": 0, "x": 0.0}]}});
    desk.finish(a, Outcome::Answered { document }, None).unwrap();
    desk.finish(b, Outcome::Refused { code: "deadline".into(), reason: "too late".into() }, None).unwrap();
    let found = |search: &str| {
        let filter = Filter { search: Some(search.into()), ..Filter::default() };
        desk.questions(&filter).unwrap().into_iter().map(|entry| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(
        [found("red"), found("BLUE"), found("0 %"), found("%"), found("_"), found("")],
        [vec![a], vec![a], vec![b], vec![b], vec![], vec![c, b, a]]
    );
    let of = |frame| desk.questions(&Filter { frame: Some(frame), before: Some(c), limit: 1, ..Filter::default() }).unwrap().len();
    assert_eq!((of(frame), of(FrameId([1; 8]))), (1, 0));
    let file = around.file();
    let journal = |args: &[&str]| {
        let output = common::run(&[&["journal", "--journal", common::path(&file)], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let features: serde_json::Value = serde_json::from_str(&journal(&["export", "--format", "geojson"])).unwrap();
    assert_eq!(features["features"].as_array().unwrap().len(), 1);
    let ring = &features["features"][0]["geometry"]["coordinates"][0];
    assert_eq!(*ring, json!([[8.0, 49.0], [9.0, 49.0], [9.0, 50.0], [8.0, 50.0], [8.0, 49.0]]));
    let lines = journal(&["export"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        (&lines[0]["frame"]["id"], &lines[3]["question"]["outcome"]["answered"]["document"]["text"]),
        (&json!(frame.to_string()), &json!("a blue one"))
    );
    let list = journal(&["ls"]);
    assert!(list.contains("a blue one") && list.contains("refused (deadline): too late") && list.contains("open"), "{list}");
    assert!(journal(&["ls", "--frames"]).contains(&frame.to_string()));
    let shown: serde_json::Value = serde_json::from_str(&journal(&["show", "2"])).unwrap();
    assert_eq!(shown["outcome"]["refused"]["code"], "deadline");
    let (code, message) = common::refusal(&["journal", "--journal", common::path(&file), "show", "77"]);
    assert!(code == 1 && message.contains("question 77"), "{code} {message}");
}

#[test]
fn the_same_bytes_are_one_frame_wherever_they_lie() {
    let around = Around::new();
    let journal = around.journal();
    let see = |name: &str, bytes: &[u8]| {
        let path = around.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let limits = Limits { max_side: Px(4_096), max_pixels: 10_000_000, whole: Bytes(1 << 24) };
        let mark = FileMark::of(&std::fs::metadata(&path).unwrap());
        let seen = journal.see(&FrameSource::open(&path, &limits).unwrap(), mark).unwrap();
        assert!(journal.knows_file(&path, mark).unwrap());
        seen
    };
    let first = see("a.jpg", &common::daemon::frame(1));
    assert!(first.new && first.entry.path.ends_with("a.jpg"));
    let second = see("b.jpg", &common::daemon::frame(1));
    assert!(!second.new && second.entry.path.ends_with("a.jpg"));
    std::fs::remove_file(around.folder.path().join("a.jpg")).unwrap();
    let third = see("c.jpg", &common::daemon::frame(1));
    assert!(!third.new && third.entry.path.ends_with("c.jpg"));
    assert!(see("d.jpg", &common::daemon::frame(2)).entry.number > first.entry.number);
}
