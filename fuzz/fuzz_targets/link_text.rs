//! Standard messages to a line without a key: commands, parameters, texts, files. A record is a byte of kind, a byte of length, then the payload.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mavlink_core::{MAVLinkV2MessageRaw, MavlinkVersion, Message};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::MavMessage;
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::node::{Event, Host, Node, NodeSettings};
use uhr_edge::link::standard::ftp::{EachEntry, Found, Tree};
use uhr_edge::link::standard::param::Params;
use uhr_edge::link::station::Station;
use uhr_edge::units::{BytesPerSecond, UnixMillis};

struct Nothing;

impl Tree for Nothing {
    fn open(&mut self, path: &str) -> Found {
        if path.len() % 2 == 0 { Found::File(path.as_bytes().into()) } else { Found::Missing }
    }
    fn list(&mut self, path: &str, each: &mut EachEntry<'_>) -> bool {
        each(path, Some(1));
        true
    }
}

impl Host for Nothing {
    fn event(&mut self, _: Event<'_>, _: Now) {}
}

const IDS: [u32; 16] = [0, 20, 21, 23, 30, 33, 76, 109, 110, 180, 253, 256, 263, 320, 321, 323];

fuzz_target!(|bytes: &[u8]| {
    let station = Station::new(Source { system: 1, component: 0 }, BytesPerSecond(1 << 20), None);
    let mut node = Node::new(station, NodeSettings { system: 1, wired: true, ftp_data: 212 }, Params::default());
    let mut raw = MAVLinkV2MessageRaw::new();
    let (mut ms, mut left) = (0, bytes);
    while let [kind, len, rest @ ..] = left {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        left = rest;
        ms += 7;
        let now = Now::new(At(Duration::from_millis(ms)), UnixMillis(1_800_000_000_000));
        if let Ok(message) = MavMessage::parse(MavlinkVersion::V2, IDS[usize::from(*kind) % 16], payload) {
            frame::write(&mut raw, Source { system: 255, component: *kind }, *kind, &message);
            node.receive(raw.raw_bytes(), now, &mut Nothing);
        }
        node.tick(now);
        while node.transmit(now).is_some() {}
    }
});
