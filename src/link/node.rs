//! The board's end of a link: bytes and a time in, packets and events out. Touches no clock, no file and no socket.
//!
//! ```text
//!  bytes ─▶ Station (frames, signatures) ─▶ by kind ─┬─ TUNNEL ─▶ Served (our own client)
//!                                                    ├─ COMMAND_LONG ─▶ Commands    ├─ PARAM_* ─▶ Params    ├─ STATUSTEXT ─▶ Words
//!                                                    ├─ FILE_TRANSFER_PROTOCOL ─▶ Ftp                       └─ position, images ─▶ host
//!  packets ◀─ pace ◀─ beats ◀ every other one: replies ─ or in turn: lists, texts, answers ◀ in turn: pictures, files
//! ```
//!
//! # Why
//! A peer that asks without end has at most every second packet, so that answers leave whoever floods the line, and our heartbeat always does.

use std::time::Duration;

use crate::link::clock::{At, Now};
use crate::link::dialect::{
    AUTOPILOT_VERSION_DATA, COMMAND_LONG_DATA, COMPONENT_INFORMATION_DATA, COMPONENT_METADATA_DATA, HEARTBEAT_DATA, MavMessage,
    ONBOARD_COMPUTER_STATUS_DATA, PROTOCOL_VERSION_DATA,
};
use crate::link::frame::Source;
use crate::link::geotag::{Pose, Shot};
use crate::link::key::Key;
use crate::link::served::{Asker, Served};
use crate::link::standard::command::{self, Called, Commands, Preset, Verdict};
use crate::link::standard::ftp::{self, Ftp, Tree};
use crate::link::standard::param::{self, ASK, Listing, Params};
use crate::link::standard::text::{Part, Voice, Words};
use crate::link::standard::{text, text_of};
use crate::link::station::{Heard, Station, tunnel};
use crate::link::wire::Query;

/// MAV_COMP_ID_ONBOARD_COMPUTER.
pub const ONBOARD_COMPUTER: u8 = 191;
const AUTOPILOT: u8 = 1;
const BEAT: Duration = Duration::from_secs(1);
const STATUS: Duration = Duration::from_secs(5);

/// What a link is, beside its transport.
#[derive(Clone, Copy, Debug)]
pub struct NodeSettings {
    /// Of the autopilot, until it is heard.
    pub system: u8,
    /// SETUP_SIGNING is obeyed: whoever could send it holds the cable.
    pub wired: bool,
    /// Most file data of a packet.
    pub ftp_data: usize,
}

/// What happened, for the one who holds the desk.
#[derive(Debug)]
pub enum Event<'a> {
    /// Our own client wants something; answer by [`Node::served`].
    Query(Asker, Query<'a>),
    /// A stored question was asked by command.
    Preset(Preset),
    /// A question in words.
    Words(Source, &'a str),
    Params(Params),
    /// The autopilot's system id, from its heartbeat: once.
    Learnt(u8),
    NewKey(Key),
    Pose(Pose),
    Shot(Shot),
}

/// Who gets the events and has the files.
pub trait Host: Tree {
    fn event(&mut self, event: Event<'_>, now: Now);
}

/// How the board is, for ONBOARD_COMPUTER_STATUS.
#[derive(Clone, Copy, Debug, Default)]
pub struct BoardStatus {
    pub uptime_ms: u32,
    pub ram_mib: u32,
    /// Degrees; 127: unknown.
    pub celsius: i8,
}

/// The board's end of one link.
pub struct Node {
    pub station: Station,
    pub served: Served,
    pub commands: Commands,
    pub voice: Voice,
    pub params: Params,
    pub board: BoardStatus,
    words: Words,
    listing: Listing,
    ftp: Ftp,
    settings: NodeSettings,
    learnt: Learnt,
    beat_at: At,
    status_at: At,
    beat_due: bool,
    status_due: bool,
    turn: Turn,
    general_crc: u32,
}

/// By whom the autopilot's system was told. What is signed stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Learnt {
    Not,
    Unsigned,
    Signed,
}

/// Who had the last packet among those that go out in turn.
#[derive(Clone, Copy, Default)]
struct Turn {
    replied: bool,
    spoke: usize,
    drew: usize,
}

impl Node {
    #[must_use]
    pub fn new(station: Station, settings: NodeSettings, params: Params) -> Self {
        let mut node = Self {
            station,
            served: Served::default(),
            commands: Commands::default(),
            voice: Voice::default(),
            params,
            board: BoardStatus { celsius: 127, ..BoardStatus::default() },
            words: Words::default(),
            listing: Listing::default(),
            ftp: Ftp::new(settings.ftp_data),
            settings,
            learnt: Learnt::Not,
            beat_at: At::default(),
            status_at: At::default(),
            beat_due: false,
            status_due: false,
            turn: Turn::default(),
            general_crc: ftp::crc32(crate::link::metadata::GENERAL.as_bytes()),
        };
        node.station.own = Source { system: settings.system, component: ONBOARD_COMPUTER };
        node
    }

    /// Takes bytes in; what they mean goes to `host`, one event after the other.
    pub fn receive(&mut self, mut bytes: &[u8], now: Now, host: &mut dyn Host) {
        loop {
            bytes = &bytes[self.station.push(bytes, now.at)..];
            while let Some(heard) = self.station.next(now) {
                self.hear(&heard, now, host);
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Whether a message is for us, by name or for all of our system or all systems.
    fn is_ours(&self, system: u8, component: u8) -> bool {
        let own = self.station.own;
        (system == own.system || system == 0) && (component == own.component || component == 0)
    }

    /// Whether a message names us.
    fn names_us(&self, system: u8, component: u8) -> bool {
        Source { system, component } == self.station.own
    }

    fn hear(&mut self, heard: &Heard, now: Now, host: &mut dyn Host) {
        let source = heard.source;
        match &heard.message {
            // MAV_AUTOPILOT_INVALID is no autopilot.
            MavMessage::HEARTBEAT(beat) if source.component == AUTOPILOT && beat.autopilot != 8 && source.system != 0 => {
                let by = if heard.signed { Learnt::Signed } else { Learnt::Unsigned };
                if by <= self.learnt {
                    return;
                }
                self.learnt = by;
                if self.station.own.system != source.system {
                    self.station.own.system = source.system;
                    host.event(Event::Learnt(source.system), now);
                }
            }
            MavMessage::TUNNEL(packet) if self.names_us(packet.target_system, packet.target_component) => {
                if let Some((head, data)) = self.station.fragment(packet) {
                    let mut query = |asker: Asker, query: Query<'_>| host.event(Event::Query(asker, query), now);
                    self.served.take(&mut self.station, source, head, data, now.at, &mut query);
                }
            }
            MavMessage::COMMAND_LONG(call) if self.is_ours(call.target_system, call.target_component) => {
                self.command(source, call, now, host);
            }
            MavMessage::PARAM_REQUEST_LIST(request) if self.is_ours(request.target_system, request.target_component) => {
                self.listing.begin();
            }
            MavMessage::PARAM_EXT_REQUEST_LIST(request) if self.is_ours(request.target_system, request.target_component) => {
                self.listing.begin_ext();
            }
            MavMessage::PARAM_REQUEST_READ(request) if self.names_us(request.target_system, request.target_component) => {
                param::read(&mut self.station, source, &self.params, text_of(&request.param_id), request.param_index, false);
            }
            MavMessage::PARAM_EXT_REQUEST_READ(request) if self.names_us(request.target_system, request.target_component) => {
                param::read(&mut self.station, source, &self.params, text_of(&request.param_id), request.param_index, true);
            }
            MavMessage::PARAM_SET(set)
                if self.names_us(set.target_system, set.target_component)
                    && param::set(&mut self.station, source, &mut self.params, set) =>
            {
                host.event(Event::Params(self.params), now);
            }
            MavMessage::PARAM_EXT_SET(set) if self.names_us(set.target_system, set.target_component) => {
                if text_of(&set.param_id) == ASK {
                    let part = self.words.write(source, text_of(&set.param_value), now.at);
                    param::ack_ask(&mut self.station, source, set, part != Part::Dropped);
                    self.asked_in_words(source, &part, now, host);
                } else if param::set_ext(&mut self.station, source, &mut self.params, set) {
                    host.event(Event::Params(self.params), now);
                }
            }
            // Another board's texts are no questions.
            MavMessage::STATUSTEXT(chunk) if source.component != ONBOARD_COMPUTER => {
                if let Some(part) = self.words.chunk(source, chunk, now.at) {
                    self.asked_in_words(source, &part, now, host);
                }
            }
            MavMessage::FILE_TRANSFER_PROTOCOL(packet) if self.names_us(packet.target_system, packet.target_component) => {
                self.ftp.request(&mut self.station, source, packet, host, now.at);
            }
            MavMessage::SETUP_SIGNING(setup) if self.settings.wired && self.names_us(setup.target_system, setup.target_component) => {
                // All zeros would turn signing off; nobody does that from outside.
                if let Ok(key) = Key::from_bytes(setup.secret_key) {
                    self.station.rekey(key.clone());
                    host.event(Event::NewKey(key), now);
                }
            }
            MavMessage::GLOBAL_POSITION_INT(place) if source.system == self.station.own.system => {
                host.event(Event::Pose(Pose::place(place, now.at)), now);
            }
            MavMessage::ATTITUDE(angles) if source.system == self.station.own.system => {
                host.event(Event::Pose(Pose::angles(angles, now.at)), now);
            }
            MavMessage::CAMERA_FEEDBACK(shot) if source.system == self.station.own.system => {
                host.event(Event::Shot(Shot::feedback(shot, now.at)), now);
            }
            MavMessage::CAMERA_IMAGE_CAPTURED(shot) if source.system == self.station.own.system => {
                host.event(Event::Shot(Shot::captured(shot, now.at)), now);
            }
            // Another component's, or none that concerns us: never answered, never passed on.
            _ => {}
        }
    }

    fn asked_in_words(&mut self, source: Source, part: &Part, now: Now, host: &mut dyn Host) {
        match part {
            Part::Whole(words) if !words.is_empty() => host.event(Event::Words(source, words), now),
            Part::Dropped => {
                self.voice
                    .note(text::WARNING, format_args!("uhr-edge: the question did not arrive whole (at most {} bytes)", text::MAX_WORDS));
            }
            _ => {}
        }
    }

    fn command(&mut self, source: Source, call: &COMMAND_LONG_DATA, now: Now, host: &mut dyn Host) {
        let ours = self.names_us(call.target_system, call.target_component);
        match call.command {
            command::USER_1 if ours => {
                // Named before it is noted, so that it ends under the name that it began with.
                let param1 = if call.param1 == 0.0 { self.params.preset() as f32 } else { call.param1 };
                match self.commands.call(&mut self.station, source, &COMMAND_LONG_DATA { param1, ..call.clone() }, now.at) {
                    Called::New(asked) => host.event(Event::Preset(asked), now),
                    Called::Again => {}
                    Called::Refused(verdict) => command::answer(&mut self.station, source, call.command, verdict),
                }
            }
            // Where all are asked, it is the autopilot who is meant.
            command::REQUEST_MESSAGE if ours => match command::whole(call.param1).and_then(|id| self.requested(id, now)) {
                Some(message) => {
                    command::answer(&mut self.station, source, call.command, Verdict::Accepted);
                    self.station.answer(source, message);
                }
                None => command::answer(&mut self.station, source, call.command, Verdict::Unsupported),
            },
            other if ours => command::answer(&mut self.station, source, other, Verdict::Unsupported),
            _ => {}
        }
    }

    /// A message that somebody asks for by its number.
    fn requested(&self, id: u32, now: Now) -> Option<MavMessage> {
        let time_boot_ms = u32::try_from(now.at.0.as_millis()).unwrap_or(u32::MAX);
        let uri = || "mftp:///general.json".into();
        match id {
            0 => Some(self.beat()),
            148 => Some(MavMessage::AUTOPILOT_VERSION(AUTOPILOT_VERSION_DATA {
                // MAV_PROTOCOL_CAPABILITY: PARAM_FLOAT, FTP, MAVLINK2.
                capabilities: 1 << 1 | 1 << 5 | 1 << 13,
                flight_sw_version: version(),
                ..AUTOPILOT_VERSION_DATA::DEFAULT
            })),
            300 => Some(MavMessage::PROTOCOL_VERSION(PROTOCOL_VERSION_DATA {
                version: 200,
                min_version: 200,
                max_version: 200,
                ..PROTOCOL_VERSION_DATA::DEFAULT
            })),
            390 => Some(self.status(now)),
            395 => Some(MavMessage::COMPONENT_INFORMATION(COMPONENT_INFORMATION_DATA {
                time_boot_ms,
                general_metadata_file_crc: self.general_crc,
                general_metadata_uri: uri(),
                ..COMPONENT_INFORMATION_DATA::DEFAULT
            })),
            397 => Some(MavMessage::COMPONENT_METADATA(COMPONENT_METADATA_DATA { time_boot_ms, file_crc: self.general_crc, uri: uri() })),
            _ => None,
        }
    }

    fn beat(&self) -> MavMessage {
        // MAV_TYPE_ONBOARD_CONTROLLER, MAV_AUTOPILOT_INVALID, MAV_STATE_ACTIVE.
        MavMessage::HEARTBEAT(HEARTBEAT_DATA { mavtype: 18, autopilot: 8, system_status: 4, mavlink_version: 3, ..HEARTBEAT_DATA::DEFAULT })
    }

    fn status(&self, now: Now) -> MavMessage {
        let wall = now.wall.map_or(0, |wall| u64::try_from(wall.0).unwrap_or(0).saturating_mul(1_000));
        MavMessage::ONBOARD_COMPUTER_STATUS(ONBOARD_COMPUTER_STATUS_DATA {
            time_usec: wall,
            uptime: self.board.uptime_ms,
            ram_usage: self.board.ram_mib,
            temperature_board: self.board.celsius,
            ..ONBOARD_COMPUTER_STATUS_DATA::DEFAULT
        })
    }

    /// What time alone brings.
    pub fn tick(&mut self, now: Now) {
        if now.at >= self.beat_at {
            self.beat_at = now.at.after(BEAT);
            self.beat_due = true;
        }
        if now.at >= self.status_at {
            self.status_at = now.at.after(STATUS);
            self.status_due = true;
        }
        self.served.tick(&mut self.station, now.at);
    }

    /// The next packet to go out, where the pace allows one.
    pub fn transmit(&mut self, now: Now) -> Option<&[u8]> {
        if !self.station.is_open(now.at) {
            return None;
        }
        let message = self.next(now)?;
        Some(self.station.packed(&message, now))
    }

    fn next(&mut self, now: Now) -> Option<MavMessage> {
        if std::mem::take(&mut self.beat_due) {
            return Some(self.beat());
        }
        if std::mem::take(&mut self.status_due) {
            return Some(self.status(now));
        }
        // Few, of questions that were accepted: words aren't late because somebody reads parameters.
        if let Some(message) = self.station.progress() {
            return Some(message);
        }
        if self.turn.replied {
            self.turn.replied = false;
            if let Some(message) = self.next_of_ours(now.at) {
                return Some(message);
            }
        }
        match self.station.waiting() {
            Some(message) => {
                self.turn.replied = true;
                Some(message)
            }
            None => self.next_of_ours(now.at),
        }
    }

    /// Text before pictures; each in turn among its like.
    fn next_of_ours(&mut self, at: At) -> Option<MavMessage> {
        for step in 0..3 {
            let place = (self.turn.spoke + step) % 3;
            let message = match place {
                0 => self.listing.next(&self.params),
                1 => self.voice.next(),
                _ if self.served.has_answer(at) => self.fragment(at),
                _ => None,
            };
            if message.is_some() {
                self.turn.spoke = place + 1;
                return message;
            }
        }
        for step in 0..2 {
            let place = (self.turn.drew + step) % 2;
            let message = if place == 0 { self.fragment(at) } else { self.ftp.next(at) };
            if message.is_some() {
                self.turn.drew = place + 1;
                return message;
            }
        }
        None
    }

    fn fragment(&mut self, at: At) -> Option<MavMessage> {
        self.served.next(at).map(|(asker, head, data)| tunnel(asker.source, head, data))
    }
}

/// Ours as MAVLink packs it: major, minor and patch, a byte each, and 255 for a release.
fn version() -> u32 {
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0) & 0xff;
    next() << 24 | next() << 16 | next() << 8 | 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::dialect::{PARAM_REQUEST_READ_DATA, STATUSTEXT_DATA};
    use crate::link::frame;
    use crate::link::sign::{NoFloors, Signing};
    use crate::link::standard::ftp::{EachEntry, Found};
    use crate::link::wire::{self, Accept, Header, Kind, Number, Session};
    use crate::units::{BytesPerSecond, UnixMillis};
    use mavlink_core::MAVLinkV2MessageRaw;

    const WHO: Source = Source { system: 255, component: 190 };
    const BOARD: Source = Source { system: 1, component: 191 };

    #[derive(Default)]
    struct Seen(Vec<String>, Vec<Asker>);
    impl Tree for Seen {
        fn open(&mut self, _: &str) -> Found {
            Found::File(vec![7; 100_000].into())
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

    fn now(ms: u64) -> Now {
        Now::new(At(Duration::from_millis(ms)), UnixMillis(1_800_000_000_000 + ms.cast_signed()))
    }

    fn node(rate: u32, signing: Option<Signing>) -> Node {
        let station = Station::new(BOARD, BytesPerSecond(rate), signing);
        Node::new(station, NodeSettings { system: 1, wired: false, ftp_data: 212 }, Params::default())
    }

    fn packet(source: Source, message: &MavMessage) -> Vec<u8> {
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write(&mut raw, source, 0, message);
        raw.raw_bytes().to_vec()
    }

    fn status_query() -> MavMessage {
        let mut room = [0; 64];
        let len = wire::record(&Query::Status, &mut room).unwrap().len();
        let len = wire::seal(&mut room, len).unwrap();
        tunnel(BOARD, Header { kind: Kind::Query, session: Session(1), number: Number(1), index: 0, count: 1 }, &room[..len])
    }

    fn wish(id: u8) -> MavMessage {
        let mut payload = [0; 251];
        (payload[3], payload[4]) = (id, 200);
        MavMessage::FILE_TRANSFER_PROTOCOL(crate::link::dialect::FILE_TRANSFER_PROTOCOL_DATA {
            target_system: 1,
            target_component: 191,
            payload,
            ..crate::link::dialect::FILE_TRANSFER_PROTOCOL_DATA::DEFAULT
        })
    }

    /// A hostile peer asks at line rate for what takes a reply; meanwhile an answer of 20 fragments, a text and the beat have to leave.
    #[test]
    fn a_flood_leaves_half_of_the_line_to_answers_and_the_beat() {
        let read = MavMessage::PARAM_REQUEST_READ(PARAM_REQUEST_READ_DATA {
            target_system: 1,
            target_component: 191,
            param_index: 0,
            ..PARAM_REQUEST_READ_DATA::DEFAULT
        });
        // Sessions without end are refused one by one; reads of a file that is open.
        let session = |at: u32| {
            let head = Header { kind: Kind::Query, session: Session(at), number: Number(1), index: 0, count: 200 };
            tunnel(BOARD, head, &[0; 112])
        };
        for flood in ["parameters", "sessions", "files"] {
            let (mut board, mut seen) = (node(1_152, None), Seen::default());
            board.receive(&packet(WHO, &status_query()), now(0), &mut seen);
            let asker = seen.1[0];
            board.served.accept(&mut board.station, asker, Accept { id: 0, ahead: 0 }, now(0).at);
            assert!(board.served.reply(asker, Kind::Answer, |room| {
                room[..2_200].fill(b'a');
                Some(2_200)
            }));
            assert!(board.voice.say(text::INFO, format_args!("{}", "a".repeat(400))));
            let hostile = Source { system: 7, component: 1 };
            if flood == "files" {
                board.receive(&packet(hostile, &wish(4)), now(0), &mut seen);
            }
            let (mut fragments, mut chunks, mut beats, mut others) = (0, 0, 0, 0);
            for ms in (0..12_000).step_by(20) {
                for at in 0..4 {
                    let message = match flood {
                        "parameters" => read.clone(),
                        "sessions" => session(ms as u32 * 10 + at),
                        _ => wish(5),
                    };
                    board.receive(&packet(hostile, &message), now(ms), &mut seen);
                }
                board.tick(now(ms));
                while let Some(bytes) = board.transmit(now(ms)) {
                    let id = u32::from_le_bytes([bytes[7], bytes[8], bytes[9], 0]);
                    match id {
                        0 => beats += 1,
                        253 => chunks += 1,
                        // The fragment begins after type, target and length; its kind is its second byte.
                        385 if bytes[16] == Kind::Answer as u8 => fragments += 1,
                        _ => others += 1,
                    }
                }
            }
            assert!(beats >= 11, "{flood}: {beats} beats");
            assert!(chunks >= 8, "{flood}: {chunks} chunks of the text, {fragments} fragments, {others} others");
            assert!(fragments >= 20, "{flood}: {fragments} fragments of 20, {others} others");
        }
    }

    #[test]
    fn a_signed_beat_corrects_an_unsigned_one_and_nothing_else_does() {
        let key = Key::from_passphrase("of the test's own").unwrap();
        let signing = || Signing::new(key.clone(), 0, Box::<NoFloors>::default()).unwrap();
        let (mut board, mut autopilot, mut seen) = (node(1_000, Some(signing())), signing(), Seen::default());
        let beat = MavMessage::HEARTBEAT(HEARTBEAT_DATA { autopilot: 3, mavtype: 2, ..HEARTBEAT_DATA::DEFAULT });
        let mut signed = |system, ms| {
            let mut raw = MAVLinkV2MessageRaw::new();
            frame::write_for_signing(&mut raw, Source { system, component: 1 }, 0, &beat);
            autopilot.sign(&mut raw, now(ms));
            raw.raw_bytes().to_vec()
        };
        board.receive(&packet(Source { system: 66, component: 1 }, &beat), now(0), &mut seen);
        board.receive(&packet(Source { system: 67, component: 1 }, &beat), now(0), &mut seen);
        assert_eq!(board.station.own.system, 66);
        board.receive(&signed(42, 10), now(10), &mut seen);
        assert_eq!(board.station.own.system, 42);
        board.receive(&packet(Source { system: 66, component: 1 }, &beat), now(20), &mut seen);
        board.receive(&signed(43, 30), now(30), &mut seen);
        assert_eq!((board.station.own.system, seen.0.len()), (42, 2));
    }

    #[test]
    fn the_usual_question_ends_as_any_other() {
        let (mut board, mut seen) = (node(100_000, None), Seen::default());
        for nonce in 1..=20_u8 {
            let call = COMMAND_LONG_DATA {
                command: command::USER_1,
                param2: nonce.into(),
                target_system: 1,
                target_component: 191,
                ..COMMAND_LONG_DATA::DEFAULT
            };
            board.receive(&packet(WHO, &MavMessage::COMMAND_LONG(call)), now(0), &mut seen);
            let asked = Preset { source: WHO, preset: 1, nonce: nonce.into(), frame: 0 };
            board.commands.end(&mut board.station, asked, Verdict::Accepted, now(0).at);
            assert!(board.station.waiting().is_some());
        }
        // None was refused because those before it had not ended.
        assert_eq!(seen.0.len(), 20);
    }

    #[test]
    fn what_all_are_asked_for_is_left_to_the_autopilot() {
        let (mut board, mut seen) = (node(1_000, None), Seen::default());
        let call = |component, id| {
            MavMessage::COMMAND_LONG(COMMAND_LONG_DATA {
                command: command::REQUEST_MESSAGE,
                param1: id,
                target_system: 1,
                target_component: component,
                ..COMMAND_LONG_DATA::DEFAULT
            })
        };
        let mut results = |component, id| {
            board.receive(&packet(WHO, &call(component, id)), now(0), &mut seen);
            let acks = std::iter::from_fn(|| board.station.waiting()).filter_map(|message| match message {
                MavMessage::COMMAND_ACK(ack) => Some(ack.result),
                _ => None,
            });
            acks.collect::<Vec<_>>()
        };
        assert!(results(0, 148.0).is_empty() && results(1, 148.0).is_empty());
        assert_eq!(results(191, 148.0), [Verdict::Accepted as u8]);
        for id in [f32::NAN, f32::INFINITY, -1.0, 0.5, 1e9, 4_000.0] {
            assert_eq!(results(191, id), [Verdict::Unsupported as u8], "{id}");
        }
    }

    #[test]
    fn boards_do_not_ask_each_other() {
        let (mut board, mut other, mut seen) = (node(10_000, None), node(10_000, None), Seen::default());
        // Whatever one says, its notes included, is no question to the other, nor to one that forwards it under another name.
        let part = Part::Dropped;
        other.asked_in_words(WHO, &part, now(0), &mut seen);
        other.voice.say(text::INFO, format_args!("uhr 12: four"));
        let said: Vec<MavMessage> = std::iter::from_fn(|| other.voice.next()).collect();
        assert!(said.len() >= 2);
        for message in &said {
            for source in [Source { system: 2, component: 191 }, WHO] {
                board.receive(&packet(source, message), now(0), &mut seen);
            }
        }
        let words = MavMessage::STATUSTEXT(STATUSTEXT_DATA { text: "uhr: why?".into(), ..STATUSTEXT_DATA::DEFAULT });
        board.receive(&packet(Source { system: 2, component: 191 }, &words), now(0), &mut seen);
        assert!(seen.0.is_empty(), "{:?}", seen.0);
        board.receive(&packet(WHO, &words), now(0), &mut seen);
        assert_eq!(seen.0.len(), 1);
    }

    #[test]
    fn the_first_key_over_the_cable_shuts_the_line_to_who_has_none() {
        let station = Station::new(BOARD, BytesPerSecond(10_000), None);
        let mut board = Node::new(station, NodeSettings { system: 1, wired: true, ftp_data: 212 }, Params::default());
        let mut seen = Seen::default();
        board.receive(&packet(WHO, &status_query()), now(0), &mut seen);
        assert_eq!(seen.1.len(), 1);
        let setup = MavMessage::SETUP_SIGNING(crate::link::dialect::SETUP_SIGNING_DATA {
            target_system: 1,
            target_component: 191,
            secret_key: [9; 32],
            ..crate::link::dialect::SETUP_SIGNING_DATA::DEFAULT
        });
        board.receive(&packet(WHO, &setup), now(0), &mut seen);
        assert!(board.station.has_key());
        let words = MavMessage::STATUSTEXT(STATUSTEXT_DATA { text: "uhr: why?".into(), ..STATUSTEXT_DATA::DEFAULT });
        let before = seen.0.len();
        board.receive(&packet(WHO, &words), now(10), &mut seen);
        assert_eq!((seen.0.len(), board.station.counts().unsigned), (before, 1));
        let mut ground = Signing::new(Key::from_bytes([9; 32]).unwrap(), 0, Box::<NoFloors>::default()).unwrap();
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write_for_signing(&mut raw, WHO, 0, &words);
        ground.sign(&mut raw, now(20));
        board.receive(raw.raw_bytes(), now(20), &mut seen);
        assert_eq!(seen.0.len(), before + 1);
        // And what goes out is signed.
        board.tick(now(1_000));
        assert!(board.transmit(now(1_000)).is_some_and(|bytes| bytes[2] == 1));
    }
}
