//! From prompt token ids to answer token ids nothing is allocated. The vision side is scripted, since the ONNX engine allocates by itself; the
//! decoder, the compression and the arenas are the real ones. Once more with all engines behind the made-up TensorRT library. And from a line's bytes to
//! the packets that answer them.

#[path = "common/desk.rs"]
mod desk;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mavlink_core::MAVLinkV2MessageRaw;
use uhr_edge::compress::regions::Method;
use uhr_edge::compress::{Mode, Selector};
use uhr_edge::config::{Link, LinkAddress, LinkLine, Manifest, Profile};
use uhr_edge::imaging::{FrameSource, Limits, Reading};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{
    COMMAND_LONG_DATA, FILE_TRANSFER_PROTOCOL_DATA, HEARTBEAT_DATA, MavMessage, PARAM_EXT_SET_DATA, PARAM_REQUEST_LIST_DATA,
    PARAM_REQUEST_READ_DATA, PARAM_SET_DATA, RADIO_STATUS_DATA, STATUSTEXT_DATA,
};
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::key::Key;
use uhr_edge::link::node::{Event, Host, Node, NodeSettings};
use uhr_edge::link::served::Asker;
use uhr_edge::link::sign::{Floors, Signing};
use uhr_edge::link::standard::ftp::{EachEntry, Found, Tree};
use uhr_edge::link::standard::param::Params;
use uhr_edge::link::station::{Station, tunnel};
use uhr_edge::link::wire::{self, Accept, Asked, Header, Kind, Nack, Number, Query, Session};
use uhr_edge::link::{self, LinkSettings};
use uhr_edge::pipeline::{Engines, Pipeline, Request};
use uhr_edge::planner;
use uhr_edge::units::{Bytes, BytesPerSecond, Tokens, UnixMillis};

static COUNTING: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Counts allocations of every thread while it is told to.
struct Counter;

// SAFETY: hands everything to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::SeqCst) {
            SEEN.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counter = Counter;

fn counted(work: impl FnOnce()) -> usize {
    SEEN.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    SEEN.load(Ordering::SeqCst)
}

/// `engines`: what replaces those of the host's profile, and what the receipt calls the encoder and, among the rest, the decoder.
fn answers_allocate_nothing([vision, language]: [&str; 2], [encoder, decoder]: [&str; 2]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mixed.toml");
    let host = std::fs::read_to_string(root.join("firmware-config/host.toml")).unwrap();
    std::fs::write(&file, host.replace("vision = \"onnx\"", vision).replace("language = \"gguf\"", language)).unwrap();
    let profile = Profile::load(file.to_str().unwrap()).unwrap();
    let manifest = Manifest::load(&root.join("models/uhr-nano")).unwrap();
    let engines = Engines::load(&profile, &manifest, &Method::Kmeans).unwrap();
    assert_eq!((engines.encoder.id(), engines.decoder.id().contains(decoder)), (encoder, true));
    let budget = planner::budget(Some("700"), &profile, &manifest).unwrap();
    let limits = Limits::of(&profile);
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, Bytes(0)).unwrap();
    let source = FrameSource::open(&root.join("samples/real.jpg"), &limits).unwrap();
    let request =
        |mode| Request { budget: budget.clone(), selector: Selector::UhrBat, mode, encode_tiles: None, max_new: Tokens(4), deadline: None };
    let sources = [source];
    let first = pipeline.prompt("is there a red ship?").unwrap();
    let mut plan = pipeline.plan_first(&sources, &first, &request(Mode::Paper)).unwrap();
    let [source] = sources;
    let (frame, _) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ()).unwrap();
    let mut answers = [[0; 4]; 4];
    let texts = ["is there a red ship?", "how many blue tents are there?"];
    let cases = [Mode::Paper, Mode::Coverage].into_iter().flat_map(|mode| texts.map(|text| (mode, text)));
    for ((mode, text), answer) in cases.zip(&mut answers) {
        let prompt = pipeline.prompt(text).unwrap();
        let mut plan = pipeline.plan_again(&[&frame], &prompt, &request(mode)).unwrap();
        let mut made = 0;
        let seen = counted(|| made = pipeline.answer_tokens(&[&frame], &prompt, &mut plan, answer).map_or(0, |(count, _)| count));
        assert!(made > 0);
        assert_eq!(seen, 0, "allocations between prompt ids and answer ids, {mode:?}");
    }
}

/// What happened on a line, counted, and who asked.
struct Line {
    asked: heapless::Vec<Asker, 8>,
    events: u64,
    file: Arc<[u8]>,
}

impl Tree for Line {
    fn open(&mut self, _: &str) -> Found {
        Found::File(Arc::clone(&self.file))
    }
    fn list(&mut self, _: &str, each: &mut EachEntry<'_>) -> bool {
        each("answer.json", Some(7));
        true
    }
}

impl Host for Line {
    fn event(&mut self, event: Event<'_>, _: Now) {
        self.events += 1;
        if let Event::Query(asker, _) = event {
            let _ = self.asked.push(asker);
        }
    }
}

/// A memory on a disk that takes none of the heap.
struct Disk;

impl Floors for Disk {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
    fn store(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };

fn moment(ms: u64) -> Now {
    Now::new(At(Duration::from_millis(ms)), UnixMillis(1_800_000_000_000 + ms.cast_signed()))
}

/// What a ground station sends in a round: fragments of a question and what belongs to it, a command, parameters, words by both ways, a file, and the
/// autopilot's own.
fn round(number: u32) -> Vec<MavMessage> {
    let (target_system, target_component) = (1, 191);
    let text = format!("is there anything of interest in frame {number}? {}", "look again ".repeat(20));
    let mut room = [0; 1_024];
    let asked = Asked { text: &text, frames: heapless::Vec::new(), budget: Some("600"), deadline_ms: None, max_new: None, seed: None };
    let len = wire::record(&Query::Ask(asked), &mut room).unwrap().len();
    let len = wire::seal(&mut room, len).unwrap();
    let count = u16::try_from(len.div_ceil(wire::DATA)).unwrap();
    let head = |kind, index, count| Header { kind, session: Session(3), number: Number(number), index, count };
    let mut messages: Vec<MavMessage> =
        (0..).zip(room[..len].chunks(wire::DATA)).map(|(index, data)| tunnel(BOARD, head(Kind::Query, index, count), data)).collect();
    let mut data = [0; wire::DATA];
    let nack = wire::record(&Nack { first: 0, missing: &[3] }, &mut data).unwrap();
    messages.extend([tunnel(BOARD, head(Kind::Nack, 0, 1), nack), tunnel(BOARD, head(Kind::DoneAck, 0, 1), &[])]);
    messages.push(MavMessage::COMMAND_LONG(COMMAND_LONG_DATA {
        command: 31_010,
        param1: 1.0,
        param2: number as f32 + 1.0,
        target_system,
        target_component,
        ..COMMAND_LONG_DATA::DEFAULT
    }));
    let param_id = "UHR_TOKBUD".into();
    messages.push(MavMessage::PARAM_SET(PARAM_SET_DATA {
        target_system,
        target_component,
        param_id,
        param_value: (600 + number % 2) as f32,
        param_type: 9,
    }));
    messages.push(MavMessage::PARAM_REQUEST_READ(PARAM_REQUEST_READ_DATA { target_system, target_component, param_id, param_index: -1 }));
    messages.push(MavMessage::PARAM_REQUEST_LIST(PARAM_REQUEST_LIST_DATA { target_system, target_component }));
    for part in [format!("is there a runway in {number}, \\"), format!("or a road in {number}?")] {
        messages.push(MavMessage::PARAM_EXT_SET(PARAM_EXT_SET_DATA {
            target_system,
            target_component,
            param_id: "UHR_ASK".into(),
            param_value: part.as_str().into(),
            param_type: 11,
        }));
    }
    let words = format!("uhr: how many ships are there in frame {number}, and how many of them are moored?");
    for (chunk_seq, chunk) in (0..).zip(words.as_bytes().chunks(50)) {
        let text = std::str::from_utf8(chunk).unwrap().into();
        messages.push(MavMessage::STATUSTEXT(STATUSTEXT_DATA { severity: 6, text, id: number as u16 + 1, chunk_seq }));
    }
    for (opcode, size, data) in [(4, 2, &b"/a"[..]), (3, 1, b"/"), (5, 200, b""), (15, 200, b""), (14, 2, b"/a")] {
        let mut payload = [0; 251];
        (payload[3], payload[4]) = (opcode, size);
        payload[12..12 + data.len()].copy_from_slice(data);
        messages.push(MavMessage::FILE_TRANSFER_PROTOCOL(FILE_TRANSFER_PROTOCOL_DATA {
            target_network: 0,
            target_system,
            target_component,
            payload,
        }));
    }
    messages.push(MavMessage::HEARTBEAT(HEARTBEAT_DATA { mavtype: 6, autopilot: 8, ..HEARTBEAT_DATA::DEFAULT }));
    messages.push(MavMessage::RADIO_STATUS(RADIO_STATUS_DATA { txbuf: 90, ..RADIO_STATUS_DATA::DEFAULT }));
    messages
}

/// Bytes in → frames → signatures → sessions, commands, parameters, words and files → pace → signatures → bytes out.
fn packets_allocate_nothing() {
    let key = || Key::from_passphrase("of the test's own").unwrap();
    let mut ground = Signing::new(key(), 7, Box::new(Disk)).unwrap();
    let station = Station::new(BOARD, BytesPerSecond(100_000), Some(Signing::new(key(), 0, Box::new(Disk)).unwrap()));
    let mut node = Node::new(station, NodeSettings { system: 1, wired: false, ftp_data: 212 }, Params::default());
    let mut host = Line { asked: heapless::Vec::new(), events: 0, file: vec![7; 3_000].into() };
    let mut raw = MAVLinkV2MessageRaw::new();
    let mut packets = Vec::new();
    for number in 0..60_u32 {
        for (at, message) in (0..).zip(round(number)) {
            let ms = u64::from(number) * 1_000 + at * 30;
            frame::write_for_signing(&mut raw, GROUND, 0, &message);
            ground.sign(&mut raw, moment(ms));
            packets.push((ms, raw.raw_bytes().to_vec(), matches!(message, MavMessage::TUNNEL(_))));
        }
    }
    let mut out = [0_u32; 512];
    let mut play = |packets: &[(u64, Vec<u8>, bool)]| {
        for (ms, bytes, _) in packets {
            for step in 0..3 {
                let now = moment(ms + step * 10);
                if step == 0 {
                    node.receive(bytes, now, &mut host);
                }
                while let Some(asker) = host.asked.pop() {
                    node.served.accept(&mut node.station, asker, Accept { id: 1, ahead: 0 }, now.at);
                    node.served.progress(&mut node.station, asker, "generate", 500, "the first words", now.at);
                    node.served.reply(asker, Kind::Answer, |room| {
                        room[..600].fill(b'a');
                        Some(600)
                    });
                    node.voice.say(6, format_args!("uhr 12: {}", "there are four ships, of which three are moored"));
                }
                node.tick(now);
                while let Some(bytes) = node.transmit(now) {
                    let id = u32::from_le_bytes([bytes[7], bytes[8], bytes[9], 0]);
                    out[usize::try_from(id).unwrap().min(511)] += 1;
                }
            }
        }
        (node.station.counts(), node.served.counts, host.events)
    };
    let rest = packets.split_off(packets.len() / 6);
    play(&packets);
    let mut counts = None;
    let seen = counted(|| counts = Some(play(&rest)));
    let (counts, served, events) = counts.unwrap();
    assert_eq!(seen, 0, "allocations of {} packets in and {} out", rest.len(), counts.sent);
    // All of it went the whole way.
    assert_eq!(
        (counts.replayed + counts.malformed + counts.unsigned + counts.wrong_signature, served.queries),
        (0, 60),
        "{counts:?} {served:?}"
    );
    assert!(events >= 60 * 4, "{events}");
    for id in [0, 22, 77, 110, 253, 324, 385, 390] {
        assert!(out[id] > 5, "message {id} went out {} times", out[id]);
    }
    println!("{} packets in, {} out: no allocation", rest.len(), counts.sent);
}

/// The daemon's own thread: what packets add to what a second takes anyway.
fn a_line_of_the_daemon_allocates_nothing_a_packet() {
    let folder = tempfile::tempdir().unwrap();
    let desk = desk::desk(folder.path());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let lines = vec![LinkLine::new(LinkAddress::Udp(socket.local_addr().unwrap()))];
    let settings = LinkSettings { link: Link { lines, presets: Vec::new() }, limits: desk::limits(), reading: Reading::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let running = link::serve(&desk, &settings, &stop, &(Arc::new(|_: &str| ()) as link::Say)).unwrap();
    let mut buffer = [0; 512];
    let board = loop {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            break from;
        }
    };
    let mut raw = MAVLinkV2MessageRaw::new();
    let (target_system, target_component) = (1, 191);
    let mut packets = Vec::new();
    let read = |name: &str| PARAM_REQUEST_READ_DATA { target_system, target_component, param_id: name.into(), param_index: -1 };
    let mut payload = [0; 251];
    (payload[3], payload[4]) = (4, 13);
    payload[12..25].copy_from_slice(b"/general.json");
    let messages = [
        MavMessage::PARAM_REQUEST_READ(read("UHR_TOKBUD")),
        MavMessage::FILE_TRANSFER_PROTOCOL(FILE_TRANSFER_PROTOCOL_DATA { target_network: 0, target_system, target_component, payload }),
        MavMessage::COMMAND_LONG(COMMAND_LONG_DATA { command: 400, target_system, target_component, ..COMMAND_LONG_DATA::DEFAULT }),
        MavMessage::HEARTBEAT(HEARTBEAT_DATA { mavtype: 6, autopilot: 8, ..HEARTBEAT_DATA::DEFAULT }),
    ];
    for value in [600.0, 700.0] {
        let set = PARAM_SET_DATA { target_system, target_component, param_id: "UHR_TOKBUD".into(), param_value: value, param_type: 9 };
        for message in messages.iter().chain([&MavMessage::PARAM_SET(set)]) {
            frame::write(&mut raw, GROUND, 0, message);
            packets.push(raw.raw_bytes().to_vec());
        }
    }
    let mut replies = 0_u32;
    let mut second = |flood: bool| {
        let begun = Instant::now();
        let mut at = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            if flood {
                socket.send_to(&packets[at % packets.len()], board).unwrap();
                at += 1;
            }
            if socket.recv_from(&mut buffer).is_ok() {
                replies += 1;
            }
        }
        at
    };
    second(true);
    let idle = counted(|| _ = second(false));
    let mut sent = 0;
    let busy = counted(|| sent = second(true));
    println!("allocations of the daemon's line in 3 s: {idle} idle, {busy} with {sent} packets, {replies} came back");
    // The settings are written once a second.
    assert!(sent > 500 && replies > 500 && busy < idle + 100, "{idle} and {busy} with {sent} packets, {replies} replies");
    stop.store(true, Ordering::Relaxed);
    running.join();
}

/// One test: what counts allocations must be alone.
#[test]
fn answers_and_packets_allocate_nothing() {
    // First what takes some seconds: by the end of it the test harness's own thread waits and allocates no more.
    a_line_of_the_daemon_allocates_nothing_a_packet();
    packets_allocate_nothing();
    answers_allocate_nothing(["vision = \"scripted\"", "language = \"gguf\""], ["scripted", "gguf"]);
    let device = ["vision = \"tensorrt\"\nshim = \"fake\"", "language = \"tensorrt\""];
    answers_allocate_nothing(device, ["tensorrt fake", "tensorrt fake"]);
    // The counter counts, on this thread and on others.
    assert_eq!(counted(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1)))), 1);
    assert!(counted(|| drop(std::thread::spawn(|| drop(std::hint::black_box(vec![1]))).join())) > 1);
}
