//! Bytes of a line → packets → messages. The first byte says in pieces of how many bytes they come, and whether checksums are made to fit: a fuzzer would guess one
//! once in 65,536.

use std::time::Duration;

use mavlink_core::Message;
use uhr_edge::link::clock::At;
use uhr_edge::link::dialect::MavMessage;
use uhr_edge::link::frame::{Framer, Source};

/// What came out, in pieces of `size` bytes.
fn found(bytes: &[u8], size: usize) -> Vec<(Source, u32, Option<MavMessage>)> {
    let mut framer = Framer::default();
    let at = At(Duration::from_secs(1));
    let mut found = Vec::new();
    let mut take = |framer: &mut Framer, at| {
        while let Some(raw) = framer.next(at) {
            found.push((raw.source(), raw.message_id(), raw.message()));
        }
    };
    for mut piece in bytes.chunks(size) {
        while !piece.is_empty() {
            piece = &piece[framer.push(piece, at)..];
            take(&mut framer, at);
        }
    }
    // What waits for more is given up in the end.
    take(&mut framer, At(Duration::from_secs(9)));
    assert!(framer.counts.packets == found.len() as u64 && framer.counts.noise <= bytes.len() as u64);
    found
}

/// Gives whatever could be a packet the checksum that it needs.
fn made_to_fit(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= 12) {
        let (header, id) = match rest[0] {
            0xfd => (10, u32::from_le_bytes([rest[7], rest[8], rest[9], 0])),
            0xfe => (6, u32::from(rest[5])),
            _ => {
                at += 1;
                continue;
            }
        };
        let end = header + usize::from(rest[1]);
        let Some(sum) = rest.get(1..end).map(|body| mavlink_core::calculate_crc(body, MavMessage::extra_crc(id))) else {
            at += 1;
            continue;
        };
        if let Some(place) = rest.get_mut(end..end + 2) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        at += end + 2;
    }
}

pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if how & 1 != 0 {
        made_to_fit(&mut bytes);
    }
    let whole = found(&bytes, bytes.len().max(1));
    let pieces = found(&bytes, usize::from(how >> 1) + 1);
    // Compared as text: a float that is no number isn't equal to itself.
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"), "in pieces of {} bytes", usize::from(how >> 1) + 1);
}
