//! What a hostile or broken peer can do to a link: nothing but count.

#[path = "common/channel.rs"]
mod channel;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use channel::Seeded;
use mavlink_core::{MAVLinkV2MessageRaw, Message};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{
    COMMAND_LONG_DATA, HEARTBEAT_DATA, MavMessage, RADIO_STATUS_DATA, SETUP_SIGNING_DATA, STATUSTEXT_DATA, TUNNEL_DATA,
};
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::key::Key;
use uhr_edge::link::node::{Event, Host, Node, NodeSettings};
use uhr_edge::link::served::{Asker, SLOTS, SLOTS_A_SOURCE};
use uhr_edge::link::sign::{Floors, NoFloors, Signing, Timestamps};
use uhr_edge::link::standard::ftp::{EachEntry, Found, Tree};
use uhr_edge::link::standard::param::Params;
use uhr_edge::link::station::{Station, tunnel};
use uhr_edge::link::wire::{self, Accept, Asked, Header, Kind, Nack, Number, Query, Session};
use uhr_edge::units::{BytesPerSecond, UnixMillis};

const GROUND: Source = Source { system: 255, component: 190 };
const NOON: i64 = 1_800_000_000_000;

fn now(ms: u64) -> Now {
    Now::new(At(Duration::from_millis(ms)), UnixMillis(NOON + ms as i64))
}

/// What came through, and who asked.
#[derive(Default)]
struct Seen(Vec<String>, Vec<Asker>);

impl Tree for Seen {
    fn open(&mut self, _: &str) -> Found {
        Found::Missing
    }
    fn list(&mut self, _: &str, _: &mut EachEntry<'_>) -> bool {
        false
    }
}

impl Host for Seen {
    fn event(&mut self, event: Event<'_>, _: Now) {
        if let Event::Query(asker, _) = &event {
            self.1.push(*asker);
        }
        self.0.push(format!("{event:?}"));
    }
}

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

fn key() -> Key {
    Key::from_passphrase("of the test's own").unwrap()
}

fn node(signing: Option<Signing>, wired: bool) -> Node {
    let station = Station::new(Source { system: 1, component: 0 }, BytesPerSecond(100_000), signing);
    Node::new(station, NodeSettings { system: 1, wired, ftp_data: 212 }, Params::default())
}

fn signed_node(kept: &Kept) -> Node {
    node(Some(Signing::new(key(), 0, Box::new(kept.clone())).unwrap()), false)
}

/// A ground station's packet.
fn packet(signing: Option<&mut Signing>, message: &MavMessage, sequence: u8, ms: u64) -> Vec<u8> {
    let mut raw = MAVLinkV2MessageRaw::new();
    match signing {
        None => frame::write(&mut raw, GROUND, sequence, message),
        Some(signing) => {
            frame::write_for_signing(&mut raw, GROUND, sequence, message);
            signing.sign(&mut raw, now(ms));
        }
    }
    raw.raw_bytes().to_vec()
}

const BOARD: Source = Source { system: 1, component: 191 };

fn query(session: u32, number: u32, text: &str) -> MavMessage {
    let mut room = [0; 512];
    let asked = Asked { text, frames: heapless::Vec::new(), budget: None, deadline_ms: None, max_new: None, seed: None };
    let len = wire::record(&Query::Ask(asked), &mut room).unwrap().len();
    let len = wire::seal(&mut room, len).unwrap();
    let header = Header { kind: Kind::Query, session: Session(session), number: Number(number), index: 0, count: 1 };
    tunnel(BOARD, header, &room[..len])
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

#[test]
fn a_recorded_session_is_refused_before_and_after_a_restart() {
    let kept = Kept::default();
    let mut ground = Signing::new(key(), 0, Box::<NoFloors>::default()).unwrap();
    let mut board = signed_node(&kept);
    let mut seen = Seen::default();
    let mut recorded = Vec::new();
    for at in 0..100 {
        let message = if at % 2 == 0 { query(7, at, "why?") } else { command(at as f32) };
        let bytes = packet(Some(&mut ground), &message, at as u8, u64::from(at) * 50);
        board.receive(&bytes, now(u64::from(at) * 50), &mut seen);
        recorded.push(bytes);
    }
    assert!(!seen.0.is_empty());
    let refuses = |mut board: Node| {
        let mut seen = Seen::default();
        for bytes in &recorded {
            board.receive(bytes, now(6_000), &mut seen);
        }
        assert!(seen.0.is_empty(), "{:?}", seen.0);
        assert_eq!(board.station.counts().replayed, 100);
    };
    refuses(board);
    refuses(signed_node(&kept));
}

/// Makes the checksum fit again.
fn made_to_fit(bytes: &mut [u8]) {
    let end = 10 + usize::from(bytes[1]);
    let id = u32::from_le_bytes([bytes[7], bytes[8], bytes[9], 0]);
    if bytes[0] == 0xfd && end + 2 <= bytes.len() {
        let crc = mavlink_core::calculate_crc(&bytes[1..end], MavMessage::extra_crc(id));
        bytes[end..end + 2].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn a_session_recorded_on_one_line_is_refused_on_the_other() {
    let kept = Kept::default();
    let timestamps = Timestamps::open(Box::new(kept.clone())).unwrap();
    let line = |link| node(Some(Signing::sharing(key(), link, timestamps.clone())), false);
    let (mut one, mut other) = (line(0), line(1));
    let mut ground = Signing::new(key(), 0, Box::<NoFloors>::default()).unwrap();
    let mut seen = Seen::default();
    let recorded: Vec<Vec<u8>> =
        (0..100_u32).map(|at| packet(Some(&mut ground), &command(at as f32), at as u8, u64::from(at) * 50)).collect();
    for (at, bytes) in recorded.iter().enumerate() {
        one.receive(bytes, now(at as u64 * 50), &mut seen);
    }
    assert_eq!(one.station.counts().replayed, 0);
    // At once, days later, and on a line that is new after a restart.
    let day = 86_400_000;
    let mut seen = Seen::default();
    for bytes in &recorded {
        other.receive(bytes, now(6_000), &mut seen);
        other.receive(bytes, now(day), &mut seen);
    }
    let mut third = signed_node(&kept);
    for bytes in &recorded {
        third.receive(bytes, now(7_000).doubted(), &mut seen);
    }
    assert!(seen.0.is_empty(), "{:?}", seen.0);
    assert_eq!((other.station.counts().replayed, third.station.counts().replayed), (200, 100));
}

#[test]
fn a_million_mutated_packets_are_none_accepted() {
    const MUTATED: u64 = 1_000_000;
    let kept = Kept::default();
    let mut board = signed_node(&kept);
    let mut ground = Signing::new(key(), 0, Box::<NoFloors>::default()).unwrap();
    let mut other = Signing::new(Key::from_passphrase("somebody else's").unwrap(), 0, Box::<NoFloors>::default()).unwrap();
    let mut random = Seeded(3);
    let mut seen = Seen::default();
    let messages: Vec<MavMessage> = (0..64)
        .map(|at| match at % 4 {
            0 => query(at, at, "how many ships are there?"),
            1 => command(at as f32),
            2 => MavMessage::STATUSTEXT(STATUSTEXT_DATA { text: "uhr: why?".into(), ..STATUSTEXT_DATA::DEFAULT }),
            _ => MavMessage::SETUP_SIGNING(SETUP_SIGNING_DATA {
                target_system: 1,
                target_component: 191,
                secret_key: [9; 32],
                ..SETUP_SIGNING_DATA::DEFAULT
            }),
        })
        .collect();
    let originals: Vec<Vec<u8>> = (0_u64..).zip(&messages).map(|(at, message)| packet(Some(&mut ground), message, at as u8, at)).collect();
    let mut bytes: Vec<u8> = Vec::with_capacity(frame::MAX_PACKET);
    let (mut mutated, mut round, mut kinds) = (0, 0, [0_u64; 5]);
    let mut started = 0;
    while mutated < MUTATED {
        round += 1;
        let which = (round % 64) as usize;
        let original = &originals[which];
        bytes.clear();
        bytes.extend_from_slice(original);
        let kind = random.below(5) as usize;
        match kind {
            0 => {
                // One to eight flipped bits, checksum made to fit again in half of them.
                for _ in 0..=random.below(8) {
                    let bit = random.below(bytes.len() as u64 * 8) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                if random.below(2) == 0 {
                    made_to_fit(&mut bytes);
                }
            }
            1 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            // Signed with another key.
            2 => bytes = packet(Some(&mut other), &messages[which], original[4], round / 1_000),
            // The flag and the signature taken off, checksum made to fit.
            3 => {
                bytes[2] = 0;
                bytes.truncate(original.len() - 13);
                made_to_fit(&mut bytes);
            }
            // Never signed.
            _ => bytes = packet(None, &messages[which], round as u8, 0),
        }
        // Flips that undid each other are none.
        if bytes == *original {
            continue;
        }
        mutated += 1;
        kinds[kind] += 1;
        // A gap, so that what was cut off is not completed by the next.
        board.receive(&bytes, now(round), &mut seen);
        board.receive(&[0; 300], now(round), &mut seen);
        assert!(seen.0.is_empty(), "round {round}: {:?}", seen.0);
        if mutated == 1_000 {
            started = LIVE.get();
        }
    }
    // Not a byte more is held than after the first thousand, but for what `bytes` holds itself.
    let grown = LIVE.get() - started;
    println!(
        "{mutated} mutated packets (flipped, cut, of another key, stripped, unsigned: {kinds:?}): none accepted, heap grown by {grown} bytes, {:?}",
        board.station.counts()
    );
    assert!(grown <= frame::MAX_PACKET as i64, "{grown} bytes");
    assert_eq!((board.served.open(), mutated), (0, MUTATED));
    let counts = board.station.counts();
    assert!(counts.wrong_signature >= kinds[2] && counts.unsigned >= kinds[3] + kinds[4], "{counts:?}");
    // The originals are good: the first of them is taken.
    board.receive(&originals[0], now(1), &mut seen);
    assert_eq!(seen.0.len(), 1);
}

thread_local! {
    /// Bytes of the heap that this thread took and didn't give back.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Counts, and hands everything to the system.
struct Counter;

// SAFETY: hands everything to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LIVE.try_with(|live| live.set(live.get() + layout.size() as i64));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get() - layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counter = Counter;

#[test]
fn ten_thousand_sessions_floods_and_nacks_cost_nothing() {
    let mut board = node(None, false);
    let mut seen = Seen::default();
    let mut rejected = 0;
    let mut started = 0;
    for at in 0..10_000_u32 {
        let mut raw = MAVLinkV2MessageRaw::new();
        let source = Source { system: (at % 200) as u8 + 2, component: 190 };
        frame::write(&mut raw, source, at as u8, &query(at, at, "why?"));
        board.receive(raw.raw_bytes(), now(u64::from(at)), &mut seen);
        for asker in seen.1.drain(..) {
            board.served.accept(&mut board.station, asker, Accept { id: 1, ahead: 0 }, now(u64::from(at)).at);
        }
        // NACKs and acknowledgements of what never was.
        for kind in [Kind::Nack, Kind::DoneAck, Kind::Cancel, Kind::Answer] {
            let mut data = [0; 112];
            let len = wire::record(&Nack { first: 60_000, missing: &[255; 96] }, &mut data).unwrap().len();
            let header = Header { kind, session: Session(at ^ 1), number: Number(at), index: 0, count: 1 };
            frame::write(&mut raw, source, 0, &tunnel(BOARD, header, &data[..len]));
            board.receive(raw.raw_bytes(), now(u64::from(at)), &mut seen);
        }
        // What is kept here for looking at it isn't the link's.
        seen.0.shrink_to_fit();
        if at == 100 {
            started = LIVE.get();
        }
        board.tick(now(u64::from(at)));
        while let Some(bytes) = board.transmit(now(u64::from(at))) {
            rejected += u32::from(bytes.len() > 40 && bytes[7] == 129);
        }
    }
    assert_eq!(seen.0.len(), SLOTS);
    assert_eq!(board.served.open(), SLOTS);
    assert!(rejected > 1_000 && board.served.counts.busy > 9_000, "{rejected} {:?}", board.served.counts);
    assert_eq!(LIVE.get(), started, "bytes of the heap, after 100 sessions and after 10,000");
    // One source holds a few and no more.
    let mut board = node(None, false);
    let mut seen = Seen::default();
    for at in 0..100 {
        board.receive(&packet(None, &query(9, at, "why?"), 0, 0), now(0), &mut seen);
    }
    assert_eq!(seen.0.len(), SLOTS_A_SOURCE);
}

#[test]
fn two_packets_may_come_unsigned_and_change_next_to_nothing() {
    let mut board = signed_node(&Kept::default());
    let mut seen = Seen::default();
    let mut raw = MAVLinkV2MessageRaw::new();
    let beat = MavMessage::HEARTBEAT(HEARTBEAT_DATA { autopilot: 3, mavtype: 2, ..HEARTBEAT_DATA::DEFAULT });
    for system in [7, 9] {
        frame::write(&mut raw, Source { system, component: 1 }, 0, &beat);
        board.receive(raw.raw_bytes(), now(0), &mut seen);
    }
    // Once.
    assert_eq!((seen.0.as_slice(), board.station.own.system), (&["Learnt(7)".to_owned()][..], 7));
    let mut sent = |from: u64, report: bool, board: &mut Node| {
        let mut bytes = 0;
        for ms in from..from + 10_000 {
            if report && ms % 100 == 0 {
                let status = MavMessage::RADIO_STATUS(RADIO_STATUS_DATA { txbuf: 0, ..RADIO_STATUS_DATA::DEFAULT });
                frame::write(&mut raw, Source { system: 51, component: 68 }, 0, &status);
                board.receive(raw.raw_bytes(), now(ms), &mut Seen::default());
            }
            // As many as wait: four peers have all places.
            for place in 0..48 {
                board.station.answer(Source { system: place % 4, component: 1 }, beat.clone());
            }
            while let Some(packet) = board.transmit(now(ms)) {
                bytes += packet.len();
            }
        }
        bytes
    };
    let free = sent(1_000, false, &mut board);
    let slowed = sent(20_000, true, &mut board);
    assert!(free > 900_000 && free <= 1_000_000, "{free}");
    // A sixteenth, and no less.
    assert!((free / 17..free / 14).contains(&slowed), "{slowed} of {free}");
}

#[test]
fn a_key_comes_by_a_wire_only() {
    let setup = MavMessage::SETUP_SIGNING(SETUP_SIGNING_DATA {
        target_system: 1,
        target_component: 191,
        secret_key: [9; 32],
        ..SETUP_SIGNING_DATA::DEFAULT
    });
    for (wired, wanted) in [(false, 0), (true, 1)] {
        let mut seen = Seen::default();
        let mut board = node(None, wired);
        board.receive(&packet(None, &setup, 0, 0), now(0), &mut seen);
        assert_eq!(seen.0.len(), wanted);
        // From then on nobody without it is heard.
        board.receive(&packet(None, &command(1.0), 0, 0), now(0), &mut seen);
        assert_eq!((seen.0.len(), board.station.counts().unsigned), (1, wanted as u64));
        // Never in a log.
        assert!(seen.0.iter().all(|event| event == "NewKey(Key(…))" || !wired && event.starts_with("Preset")), "{:?}", seen.0);
    }
    let zero = MavMessage::SETUP_SIGNING(SETUP_SIGNING_DATA { target_system: 1, target_component: 191, ..SETUP_SIGNING_DATA::DEFAULT });
    let mut seen = Seen::default();
    node(None, true).receive(&packet(None, &zero, 0, 0), now(0), &mut seen);
    assert!(seen.0.is_empty());
}

#[test]
fn what_is_for_others_is_left_to_them() {
    let mut board = node(None, true);
    let mut seen = Seen::default();
    let mut call = COMMAND_LONG_DATA { command: 400, target_system: 1, target_component: 1, ..COMMAND_LONG_DATA::DEFAULT };
    for (component, answers) in [(1, 0), (0, 0), (191, 1)] {
        call.target_component = component;
        board.receive(&packet(None, &MavMessage::COMMAND_LONG(call.clone()), 0, 0), now(0), &mut seen);
        assert_eq!(std::iter::from_fn(|| board.station.waiting()).count(), answers, "component {component}");
    }
    let stray = MavMessage::TUNNEL(TUNNEL_DATA { payload_type: 1, target_system: 1, target_component: 191, ..TUNNEL_DATA::DEFAULT });
    board.receive(&packet(None, &stray, 0, 0), now(0), &mut seen);
    assert!(seen.0.is_empty());
    assert_eq!(board.station.counts().bad_fragments, 0);
}
