//! Standard messages and queries to a line without a key: commands, parameters, texts, files, places, and what our own client asks. A record is a byte of which
//! message, one of who sends it, one of length, then the payload; targets are made to fit where the third bit of who is set.

use std::sync::Arc;
use std::time::Duration;

use mavlink_core::{MAVLinkV2MessageRaw, MavlinkVersion, Message};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::MavMessage;
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::geotag::Track;
use uhr_edge::link::node::{Event, Host, Node, NodeSettings};
use uhr_edge::link::served::Asker;
use uhr_edge::link::standard::command::{Preset, Verdict};
use uhr_edge::link::standard::ftp::{EachEntry, Found, Tree};
use uhr_edge::link::standard::param::Params;
use uhr_edge::link::standard::text::{INFO, MAX_WORDS};
use uhr_edge::link::station::{Station, tunnel};
use uhr_edge::link::wire::{self, Accept, DATA, Header, Kind, Number, Query, Session};
use uhr_edge::units::{BytesPerSecond, UnixMillis};

/// What was asked for, done after the packet as the daemon does.
enum Todo {
    Ask(Asker),
    Fetch(Asker, String),
    Set(Asker, Option<(String, f32)>),
    List(Asker),
    Preset(Preset),
    Words(String),
}

#[derive(Default)]
struct Desk {
    todo: Vec<Todo>,
    track: Track,
    presets: Vec<Preset>,
}

impl Tree for Desk {
    fn open(&mut self, path: &str) -> Found {
        match path {
            "/answers/1/answer.json" => Found::File(Arc::from(&[b'x'; 3_000][..])),
            "/answers/1/evidence.jpg" => Found::Later,
            "/general.json" => Found::File(Arc::from(&b"{}"[..])),
            _ => Found::Missing,
        }
    }
    fn list(&mut self, path: &str, each: &mut EachEntry<'_>) -> bool {
        (0..40).for_each(|at| each(&format!("{at}"), (at % 2 == 0).then_some(at)));
        path.starts_with("/answers")
    }
}

impl Host for Desk {
    fn event(&mut self, event: Event<'_>, _: Now) {
        match event {
            Event::Query(asker, query) => self.todo.push(match query {
                Query::Ask(_) => Todo::Ask(asker),
                Query::Fetch(what) => Todo::Fetch(asker, what.path.to_owned()),
                Query::Settings(setting) => Todo::Set(asker, setting.map(|setting| (setting.name.to_owned(), setting.value))),
                _ => Todo::List(asker),
            }),
            Event::Preset(asked) => self.todo.push(Todo::Preset(asked)),
            Event::Words(_, text) => self.todo.push(Todo::Words(text.to_owned())),
            Event::Params(params) => assert!(params.list().all(|(_, value)| value.is_finite() && value >= 0.0 && value.fract() == 0.0)),
            Event::Pose(pose) => self.track.hear(pose),
            Event::Shot(shot) => self.track.shot(shot),
            Event::Learnt(system) => assert_ne!(system, 0),
            _ => {}
        }
    }
}

impl Desk {
    fn work(&mut self, node: &mut Node, turn: u8, at: At) {
        for todo in std::mem::take(&mut self.todo) {
            let reply = |node: &mut Node, asker, kind, len: usize| {
                node.served.reply(asker, kind, |room| {
                    room.get_mut(..len)?.fill(7);
                    Some(len)
                });
            };
            match todo {
                Todo::Ask(asker) => {
                    node.served.accept(&mut node.station, asker, Accept { id: 1, ahead: 0 }, at);
                    node.served.progress(&mut node.station, asker, "generate", 500, "some words", at);
                    reply(node, asker, Kind::Answer, 300);
                }
                Todo::Fetch(asker, path) => match self.open(&path) {
                    Found::File(file) => reply(node, asker, Kind::Blob, file.len()),
                    _ => node.served.accept(&mut node.station, asker, Accept { id: 0, ahead: 0 }, at),
                },
                Todo::Set(asker, setting) => {
                    let set = setting.map(|(name, value)| node.params.set(&name, value));
                    reply(node, asker, Kind::Blob, if set.is_some() { 20 } else { 10 });
                }
                Todo::List(asker) => reply(node, asker, Kind::Status, 200),
                Todo::Preset(asked) => {
                    node.commands.taken(&mut node.station, asked);
                    self.presets.push(asked);
                }
                Todo::Words(text) => {
                    assert!(text.len() <= MAX_WORDS);
                    node.voice.say(INFO, format_args!("uhr 1: {text}"));
                }
            }
        }
        if let Some(asked) = self.presets.last().copied() {
            node.commands.progress(&mut node.station, asked, turn % 100, at);
            if turn.is_multiple_of(5) {
                self.presets.pop();
                node.commands.end(&mut node.station, asked, if turn.is_multiple_of(2) { Verdict::Accepted } else { Verdict::Failed }, at);
            }
        }
    }
}

const IDS: [u32; 18] = [0, 20, 21, 23, 30, 33, 76, 109, 110, 180, 253, 256, 263, 320, 321, 323, 385, 111];
const TUNNEL: u32 = 385;
const WHO: [Source; 4] = [
    Source { system: 255, component: 190 },
    Source { system: 42, component: 1 },
    Source { system: 1, component: 1 },
    Source { system: 254, component: 190 },
];

/// Says that it is for `own`.
fn aimed(mut message: MavMessage, own: Source) -> MavMessage {
    macro_rules! aim {
        ($($name:ident),*) => {
            match &mut message {
                $(MavMessage::$name(data) => (data.target_system, data.target_component) = (own.system, own.component),)*
                _ => {}
            }
        };
    }
    aim!(
        PARAM_REQUEST_READ,
        PARAM_REQUEST_LIST,
        PARAM_SET,
        COMMAND_LONG,
        FILE_TRANSFER_PROTOCOL,
        SETUP_SIGNING,
        PARAM_EXT_REQUEST_READ,
        PARAM_EXT_REQUEST_LIST,
        PARAM_EXT_SET,
        TUNNEL
    );
    message
}

/// A query in one fragment, checksums made to fit: a byte of number, then the record.
fn query(payload: &[u8], own: Source) -> Option<MavMessage> {
    let (number, body) = payload.split_first()?;
    let mut data = [0; DATA];
    data.get_mut(..body.len())?.copy_from_slice(body);
    let len = wire::seal(&mut data, body.len()).ok()?;
    let kind = if number & 0x80 == 0 { Kind::Query } else { Kind::DoneAck };
    let header = Header { kind, session: Session(7), number: Number(u32::from(number & 0x7f)), index: 0, count: 1 };
    Some(tunnel(own, header, &data[..len]))
}

pub fn run(bytes: &[u8]) {
    let station = Station::new(Source { system: 1, component: 0 }, BytesPerSecond(1 << 20), None);
    let mut node = Node::new(station, NodeSettings { system: 1, wired: true, ftp_data: 212 }, Params::default());
    let mut desk = Desk::default();
    let mut raw = MAVLinkV2MessageRaw::new();
    let (mut ms, mut left) = (0, bytes);
    while let [which, who, len, rest @ ..] = left {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        left = rest;
        // From 7 ms to 4 s.
        ms += 7 + u64::from(who >> 3) * 130;
        let now = Now::new(At(Duration::from_millis(ms)), UnixMillis(1_800_000_000_000));
        let (id, own) = (IDS[usize::from(*which) % IDS.len()], node.station.own);
        let message = match (id, who & 4 != 0) {
            (TUNNEL, true) => query(payload, own),
            (_, aim) => {
                MavMessage::parse(MavlinkVersion::V2, id, payload).ok().map(|message| if aim { aimed(message, own) } else { message })
            }
        };
        if let Some(message) = message {
            frame::write(&mut raw, WHO[usize::from(who & 3)], *which, &message);
            node.receive(raw.raw_bytes(), now, &mut desk);
        }
        desk.work(&mut node, *who, now.at);
        if let Some(tag) = desk.track.tag(now.at, Duration::ZERO) {
            assert!(tag["position"][0].as_f64().is_some_and(|lat| lat.abs() <= 90.0) && tag["time_error_ms"].as_u64().is_some(), "{tag}");
        }
        node.tick(now);
        while node.transmit(now).is_some() {}
    }
}
