//! Packets to a line with a key: what isn't signed with it is never acted on.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::MavMessage;
use uhr_edge::link::frame::Source;
use uhr_edge::link::key::Key;
use uhr_edge::link::sign::{NoFloors, Signing};
use uhr_edge::link::station::Station;
use uhr_edge::units::{BytesPerSecond, UnixMillis};

fuzz_target!(|bytes: &[u8]| {
    let key = Key::from_bytes([0x5a; 32]).unwrap();
    let signing = Signing::new(key, 0, Box::<NoFloors>::default()).unwrap();
    let mut station = Station::new(Source { system: 1, component: 191 }, BytesPerSecond(1_000), Some(signing));
    let now = Now::new(At(Duration::from_secs(1)), UnixMillis(1_800_000_000_000));
    let mut left = bytes;
    loop {
        left = &left[station.push(left, now.at)..];
        while let Some(heard) = station.next(now) {
            assert!(!heard.signed && matches!(heard.message, MavMessage::HEARTBEAT(_)), "{:?}", heard.message);
        }
        if left.is_empty() {
            return;
        }
    }
});
