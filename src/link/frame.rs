//! Bytes of a line or a datagram → MAVLink packets, and back. Holds 600 bytes, whatever comes.
//!
//! Source: <https://mavlink.io/en/guide/serialization.html>. A packet with a checksum that doesn't fit, with an unknown message or an unknown
//! incompatibility flag costs a counter; the search goes on at its second byte, so that noise which looks like a start swallows nothing.

use std::time::Duration;

use mavlink_core::{MAVLinkV1MessageRaw, MAVLinkV2MessageRaw, MavHeader, MavlinkVersion, Message};

use crate::link::clock::At;
use crate::link::dialect::MavMessage;

/// Longest packet: header 10, payload 255, checksum 2, signature 13.
pub const MAX_PACKET: usize = 280;
const HELD: usize = 600;
const STX_V1: u8 = 0xfe;
const STX_V2: u8 = 0xfd;
const SIGNED: u8 = 1;
/// A packet that began and didn't go on for so long was noise.
const STALE: Duration = Duration::from_millis(300);

/// Who speaks or is spoken to on a MAVLink network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    pub system: u8,
    pub component: u8,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.system, self.component)
    }
}

/// A packet whose checksum fits; its signature is not looked at yet.
#[derive(Clone, Copy)]
pub enum Raw {
    V1(MAVLinkV1MessageRaw),
    V2(MAVLinkV2MessageRaw),
}

impl Raw {
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Self::V1(raw) => Source { system: raw.system_id(), component: raw.component_id() },
            // One byte: frames with the flag for four are not taken.
            Self::V2(raw) => Source { system: raw.header()[4], component: raw.component_id() },
        }
    }

    #[must_use]
    pub fn message_id(&self) -> u32 {
        match self {
            Self::V1(raw) => raw.message_id().into(),
            Self::V2(raw) => raw.message_id(),
        }
    }

    /// The message; `None` where its payload is no such message.
    #[must_use]
    pub fn message(&self) -> Option<MavMessage> {
        match self {
            Self::V1(raw) => MavMessage::parse(MavlinkVersion::V1, raw.message_id().into(), raw.payload()).ok(),
            Self::V2(raw) => MavMessage::parse(MavlinkVersion::V2, raw.message_id(), raw.payload()).ok(),
        }
    }
}

/// What didn't become a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    pub packets: u64,
    /// Bytes between packets.
    pub noise: u64,
    pub bad_checksum: u64,
    pub unknown: u64,
    pub unknown_flags: u64,
}

/// Finds packets in a stream of bytes.
pub struct Framer {
    held: [u8; HELD],
    len: usize,
    heard: At,
    pub counts: FrameCounts,
}

enum Look {
    /// More bytes are needed to tell.
    Short,
    Packet(usize),
    Skip(usize),
}

impl Default for Framer {
    fn default() -> Self {
        Self { held: [0; HELD], len: 0, heard: At::default(), counts: FrameCounts::default() }
    }
}

impl Framer {
    /// Takes bytes, as many as there is room for, and says how many. There always is some after [`Self::next`] gave `None`.
    pub fn push(&mut self, bytes: &[u8], at: At) -> usize {
        let taken = bytes.len().min(HELD - self.len);
        self.held[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        if taken > 0 {
            self.heard = at;
        }
        taken
    }

    /// The next packet.
    pub fn next(&mut self, at: At) -> Option<Raw> {
        loop {
            let start = self.held[..self.len].iter().position(|byte| matches!(*byte, STX_V1 | STX_V2)).unwrap_or(self.len);
            self.counts.noise += start as u64;
            self.drop_front(start);
            if self.len == 0 {
                return None;
            }
            match self.look() {
                Look::Short if at.since(self.heard) < STALE => return None,
                Look::Short => {
                    self.counts.noise += 1;
                    self.drop_front(1);
                }
                Look::Skip(bytes) => self.drop_front(bytes),
                Look::Packet(bytes) => {
                    let raw = self.copied(bytes);
                    self.drop_front(bytes);
                    self.counts.packets += 1;
                    return Some(raw);
                }
            }
        }
    }

    fn drop_front(&mut self, bytes: usize) {
        self.held.copy_within(bytes..self.len, 0);
        self.len -= bytes;
    }

    fn copied(&self, bytes: usize) -> Raw {
        if self.held[0] == STX_V1 {
            let mut raw = MAVLinkV1MessageRaw::new();
            raw.as_mut_slice()[..bytes].copy_from_slice(&self.held[..bytes]);
            Raw::V1(raw)
        } else {
            let mut raw = MAVLinkV2MessageRaw::new();
            raw.as_mut_slice()[..bytes].copy_from_slice(&self.held[..bytes]);
            Raw::V2(raw)
        }
    }

    fn look(&mut self) -> Look {
        let held = &self.held[..self.len];
        let (header, id, bytes) = if held[0] == STX_V1 {
            if held.len() < 6 {
                return Look::Short;
            }
            (6, u32::from(held[5]), 8 + usize::from(held[1]))
        } else {
            if held.len() < 10 {
                return Look::Short;
            }
            if held[2] & !SIGNED != 0 {
                self.counts.unknown_flags += 1;
                return Look::Skip(1);
            }
            let signature = if held[2] & SIGNED == 0 { 0 } else { 13 };
            (10, u32::from_le_bytes([held[7], held[8], held[9], 0]), 12 + usize::from(held[1]) + signature)
        };
        if MavMessage::default_message_from_id(id).is_none() {
            // Nobody here can check it. Where a packet follows it was one, and is passed over whole.
            if held.len() <= bytes {
                return Look::Short;
            }
            self.counts.unknown += 1;
            return Look::Skip(if matches!(held[bytes], STX_V1 | STX_V2) { bytes } else { 1 });
        }
        if held.len() < bytes {
            return Look::Short;
        }
        let end = header + usize::from(held[1]);
        let found = u16::from_le_bytes([held[end], held[end + 1]]);
        if mavlink_core::calculate_crc(&held[1..end], MavMessage::extra_crc(id)) != found {
            self.counts.bad_checksum += 1;
            return Look::Skip(1);
        }
        Look::Packet(bytes)
    }
}

/// Writes `message` as an unsigned packet into `raw`.
pub fn write(raw: &mut MAVLinkV2MessageRaw, source: Source, sequence: u8, message: &MavMessage) {
    let header = MavHeader { system_id: source.system.into(), component_id: source.component, sequence };
    *raw.incompatibility_flags_mut() = 0;
    raw.serialize_message(header, message);
}

/// Writes `message` as a packet that is to be signed.
pub fn write_for_signing(raw: &mut MAVLinkV2MessageRaw, source: Source, sequence: u8, message: &MavMessage) {
    let header = MavHeader { system_id: source.system.into(), component_id: source.component, sequence };
    *raw.incompatibility_flags_mut() = SIGNED;
    raw.serialize_message_for_signing(header, message);
}

/// Whether `raw` says that it is signed.
#[must_use]
pub fn is_signed(raw: &MAVLinkV2MessageRaw) -> bool {
    raw.incompatibility_flags() & SIGNED != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::dialect::{COMPONENT_INFORMATION_DATA, COMPONENT_METADATA_DATA, HEARTBEAT_DATA, PROTOCOL_VERSION_DATA};
    use mavlink_core::MessageData;

    fn packet(sequence: u8) -> Vec<u8> {
        let mut raw = MAVLinkV2MessageRaw::new();
        let beat = MavMessage::HEARTBEAT(HEARTBEAT_DATA { mavlink_version: 3, mavtype: 18, ..HEARTBEAT_DATA::DEFAULT });
        write(&mut raw, Source { system: 1, component: 191 }, sequence, &beat);
        raw.raw_bytes().to_vec()
    }

    fn all(framer: &mut Framer, mut bytes: &[u8], at: At) -> usize {
        let mut found = 0;
        loop {
            bytes = &bytes[framer.push(bytes, at)..];
            while framer.next(at).is_some() {
                found += 1;
            }
            if bytes.is_empty() {
                return found;
            }
        }
    }

    /// The figures of <https://github.com/mavlink/mavlink>'s own generators.
    #[test]
    fn definitions_written_by_hand_have_the_standards_check_bytes() {
        assert_eq!(
            [PROTOCOL_VERSION_DATA::EXTRA_CRC, COMPONENT_INFORMATION_DATA::EXTRA_CRC, COMPONENT_METADATA_DATA::EXTRA_CRC],
            [217, 0, 182]
        );
    }

    #[test]
    fn packets_are_found_in_noise_and_in_any_pieces() {
        let mut bytes = vec![0xfd, 0x20, 0, 0, 1, 2, 3];
        for sequence in 0..50 {
            bytes.extend(packet(sequence));
            bytes.extend([0xfd, 7, 0xfe, 255, 0x55]);
        }
        for size in [1, 7, 64, 4_000] {
            let mut framer = Framer::default();
            let found: usize = bytes.chunks(size).map(|piece| all(&mut framer, piece, At::default())).sum();
            // The last start in the noise may wait for bytes that don't come.
            let late = all(&mut framer, &[], At(STALE));
            assert_eq!(found + late, 50, "in pieces of {size}");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut state = 1_u64;
        let mut framer = Framer::default();
        for round in 0..20_000_u64 {
            let piece: Vec<u8> = (0..97)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let byte = (state >> 56) as u8;
                    if byte < 40 { 0xfd } else { byte }
                })
                .collect();
            all(&mut framer, &piece, At(Duration::from_millis(round)));
        }
        assert!(framer.counts.noise + framer.counts.unknown > 1_000);
    }
}
