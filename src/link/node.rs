//! The board's end of a link: bytes and a time in, packets and events out. Touches no clock, no file and no socket.
//!
//! ```text
//!  bytes ─▶ Station (frames, signatures) ─▶ by kind ─┬─ TUNNEL ─▶ Served (our own client)
//!                                                    ├─ COMMAND_LONG ─▶ Commands    ├─ PARAM_* ─▶ Params    ├─ STATUSTEXT ─▶ Words
//!                                                    ├─ FILE_TRANSFER_PROTOCOL ─▶ Ftp                       └─ position, images ─▶ host
//!  packets ◀─ pace ◀─ acknowledgements, beats ◀ texts ◀ answers ◀ pictures ◀ files
//! ```

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
    learnt: bool,
    beat_at: At,
    status_at: At,
    general_crc: u32,
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
            learnt: false,
            beat_at: At::default(),
            status_at: At::default(),
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
            MavMessage::HEARTBEAT(beat) if source.component == AUTOPILOT && beat.autopilot != 8 && !self.learnt && source.system != 0 => {
                self.learnt = true;
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
                param::read(&mut self.station, &self.params, text_of(&request.param_id), request.param_index, false);
            }
            MavMessage::PARAM_EXT_REQUEST_READ(request) if self.names_us(request.target_system, request.target_component) => {
                param::read(&mut self.station, &self.params, text_of(&request.param_id), request.param_index, true);
            }
            MavMessage::PARAM_SET(set)
                if self.names_us(set.target_system, set.target_component) && param::set(&mut self.station, &mut self.params, set) =>
            {
                host.event(Event::Params(self.params), now);
            }
            MavMessage::PARAM_EXT_SET(set) if self.names_us(set.target_system, set.target_component) => {
                if text_of(&set.param_id) == ASK {
                    let part = self.words.write(source, text_of(&set.param_value), now.at);
                    param::ack_ask(&mut self.station, set, part != Part::Dropped);
                    self.asked_in_words(source, &part, now, host);
                } else if param::set_ext(&mut self.station, &mut self.params, set) {
                    host.event(Event::Params(self.params), now);
                }
            }
            MavMessage::STATUSTEXT(chunk) => {
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
                self.voice.say(text::WARNING, format_args!("uhr: the question did not arrive whole (at most {} bytes)", text::MAX_WORDS));
            }
            _ => {}
        }
    }

    fn command(&mut self, source: Source, call: &COMMAND_LONG_DATA, now: Now, host: &mut dyn Host) {
        let ours = self.names_us(call.target_system, call.target_component);
        match call.command {
            command::USER_1 if ours => match self.commands.call(&mut self.station, source, call, now.at) {
                Called::New(mut asked) => {
                    if asked.preset == 0 {
                        asked.preset = self.params.preset();
                    }
                    host.event(Event::Preset(asked), now);
                }
                Called::Again => {}
                Called::Refused(verdict) => command::answer(&mut self.station, source, call.command, verdict),
            },
            command::REQUEST_MESSAGE => match self.requested(call.param1, now) {
                Some(message) => {
                    command::answer(&mut self.station, source, call.command, Verdict::Accepted);
                    self.station.tell(message);
                }
                // To all: somebody else may have it.
                None if ours => command::answer(&mut self.station, source, call.command, Verdict::Unsupported),
                None => {}
            },
            other if ours => command::answer(&mut self.station, source, other, Verdict::Unsupported),
            _ => {}
        }
    }

    /// A message that somebody asks for by its number.
    fn requested(&self, id: f32, now: Now) -> Option<MavMessage> {
        let time_boot_ms = u32::try_from(now.at.0.as_millis()).unwrap_or(u32::MAX);
        let uri = || "mftp:///general.json".into();
        match id as u32 {
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
            self.station.tell(self.beat());
        }
        if now.at >= self.status_at {
            self.status_at = now.at.after(STATUS);
            self.station.tell(self.status(now));
        }
        self.served.tick(&mut self.station, now.at);
    }

    /// The next packet to go out, where the pace allows one.
    pub fn transmit(&mut self, now: Now) -> Option<&[u8]> {
        if !self.station.is_open(now.at) {
            return None;
        }
        let message = self
            .station
            .waiting()
            .or_else(|| self.listing.next(&self.params))
            .or_else(|| self.voice.next())
            .or_else(|| self.served.next(now.at).map(|(asker, head, data)| tunnel(asker.source, head, data)))
            .or_else(|| self.ftp.next(now.at))?;
        Some(self.station.packed(&message, now))
    }
}

/// Ours as MAVLink packs it: major, minor and patch, a byte each, and 255 for a release.
fn version() -> u32 {
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0) & 0xff;
    next() << 24 | next() << 16 | next() << 8 | 255
}
