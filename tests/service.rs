//! The daemon: what comes into its folders, what goes out, and what happens when things go wrong.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::daemon::{Place, Small, frame, slowness, soon};
use common::{Random, path};
use serde_json::{Value, json};
use uhr_edge::journal::{Filter, FrameState, Journal, Outcome, QuestionEntry, QuestionState, Status};

/// Files of the capture folder that are no frames: name and why.
fn others(place: &Place) -> Vec<(String, String, String)> {
    let journal = Journal::open_read(&place.journal()).unwrap();
    let name = |path: String| Path::new(&path).file_name().unwrap().to_string_lossy().into_owned();
    journal.other_files(2_000).unwrap().into_iter().map(|(path, outcome, reason)| (name(path), outcome, reason)).collect()
}

#[test]
fn a_frame_is_ready_before_anybody_asks_and_questions_share_its_work() {
    let place = Place::new("");
    let daemon = place.start();
    std::fs::copy("samples/real.jpg", place.frames().join("a.jpg")).unwrap();
    let status = daemon.until("the frame is taken in", |status| status.frames.in_slots.len() == 1);
    assert_eq!((status.frames.taken_in, status.questions.accepted), (1, 0));
    for (name, budget) in [("first", "onboard"), ("second", "onboard"), ("larger", "xlrs"), ("list", "0,7,0,1")] {
        place.ask(name, &json!({"text": "is there a tent?", "budget": budget}));
        let document = &place.answer(name)["answer"];
        let stages = &document["receipt"]["stages_ms"];
        for stage in ["decode", "views", "encode", "regions"] {
            assert_eq!(stages[stage], 0.0, "{name}: {stage}");
        }
        assert!(stages["prefill"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(place.answer("first")["answer"]["text"], place.answer("second")["answer"]["text"]);
    assert_eq!(daemon.status().frames.taken_in, 1);
    let layers: Value = serde_json::from_str(&place.said(&["journal", "show", "--looked", "1"])).unwrap();
    let looked = &layers[0];
    let tokens = looked["kept"].as_array().unwrap().len() + looked["merged"].as_array().unwrap().len();
    let views = place.answer("first")["answer"]["receipt"]["budget"]["per_view"].clone();
    let used: u64 = views.as_array().unwrap().iter().map(|view| view["tokens"].as_u64().unwrap()).sum();
    assert_eq!(tokens as u64, used);
    let side = looked["importance"]["side"].as_u64().unwrap();
    let scores = looked["importance"]["scores"].as_array().unwrap();
    assert_eq!(scores.len() as u64, side * side);
    assert_eq!(scores.iter().map(|score| score.as_u64().unwrap()).max(), Some(255));
    assert_eq!(daemon.end(), 0);
}

/// A daemon with `more` in its profile that is ended by `signal` while it takes a frame in: its place, and how often the frame counts as begun then.
fn ended_while_it_takes_a_frame_in(more: &str, signal: &str) -> (Place, u32) {
    for _ in 0..20 {
        let place = Place::new(more);
        let mut daemon = place.start();
        std::fs::copy("samples/real.jpg", place.frames().join("a.jpg")).unwrap();
        let begun =
            || Journal::open_read(&place.journal()).unwrap().frames(1, None, None).unwrap().pop().map(|frame| (frame.state, frame.begun));
        soon("the frame is begun", || begun().is_some_and(|begun| begun != (FrameState::Waiting, 0)));
        daemon.signal(signal);
        daemon.child.wait().unwrap();
        if let Some((FrameState::Waiting, begun)) = begun() {
            return (place, begun);
        }
    }
    panic!("twenty frames were taken in before the daemon could be ended");
}

#[test]
fn a_frame_counts_as_begun_by_a_daemon_that_was_killed_and_not_by_one_that_was_told_to_end() {
    let (place, begun) = ended_while_it_takes_a_frame_in("", "KILL");
    assert_eq!(begun, 1);
    let daemon = place.start();
    daemon.until("the frame is taken in", |status| status.frames.taken_in == 1);
    assert_eq!(daemon.end(), 0);
    let frame = Journal::open_read(&place.journal()).unwrap().frames(1, None, None).unwrap().remove(0);
    assert_eq!((frame.state, frame.begun), (FrameState::Ready, 0));
    let (_place, begun) = ended_while_it_takes_a_frame_in("[serve]\nstop-after-s = 0\n", "TERM");
    assert_eq!(begun, 0);
}

#[test]
fn a_frame_that_ended_the_daemon_five_times_is_not_tried_again() {
    let place = Place::new("");
    let daemon = place.start();
    for number in [1, 2] {
        std::fs::write(place.frames().join(format!("{number}.jpg")), frame(number)).unwrap();
        daemon.until("the frame is taken in", |status| status.frames.taken_in == u64::from(number));
    }
    assert_eq!(daemon.end(), 0);
    let frames = || Journal::open_read(&place.journal()).unwrap().frames(10, None, None).unwrap();
    let [second, first] = &frames()[..] else { panic!("two frames") };
    // As five ends in the middle of it leave it, and four.
    for (frame, begun) in [(second, 5), (first, 4)] {
        let file = rusqlite::Connection::open(place.journal()).unwrap();
        let sql = "UPDATE frames SET state = 'waiting', begun = ?2 WHERE id = ?1";
        assert_eq!(file.execute(sql, rusqlite::params![frame.id.to_string(), begun]).unwrap(), 1);
    }
    let daemon = place.start();
    let status = daemon.until("both came to an end", |status| status.frames.taken_in == 1 && status.frames.failed == 1);
    assert_eq!(status.frames.in_slots, [first.id]);
    assert_eq!(daemon.end(), 0);
    let [second, first] = &frames()[..] else { panic!("two frames") };
    assert_eq!((second.state, first.state, first.begun), (FrameState::Failed, FrameState::Ready, 0));
    assert_eq!(second.reason.as_deref(), Some("the daemon ended 5 times while it took this frame in; it is not tried again"));
}

#[test]
fn a_daemon_with_nothing_to_do_rests() {
    let place = Place::new("");
    let daemon = place.start();
    // utime and stime, after the name in parentheses; 100 a second.
    let spent = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let before = spent();
    std::thread::sleep(Duration::from_secs(4));
    let share = (spent() - before) as f64 / 400.0;
    assert!(share < 0.25, "{share:.2} of a core");
    assert_eq!(daemon.end(), 0);
}

#[test]
fn what_comes_through_the_spool_is_answered_or_refused_with_the_reason() {
    let place = Place::new("");
    let daemon = place.start();
    // It waits for a frame.
    place.ask("early", &json!({"text": "is there a car?"}));
    std::fs::write(place.frames().join("a.jpg"), frame(1)).unwrap();
    let early = place.answer("early");
    assert_eq!((&early["id"], early["answer"]["finish"].as_str()), (&json!(1), Some("stop")));
    let id = daemon.status().frames.in_slots[0].to_string();
    let cases = [
        (json!({"text": "is there a car?", "frames": [id]}), None),
        (json!({"text": " "}), Some("bad-question")),
        (json!({"text": "why?", "frames": ["0123456789abcdef"]}), Some("no-frame")),
        (json!({"text": "why?", "frames": ["../../etc/passwd"]}), Some("bad-question")),
        (json!({"text": "why?", "frames": []}), Some("bad-question")),
        (json!({"text": "why?", "colour": "red"}), Some("bad-question")),
        (json!({"text": "why?", "budget": "huge"}), Some("over-limit")),
        (json!({"text": "why?", "budget": "40000"}), Some("over-limit")),
        (json!({"text": "why?", "max_new": 100_000}), Some("over-limit")),
        (json!({"text": "why?", "deadline_ms": -1.0}), Some("bad-question")),
        (json!({"text": "why?", "deadline_ms": 1_000.0}), Some("uncalibrated")),
        (json!({"text": "why ".repeat(4_000)}), Some("bad-question")),
        (json!("why?"), Some("bad-question")),
    ];
    for (number, (question, code)) in cases.iter().enumerate() {
        let name = format!("case{number}");
        place.ask(&name, question);
        let answer = place.answer(&name);
        match code {
            None => assert!(answer["answer"]["text"].is_string(), "{question}: {answer}"),
            Some(code) => {
                assert_eq!(answer["refused"]["code"], *code, "{question}: {answer}");
                assert!(answer["refused"]["reason"].as_str().unwrap().contains("wanted"), "{answer}");
            }
        }
        soon("the question's file goes", || !place.spool().join(format!("{name}.json")).exists());
    }
    std::fs::write(place.spool().join("half.json"), "{\"text\": \"is th").unwrap();
    assert_eq!(place.answer("half")["refused"]["code"], "bad-question");
    // Another seed is another clustering, of the same frame, and the default's frame is the default's afterwards.
    place.ask("seeded", &json!({"text": "is there a car?", "seed": 7}));
    let seeded = place.answer("seeded");
    assert_eq!(seeded["answer"]["receipt"]["seed"], 7);
    place.ask("again", &json!({"text": "is there a car?"}));
    let again = place.answer("again");
    for key in ["text", "finish"] {
        assert_eq!(again["answer"][key], early["answer"][key]);
    }
    assert_eq!(again["answer"]["receipt"]["budget"], early["answer"]["receipt"]["budget"]);
    assert_eq!(daemon.end(), 0);
}

#[test]
fn whatever_else_comes_into_the_folder_is_recorded_with_the_reason() {
    let place = Place::new("[serve]\nunfinished-after-s = 2\n");
    let frames = place.frames();
    let whole = frame(1);
    // There before the daemon.
    std::fs::write(frames.join("before.jpg"), &whole).unwrap();
    let daemon = place.start();
    daemon.until("the first", |status| status.frames.taken_in == 1);
    std::fs::write(frames.join("copy.jpg"), &whole).unwrap();
    std::fs::write(frames.join("text.jpg"), "this is no picture at all").unwrap();
    std::fs::write(frames.join("empty.jpg"), "").unwrap();
    std::fs::write(frames.join("half.jpg"), &frame(2)[..900]).unwrap();
    std::fs::write(frames.join("upload.jpg.part"), frame(3)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", frames.join("link.jpg")).unwrap();
    // Folders are left alone.
    std::fs::create_dir(frames.join("folder.jpg")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(frames.join("pipe.jpg")).status().unwrap().success());
    // A PNG that says it is larger than anything.
    let mut bomb = common::png(1, 1, png::ColorType::Grayscale, &[1]);
    bomb[16..24].copy_from_slice(&[0x7f; 8]);
    std::fs::write(frames.join("bomb.png"), bomb).unwrap();
    // Its rows are damaged: only the decoder finds that.
    let mut damaged = frame(4);
    let middle = damaged.len() / 2;
    damaged.drain(middle..middle + 200);
    std::fs::write(frames.join("damaged.jpg"), damaged).unwrap();
    // Written in pieces, slowly.
    let slow = frame(5);
    let name = frames.join("slow.jpg");
    for end in [slow.len() / 3, slow.len() / 2, slow.len()] {
        std::fs::write(&name, &slow[..end]).unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    // Gone as soon as it is there.
    std::fs::write(frames.join("gone.jpg"), frame(6)).unwrap();
    std::fs::remove_file(frames.join("gone.jpg")).unwrap();
    std::fs::rename(frames.join("upload.jpg.part"), frames.join("upload.jpg")).unwrap();
    let status = daemon.until("all is looked at", |status| {
        (status.frames.taken_in, status.frames.failed, status.frames.duplicates) == (3, 1, 1) && status.frames.rejected >= 6
    });
    soon("each is recorded", || others(&place).len() >= 8);
    let others = others(&place);
    let wanted = [
        ("copy.jpg", "duplicate", ""),
        ("text.jpg", "rejected", "wanted a JPEG, PNG, TIFF or WebP picture"),
        ("empty.jpg", "rejected", "it has no end, and has not grown for 2 s"),
        ("half.jpg", "rejected", "it has no end"),
        ("link.jpg", "rejected", "a symbolic link"),
        ("pipe.jpg", "rejected", "a pipe"),
        ("bomb.png", "rejected", "wanted at most"),
        ("gone.jpg", "vanished", "gone before it could be read"),
    ];
    for (name, outcome, reason) in wanted {
        let found = others.iter().find(|(other, ..)| other == name);
        assert!(found.is_some_and(|(_, of, why)| of == outcome && why.contains(reason)), "{name}: {found:?} of {others:?}");
    }
    assert_eq!(others.len(), wanted.len(), "{others:?} {status:#?}");
    let journal = Journal::open_read(&place.journal()).unwrap();
    let failed = journal.frames(10, None, Some(FrameState::Failed)).unwrap();
    assert!(failed.len() == 1 && failed[0].reason.as_ref().unwrap().contains("broken after"), "{failed:?}");
    // What is known isn't looked at again.
    drop(daemon);
    let daemon = place.start();
    daemon.until("the newest again", |status| status.frames.in_slots.len() == 1);
    std::thread::sleep(Duration::from_millis(600));
    let status = daemon.status();
    assert_eq!((status.frames.rejected, status.frames.duplicates, status.frames.taken_in), (0, 0, 1), "{status:#?}");
    // A file that is finished after all is looked at again.
    std::fs::write(frames.join("half.jpg"), frame(2)).unwrap();
    daemon.until("the finished one", |status| status.frames.taken_in == 2);
}

fn watched(status: &Status) -> bool {
    status.capture.first().is_some_and(|folder| folder.state == "watched")
}

#[test]
fn a_folder_that_goes_and_comes_back_is_watched_again() {
    let place = Place::new("");
    let daemon = place.start();
    daemon.until("it is watched", watched);
    std::fs::remove_dir_all(place.frames()).unwrap();
    daemon.until("it is missed", |status| status.capture[0].state == "missing");
    place.ask("meanwhile", &json!({"text": "why?", "frames": ["0123456789abcdef"]}));
    assert_eq!(place.answer("meanwhile")["refused"]["code"], "no-frame");
    std::fs::create_dir(place.frames()).unwrap();
    std::fs::write(place.frames().join("at-once.jpg"), frame(1)).unwrap();
    daemon.until("it is back", |status| watched(status) && status.frames.taken_in == 1);
    std::fs::write(place.frames().join("later.jpg"), frame(2)).unwrap();
    daemon.until("it is watched again", |status| status.frames.taken_in == 2);
}

#[test]
fn of_a_thousand_frames_at_once_the_newest_are_taken_in_and_the_rest_is_said() {
    let place = Place::new("[serve]\nbacklog = 16\n");
    let daemon = place.start();
    let begun = Instant::now();
    for number in 0..1_000 {
        std::fs::write(place.frames().join(format!("{number:04}.jpg")), frame(number)).unwrap();
    }
    let written = begun.elapsed();
    let status = daemon.until("all are known", |status| {
        let frames = &status.frames;
        frames.taken_in + frames.dropped == 1_000 && frames.waiting == 0
    });
    println!("1,000 frames written in {written:?}, known after {:?}: {:?}", begun.elapsed(), status.frames);
    let journal = Journal::open_read(&place.journal()).unwrap();
    // Counted at once, written a moment later.
    soon("the journal has it", || journal.count_frames(FrameState::Waiting).unwrap() == 0);
    let [ready, dropped, waiting] =
        [FrameState::Ready, FrameState::Dropped, FrameState::Waiting].map(|state| journal.count_frames(state).unwrap());
    assert_eq!((ready + dropped, waiting), (1_000, 0));
    assert_eq!(dropped, status.frames.dropped);
    assert_eq!((status.frames.rejected, status.frames.failed), (0, 0));
    // The newest is ready; one that was dropped is taken in when it is asked about.
    let newest = journal.newest().unwrap().unwrap();
    assert_eq!(newest.number.0, 1_000);
    if let Some(dropped) = journal.frames(1, None, Some(FrameState::Dropped)).unwrap().first() {
        place.ask("dropped", &json!({"text": "why?", "frames": [dropped.id.to_string()]}));
        let answer = place.answer("dropped");
        assert!(answer["answer"]["receipt"]["stages_ms"]["decode"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(daemon.end(), 0);
    // More than it looks at in one go, most of them known, some from when it was away.
    for number in 1_000..1_300 {
        std::fs::write(place.frames().join(format!("{number:04}.jpg")), frame(number)).unwrap();
    }
    let daemon = place.start();
    daemon.until("all are known", |status| status.frames.waiting == 0 && journal.newest().unwrap().unwrap().number.0 == 1_300);
    soon("the journal has them", || journal.count_frames(FrameState::Waiting).unwrap() == 0);
    let [ready, dropped] = [FrameState::Ready, FrameState::Dropped].map(|state| journal.count_frames(state).unwrap());
    assert_eq!((ready + dropped, daemon.status().frames.duplicates), (1_300, 0));
}

#[test]
fn a_frame_that_gave_way_is_taken_in_again_and_one_that_is_gone_is_refused() {
    let place = Place::new("");
    let text = std::fs::read_to_string(&place.profile).unwrap().replace("slots = 4", "slots = 2");
    std::fs::write(&place.profile, text).unwrap();
    let daemon = place.start();
    let mut ids = Vec::new();
    for number in 1..=3 {
        std::fs::write(place.frames().join(format!("{number}.jpg")), frame(number)).unwrap();
        let status = daemon.until("it is taken in", |status| status.frames.taken_in == u64::from(number));
        ids.push(status.frames.in_slots[0].to_string());
        if number == 2 {
            // Used last: the third takes the second's slot.
            place.ask("touch", &json!({"text": "why?", "frames": [ids[0]]}));
            place.answer("touch");
        }
    }
    let in_slots: Vec<String> = daemon.status().frames.in_slots.iter().map(ToString::to_string).collect();
    assert_eq!(in_slots, [ids[2].clone(), ids[0].clone()]);
    let first_paid = |name: &str| place.answer(name)["answer"]["receipt"]["stages_ms"]["views"].as_f64().unwrap() > 0.0;
    place.ask("again", &json!({"text": "why?", "frames": [ids[1]]}));
    assert!(first_paid("again"));
    place.ask("both", &json!({"text": "why?", "frames": [ids[1], ids[2]]}));
    assert!(!first_paid("both"));
    assert_eq!(place.answer("both")["answer"]["receipt"]["frames"].as_array().unwrap().len(), 2);
    // The first has no slot now, and no file.
    std::fs::remove_file(place.frames().join("1.jpg")).unwrap();
    place.ask("gone", &json!({"text": "why?", "frames": [ids[0]]}));
    let gone = place.answer("gone");
    assert_eq!(gone["refused"]["code"], "frame-gone", "{gone}");
    // Of the second the slot is enough.
    std::fs::remove_file(place.frames().join("2.jpg")).unwrap();
    place.ask("held", &json!({"text": "why?", "frames": [ids[1]]}));
    assert!(place.answer("held")["answer"]["text"].is_string());
    // Moved, it is found again.
    std::fs::rename(place.frames().join("3.jpg"), place.frames().join("three.jpg")).unwrap();
    soon("its new name is known", || {
        let journal = Journal::open_read(&place.journal()).unwrap();
        journal.frame(ids[2].parse().unwrap()).unwrap().unwrap().path.ends_with("three.jpg")
    });
}

#[test]
fn a_second_daemon_on_a_journal_refuses_and_so_does_one_that_can_not_write() {
    let place = Place::new("");
    let daemon = place.start();
    let second = place.command().stderr(std::process::Stdio::piped()).output().unwrap();
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(message.contains(path(&place.journal())) && message.contains("another daemon"), "{message}");
    assert_eq!(daemon.end(), 0);
    // Root may write anything: nobody may not.
    let state = place.folder.path().join("state");
    for file in std::fs::read_dir(&state).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    for folder in [place.folder.path(), &state] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mut command = place.command();
    command.stderr(std::process::Stdio::piped());
    if std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() == 0 {
        command.uid(65_534).gid(65_534);
    }
    let refused = command.output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    for folder in [place.folder.path(), &state] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("wanted a journal to write to, found one that can only be read"), "{message}");
    // Nobody runs: status says so.
    let (code, message) = common::refusal(&["status", "--journal", path(&place.journal())]);
    assert!(code == 1 && message.contains("no daemon at work"), "{code} {message}");
}

#[test]
fn it_ends_in_order_and_a_signal_reads_the_profile_again() {
    let place = Place::new("[serve]\nbacklog = 16\n");
    let daemon = place.start();
    std::fs::write(place.frames().join("a.jpg"), frame(1)).unwrap();
    daemon.until("the frame", |status| status.frames.taken_in == 1);
    let text = std::fs::read_to_string(&place.profile).unwrap();
    std::fs::write(&place.profile, text.replace("backlog = 16", "backlog = 9\nqueue = 3").replace("slots = 4", "slots = 1")).unwrap();
    daemon.signal("HUP");
    let status = daemon.until("the backlog", |status| status.frames.backlog == 9);
    assert_eq!((status.questions.places, status.frames.slots), (64, 4));
    soon("it says what it can't", || place.log().contains("these change with the next start only: frame, serve.queue"));
    std::fs::write(&place.profile, "name = ").unwrap();
    daemon.signal("HUP");
    soon("it says why", || place.log().contains("everything stays as it was"));
    std::fs::write(&place.profile, text).unwrap();
    for number in 0..20 {
        place.ask(&format!("q{number}"), &json!({"text": format!("why {number}?")}));
    }
    daemon.until("some are accepted", |status| status.questions.accepted > 3);
    assert_eq!(daemon.end(), 0);
    let journal = Journal::open_read(&place.journal()).unwrap();
    let all = journal.questions(&Filter::default()).unwrap();
    println!("at the end {} open of {}", all.iter().filter(|entry| entry.state == QuestionState::Open).count(), all.len());
    assert!(!Path::new(&format!("{}-wal", path(&place.journal()))).metadata().is_ok_and(|log| log.len() > 0), "the log was brought in");
    let daemon = place.start();
    for number in 0..20 {
        assert!(place.answer(&format!("q{number}"))["answer"]["text"].is_string());
    }
    daemon.until("each once", |status| status.questions.queued == 0);
    assert_eq!(journal.questions(&Filter::default()).unwrap().len(), 20);
}

#[test]
fn systemd_hears_of_it_and_of_a_stage_that_hangs() {
    let place = Place::new("[serve]\nstage-limit-s = 1\n");
    // Regions of a large frame take longer than that.
    let text = std::fs::read_to_string(&place.profile).unwrap().replace("clusters = 16", "clusters = 4000\ncluster-dim = 512");
    std::fs::write(&place.profile, text.replace("max-iterations = 10", "max-iterations = 100")).unwrap();
    let socket = place.folder.path().join("notify");
    let heard = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = place.command();
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000");
    let daemon = place.started(&mut command);
    let mut said = String::new();
    let mut hear = |wanted: &str| {
        let mut buffer = [0; 4_096];
        while !said.contains(wanted) {
            let len = heard.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}: {said}"));
            said.push_str(&String::from_utf8_lossy(&buffer[..len]));
            said.push('\n');
        }
        said.clear();
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    assert!(daemon.status().watchdog.systemd);
    std::fs::copy("samples/drawn.jpg", place.frames().join("large.jpg")).unwrap();
    let status = daemon.until("a stage hangs", |status| status.watchdog.overdue);
    assert!(status.watchdog.stage_ms.0 > 1_000.0 && status.watchdog.stage != "waiting", "{status:#?}");
    hear("HUNG in");
    daemon.until("it is over", |status| !status.watchdog.overdue);
    hear("WATCHDOG=1");
    daemon.signal("TERM");
    hear("STOPPING=1");
}

#[test]
fn on_a_full_disk_new_questions_wait_and_everything_else_goes_on() {
    let place = Place::new("");
    let Some(small) = Small::mount(&place.folder.path().join("state")) else {
        println!("not shown: this user may not mount a small file system");
        return;
    };
    let daemon = place.start();
    std::fs::write(place.frames().join("a.jpg"), frame(1)).unwrap();
    daemon.until("the frame", |status| status.frames.taken_in == 1);
    place.ask("before", &json!({"text": "why?"}));
    place.answer("before");
    for number in 30..40 {
        place.write(&format!("q{number}"), &json!({"text": format!("why {number}?")}));
    }
    // Questions are on their way in when the disk fills up.
    for number in 0..30 {
        place.ask(&format!("q{number}"), &json!({"text": format!("why {number}?")}));
    }
    daemon.until("some are accepted", |status| status.questions.accepted > 2);
    small.fill();
    for number in 30..40 {
        place.hand_in(&format!("q{number}"));
    }
    let accepted = {
        let status = daemon.until("nothing more is accepted", |status| status.journal.full.is_some() && status.questions.queued == 0);
        assert!(status.journal.full.as_ref().unwrap().contains("wanted room to write"), "{status:#?}");
        status.questions.accepted
    };
    // What was accepted is answered all the same, and the daemon tells how it stands.
    let status = daemon.until("the accepted are answered", |status| {
        status.questions.answered + status.questions.refused == status.questions.accepted && status.questions.working_on.is_none()
    });
    assert!(status.questions.refused == 0 && accepted < 41, "{status:#?}");
    println!("{accepted} of 41 accepted before the disk was full");
    std::thread::sleep(Duration::from_millis(500));
    assert!(daemon.status().uptime_ms > status.uptime_ms);
    small.empty();
    for number in 0..40 {
        assert!(place.answer(&format!("q{number}"))["answer"]["text"].is_string());
    }
    // The status is published now and then, the counts a moment after the answers.
    daemon.until("it has recovered", |status| {
        status.journal.full.is_none() && (status.questions.accepted, status.questions.answered) == (41, 41)
    });
    assert_eq!(daemon.end(), 0);
}

#[test]
fn with_a_calibration_deadlines_are_kept_or_refused_in_a_slot_and_from_a_file() {
    let place = Place::new("");
    let text = std::fs::read_to_string(&place.profile).unwrap().replace("slots = 4", "slots = 2");
    std::fs::write(&place.profile, text).unwrap();
    for number in 0..4 {
        std::fs::write(place.frames().join(format!("{number}.jpg")), frame(number)).unwrap();
    }
    let out = place.folder.path().join("qualification");
    let frames = place.frames();
    // Whether its limits are met is not the point here.
    common::run(&["--quiet", "--profile", path(&place.profile), "qualify", "--frames", path(&frames), "--out", path(&out)]);
    let calibration = out.join("qualification.json");
    let daemon = place.started(place.command().args(["--calibration", path(&calibration)]));
    assert!(daemon.status().calibrated);
    daemon.until("all frames", |status| status.frames.taken_in == 4);
    let in_slots = daemon.status().frames.in_slots;
    let journal = Journal::open_read(&place.journal()).unwrap();
    let file = journal.frames(10, None, None).unwrap().into_iter().find(|entry| !in_slots.contains(&entry.id)).unwrap().id.to_string();
    let slot = in_slots[0].to_string();
    let cases = [
        ("slot", json!({"text": "why?", "frames": [slot], "deadline_ms": 20_000.0}), false),
        ("file", json!({"text": "why?", "frames": [file], "deadline_ms": 20_000.0}), true),
        ("both", json!({"text": "why?", "frames": [slot, file], "deadline_ms": 20_000.0}), false),
    ];
    for (name, question, paid) in cases {
        place.ask(name, &question);
        let receipt = &place.answer(name)["answer"]["receipt"];
        assert!(receipt["plan"]["deadline_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms <= 20_000.0), "{name}: {receipt}");
        assert!(!paid || receipt["stages_ms"]["views"].as_f64().unwrap() > 0.0, "{name}");
        // What was taken in for it is taken in for all that may be asked.
        daemon.until("the frames are there", |status| status.frames.in_slots.len() == 2 && status.frames.waiting == 0);
    }
    place.ask("none", &json!({"text": "why?", "frames": [slot], "deadline_ms": 0.001}));
    assert_eq!(place.answer("none")["refused"]["code"], "deadline");
    assert_eq!(daemon.end(), 0);
    for id in ["1", "2", "3"] {
        assert!(place.said(&["replay", id]).contains("the same selection and the same text"));
    }
}

/// All questions, oldest first.
fn all(journal: &Journal) -> Vec<QuestionEntry> {
    let mut all = Vec::<QuestionEntry>::new();
    loop {
        let before = all.last().map(|entry| entry.id);
        let page = journal.questions(&Filter { limit: 1_000, before, ..Filter::default() }).unwrap();
        if page.is_empty() {
            all.reverse();
            return all;
        }
        all.extend(page);
    }
}

/// Asks over HTTP where the daemon listens by now; the question's id, if it was acknowledged.
fn posted(address: &str, text: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let body = json!({"text": text, "frames": ["newest"]}).to_string();
    let length = body.len();
    write!(
        stream,
        "POST /api/questions HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    if !(200..300).contains(&status) {
        return None;
    }
    serde_json::from_str::<Value>(body).ok()?["id"].as_u64()
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_answers_nothing_twice() {
    let kills: usize = std::env::var("UHR_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20);
    let place = Place::new("[serve]\nqueue = 16\n");
    let mut random = Random::new(9);
    let (mut asked, mut frames) = (0_usize, 0);
    // Over HTTP: sent, and the ids of those that were acknowledged.
    let (mut sent, mut acknowledged) = (0_usize, Vec::new());
    // By question: when and how it ended, as it was first seen.
    let mut seen: std::collections::BTreeMap<u64, Option<(i64, Outcome)>> = std::collections::BTreeMap::new();
    let mut slowest = 0.0_f64;
    for kill in 0..kills {
        let (log, mut address) = (place.log().len(), None);
        let mut child = place.command_on("127.0.0.1:0").spawn().unwrap();
        // Before it is ready, as it gets ready, or under load.
        let until = Instant::now() + Duration::from_millis(200 + random.below(2_500) as u64) * slowness();
        while Instant::now() < until {
            if asked < kill * 30 {
                place.ask(&format!("q{asked}"), &json!({"text": format!("why {asked}?")}));
                asked += 1;
            }
            if address.is_none() {
                let said = place.log().split_off(log);
                // Its line is whole.
                address = said.split("HTTP on http://").nth(1).and_then(|rest| Some(rest.split_once('\n')?.0.to_owned()));
            }
            if let Some(address) = address.as_ref().filter(|_| sent < kill * 10) {
                acknowledged.extend(posted(address, &format!("what {sent}?")));
                sent += 1;
            }
            if frames <= kill * 2 {
                std::fs::write(place.frames().join(format!("{frames}.jpg")), frame(u32::try_from(frames).unwrap())).unwrap();
                frames += 1;
            }
            std::thread::sleep(Duration::from_millis(random.below(12) as u64));
            if let Ok(status) = uhr_edge::service::status(&place.journal()) {
                slowest = slowest.max(status.start_after_model_ms.0);
            }
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself: {}", place.log());
        child.kill().unwrap();
        child.wait().unwrap();
        let Ok(journal) = Journal::open_read(&place.journal()) else { continue };
        for entry in all(&journal) {
            let ended = entry.outcome.map(|outcome| (entry.done_at.unwrap().0, outcome));
            let before = seen.insert(entry.id.0, ended.clone()).flatten();
            assert!(before.is_none() || before == ended, "question {} ended twice: {before:?}, {ended:?}", entry.id);
        }
    }
    let daemon = place.start();
    for number in 0..asked {
        place.answer(&format!("q{number}"));
    }
    slowest = slowest.max(daemon.status().start_after_model_ms.0);
    assert_eq!(daemon.end(), 0);
    let journal = Journal::open_read(&place.journal()).unwrap();
    let all = self::all(&journal);
    for (id, ended) in &seen {
        let entry = all.iter().find(|entry| entry.id.0 == *id).unwrap_or_else(|| panic!("question {id} is lost"));
        if let Some((at, outcome)) = ended {
            assert_eq!((entry.done_at.unwrap().0, entry.outcome.as_ref().unwrap()), (*at, outcome));
        }
    }
    // One question a file, one that was acknowledged, none of them twice.
    let files = all.iter().filter(|entry| entry.text.starts_with("why")).count();
    assert_eq!(files, asked);
    let mut texts: Vec<&str> = all.iter().map(|entry| &entry.text[..]).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), all.len());
    let known: std::collections::BTreeSet<u64> = all.iter().map(|entry| entry.id.0).collect();
    assert!(acknowledged.iter().all(|id| known.contains(id)), "an acknowledged question is lost");
    assert!(all.len() - files >= acknowledged.len() && acknowledged.len() > kills, "{} {sent}", acknowledged.len());
    assert!(all.iter().all(|entry| entry.outcome.is_some()));
    let refused = all.iter().filter(|entry| entry.state == QuestionState::Refused).count();
    let again = all.iter().filter(|entry| entry.begun > 1).count();
    let connection = rusqlite::Connection::open(place.journal()).unwrap();
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    println!(
        "{kills} kills, {asked} questions from files, {} acknowledged of {sent} sent over HTTP, {frames} frames: none lost, none twice, {again} begun again, {refused} refused; slowest start beside the model {slowest:.0} ms",
        acknowledged.len()
    );
    assert!(asked > kills, "{asked}");
}

#[test]
fn a_folder_that_is_not_there_at_a_start_costs_no_frame_and_a_copy_stands_in() {
    let place = Place::new("");
    let daemon = place.start();
    for (name, number) in [("a.jpg", 1), ("b.jpg", 2), ("copy-of-b.jpg", 2)] {
        std::fs::write(place.frames().join(name), frame(number)).unwrap();
    }
    daemon.until("the frames", |status| status.frames.taken_in == 2 && status.frames.duplicates == 1);
    assert_eq!(daemon.end(), 0);
    let away = place.folder.path().join("away");
    std::fs::rename(place.frames(), &away).unwrap();
    let daemon = place.start();
    soon("the frame is looked for", || place.log().contains("not taken in"));
    assert_eq!(daemon.end(), 0);
    std::fs::rename(&away, place.frames()).unwrap();
    let daemon = place.start();
    place.ask("after", &json!({"text": "why?"}));
    assert!(place.answer("after")["answer"]["text"].is_string());
    assert!(!place.said(&["journal", "ls", "--frames"]).contains("failed"));
    assert_eq!(daemon.end(), 0);
    // Whichever of the two was the frame's own file, the other is as good.
    for (gone, back) in [("b.jpg", "copy-of-b.jpg"), ("copy-of-b.jpg", "b.jpg")] {
        std::fs::rename(place.frames().join(gone), place.folder.path().join("gone")).unwrap();
        let daemon = place.start();
        place.ask(gone, &json!({"text": "why?"}));
        assert!(place.answer(gone)["answer"]["text"].is_string(), "{back}");
        assert_eq!(daemon.end(), 0);
        std::fs::rename(place.folder.path().join("gone"), place.frames().join(gone)).unwrap();
    }
}

#[test]
fn what_is_wrong_with_one_file_of_the_spool_keeps_no_other_waiting() {
    let place = Place::new("");
    let daemon = place.start();
    std::fs::write(place.frames().join("a.jpg"), frame(1)).unwrap();
    daemon.until("the frame", |status| status.frames.taken_in == 1);
    std::fs::create_dir_all(place.spool().join("answers/a.json/full")).unwrap();
    for name in ["a", "b", "c"] {
        place.ask(name, &json!({"text": format!("why {name}?")}));
    }
    for name in ["b", "c"] {
        assert!(place.answer(name)["answer"]["text"].is_string());
    }
    soon("it is told", || place.log().contains("a.json: it waits"));
    std::fs::remove_dir_all(place.spool().join("answers/a.json")).unwrap();
    assert!(place.answer("a")["answer"]["text"].is_string());
    assert_eq!(daemon.end(), 0);
}

#[test]
fn a_profile_that_its_own_questions_could_not_keep_is_not_taken_over() {
    let place = Place::new("");
    let daemon = place.start();
    let text = std::fs::read_to_string(&place.profile).unwrap();
    std::fs::write(&place.profile, text.replacen("budget = \"onboard\"", "budget = \"1,2\"", 1)).unwrap();
    daemon.signal("HUP");
    soon("it is said", || place.log().contains("everything stays as it was: budget"));
    std::fs::write(place.frames().join("a.jpg"), frame(1)).unwrap();
    daemon.until("the frame", |status| status.frames.taken_in == 1);
    place.ask("a", &json!({"text": "why?"}));
    assert!(place.answer("a")["answer"]["text"].is_string());
}
