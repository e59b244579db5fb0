//! Fragments, from anybody in any order, into both ends. A record is a byte of time, a byte of source, a byte of length, then the fragment, whose checksum is made
//! to fit where the first bit of the time is set: a fuzzer would guess it once in 65,536.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::frame::Source;
use uhr_edge::link::ground::Ground;
use uhr_edge::link::served::Served;
use uhr_edge::link::station::{Station, tunnel};
use uhr_edge::link::wire::{Header, Kind, Number, Query, Session};
use uhr_edge::units::{BytesPerSecond, UnixMillis};

const KINDS: [Kind; 10] = [
    Kind::Query,
    Kind::Accept,
    Kind::Reject,
    Kind::Progress,
    Kind::Answer,
    Kind::Blob,
    Kind::Nack,
    Kind::DoneAck,
    Kind::Cancel,
    Kind::Status,
];
const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };

fuzz_target!(|bytes: &[u8]| {
    let mut station = Station::new(BOARD, BytesPerSecond(1 << 20), None);
    let mut served = Served::default();
    let ground_station = Station::new(GROUND, BytesPerSecond(1 << 20), None);
    let mut ground = Ground::new(ground_station, Some(BOARD), Session(1), Number(0), Duration::from_secs(60));
    let _ = ground.ask(&Query::Status, At::default());
    let mut raw = mavlink_core::MAVLinkV2MessageRaw::new();
    let (mut ms, mut left) = (0, bytes);
    while let [time, source, len, rest @ ..] = left {
        ms += u64::from(*time) * 40;
        let (data, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        left = rest;
        let at = At(Duration::from_millis(ms));
        if *time & 1 == 0 {
            let _ = Header::read(data);
            continue;
        }
        let [kind, session, number, index, count, data @ ..] = data else { continue };
        let header = Header {
            kind: KINDS[usize::from(*kind) % 10],
            session: Session(u32::from(*session % 4)),
            number: Number(u32::from(*number % 4)),
            index: u16::from(*index),
            count: u16::from(*count).max(1),
        };
        let source = Source { system: *source % 8 + 2, component: 190 };
        let mut asked = None;
        if header.index < header.count {
            served.take(&mut station, source, header, data, at, &mut |asker, _| asked = Some(asker));
        }
        if let Some(asker) = asked {
            served.reply(asker, Kind::Answer, |room| {
                room[..300].fill(7);
                Some(300)
            });
        }
        served.tick(&mut station, at);
        while served.next(at).is_some() {}
        while station.waiting().is_some() {}
        uhr_edge::link::frame::write(&mut raw, BOARD, 0, &tunnel(GROUND, header, data));
        let now = Now::new(at, UnixMillis(0));
        ground.receive(raw.raw_bytes(), now, &mut |_| ());
        ground.tick(now, &mut |_| ());
        while ground.transmit(now).is_some() {}
    }
});
