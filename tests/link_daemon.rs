//! The daemon's lines over real sockets and a real journal, with a scripted pipeline: what a ground station sees across restarts, sessions and lines.

#[path = "common/desk.rs"]
mod desk;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use desk::Worker;
use mavlink_core::MAVLinkV2MessageRaw;
use uhr_edge::config::{Link, LinkAddress, LinkLine};
use uhr_edge::imaging::Reading;
use uhr_edge::journal::{Desk, Filter, FrameState};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{
    COMMAND_LONG_DATA, MavMessage, PARAM_EXT_SET_DATA, PARAM_REQUEST_READ_DATA, PARAM_SET_DATA, STATUSTEXT_DATA,
};
use uhr_edge::link::frame::{self, Framer, Raw, Source};
use uhr_edge::link::key::Key;
use uhr_edge::link::sign::{NoFloors, Signing};
use uhr_edge::link::standard::text_of;
use uhr_edge::link::station::{fragment_of, tunnel};
use uhr_edge::link::wire::{self, Asked, Header, Kind, Number, Query, Session};
use uhr_edge::link::{LinkSettings, Running, serve};
use uhr_edge::units::UnixMillis;

const GROUND: Source = Source { system: 255, component: 190 };

/// A ground station's end: a socket that the board sends to.
struct Ground {
    socket: UdpSocket,
    board: Option<SocketAddr>,
    framer: Framer,
    signing: Option<Signing>,
    sequence: u8,
}

impl Ground {
    fn new(key: Option<&Key>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let signing = key.map(|key| Signing::new(key.clone(), 7, Box::<NoFloors>::default()).unwrap());
        Self { socket, board: None, framer: Framer::default(), signing, sequence: 0 }
    }

    fn line(&self) -> LinkLine {
        LinkLine::new(LinkAddress::Udp(self.socket.local_addr().unwrap()))
    }

    /// The next message for which `wanted` gives something.
    fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&MavMessage) -> Option<T>) -> T {
        let (begun, mut buffer) = (Instant::now(), [0; 512]);
        while begun.elapsed() < Duration::from_secs(30) {
            while let Some(raw) = self.framer.next(At::default()) {
                if let (Raw::V2(_), Some(found)) = (&raw, raw.message().and_then(|message| wanted(&message))) {
                    return found;
                }
            }
            if let Ok((read, from)) = self.socket.recv_from(&mut buffer) {
                self.board = Some(from);
                self.framer.push(&buffer[..read], At::default());
            }
        }
        panic!("{what} never came");
    }

    fn bytes(&mut self, message: &MavMessage) -> Vec<u8> {
        let mut raw = MAVLinkV2MessageRaw::new();
        self.sequence = self.sequence.wrapping_add(1);
        match &mut self.signing {
            None => frame::write(&mut raw, GROUND, self.sequence, message),
            Some(signing) => {
                frame::write_for_signing(&mut raw, GROUND, self.sequence, message);
                signing.sign(&mut raw, Now::new(At::default(), UnixMillis::of(SystemTime::now())));
            }
        }
        raw.raw_bytes().to_vec()
    }

    fn send(&mut self, message: &MavMessage) {
        let bytes = self.bytes(message);
        self.socket.send_to(&bytes, self.board.expect("the board was not heard")).unwrap();
    }

    fn await_beat(&mut self) {
        self.board = None;
        self.wait("a heartbeat", |message| matches!(message, MavMessage::HEARTBEAT(_)).then_some(()));
    }

    /// The text that begins so, up to its first chunk's end.
    fn await_text(&mut self, begins: &str) -> String {
        self.wait(begins, |message| match message {
            MavMessage::STATUSTEXT(chunk) => Some(text_of(&chunk.text).to_owned()).filter(|text| text.starts_with(begins)),
            _ => None,
        })
    }

    fn await_ack(&mut self, result: u8) {
        self.wait("a COMMAND_ACK", |message| match message {
            MavMessage::COMMAND_ACK(ack) if ack.result == result => Some(()),
            _ => None,
        });
    }

    fn await_fragment(&mut self, kind: Kind) {
        self.wait(&format!("{kind:?}"), |message| match message {
            MavMessage::TUNNEL(tunnel) => fragment_of(tunnel)?.ok().filter(|(head, _)| head.kind == kind).map(drop),
            _ => None,
        });
    }

    fn param(&mut self, name: &str) -> f32 {
        self.send(&MavMessage::PARAM_REQUEST_READ(PARAM_REQUEST_READ_DATA {
            target_system: 1,
            target_component: 191,
            param_id: name.into(),
            param_index: -1,
        }));
        self.wait(name, |message| match message {
            MavMessage::PARAM_VALUE(value) if text_of(&value.param_id) == name => Some(value.param_value),
            _ => None,
        })
    }

    fn set(&mut self, name: &str, value: f32) {
        self.send(&MavMessage::PARAM_SET(PARAM_SET_DATA {
            target_system: 1,
            target_component: 191,
            param_id: name.into(),
            param_value: value,
            param_type: 9,
        }));
        self.wait(name, |message| match message {
            MavMessage::PARAM_VALUE(told) if text_of(&told.param_id) == name && told.param_value == value => Some(()),
            _ => None,
        });
    }
}

fn command(nonce: f32) -> MavMessage {
    MavMessage::COMMAND_LONG(COMMAND_LONG_DATA {
        command: 31_010,
        param1: 1.0,
        param2: nonce,
        target_system: 1,
        target_component: 191,
        ..COMMAND_LONG_DATA::DEFAULT
    })
}

fn query(number: u32, text: &str) -> MavMessage {
    let mut room = [0; 512];
    let asked = Asked { text, frames: heapless::Vec::new(), budget: None, deadline_ms: None, max_new: None, seed: None };
    let len = wire::record(&Query::Ask(asked), &mut room).unwrap().len();
    let len = wire::seal(&mut room, len).unwrap();
    let head = Header { kind: Kind::Query, session: Session(9), number: Number(number), index: 0, count: 1 };
    tunnel(Source { system: 1, component: 191 }, head, &room[..len])
}

/// A daemon's link in `folder`, and what it said.
struct Daemon {
    desk: Desk,
    running: Running,
    stop: Arc<AtomicBool>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn start(folder: &Path, lines: Vec<LinkLine>) -> Self {
        let desk = desk::desk(folder);
        let presets = vec!["Is the road clear?".into(), "How many ships are there?".into()];
        let settings = LinkSettings { link: Link { lines, presets }, limits: desk::limits(), reading: Reading::default() };
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let tell = Arc::clone(&said);
        let running =
            serve(&desk, &settings, &stop, &(Arc::new(move |text: &str| tell.lock().unwrap().push(text.to_owned())) as _)).unwrap();
        Self { desk, running, stop, said }
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.running.join();
        Arc::try_unwrap(self.said).map(|said| said.into_inner().unwrap()).unwrap_or_default()
    }

    /// A frame that is ready, as if it had been taken in.
    fn take_in(&self) {
        let frame = desk::capture(&self.desk, &sample());
        self.desk.journal().frame_is(frame, FrameState::Ready, None, None).unwrap();
    }

    fn questions(&self) -> usize {
        self.desk.questions(&Filter::default()).unwrap().len()
    }
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/drawn.jpg")
}

/// A daemon that has a frame, and a ground station that has heard it.
fn with_a_frame(folder: &Path) -> (Ground, Daemon) {
    let mut ground = Ground::new(None);
    let daemon = Daemon::start(folder, vec![ground.line()]);
    daemon.take_in();
    ground.await_beat();
    (ground, daemon)
}

/// Asked by command and in words, the board goes down before it has an answer: after its restart both have theirs, without being asked again.
#[test]
fn who_was_told_accepted_is_answered_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ground, daemon) = with_a_frame(folder.path());
    ground.send(&command(41.0));
    ground.await_ack(5);
    ground.send(&MavMessage::PARAM_EXT_SET(PARAM_EXT_SET_DATA {
        target_system: 1,
        target_component: 191,
        param_id: "UHR_ASK".into(),
        param_value: "is there a runway?".into(),
        param_type: 11,
    }));
    ground.await_text("uhr 2: accepted");
    daemon.end();
    let daemon = Daemon::start(folder.path(), vec![ground.line()]);
    ground.await_beat();
    let worker = Worker::start(&daemon.desk, Duration::from_millis(5));
    let mut texts = [ground.await_text("uhr "), ground.await_text("uhr 2: ")];
    while texts[1].contains('%') || texts[1].contains("queued") {
        texts[1] = ground.await_text("uhr 2: ");
    }
    assert_eq!(texts, ["uhr 1: clear? road the Is", "uhr 2: runway? a there is"]);
    drop(worker);
    assert_eq!(daemon.questions(), 2);
    daemon.end();
    // Told once: another start has nothing to say.
    let daemon = Daemon::start(folder.path(), vec![ground.line()]);
    ground.await_beat();
    let begun = Instant::now();
    let mut buffer = [0; 512];
    while begun.elapsed() < Duration::from_millis(1_500) {
        if let Ok((read, _)) = ground.socket.recv_from(&mut buffer) {
            assert_ne!(u32::from_le_bytes([buffer[7], buffer[8], buffer[9], 0]), 253, "a text of {read} bytes");
        }
    }
    daemon.end();
}

#[test]
fn a_command_of_before_a_restart_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ground, daemon) = with_a_frame(folder.path());
    ground.send(&command(41.0));
    ground.await_ack(5);
    daemon.end();
    let daemon = Daemon::start(folder.path(), vec![ground.line()]);
    ground.await_beat();
    let worker = Worker::start(&daemon.desk, Duration::from_millis(400));
    ground.await_ack(5);
    ground.await_ack(0);
    drop(worker);
    daemon.end();
}

/// A question that is given up and asked again while it is worked on is taken up again: it was accepted, and says so.
#[test]
fn a_query_that_was_cancelled_is_accepted_again_while_it_is_worked_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ground, daemon) = with_a_frame(folder.path());
    ground.send(&query(1, "why?"));
    ground.await_fragment(Kind::Accept);
    let cancel = Header { kind: Kind::Cancel, session: Session(9), number: Number(1), index: 0, count: 1 };
    ground.send(&tunnel(Source { system: 1, component: 191 }, cancel, &[]));
    ground.await_fragment(Kind::DoneAck);
    // Copies that were under way twice are over by then.
    std::thread::sleep(Duration::from_millis(5_200));
    ground.send(&query(1, "why?"));
    ground.await_fragment(Kind::Accept);
    let worker = Worker::start(&daemon.desk, Duration::from_millis(5));
    ground.await_fragment(Kind::Answer);
    drop(worker);
    assert_eq!(daemon.questions(), 1);
    daemon.end();
}

#[test]
fn nothing_is_sent_to_a_device_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("ttyNone");
    let line = LinkLine::new(LinkAddress::Serial { device, baud: 57_600 });
    let daemon = Daemon::start(folder.path(), vec![LinkLine { insecure: true, ..line }]);
    std::thread::sleep(Duration::from_millis(2_500));
    let said = daemon.end();
    assert!(said.iter().any(|text| text.contains("ended") && text.ends_with("0 bytes sent")), "{said:?}");
}

#[test]
fn two_lines_have_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let mut grounds = [Ground::new(None), Ground::new(None)];
    let daemon = Daemon::start(folder.path(), grounds.iter().map(Ground::line).collect());
    for (ground, (name, value)) in grounds.iter_mut().zip([("UHR_TOKBUD", 600.0), ("UHR_MAXNEW", 32.0)]) {
        ground.await_beat();
        ground.set(name, value);
    }
    std::thread::sleep(Duration::from_millis(200));
    for ground in &mut grounds {
        assert_eq!((ground.param("UHR_TOKBUD"), ground.param("UHR_MAXNEW")), (600.0, 32.0));
    }
    daemon.end();
    let mut ground = Ground::new(None);
    let daemon = Daemon::start(folder.path(), vec![ground.line()]);
    ground.await_beat();
    assert_eq!((ground.param("UHR_TOKBUD"), ground.param("UHR_MAXNEW")), (600.0, 32.0));
    daemon.end();
}

/// What was recorded on one line, sent on another that shares the key: before and after a restart, and under another address.
#[test]
fn a_recording_of_one_line_is_refused_on_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::random().unwrap();
    let path = folder.path().join("link.key");
    key.save(&path).unwrap();
    let mut grounds = [Ground::new(Some(&key)), Ground::new(Some(&key))];
    let lines = |grounds: &[Ground]| grounds.iter().map(|ground| LinkLine { key: Some(path.clone()), ..ground.line() }).collect();
    let daemon = Daemon::start(folder.path(), lines(&grounds));
    daemon.take_in();
    for ground in &mut grounds {
        ground.await_beat();
    }
    let mut recorded = Vec::new();
    for nonce in 1..=3_u8 {
        let bytes = grounds[0].bytes(&command(nonce.into()));
        grounds[0].socket.send_to(&bytes, grounds[0].board.unwrap()).unwrap();
        grounds[0].await_ack(5);
        recorded.push(bytes);
    }
    let words = STATUSTEXT_DATA { text: "uhr: why?".into(), ..STATUSTEXT_DATA::DEFAULT };
    let bytes = grounds[0].bytes(&MavMessage::STATUSTEXT(words));
    // Never sent on its own line: but heard there is what came after it.
    recorded.push(bytes);
    grounds[0].send(&command(4.0));
    grounds[0].await_ack(5);
    assert_eq!(daemon.questions(), 4);
    let replay = |grounds: &[Ground], daemon: &Daemon| {
        for ground in grounds {
            for bytes in &recorded {
                ground.socket.send_to(bytes, ground.board.unwrap()).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(daemon.questions(), 4);
    };
    replay(&grounds, &daemon);
    daemon.end();
    let mut others = [Ground::new(Some(&key)), Ground::new(Some(&key))];
    let daemon = Daemon::start(folder.path(), lines(&others));
    for ground in &mut others {
        ground.await_beat();
    }
    replay(&others, &daemon);
    daemon.end();
}
