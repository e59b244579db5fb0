//! MAVLink 2 signing: packets are signed, and what comes in is held against the key and against what came before.
//!
//! Source: <https://mavlink.io/en/guide/message_signing.html>. Timestamps count 10 µs since 2015.
//!
//! # Why
//! The crate compares signatures byte by byte and keeps timestamps in a growing map that is lost at the end. Here the comparison takes the same time
//! whatever is wrong, memory is fixed, and what was heard before a restart stays heard: a recorded packet is refused after it too.

use mavlink_core::MAVLinkV2MessageRaw;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::link::clock::Now;
use crate::link::frame::{self, Source};
use crate::link::key::Key;

/// Streams that are remembered by name.
pub const MAX_STREAMS: usize = 32;
/// 2015-01-01 in milliseconds since 1970.
const EPOCH_MS: i64 = 1_420_070_400_000;
const SECOND: u64 = 100_000;
/// A stream that is heard for the first time may be off by so much.
const FIRST_SEEN: u64 = 60 * SECOND;
/// What is kept on disk runs ahead by so much, so that not every packet writes. After a restart, peers are deaf-eared for no longer than that.
const AHEAD: u64 = 5 * SECOND;
/// 48 bits.
const MOST: u64 = (1 << 48) - 1;
/// Bytes of a memory as it is stored.
pub const MAX_STORED: usize = 1_024;

/// Where a link's memory of timestamps is kept; on disk when `store` returns.
pub trait Floors: Send {
    /// # Errors
    /// Why nothing can be read.
    fn load(&mut self) -> Result<Option<Vec<u8>>, String>;
    /// # Errors
    /// Why nothing can be written.
    fn store(&mut self, memory: &[u8]) -> Result<(), String>;
}

/// Kept nowhere: for a ground station's short commands and for tests.
#[derive(Default)]
pub struct NoFloors(Option<Vec<u8>>);

impl Floors for NoFloors {
    fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.clone())
    }
    fn store(&mut self, memory: &[u8]) -> Result<(), String> {
        self.0 = Some(memory.to_owned());
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stream {
    system: u8,
    component: u8,
    link: u8,
    last: u64,
}

/// As it is stored: names and numbers of version 1 stand.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Memory {
    streams: heapless::Vec<Stream, MAX_STREAMS>,
    /// Above all streams that had to be forgotten.
    forgotten: u64,
    /// The last of our own.
    own: u64,
}

/// Why a packet is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error("packet: wanted a signature, found none")]
    Unsigned,
    #[error("packet: wanted a signature by this link's key, found another")]
    Wrong,
    #[error("packet: wanted a timestamp after the stream's last, found one that is not")]
    Replayed,
    #[error("packet: wanted a new stream within a minute of the clock, or ahead of all that was heard, found one that is not")]
    FirstSeen,
}

/// Signs and verifies with one key.
pub struct Signing {
    key: Key,
    link: u8,
    memory: Memory,
    stored: Memory,
    floors: Box<dyn Floors>,
    /// The memory could not be stored; what is heard now could be replayed after a restart.
    pub unstored: u64,
}

fn ticks(now: Now) -> Option<u64> {
    let since = now.wall?.0.checked_sub(EPOCH_MS)?;
    u64::try_from(since).ok().and_then(|ms| ms.checked_mul(100))
}

fn field(raw: &MAVLinkV2MessageRaw, from: usize, len: usize) -> &[u8] {
    let end = 12 + usize::from(raw.payload_length());
    &raw.as_slice()[end + from..end + from + len]
}

impl Signing {
    /// Signing as link number `link`, with what `floors` remembers.
    ///
    /// # Errors
    /// Why the memory can't be read. A link that forgot what it heard could be replayed to, and doesn't start.
    pub fn new(key: Key, link: u8, mut floors: Box<dyn Floors>) -> Result<Self, String> {
        let memory = match floors.load()? {
            None => Memory::default(),
            Some(bytes) => {
                postcard::from_bytes(&bytes).map_err(|error| format!("memory of timestamps: wanted version 1, found {error}"))?
            }
        };
        Ok(Self { key, link, stored: memory.clone(), memory, floors, unstored: 0 })
    }

    /// Another key from now on. What was heard stays heard.
    pub fn rekey(&mut self, key: Key) {
        self.key = key;
    }

    /// Puts link number, timestamp and signature on a packet that was written for signing.
    pub fn sign(&mut self, raw: &mut MAVLinkV2MessageRaw, now: Now) {
        self.memory.own = ticks(now).unwrap_or(0).max(self.memory.own + 1).min(MOST);
        if self.memory.own > self.stored.own {
            self.store();
        }
        *raw.signature_link_id_mut() = self.link;
        raw.signature_timestamp_bytes_mut().copy_from_slice(&self.memory.own.to_le_bytes()[..6]);
        let mut signature = [0; 6];
        raw.calculate_signature(self.key.bytes(), &mut signature);
        raw.signature_value_mut().copy_from_slice(&signature);
    }

    /// Whether a packet is by somebody with the key, and new.
    ///
    /// # Errors
    /// Why it is not taken; nothing is remembered of it.
    pub fn verify(&mut self, raw: &MAVLinkV2MessageRaw, source: Source, now: Now) -> Result<(), Dropped> {
        if !frame::is_signed(raw) {
            return Err(Dropped::Unsigned);
        }
        let mut wanted = [0; 6];
        raw.calculate_signature(self.key.bytes(), &mut wanted);
        if !bool::from(wanted.ct_eq(field(raw, 7, 6))) {
            return Err(Dropped::Wrong);
        }
        let link = field(raw, 0, 1)[0];
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(field(raw, 1, 6));
        let stamp = u64::from_le_bytes(bytes);
        let named = |stream: &Stream| (stream.system, stream.component, stream.link) == (source.system, source.component, link);
        let Some(known) = self.memory.streams.iter().position(named) else {
            self.first(stamp, now)?;
            self.remember(Stream { system: source.system, component: source.component, link, last: stamp });
            return Ok(());
        };
        if stamp <= self.memory.streams[known].last {
            return Err(Dropped::Replayed);
        }
        self.memory.streams[known].last = stamp;
        self.heard(stamp, known);
        Ok(())
    }

    fn first(&self, stamp: u64, now: Now) -> Result<(), Dropped> {
        let floor = match ticks(now) {
            Some(here) if stamp.abs_diff(here) <= FIRST_SEEN => self.memory.forgotten,
            Some(_) => return Err(Dropped::FirstSeen),
            None => self.memory.streams.iter().map(|stream| stream.last).fold(self.memory.forgotten, u64::max),
        };
        if stamp > floor { Ok(()) } else { Err(Dropped::FirstSeen) }
    }

    fn remember(&mut self, stream: Stream) {
        if self.memory.streams.is_full() {
            // Only who has the key comes here. The stream that spoke last the longest ago goes, and nothing older is believed of an unknown one.
            if let Some(oldest) = (0..MAX_STREAMS).min_by_key(|at| self.memory.streams[*at].last) {
                let gone = self.memory.streams.swap_remove(oldest);
                self.memory.forgotten = self.memory.forgotten.max(gone.last);
            }
        }
        let stamp = stream.last;
        let _ = self.memory.streams.push(stream);
        self.heard(stamp, self.memory.streams.len() - 1);
    }

    /// After a packet was taken: what is on disk must be at or above it.
    fn heard(&mut self, stamp: u64, at: usize) {
        // Our own stamps stay above what others say, so that a board without a clock is believed.
        self.memory.own = self.memory.own.max(stamp.min(MOST - 1));
        let stream = self.memory.streams[at];
        let same = |other: &&Stream| (other.system, other.component, other.link) == (stream.system, stream.component, stream.link);
        let covered = self.stored.forgotten >= self.memory.forgotten
            && self.stored.streams.iter().find(same).is_some_and(|stored| stored.last >= stamp);
        if !covered {
            self.store();
        }
    }

    fn store(&mut self) {
        let mut ahead = self.memory.clone();
        ahead.own = (ahead.own + AHEAD).min(MOST - 1);
        for stream in &mut ahead.streams {
            stream.last = (stream.last + AHEAD).min(MOST);
        }
        let mut bytes = [0; MAX_STORED];
        let stored = postcard::to_slice(&ahead, &mut bytes).map_err(|error| error.to_string()).and_then(|bytes| self.floors.store(bytes));
        match stored {
            Ok(()) => self.stored = ahead,
            Err(_) => self.unstored += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::clock::At;
    use crate::link::dialect::{HEARTBEAT_DATA, MavMessage};
    use crate::units::UnixMillis;
    use std::sync::{Arc, Mutex};

    const NOON: i64 = 1_800_000_000_000;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Option<Vec<u8>>>>, Arc<Mutex<u32>>);
    impl Floors for Shared {
        fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
            Ok(self.0.lock().unwrap().clone())
        }
        fn store(&mut self, memory: &[u8]) -> Result<(), String> {
            *self.0.lock().unwrap() = Some(memory.to_owned());
            *self.1.lock().unwrap() += 1;
            Ok(())
        }
    }

    fn now(ms: i64) -> Now {
        Now::new(At::default(), UnixMillis(NOON + ms))
    }

    fn source(system: u8) -> Source {
        Source { system, component: 190 }
    }

    fn signed(by: &mut Signing, system: u8, ms: i64) -> MAVLinkV2MessageRaw {
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write_for_signing(&mut raw, source(system), 0, &MavMessage::HEARTBEAT(HEARTBEAT_DATA::DEFAULT));
        by.sign(&mut raw, now(ms));
        raw
    }

    fn signing(link: u8, floors: &Shared) -> Signing {
        Signing::new(Key::from_passphrase("a long passphrase").unwrap(), link, Box::new(floors.clone())).unwrap()
    }

    #[test]
    fn what_was_heard_is_refused_before_and_after_a_restart() {
        let floors = Shared::default();
        let mut ground = signing(0, &Shared::default());
        let mut board = signing(1, &floors);
        let packets: Vec<_> = (0..200).map(|at| signed(&mut ground, 255, at * 100)).collect();
        for (at, raw) in packets.iter().enumerate() {
            assert_eq!(board.verify(raw, source(255), now(at as i64 * 100)), Ok(()));
            assert_eq!(board.verify(raw, source(255), now(at as i64 * 100)), Err(Dropped::Replayed));
        }
        // 20 s of packets are at most 6 writes of the stream and as many of our own stamp.
        assert!(*floors.1.lock().unwrap() <= 12, "{}", floors.1.lock().unwrap());
        let mut board = signing(1, &floors);
        for raw in &packets {
            assert_eq!(board.verify(raw, source(255), now(20_000)), Err(Dropped::Replayed));
        }
        let later = signed(&mut ground, 255, 26_000);
        assert_eq!(board.verify(&later, source(255), now(26_000)), Ok(()));
    }

    #[test]
    fn a_stream_heard_first_must_be_near_the_clock_or_ahead() {
        let mut board = signing(1, &Shared::default());
        let mut ground = signing(0, &Shared::default());
        let old = signed(&mut ground, 255, 0);
        assert_eq!(board.verify(&old, source(255), now(61_000)), Err(Dropped::FirstSeen));
        assert_eq!(board.verify(&old, source(255), now(-61_000)), Err(Dropped::FirstSeen));
        assert_eq!(board.verify(&old, source(255), now(59_000)), Ok(()));
        let timeless = Now::default();
        let mut other = signing(0, &Shared::default());
        assert_eq!(board.verify(&signed(&mut other, 254, -1), source(254), timeless), Err(Dropped::FirstSeen));
        assert_eq!(board.verify(&signed(&mut other, 254, 2), source(254), timeless), Ok(()));
    }

    #[test]
    fn more_streams_than_places_open_no_door_to_old_packets() {
        let mut board = signing(1, &Shared::default());
        let mut recorded = Vec::new();
        for system in 0..100_u8 {
            let mut ground = signing(0, &Shared::default());
            let raw = signed(&mut ground, system, i64::from(system));
            assert_eq!(board.verify(&raw, source(system), now(100)), Ok(()), "{system}");
            recorded.push(raw);
        }
        for (system, raw) in (0..).zip(&recorded) {
            assert!(board.verify(raw, source(system), now(100)).is_err(), "{system}");
        }
    }

    #[test]
    fn unsigned_wrong_and_other_keys_packets_are_dropped() {
        let mut board = signing(1, &Shared::default());
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write(&mut raw, source(255), 0, &MavMessage::HEARTBEAT(HEARTBEAT_DATA::DEFAULT));
        assert_eq!(board.verify(&raw, source(255), now(0)), Err(Dropped::Unsigned));
        let mut stranger = Signing::new(Key::random().unwrap(), 0, Box::<NoFloors>::default()).unwrap();
        assert_eq!(board.verify(&signed(&mut stranger, 255, 0), source(255), now(0)), Err(Dropped::Wrong));
        assert!(board.memory.streams.is_empty());
    }

    #[test]
    fn a_full_memory_fits_what_is_stored() {
        let mut memory = Memory { forgotten: u64::MAX, own: u64::MAX, ..Memory::default() };
        while memory.streams.push(Stream { system: 255, component: 255, link: 255, last: u64::MAX }).is_ok() {}
        let mut bytes = [0; MAX_STORED];
        assert!(postcard::to_slice(&memory, &mut bytes).is_ok());
    }
}
