//! Packets to a line with a key, signed in here: whatever streams, clocks and restarts come, no packet is taken twice, none that was changed, and none that is
//! older than what its stream has said before. A record is a byte of what, three of who (system, component, link), and what that takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mavlink_core::MAVLinkV2MessageRaw;
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{COMMAND_LONG_DATA, HEARTBEAT_DATA, MavMessage, PARAM_SET_DATA, RADIO_STATUS_DATA};
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::key::Key;
use uhr_edge::link::sign::{Floors, Signing};
use uhr_edge::link::station::Station;
use uhr_edge::units::{BytesPerSecond, UnixMillis};

const KEY: [u8; 32] = [0x5a; 32];
const NOON: i64 = 1_800_000_000_000;
/// NOON in units of 10 µs since 2015.
const NOON_TICKS: u64 = 37_992_960_000_000;
/// Packets that are kept for later.
const KEPT: usize = 128;

#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Option<Vec<u8>>>>);

impl Floors for Disk {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        *self.0.lock().unwrap() = Some(memory.to_owned());
        Ok(())
    }
}

type Stream = (u8, u8, u8);

struct Sent {
    stream: Stream,
    stamp: u64,
    bytes: Vec<u8>,
    changed: bool,
}

fn message(what: u8, with: u8) -> MavMessage {
    match what % 3 {
        0 => MavMessage::HEARTBEAT(HEARTBEAT_DATA { custom_mode: with.into(), ..HEARTBEAT_DATA::DEFAULT }),
        1 => MavMessage::COMMAND_LONG(COMMAND_LONG_DATA { command: 31_010, param2: with.into(), ..COMMAND_LONG_DATA::DEFAULT }),
        _ => MavMessage::PARAM_SET(PARAM_SET_DATA { param_value: with.into(), ..PARAM_SET_DATA::DEFAULT }),
    }
}

fn signed(stream: Stream, stamp: u64, message: &MavMessage) -> Vec<u8> {
    let mut raw = MAVLinkV2MessageRaw::new();
    frame::write_for_signing(&mut raw, Source { system: stream.0, component: stream.1 }, 0, message);
    *raw.signature_link_id_mut() = stream.2;
    raw.signature_timestamp_bytes_mut().copy_from_slice(&stamp.to_le_bytes()[..6]);
    let mut signature = [0; 6];
    raw.calculate_signature(&KEY, &mut signature);
    raw.signature_value_mut().copy_from_slice(&signature);
    raw.raw_bytes().to_vec()
}

struct Board {
    station: Station,
    disk: Disk,
    ms: u64,
    timed: bool,
    /// The last that was taken of each stream, over all restarts.
    last: HashMap<Stream, u64>,
}

impl Board {
    fn station(disk: &Disk) -> Station {
        let signing = Signing::new(Key::from_bytes(KEY).unwrap(), 0, Box::new(disk.clone())).unwrap();
        Station::new(Source { system: 1, component: 191 }, BytesPerSecond(1 << 20), Some(signing))
    }

    fn now(&self) -> Now {
        let at = At(Duration::from_millis(self.ms));
        if self.timed { Now::new(at, UnixMillis(NOON + self.ms as i64)) } else { Now { at, wall: None, trusted: false } }
    }

    /// How many signed packets were taken of these bytes. Nothing of them stays in the line.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let (mut taken, mut left) = (0, bytes);
        loop {
            left = &left[self.station.push(left, self.now().at)..];
            while let Some(heard) = self.station.next(self.now()) {
                taken += usize::from(heard.signed);
                assert!(heard.signed || matches!(heard.message, MavMessage::HEARTBEAT(_)), "{:?}", heard.message);
            }
            if left.is_empty() {
                break;
            }
        }
        self.ms += 400;
        while let Some(heard) = self.station.next(self.now()) {
            taken += usize::from(heard.signed);
        }
        taken
    }

    fn send(&mut self, sent: &Sent) {
        let taken = self.take(&sent.bytes);
        if taken > 0 {
            assert!(taken == 1 && !sent.changed, "{taken} of {:?}", sent.stream);
            let last = self.last.entry(sent.stream).or_default();
            assert!(sent.stamp > *last, "{} after {last} of {:?}", sent.stamp, sent.stream);
            *last = sent.stamp;
        }
    }
}

pub fn run(bytes: &[u8]) {
    let disk = Disk::default();
    let mut board = Board { station: Board::station(&disk), disk, ms: 1_000, timed: true, last: HashMap::new() };
    let mut kept: Vec<Sent> = Vec::new();
    let mut left = bytes;
    while let [what, system, component, link, rest @ ..] = left {
        left = rest;
        // Few of each, so that streams meet; enough of them that some must be forgotten.
        let stream = (system % 16, component % 4, link % 4);
        match what % 8 {
            // A packet, its stamp up to 3 minutes off the clock.
            0..=2 => {
                let [off, more, with, rest @ ..] = left else { return };
                left = rest;
                let stamp = (NOON_TICKS + board.ms * 100).saturating_add_signed(i64::from(i16::from_le_bytes([*off, *more])) * 550);
                let mut sent = Sent { stream, stamp, bytes: signed(stream, stamp, &message(*with, *system)), changed: false };
                if what & 0x80 != 0 {
                    let bit = usize::from(*with) * 7 % (sent.bytes.len() * 8);
                    sent.bytes[bit / 8] ^= 1 << (bit % 8);
                    sent.changed = true;
                }
                board.send(&sent);
                if kept.len() < KEPT {
                    kept.push(sent);
                }
            }
            // One of before.
            3 => {
                if let Some(sent) = kept.get(usize::from(*system) % kept.len().max(1)) {
                    board.send(sent);
                }
            }
            // All of before, after a restart or not.
            4 => {
                if system & 1 != 0 {
                    board.station = Board::station(&board.disk);
                }
                kept.iter().for_each(|sent| board.send(sent));
            }
            5 => {
                board.timed = system & 1 != 0;
                board.ms += u64::from(*component) * 1_000;
            }
            // Unsigned, and bytes as they come.
            6 => {
                let (data, rest) = left.split_at(usize::from(*link).min(left.len()));
                left = rest;
                let mut raw = MAVLinkV2MessageRaw::new();
                let status = MavMessage::RADIO_STATUS(RADIO_STATUS_DATA { txbuf: *component, ..RADIO_STATUS_DATA::DEFAULT });
                let message = if system & 1 == 0 { status } else { message(*component, *system) };
                frame::write(&mut raw, Source { system: *system, component: *component }, 0, &message);
                assert_eq!(board.take(raw.raw_bytes()) + board.take(data), 0);
            }
            // A memory that somebody else wrote.
            _ => {
                let (data, rest) = left.split_at(usize::from(*link).min(left.len()));
                left = rest;
                let other = Disk(Arc::new(Mutex::new(Some(data.to_owned()))));
                if let Ok(mut signing) = Signing::new(Key::from_bytes(KEY).unwrap(), 0, Box::new(other)) {
                    let mut raw = MAVLinkV2MessageRaw::new();
                    frame::write_for_signing(&mut raw, Source { system: 1, component: 1 }, 0, &message(0, 0));
                    signing.sign(&mut raw, board.now());
                    let _ = signing.verify(&raw, Source { system: 1, component: 1 }, board.now());
                }
            }
        }
    }
}
