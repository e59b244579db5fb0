//! The daemon's own side of a link, all of it: lines, desk and journal as they run, over UDP on this machine; only the pipeline is scripted. What starts anew finds what
//! the journal has.

#[path = "common/desk.rs"]
mod desk;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use mavlink_core::MAVLinkV2MessageRaw;
use uhr_edge::config::{Link, LinkAddress, LinkLine};
use uhr_edge::imaging::Reading;
use uhr_edge::journal::{Desk, Filter, Outcome, QuestionEntry, QuestionState};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{
    COMMAND_LONG_DATA, FILE_TRANSFER_PROTOCOL_DATA, MavMessage, PARAM_EXT_SET_DATA, PARAM_REQUEST_READ_DATA, PARAM_SET_DATA,
    STATUSTEXT_DATA,
};
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::ground::{Ground, Told};
use uhr_edge::link::key::Key;
use uhr_edge::link::picture::{self, PictureKind, detail_bytes};
use uhr_edge::link::sign::{NoFloors, Signing};
use uhr_edge::link::station::{Station, tunnel};
use uhr_edge::link::wire::{self, Asked, Header, Kind, Number, Piece, Query, Reply, Session, What};
use uhr_edge::link::{LinkSettings, Running, Say};
use uhr_edge::units::{BytesPerSecond, UnixMillis};

const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };
const PASSPHRASE: &str = "of the test's own";

fn key() -> Key {
    Key::from_passphrase(PASSPHRASE).unwrap()
}

/// A folder with a key, a journal and a frame, and the port of the ground station.
struct Place {
    folder: tempfile::TempDir,
    socket: UdpSocket,
    begun: Instant,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        key().save(&folder.path().join("link.key")).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self { folder, socket, begun: Instant::now() }
    }

    fn now(&self) -> Now {
        Now::new(At(self.begun.elapsed()), UnixMillis::of(SystemTime::now()))
    }

    fn key_file(&self) -> PathBuf {
        self.folder.path().join("link.key")
    }

    fn start(&self, pace: Duration) -> Daemon {
        let desk = desk::desk(self.folder.path());
        desk::capture(&desk, &Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/drawn.jpg"));
        let line = LinkLine { key: Some(self.key_file()), ..LinkLine::new(LinkAddress::Udp(self.socket.local_addr().unwrap())) };
        let link = Link { lines: vec![line], presets: vec!["how many ships are there".into()] };
        let settings = LinkSettings { link, limits: desk::limits(), reading: Reading::default() };
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let own = Arc::clone(&log);
        let say: Say = Arc::new(move |line: &str| own.lock().unwrap().push(line.to_owned()));
        let running = uhr_edge::link::serve(&desk, &settings, &stop, &say).unwrap();
        Daemon { worker: Some(desk::Worker::start(&desk, pace)), desk, running: Some(running), stop, log }
    }

    /// What came, and from where.
    fn hear(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 2_048];
        self.socket.recv_from(&mut buffer).ok().map(|(len, from)| (buffer[..len].to_vec(), from))
    }
}

struct Daemon {
    desk: Desk,
    worker: Option<desk::Worker>,
    running: Option<Running>,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Ends it, and gives what it said.
    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.running.take().unwrap().join();
        drop(self.worker.take());
        self.log.lock().unwrap().clone()
    }

    fn questions(&self) -> Vec<QuestionEntry> {
        let mut entries = self.desk.questions(&Filter { limit: 1_000, ..Filter::default() }).unwrap();
        entries.reverse();
        entries
    }

    fn budget(&self) -> Option<f64> {
        let kept = self.desk.journal().link_memory("params").unwrap()?;
        let all: Vec<(String, f64)> = serde_json::from_slice(&kept).unwrap();
        all.into_iter().find(|(name, _)| name == "UHR_TOKBUD").map(|(_, value)| value)
    }
}

/// Within a time that no machine is too busy for.
fn soon<T>(what: &str, mut happens: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = happens() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}: not in two minutes");
    }
}

/// A ground station that knows nothing of us; what it sends is recorded.
struct Radio<'a> {
    place: &'a Place,
    signing: Signing,
    board: SocketAddr,
    sequence: u8,
    recorded: Vec<Vec<u8>>,
}

impl<'a> Radio<'a> {
    fn new(place: &'a Place) -> Self {
        let (_, board) = soon("a packet of the board", || place.hear());
        let signing = Signing::new(key(), 4, Box::<NoFloors>::default()).unwrap();
        Self { place, signing, board, sequence: 0, recorded: Vec::new() }
    }

    fn send(&mut self, message: &MavMessage) {
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write_for_signing(&mut raw, GROUND, self.sequence, message);
        self.sequence = self.sequence.wrapping_add(1);
        self.signing.sign(&mut raw, self.place.now());
        self.place.socket.send_to(raw.raw_bytes(), self.board).unwrap();
        self.recorded.push(raw.raw_bytes().to_vec());
    }

    /// The next message of the board's, if one came by now.
    fn hear(&mut self) -> Option<MavMessage> {
        let (bytes, from) = self.place.hear()?;
        self.board = from;
        let mut framer = frame::Framer::default();
        framer.push(&bytes, At::default());
        framer.next(At::default())?.message()
    }

    fn set_budget(&mut self, value: f32) {
        let (target_system, target_component) = (BOARD.system, BOARD.component);
        let param_id = "UHR_TOKBUD".into();
        self.send(&MavMessage::PARAM_SET(PARAM_SET_DATA { param_value: value, target_system, target_component, param_id, param_type: 9 }));
    }

    /// Whether the board answers what is sent now.
    fn is_heard(&mut self) {
        let (target_system, target_component) = (BOARD.system, BOARD.component);
        let mut asked = Instant::now();
        soon("an answer to a new packet", || {
            if asked.elapsed() > Duration::from_millis(300) {
                asked = Instant::now();
                let param_id = "UHR_TOKBUD".into();
                let read = PARAM_REQUEST_READ_DATA { param_index: -1, target_system, target_component, param_id };
                self.send(&MavMessage::PARAM_REQUEST_READ(read));
            }
            matches!(self.hear(), Some(MavMessage::PARAM_VALUE(_))).then_some(())
        });
    }
}

/// The figure after `name: ` in what a link says at its end.
fn count(said: &[String], name: &str) -> u64 {
    let line = said.iter().find(|line| line.contains(": ended: ")).expect("a link's end");
    let rest = line.split_once(&format!("{name}: ")).unwrap().1;
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A session in which everything is asked for in every way, recorded; then played back to the same daemon, and to one that starts on the same journal.
#[test]
fn a_recorded_session_changes_nothing_before_and_after_a_restart() {
    let place = Place::new();
    let daemon = place.start(Duration::from_millis(300));
    let mut radio = Radio::new(&place);
    let (target_system, target_component) = (BOARD.system, BOARD.component);
    radio.set_budget(600.0);
    let preset =
        COMMAND_LONG_DATA { command: 31_010, param1: 1.0, param2: 5.0, target_system, target_component, ..COMMAND_LONG_DATA::DEFAULT };
    radio.send(&MavMessage::COMMAND_LONG(preset));
    // What is told of it on the way: taken, so far, done.
    let mut acks = Vec::new();
    soon("the command's end", || {
        match radio.hear() {
            Some(MavMessage::COMMAND_ACK(ack)) if ack.command == 31_010 => acks.push((ack.result, ack.progress)),
            _ => {}
        }
        acks.last().is_some_and(|(result, _)| *result == 0).then_some(())
    });
    assert_eq!((acks[0], acks[acks.len() - 1]), ((5, 0), (0, 100)), "{acks:?}");
    assert!(acks[1..acks.len() - 1].iter().any(|(result, percent)| *result == 5 && (1..100).contains(percent)), "{acks:?}");
    let ask = PARAM_EXT_SET_DATA {
        target_system,
        target_component,
        param_id: "UHR_ASK".into(),
        param_value: "is there a runway".into(),
        param_type: 11,
    };
    radio.send(&MavMessage::PARAM_EXT_SET(ask));
    radio.send(&MavMessage::STATUSTEXT(STATUSTEXT_DATA { severity: 6, text: "uhr: is there a road".into(), ..STATUSTEXT_DATA::DEFAULT }));
    let mut data = [0; 112];
    let frames = heapless::Vec::new();
    let asked = Asked { text: "is there a ship", frames, budget: None, deadline_ms: None, max_new: None, seed: None };
    let len = wire::record(&Query::Ask(asked), &mut data).unwrap().len();
    let len = wire::seal(&mut data, len).unwrap();
    let header = Header { kind: Kind::Query, session: Session(7), number: Number(1), index: 0, count: 1 };
    radio.send(&tunnel(BOARD, header, &data[..len]));
    let is_answered = |entry: &QuestionEntry| entry.state == QuestionState::Answered;
    soon("four answers", || {
        radio.hear();
        let entries = daemon.questions();
        (entries.len() == 4 && entries.iter().all(is_answered)).then_some(())
    });
    let recorded = std::mem::take(&mut radio.recorded);
    assert_eq!((recorded.len(), daemon.budget()), (5, Some(600.0)));
    // What the recording would undo.
    radio.set_budget(700.0);
    soon("the setting", || {
        radio.hear();
        (daemon.budget() == Some(700.0)).then_some(())
    });

    let play = |radio: &mut Radio<'_>, daemon: &Daemon| {
        for bytes in &recorded {
            place.socket.send_to(bytes, radio.board).unwrap();
        }
        // What comes later is taken, so that these were looked at.
        radio.is_heard();
        assert_eq!((daemon.questions().len(), daemon.budget()), (4, Some(700.0)));
    };
    play(&mut radio, &daemon);
    let said = daemon.end();
    assert!(count(&said, "replayed") >= 5, "{said:?}");

    let daemon = place.start(Duration::from_millis(5));
    while place.hear().is_some() {}
    (_, radio.board) = soon("a packet of the new board", || place.hear());
    play(&mut radio, &daemon);
    let said = daemon.end();
    assert!(count(&said, "replayed") >= 5, "{said:?}");
    assert!(said.iter().all(|line| !line.contains(PASSPHRASE)));
}

/// Our own client, over one daemon after the other on the same journal.
struct Asks<'a> {
    place: &'a Place,
    ground: Ground,
    board: Option<SocketAddr>,
}

impl<'a> Asks<'a> {
    fn new(place: &'a Place) -> Self {
        let signing = Signing::new(key(), 255, Box::<NoFloors>::default()).unwrap();
        let station = Station::new(GROUND, BytesPerSecond(100_000), Some(signing));
        Self { place, ground: Ground::new(station, Some(BOARD), Session(9), Number(100), Duration::from_secs(600)), board: None }
    }

    /// Every packet is sent twice.
    fn step(&mut self, told: &mut dyn FnMut(Told<'_>)) {
        if let Some((bytes, from)) = self.place.hear() {
            self.board = Some(from);
            self.ground.receive(&bytes, self.place.now(), told);
        }
        self.ground.tick(self.place.now(), told);
        while let (Some(board), Some(packet)) = (self.board, self.ground.transmit(self.place.now())) {
            for _ in 0..2 {
                let _ = self.place.socket.send_to(packet, board);
            }
        }
    }

    fn reply(&mut self, number: Number) -> Vec<u8> {
        let mut reply = None;
        soon("a reply", || {
            self.step(&mut |told| match told {
                Told::Reply(of, _, bytes) if of == number => reply = Some(bytes.to_vec()),
                Told::Rejected(..) | Told::GivenUp(_) => panic!("{told:?}"),
                _ => {}
            });
            reply.take()
        })
    }

    fn ask(&mut self, number: u32, text: &str) {
        let asked = Asked { text, frames: heapless::Vec::new(), budget: None, deadline_ms: None, max_new: None, seed: None };
        self.ground.ask_as(Number(number), &Query::Ask(asked), self.place.now().at).unwrap();
    }

    fn until_accepted(&mut self) {
        let mut accepted = None;
        soon("an acceptance", || {
            self.step(&mut |told| match told {
                Told::Accepted(..) => accepted = Some(()),
                other => assert!(!matches!(other, Told::Reply(..)), "answered before anything could happen"),
            });
            accepted
        });
    }

    fn get(&mut self, query: &Query<'_>) -> Vec<u8> {
        let number = self.ground.ask(query, self.place.now().at).unwrap();
        self.reply(number)
    }
}

#[test]
fn a_question_is_run_once_whatever_starts_anew_and_its_picture_is_the_one_that_the_board_draws() {
    let place = Place::new();
    let mut daemon = place.start(Duration::from_millis(100));
    let mut asks = Asks::new(&place);
    let texts = ["how many ships are there", "and how many cars", "is there a runway", "what is in the middle of it"];
    let mut answers = Vec::new();
    for (number, text) in (0..).zip(texts) {
        asks.ask(number, text);
        match number {
            1 => {
                asks.until_accepted();
                daemon.end();
                daemon = place.start(Duration::from_millis(100));
            }
            2 => {
                asks.until_accepted();
                asks = Asks::new(&place);
                asks.ask(number, text);
            }
            _ => {}
        }
        answers.push(asks.reply(Number(number)));
    }
    // Asked once more under the same identities, long after: the same, from the journal.
    let mut again = Asks::new(&place);
    for (number, text) in (0..).zip(texts) {
        again.ask(number, text);
        assert_eq!(again.reply(Number(number)), answers[number as usize], "{text}");
    }
    let entries = daemon.questions();
    assert_eq!(entries.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>(), texts);
    for (entry, answer) in entries.iter().zip(&answers) {
        let Some(Outcome::Answered { document }) = &entry.outcome else { panic!("{entry:?}") };
        let reply = wire::read::<Reply<'_>>("answer", answer).unwrap();
        let Reply::Answered { id, text, .. } = reply else { panic!("{reply:?}") };
        assert_eq!((id, Some(text)), (entry.id.0, document["text"].as_str()));
    }

    // The picture, drawn here from the frame and the journal's document, without the link.
    let entry = &entries[0];
    let Some(Outcome::Answered { document }) = &entry.outcome else { panic!("{entry:?}") };
    let frame = daemon.desk.frame(&entry.frames[0]).unwrap().unwrap();
    let detail = PictureKind::Evidence(detail_bytes(LinkAddress::Udp(place.socket.local_addr().unwrap()).usual_rate()));
    let drawn = picture::draw(&frame, document, detail, &desk::limits(), &Reading::default()).unwrap();
    let path = format!("/answers/{}/evidence.jpg", entry.id);
    let mut fetched = Vec::new();
    loop {
        let from = u32::try_from(fetched.len()).unwrap();
        let bytes = again.get(&Query::Fetch(What { path: &path, from, most: 5_000 }));
        let (piece, body) = wire::read_front::<Piece>("piece", &bytes).unwrap();
        assert_eq!((piece.from, piece.bytes as usize, piece.crc32), (from, drawn.len(), wire::crc32(&drawn)));
        assert!(!body.is_empty() && body.len() <= 5_000);
        fetched.extend_from_slice(body);
        if fetched.len() >= piece.bytes as usize {
            break;
        }
    }
    assert!(fetched == drawn, "the picture by our own client is another");
    assert!(by_ftp(&place, &path) == drawn, "the picture by FTP is another");
    let document = serde_json::to_vec(document).unwrap();
    assert!(by_ftp(&place, &format!("/answers/{}/answer.json", entry.id)) == document);
    daemon.end();
}

/// A file by MAVLink FTP: OpenFileRO, then ReadFile after ReadFile.
fn by_ftp(place: &Place, path: &str) -> Vec<u8> {
    let mut radio = Radio::new(place);
    // Another stream than the one of before.
    radio.signing = Signing::new(key(), path.len() as u8, Box::<NoFloors>::default()).unwrap();
    let mut sequence = 0_u16;
    let mut call = |session: u8, opcode: u8, offset: u32, size: u8, data: &[u8]| -> [u8; 251] {
        sequence = sequence.wrapping_add(2);
        let mut payload = [0; 251];
        payload[..2].copy_from_slice(&sequence.to_le_bytes());
        (payload[2], payload[3], payload[4]) = (session, opcode, size);
        payload[8..12].copy_from_slice(&offset.to_le_bytes());
        payload[12..12 + data.len()].copy_from_slice(data);
        let (target_system, target_component) = (BOARD.system, BOARD.component);
        let packet = FILE_TRANSFER_PROTOCOL_DATA { target_network: 0, target_system, target_component, payload };
        let packet = MavMessage::FILE_TRANSFER_PROTOCOL(packet);
        let mut asked: Option<Instant> = None;
        soon("a reply by FTP", || {
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_millis(500)) {
                asked = Some(Instant::now());
                radio.send(&packet);
            }
            match radio.hear() {
                Some(MavMessage::FILE_TRANSFER_PROTOCOL(reply)) if reply.payload[..2] == (sequence + 1).to_le_bytes() => {
                    Some(reply.payload)
                }
                _ => None,
            }
        })
    };
    let opened = call(0, 4, 0, u8::try_from(path.len()).unwrap(), path.as_bytes());
    assert_eq!(opened[3], 128, "{path}: {:?}", &opened[..16]);
    let len = u32::from_le_bytes([opened[12], opened[13], opened[14], opened[15]]) as usize;
    let mut file = Vec::new();
    while file.len() < len {
        let read = call(opened[2], 5, u32::try_from(file.len()).unwrap(), 239, &[]);
        assert_eq!(read[3], 128, "{path}: {:?}", &read[..16]);
        file.extend_from_slice(&read[12..12 + usize::from(read[4])]);
    }
    file
}
