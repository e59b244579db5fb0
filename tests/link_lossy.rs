//! Our own client through a channel that loses, doubles, reorders, delays, garbles and stops, and between ends that start anew, on a virtual clock. Behind the board's
//! end is the desk over a real journal; the pipeline is played by the test.

#[path = "common/channel.rs"]
mod channel;
#[path = "common/desk.rs"]
mod desk;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use channel::{Channel, Rules, Seeded};
use serde_json::json;
use tokio::sync::watch;
use uhr_edge::journal::{self, Desk, Filter, FrameRef, FrameState, Origin, Outcome, Work};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{FILE_TRANSFER_PROTOCOL_DATA, MavMessage, PARAM_REQUEST_LIST_DATA, PARAM_REQUEST_READ_DATA};
use uhr_edge::link::frame::{self, Framer, Raw, Source};
use uhr_edge::link::ground::{Ground, Told};
use uhr_edge::link::key::Key;
use uhr_edge::link::node::{Event, Host, Node, NodeSettings};
use uhr_edge::link::served::Asker;
use uhr_edge::link::sign::{Floors, NoFloors, Signing};
use uhr_edge::link::standard::ftp::{EachEntry, Found, RADIO_DATA, Tree};
use uhr_edge::link::standard::param::Params;
use uhr_edge::link::station::Station;
use uhr_edge::link::wire::{self, Accept, Asked, Kind, Number, Query, Reply, Session, What};
use uhr_edge::units::{BytesPerSecond, QuestionId, UnixMillis};

const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };
const NOON: i64 = 1_800_000_000_000;
/// What the pipeline takes for a question.
const WORK_MS: u64 = 1_500;
/// A board that starts anew hears nothing for so long.
const BOOT_MS: u64 = 3_000;

fn now(ms: u64) -> Now {
    Now::new(At(Duration::from_millis(ms)), UnixMillis(NOON + ms as i64))
}

fn station(own: Source, rate: u32, floors: Box<dyn Floors>) -> Station {
    let signing = Signing::new(Key::from_passphrase("of the test's own").unwrap(), own.system, floors).unwrap();
    Station::new(own, BytesPerSecond(rate), Some(signing))
}

/// A ground station's state folder.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Vec<u8>>>>);

impl Floors for Kept {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        *self.0.lock().unwrap() = Some(memory.to_owned());
        Ok(())
    }
}

/// The journal's.
struct Memory(Desk);

impl Floors for Memory {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.0.journal().link_memory("timestamps").map_err(|error| error.to_string())
    }
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        self.0.journal().keep_link_memory("timestamps", memory).map_err(|error| error.to_string())
    }
}

/// What the packets of the moment asked for.
#[derive(Default)]
struct Questions(Vec<(Asker, String)>);

impl Tree for Questions {
    fn open(&mut self, _: &str) -> Found {
        Found::Missing
    }
    fn list(&mut self, _: &str, _: &mut EachEntry<'_>) -> bool {
        false
    }
}

impl Host for Questions {
    fn event(&mut self, event: Event<'_>, _: Now) {
        let Event::Query(asker, Query::Ask(asked)) = event else { panic!("only questions are asked here") };
        self.0.push((asker, asked.text.to_owned()));
    }
}

/// What was counted over all lives of the board, by the question's number in the journal.
#[derive(Default)]
struct Counted {
    /// Queries that the link took for new.
    queries: HashMap<QuestionId, u32>,
    /// Times that work on it began, and ended.
    begun: HashMap<QuestionId, u32>,
    finished: HashMap<QuestionId, u32>,
    /// Of queries, answers and what belongs to them, both directions.
    tunnel_bytes: u64,
}

struct Follow {
    asker: Asker,
    id: QuestionId,
    progress: watch::Receiver<journal::Progress>,
}

/// One life of the board: the link's end over the desk, as the daemon's, and the pipeline.
struct Board {
    node: Node,
    desk: Desk,
    follows: Vec<Follow>,
    work: Option<(QuestionId, String, u64)>,
    /// The fragment of an answer that went out in this step, and their count.
    answering: Option<(u16, u16)>,
}

impl Board {
    fn new(folder: &Path, rate: u32) -> Self {
        let desk = desk::desk(folder);
        let settings = NodeSettings { system: BOARD.system, wired: false, ftp_data: RADIO_DATA };
        let node = Node::new(station(BOARD, rate, Box::new(Memory(desk.clone()))), settings, Params::default());
        Self { node, desk, follows: Vec::new(), work: None, answering: None }
    }

    fn receive(&mut self, bytes: &[u8], ms: u64, counted: &mut Counted) {
        let mut questions = Questions::default();
        self.node.receive(bytes, now(ms), &mut questions);
        for (asker, text) in questions.0 {
            if self.follows.iter().any(|follow| follow.asker == asker) {
                continue;
            }
            let key = Some(format!("link/{}/{:08x}/{}", asker.source, asker.session.0, asker.number.0));
            let asked = journal::Asked { key, ..journal::Asked::new(text, vec![FrameRef::Newest], Origin::Link) };
            let id = self.desk.ask(asked).unwrap();
            *counted.queries.entry(id).or_default() += 1;
            self.node.served.accept(&mut self.node.station, asker, Accept { id: id.0, ahead: 0 }, now(ms).at);
            let progress = self.desk.follow(id).unwrap();
            self.follows.push(Follow { asker, id, progress });
        }
    }

    /// The pipeline: one question at a time, of which the journal hears at its end.
    fn work(&mut self, ms: u64, counted: &mut Counted) {
        match &self.work {
            // Looked for every 50 ms: a look waits for the clock of this machine.
            None if !ms.is_multiple_of(50) => {}
            None => match self.desk.next_work(Duration::ZERO) {
                Work::Frame(frame) => self.desk.journal().frame_is(frame.entry.id, FrameState::Ready, None, None).unwrap(),
                Work::Question(question) => {
                    *counted.begun.entry(question.id).or_default() += 1;
                    self.work = Some((question.id, question.text.clone(), ms));
                }
                Work::Idle | Work::Stop => {}
            },
            Some((id, _, began)) if ms < began + WORK_MS => self.desk.working(*id, "generate", 0.5, "so far"),
            Some((id, text, _)) => {
                *counted.finished.entry(*id).or_default() += 1;
                self.desk.finish(*id, Outcome::Answered { document: json!({ "text": answer_of(text) }) }, None).unwrap();
                self.desk.rest();
                self.work = None;
            }
        }
    }

    fn step(&mut self, ms: u64, counted: &mut Counted, channel: &mut Channel) {
        self.work(ms, counted);
        let Self { node, follows, .. } = self;
        follows.retain(|follow| match &*follow.progress.borrow() {
            journal::Progress::Done(outcome) => {
                node.served.reply(follow.asker, Kind::Answer, |room| Some(wire::record(&reply(follow.id, outcome), room).unwrap().len()));
                false
            }
            journal::Progress::Working { stage, text, .. } => {
                node.served.progress(&mut node.station, follow.asker, stage, 500, text, now(ms).at);
                true
            }
            journal::Progress::Queued { .. } => true,
        });
        self.node.tick(now(ms));
        // One packet in 10 ms is more than the line's rate; every moment between two of them is one in which something can happen.
        self.answering = None;
        if let Some(packet) = self.node.transmit(now(ms)) {
            if is_tunnel(packet) && packet[16] == Kind::Answer as u8 {
                self.answering = Some((u16::from_le_bytes([packet[25], packet[26]]), u16::from_le_bytes([packet[27], packet[28]])));
            }
            counted.tunnel_bytes += if is_tunnel(packet) { packet.len() as u64 } else { 0 };
            channel.send(packet, ms);
        }
    }
}

fn reply(id: QuestionId, outcome: &Outcome) -> Reply<'_> {
    let Outcome::Answered { document } = outcome else { panic!("{outcome:?}") };
    Reply::Answered {
        id: id.0,
        text: document["text"].as_str().unwrap(),
        finish: "stop",
        choice: None,
        tokens: 0,
        budget: 0,
        total_ms: 0,
        degraded: heapless::Vec::new(),
        evidence: heapless::Vec::new(),
    }
}

fn is_tunnel(packet: &[u8]) -> bool {
    packet[7..10] == [0x81, 1, 0]
}

fn answer_of(text: &str) -> String {
    // Of 200 to 3,000 bytes, from the question alone.
    let number: usize = text.trim_start_matches("question ").parse().unwrap();
    let len = 200 + (number * 613) % 2_801;
    (0..len).map(|at| char::from(b' ' + ((at * 7 + number * 31) % 95) as u8)).collect()
}

/// What happens to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mishap {
    /// The board loses its power while the pipeline works.
    BoardWorks,
    /// … between two fragments of the answer.
    BoardAnswers,
    /// The ground station loses its power while it waits.
    GroundWaits,
    /// … with a part of the answer there.
    GroundReads,
    /// Nothing passes for a minute, from the middle of the answer on.
    Stall,
    /// All is noise for 20 s, from the middle of the answer on.
    Noise,
}

fn mishap(question: usize) -> Option<Mishap> {
    match (question % 20, question % 50) {
        (3, _) => Some(Mishap::BoardWorks),
        (13, _) => Some(Mishap::BoardAnswers),
        (7, _) => Some(Mishap::GroundWaits),
        (17, _) => Some(Mishap::GroundReads),
        (_, 25) => Some(Mishap::Stall),
        (_, 45) => Some(Mishap::Noise),
        _ => None,
    }
}

/// A line with both its ends.
struct Line {
    up: Channel,
    down: Channel,
    folder: tempfile::TempDir,
    /// `None` until the time: it starts anew.
    board: Result<Board, u64>,
    ground: Ground,
    kept: Kept,
    counted: Counted,
    ms: u64,
}

const RATE: u32 = 5_760;
const SESSION: Session = Session(0xfeed_0001);

/// What the ground station saw in a moment.
#[derive(Default)]
struct Glance {
    share: Option<(usize, usize)>,
    answers: Vec<(Number, Vec<u8>)>,
}

impl Line {
    fn new(rules: &Rules, seed: u64) -> Self {
        // A journal that is written to some thousand times; what is on a disk is not what is looked at here.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let board = Board::new(folder.path(), RATE);
        desk::capture(&board.desk, &Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/drawn.jpg"));
        let kept = Kept::default();
        let ground = Self::ground(&kept);
        let (up, down) = (Channel::new(rules, seed ^ 1), Channel::new(rules, seed ^ 2));
        Self { up, down, folder, board: Ok(board), ground, kept, counted: Counted::default(), ms: 1_000 }
    }

    fn ground(kept: &Kept) -> Ground {
        Ground::new(station(GROUND, RATE, Box::new(kept.clone())), Some(BOARD), SESSION, Number(0), Duration::from_secs(600))
    }

    /// 10 ms.
    fn step(&mut self) -> Glance {
        self.ms += 10;
        let ms = self.ms;
        if self.board.as_ref().is_err_and(|at| ms >= *at) {
            self.board = Ok(Board::new(self.folder.path(), RATE));
        }
        if let (Some(bytes), Ok(board)) = (self.up.arrives(ms), &mut self.board) {
            board.receive(&bytes, ms, &mut self.counted);
        }
        let mut glance = Glance::default();
        let mut told = |told: Told<'_>| match told {
            Told::Reply(of, Kind::Answer, bytes) => glance.answers.push((of, bytes.to_vec())),
            Told::Share(_, there, all) => glance.share = Some((there, all)),

            Told::Board(_) | Told::Accepted(..) | Told::Progress(..) => {}
            Told::Reply(..) | Told::Rejected(..) | Told::GivenUp(_) => panic!("{told:?}"),
        };
        if let Some(bytes) = self.down.arrives(ms) {
            self.ground.receive(&bytes, now(ms), &mut told);
        }
        self.ground.tick(now(ms), &mut told);
        if let Ok(board) = &mut self.board {
            board.step(ms, &mut self.counted, &mut self.down);
        }
        if let Some(packet) = self.ground.transmit(now(ms)) {
            self.counted.tunnel_bytes += if is_tunnel(packet) { packet.len() as u64 } else { 0 };
            self.up.send(packet, ms);
        }
        glance
    }

    fn lose_board(&mut self) {
        self.board = Err(self.ms + BOOT_MS);
    }
}

struct Run {
    line: Line,
    /// [`Counted::tunnel_bytes`], a question each.
    bytes: Vec<u64>,
    answers: Vec<Vec<u8>>,
    mishaps: HashMap<Mishap, u32>,
}

/// Asks `questions` one after the other; with mishaps where `rough`.
fn run(rules: &Rules, questions: usize, seed: u64, rough: bool) -> Run {
    let mut random = Seeded(seed);
    let mut line = Line::new(rules, seed);
    let (mut bytes, mut answers, mut mishaps) = (Vec::new(), Vec::new(), HashMap::new());
    for question in 0..questions {
        // The numbers wrap.
        let number = Number((u32::MAX - 20).wrapping_add(question as u32));
        let text = format!("question {question}");
        let asked = Asked { text: &text, frames: heapless::Vec::new(), budget: None, deadline_ms: None, max_new: None, seed: None };
        let query = Query::Ask(asked);
        line.ground.ask_as(number, &query, now(line.ms).at).unwrap();
        let (before, began) = (line.counted.tunnel_bytes, line.ms);
        let mut due = mishap(question).filter(|_| rough);
        // Behind which fragment, by its share of all.
        let place = random.below(1_000);
        let mut whole: Option<Vec<u8>> = None;
        while whole.is_none() {
            let glance = line.step();
            assert!(line.ms - began < 900_000, "question {question} has no answer after 15 minutes");
            for (of, answer) in glance.answers {
                assert!(of == number && whole.replace(answer).is_none(), "question {question}: a second answer, or another's");
            }
            let Some(mishap) = due.filter(|_| whole.is_none()) else { continue };
            let ms = line.ms;
            let is_place = |there: u64, all: u64| there < all && there > place * (all - 1) / 1_000;
            let works = line.board.as_ref().is_ok_and(|board| board.work.as_ref().is_some_and(|work| ms > work.2 + WORK_MS / 3));
            // Some fragments of the answer have left, and some have not.
            let answering = line.board.as_ref().ok().and_then(|board| board.answering);
            let answers = answering.is_some_and(|(at, all)| is_place(u64::from(at) + 1, u64::from(all)));
            let reads = glance.share.is_some_and(|(there, all)| is_place(there as u64, all as u64));
            let hits = match mishap {
                Mishap::BoardWorks | Mishap::GroundWaits => works,
                Mishap::BoardAnswers | Mishap::Stall | Mishap::Noise => answers,
                Mishap::GroundReads => reads,
            };
            if !hits {
                continue;
            }
            due = None;
            *mishaps.entry(mishap).or_insert(0) += 1;
            match mishap {
                Mishap::BoardWorks | Mishap::BoardAnswers => line.lose_board(),
                Mishap::GroundWaits | Mishap::GroundReads => {
                    line.ground = Line::ground(&line.kept);
                    line.ground.ask_as(number, &query, now(ms).at).unwrap();
                }
                Mishap::Stall => [&mut line.up, &mut line.down].into_iter().for_each(|way| way.stall(ms, ms + 60_000)),
                Mishap::Noise => [&mut line.up, &mut line.down].into_iter().for_each(|way| way.noise(ms, ms + 20_000)),
            }
        }
        assert_eq!(due, None, "question {question}: answered before it could happen");
        // The end of it: late packets, the acknowledgement, its repetition.
        for _ in 0..400 {
            assert!(line.step().answers.is_empty(), "question {question}: a second answer");
        }
        bytes.push(line.counted.tunnel_bytes - before);
        answers.push(whole.unwrap());
    }
    Run { line, bytes, answers, mishaps }
}

#[test]
fn two_hundred_questions_each_answered_once_and_to_the_byte() {
    let rules = Rules { loss: 200, double: 50, reorder: 100, delay_ms: 1_000, jitter_ms: 120, rate: 5_760 };
    let calm = Rules { loss: 0, double: 0, reorder: 0, ..rules };
    let rough = run(&rules, 200, 7, true);
    let count = |mishap| rough.mishaps.get(&mishap).copied().unwrap_or(0);
    assert_eq!([Mishap::BoardWorks, Mishap::BoardAnswers, Mishap::GroundWaits, Mishap::GroundReads].map(count), [10; 4]);
    assert_eq!([Mishap::Stall, Mishap::Noise].map(count), [4, 4]);
    assert!(rough.line.up.garbled > 0 && rough.line.down.garbled > 0);
    // The journal has each question once, and each was worked on to its end once, however often it was asked.
    let Ok(board) = &rough.line.board else { panic!("no board") };
    let mut entries = board.desk.questions(&Filter { limit: 1_000, ..Filter::default() }).unwrap();
    entries.reverse();
    assert_eq!(entries.len(), 200);
    let counted = &rough.line.counted;
    assert!(counted.finished.len() == 200 && counted.finished.values().all(|times| *times == 1), "{:?}", counted.finished);
    assert!(counted.queries.values().any(|times| *times > 1), "nothing was asked again");
    for (question, entry) in entries.iter().enumerate() {
        let text = format!("question {question}");
        let again = u32::from(mishap(question) == Some(Mishap::BoardWorks));
        assert_eq!((&entry.text, counted.begun[&entry.id]), (&text, 1 + again), "{text}");
        // To the byte: what the ground station has is what the journal has.
        let outcome = entry.outcome.as_ref().unwrap();
        let mut room = vec![0; 8_192];
        let written = wire::record(&reply(entry.id, outcome), &mut room).unwrap();
        assert_eq!(rough.answers[question], written, "{text}");
        let Reply::Answered { text: answer, .. } = wire::read::<Reply<'_>>("answer", &rough.answers[question]).unwrap() else { panic!() };
        assert_eq!(answer, answer_of(&text));
    }
    // Bytes of both directions, against the same without loss, of answers of 1 kB and more where no end started anew and nothing stood still.
    let plain = run(&rules, 200, 11, false);
    let free = run(&calm, 200, 11, false);
    let mut ratios: Vec<f64> =
        (0..200).filter(|at| plain.answers[*at].len() >= 1_000).map(|at| plain.bytes[at] as f64 / free.bytes[at] as f64).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!(
        "200 questions with {} mishaps: {} s; without: {} s, loss-free {} s; bytes against loss-free, {} answers of 1 kB or more: median {median:.2}, worst {:.2}",
        rough.mishaps.values().sum::<u32>(),
        rough.line.ms / 1_000,
        plain.line.ms / 1_000,
        free.line.ms / 1_000,
        ratios.len(),
        ratios[ratios.len() - 1]
    );
    assert!(ratios.len() > 100 && median <= 1.6, "{median} of {}", ratios.len());
}

/// A board that has one long file, and says a word every 100 ms.
#[derive(Default)]
struct Speaker {
    asked: Option<Asker>,
    fetches: Vec<Asker>,
}

const FILE_BYTES: usize = 12_000;

impl Tree for Speaker {
    fn open(&mut self, path: &str) -> Found {
        if path == "/picture" { Found::File([7; FILE_BYTES][..].into()) } else { Found::Missing }
    }
    fn list(&mut self, _: &str, _: &mut EachEntry<'_>) -> bool {
        false
    }
}

impl Host for Speaker {
    fn event(&mut self, event: Event<'_>, _: Now) {
        match event {
            Event::Query(asker, Query::Ask(_)) => self.asked = Some(asker),
            Event::Query(asker, Query::Fetch(_)) => self.fetches.push(asker),
            other => panic!("{other:?}"),
        }
    }
}

/// Another ground station on the same line, one that knows nothing of us: reads parameters all the time, and a file by FTP.
struct Chatter {
    signing: Signing,
    framer: Framer,
    sequence: u8,
    params: u32,
    file_bytes: u64,
}

impl Chatter {
    const OWN: Source = Source { system: 254, component: 190 };

    fn new() -> Self {
        let key = Key::from_passphrase("of the test's own").unwrap();
        let signing = Signing::new(key, 9, Box::<NoFloors>::default()).unwrap();
        Self { signing, framer: Framer::default(), sequence: 0, params: 0, file_bytes: 0 }
    }

    fn packet(&mut self, message: &MavMessage, ms: u64) -> Vec<u8> {
        let mut raw = mavlink_core::MAVLinkV2MessageRaw::new();
        frame::write_for_signing(&mut raw, Self::OWN, self.sequence, message);
        self.sequence = self.sequence.wrapping_add(1);
        self.signing.sign(&mut raw, now(ms));
        raw.raw_bytes().to_vec()
    }

    fn file(&mut self, opcode: u8, offset: u32, data: &[u8], ms: u64) -> Vec<u8> {
        let mut payload = [0; 251];
        (payload[3], payload[4]) = (opcode, u8::try_from(data.len()).unwrap());
        payload[8..12].copy_from_slice(&offset.to_le_bytes());
        payload[12..12 + data.len()].copy_from_slice(data);
        let (target_system, target_component) = (BOARD.system, BOARD.component);
        self.packet(
            &MavMessage::FILE_TRANSFER_PROTOCOL(FILE_TRANSFER_PROTOCOL_DATA {
                target_network: 0,
                target_system,
                target_component,
                payload,
            }),
            ms,
        )
    }

    fn says(&mut self, ms: u64) -> Vec<Vec<u8>> {
        let (target_system, target_component) = (BOARD.system, BOARD.component);
        let mut packets = Vec::new();
        if ms.is_multiple_of(500) {
            let read = PARAM_REQUEST_READ_DATA { target_system, target_component, param_id: "UHR_TOKBUD".into(), param_index: -1 };
            packets.push(self.packet(&MavMessage::PARAM_REQUEST_READ(read), ms));
        }
        if ms.is_multiple_of(5_000) {
            packets.push(self.packet(&MavMessage::PARAM_REQUEST_LIST(PARAM_REQUEST_LIST_DATA { target_system, target_component }), ms));
        }
        if ms == 10_000 {
            packets.push(self.file(4, 0, b"/picture", ms));
        } else if ms.is_multiple_of(3_000) {
            // BurstReadFile from the beginning.
            packets.push(self.file(15, 0, &[], ms));
        }
        packets
    }

    fn hears(&mut self, bytes: &[u8], ms: u64) {
        self.framer.push(bytes, now(ms).at);
        while let Some(raw) = self.framer.next(now(ms).at) {
            let Raw::V2(_) = raw else { continue };
            match raw.message() {
                Some(MavMessage::PARAM_VALUE(_)) => self.params += 1,
                Some(MavMessage::FILE_TRANSFER_PROTOCOL(packet)) if packet.payload[5] == 15 => {
                    self.file_bytes += u64::from(packet.payload[4])
                }
                _ => {}
            }
        }
    }
}

/// A radio of 1 kB/s with 2 s of round trip, an answer that comes word by word, and beside it a picture that is always on its way, a file by FTP, and a ground station
/// that reads parameters all the time: when are the first words of an answer over there, and does the line ever carry more than its share?
#[test]
fn first_words_arrive_within_three_seconds_and_the_share_is_kept_on_a_busy_line() {
    const RATE: u32 = 1_000;
    let rules = Rules { loss: 0, double: 0, reorder: 0, delay_ms: 1_000, jitter_ms: 0, rate: u64::from(RATE) };
    let (mut up, mut down) = (Channel::new(&rules, 1), Channel::new(&rules, 2));
    let settings = NodeSettings { system: BOARD.system, wired: false, ftp_data: RADIO_DATA };
    let mut node = Node::new(station(BOARD, RATE, Box::<NoFloors>::default()), settings, Params::default());
    let mut host = Speaker::default();
    let mut chatter = Chatter::new();
    let ground = station(GROUND, RATE, Box::<NoFloors>::default());
    let mut ground = Ground::new(ground, Some(BOARD), Session(1), Number(0), Duration::from_secs(600));
    let (mut waits, mut pictures, mut ms) = (Vec::new(), 0, 10_000_u64);
    let fetch =
        |ground: &mut Ground, ms| ground.ask(&Query::Fetch(What { path: "/picture", from: 0, most: u16::MAX }), now(ms).at).unwrap();
    let mut picture = fetch(&mut ground, ms);
    for question in 0..20_u64 {
        let frames = heapless::Vec::new();
        let query = Query::Ask(Asked { text: "why?", frames, budget: None, deadline_ms: None, max_new: None, seed: None });
        let number = ground.ask(&query, now(ms).at).unwrap();
        let began = ms;
        let mut taken: Option<(Asker, u64)> = None;
        // When the first word was made, and when it was over there.
        let (mut made, mut seen, mut done) = (None, None, false);
        while !done {
            assert!(ms - began < 120_000, "question {question} has no answer after two minutes");
            while let Some(bytes) = up.arrives(ms) {
                node.receive(&bytes, now(ms), &mut host);
            }
            for asker in host.fetches.drain(..) {
                let sent = node.served.reply(asker, Kind::Blob, |room| {
                    room[..FILE_BYTES].fill(7);
                    Some(FILE_BYTES)
                });
                assert!(sent);
            }
            if let Some(asker) = host.asked.take() {
                node.served.accept(&mut node.station, asker, Accept { id: question, ahead: 0 }, now(ms).at);
                // The first word is there some two seconds later, then one every 100 ms, 60 of them.
                taken = Some((asker, ms + 2_000 + question * 37));
            }
            if let Some((asker, words_at)) = taken {
                let words = if ms < words_at { 0 } else { ((ms - words_at) / 100 + 1).min(60) as usize };
                let text = "word ".repeat(words);
                if words > 0 && made.is_none() {
                    made = Some(ms);
                }
                if words == 0 {
                    node.served.progress(&mut node.station, asker, "prefill", 500, "", now(ms).at);
                } else if words < 60 {
                    node.served.progress(&mut node.station, asker, "generate", 500, &text, now(ms).at);
                } else {
                    let sent = node.served.reply(asker, Kind::Answer, |room| {
                        room[..text.len()].copy_from_slice(text.as_bytes());
                        Some(text.len())
                    });
                    assert!(sent);
                    taken = None;
                }
            }
            let before = pictures;
            let mut told = |told: Told<'_>| match told {
                Told::Progress(_, progress) if !progress.words.is_empty() => seen = seen.or(Some(ms)),
                Told::Reply(of, ..) if of == number => done = true,
                Told::Reply(of, Kind::Blob, bytes) if of == picture => {
                    assert_eq!(bytes.len(), FILE_BYTES);
                    pictures += 1;
                }
                Told::Rejected(..) | Told::GivenUp(_) => panic!("{told:?}"),
                _ => {}
            };
            while let Some(bytes) = down.arrives(ms) {
                ground.receive(&bytes, now(ms), &mut told);
                chatter.hears(&bytes, ms);
            }
            ground.tick(now(ms), &mut told);
            if pictures > before {
                picture = fetch(&mut ground, ms);
            }
            node.tick(now(ms));
            while let Some(packet) = node.transmit(now(ms)) {
                down.send(packet, ms);
            }
            for packet in chatter.says(ms) {
                up.send(&packet, ms);
            }
            while let Some(bytes) = ground.transmit(now(ms)) {
                let bytes = bytes.to_vec();
                up.send(&bytes, ms);
            }
            ms += 5;
        }
        let (made, seen) = (made.unwrap(), seen.expect("no words came before the answer"));
        waits.push(seen - made);
    }
    let worst = waits.iter().max().unwrap();
    let (one, ten) = (down.most_in(1_000), down.most_in(10_000));
    let mean = down.sent * 1_000 / (ms - 10_000);
    println!(
        "first words after {worst} ms at most, of them 1,000 on the way; most bytes in 1 s {one}, in 10 s {ten}, {mean} on average, at {RATE} bytes/s; {pictures} pictures, \
         {} parameters and {} bytes by FTP went with it in {} s",
        chatter.params,
        chatter.file_bytes,
        ms / 1_000
    );
    assert!(*worst <= 3_000, "{waits:?}");
    assert!(one <= u64::from(RATE) && ten <= 10 * u64::from(RATE), "{one} bytes in 1 s, {ten} in 10 s");
    // The line was busy, and none of the others was starved.
    assert!(mean >= 600 && pictures >= 1 && chatter.params > 500, "{mean} bytes/s, {pictures} pictures, {} parameters", chatter.params);
}
