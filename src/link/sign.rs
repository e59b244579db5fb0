//! MAVLink 2 signing: packets are signed, and what comes in is held against the key and against what came before.
//!
//! Source: <https://mavlink.io/en/guide/message_signing.html>. Timestamps count 10 µs since 2015.
//!
//! # Why
//! The crate compares signatures byte by byte and keeps timestamps in a growing map that is lost at the end. Here the comparison takes the same time
//! whatever is wrong, memory is fixed, and what was heard before a restart stays heard: a recorded packet is refused after it too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mavlink_core::MAVLinkV2MessageRaw;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::link::clock::{At, Now};
use crate::link::frame::{self, Source};
use crate::link::key::Key;

/// Streams that are remembered by name.
pub const MAX_STREAMS: usize = 32;
/// 2015-01-01 in milliseconds since 1970.
const EPOCH_MS: i64 = 1_420_070_400_000;
const SECOND: u64 = 100_000;
/// A stream that is heard for the first time may be off by so much, and no stream may be ahead of a trusted clock by more.
const FIRST_SEEN: u64 = 60 * SECOND;
/// What is kept on disk runs ahead by so much, so that not every packet writes. After a restart, peers are deaf-eared for no longer than that.
const AHEAD: u64 = 5 * SECOND;
/// The same of our own stamps while they count packets, because no clock is ahead of them.
const COUNTED: u64 = 1_000;
/// 48 bits.
const MOST: u64 = (1 << 48) - 1;
/// 2100-01-01: whoever says more, with no clock to hold it against, would leave nobody room to go on.
const LATEST: u64 = 85 * 365 * 86_400 * SECOND;
/// A memory that could not be stored is tried again so much later.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of a memory as it is stored.
pub const MAX_STORED: usize = 1_024;

/// Where a key's memory of timestamps is kept; on disk when `store` returns.
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
        match &mut self.0 {
            Some(kept) => {
                kept.clear();
                kept.extend_from_slice(memory);
            }
            none => *none = Some(memory.to_owned()),
        }
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

impl Stream {
    fn is(&self, other: &Self) -> bool {
        (self.system, self.component, self.link) == (other.system, other.component, other.link)
    }
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

impl Memory {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let memory: Self = postcard::from_bytes(bytes).map_err(|error| format!("memory of timestamps: wanted version 1, found {error}"))?;
        let largest = memory.streams.iter().map(|stream| stream.last).fold(memory.forgotten.max(memory.own), u64::max);
        if largest > MOST { Err(format!("memory of timestamps: wanted 48 bits, found {largest}")) } else { Ok(memory) }
    }

    fn find(&self, stream: &Stream) -> Option<usize> {
        self.streams.iter().position(|other| other.is(stream))
    }

    /// Never lowers what is there.
    fn put(&mut self, stream: Stream) {
        if let Some(at) = self.find(&stream) {
            self.streams[at].last = self.streams[at].last.max(stream.last);
            return;
        }
        if self.streams.is_full() {
            // Only who has the key comes here. The stream that spoke last the longest ago goes, and nothing older is believed of an unknown one.
            if let Some(oldest) = (0..MAX_STREAMS).min_by_key(|at| self.streams[*at].last) {
                let gone = self.streams.swap_remove(oldest);
                self.forgotten = self.forgotten.max(gone.last);
            }
        }
        let _ = self.streams.push(stream);
    }

    fn absorb(&mut self, other: &Self) {
        self.forgotten = self.forgotten.max(other.forgotten);
        self.own = self.own.max(other.own);
        other.streams.iter().for_each(|stream| self.put(*stream));
    }
}

/// What two who heard with the same key remember between them, as it is stored.
///
/// # Errors
/// Bytes that are no memory.
pub fn merged(one: &[u8], other: &[u8]) -> Result<Vec<u8>, String> {
    let mut memory = Memory::read(one)?;
    memory.absorb(&Memory::read(other)?);
    let mut bytes = [0; MAX_STORED];
    postcard::to_slice(&memory, &mut bytes).map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
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
    #[error("packet: wanted a timestamp at most a minute ahead of the clock, found one that is further")]
    Ahead,
    #[error("packet: wanted its timestamp on disk, found that it can't be stored")]
    Unstored,
}

struct Kept {
    memory: Memory,
    stored: Memory,
    /// Nothing was signed in this run: `memory.own` is above all that the one before can have said, not the last of it.
    fresh: bool,
    floors: Box<dyn Floors>,
    unstored: u64,
    failed_at: Option<At>,
}

/// One key's memory of timestamps. A clone is the same memory.
///
/// # Why
/// Lines that share a key share what was heard: what was recorded on one line would be new on the other.
#[derive(Clone)]
pub struct Timestamps(Arc<Mutex<Kept>>);

impl Timestamps {
    /// With what `floors` remembers.
    ///
    /// # Errors
    /// Why the memory can't be read. Who forgot what was heard could be replayed to, and doesn't start.
    pub fn open(mut floors: Box<dyn Floors>) -> Result<Self, String> {
        let memory = floors.load()?.map_or_else(|| Ok(Memory::default()), |bytes| Memory::read(&bytes))?;
        let kept = Kept { stored: memory.clone(), memory, fresh: true, floors, unstored: 0, failed_at: None };
        Ok(Self(Arc::new(Mutex::new(kept))))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each change under the lock is whole by the time anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// What is on disk is at or above what is in `memory` from now on.
    fn store(&mut self, memory: &Memory, reserve: u64, now: Now) -> Result<(), Dropped> {
        if self.failed_at.is_some_and(|failed| now.at.since(failed) < RETRY && now.at >= failed) {
            self.unstored += 1;
            return Err(Dropped::Unstored);
        }
        let mut ahead = memory.clone();
        // A reserve that isn't used up isn't made longer: each start would push our stamps further ahead of all clocks.
        let covers = ahead.own <= self.stored.own && self.stored.own <= ahead.own + FIRST_SEEN;
        ahead.own = if covers { self.stored.own } else { (ahead.own + reserve).min(MOST - 1) };
        for stream in &mut ahead.streams {
            stream.last = (stream.last + AHEAD).min(MOST);
        }
        let mut bytes = [0; MAX_STORED];
        let stored = postcard::to_slice(&ahead, &mut bytes).map_err(|error| error.to_string()).and_then(|bytes| self.floors.store(bytes));
        match stored {
            Ok(()) => {
                (self.stored, self.failed_at) = (ahead, None);
                Ok(())
            }
            Err(_) => {
                self.unstored += 1;
                self.failed_at = Some(now.at);
                Err(Dropped::Unstored)
            }
        }
    }

    /// A packet by somebody with the key: whether it is new. Nothing is remembered of one that isn't, or that can't be remembered on disk.
    fn hear(&mut self, heard: Stream, now: Now) -> Result<(), Dropped> {
        let known = self.memory.find(&heard);
        match known {
            Some(at) if heard.last <= self.memory.streams[at].last => return Err(Dropped::Replayed),
            Some(_) => {}
            None => self.first(heard.last, now)?,
        }
        let latest = ticks(now).filter(|_| now.trusted).map_or(LATEST, |here| here + FIRST_SEEN);
        if heard.last > latest {
            return Err(Dropped::Ahead);
        }
        // Our own stamps stay above what others say, so that a board without a clock is believed.
        let own = if now.trusted { self.memory.own } else { self.memory.own.max(heard.last) };
        let stored = self.stored.find(&heard).map(|at| self.stored.streams[at].last);
        if let Some(at) = known.filter(|_| stored.is_some_and(|stored| stored >= heard.last)) {
            self.memory.streams[at].last = heard.last;
            self.memory.own = own;
            return Ok(());
        }
        let mut memory = self.memory.clone();
        memory.put(heard);
        memory.own = own;
        self.store(&memory, AHEAD, now)?;
        self.memory = memory;
        Ok(())
    }

    fn first(&self, stamp: u64, now: Now) -> Result<(), Dropped> {
        let near = ticks(now).is_some_and(|here| stamp.abs_diff(here) <= FIRST_SEEN) && stamp > self.memory.forgotten;
        let floor = || self.memory.streams.iter().map(|stream| stream.last).fold(self.memory.forgotten, u64::max);
        if near || !now.trusted && stamp > floor() { Ok(()) } else { Err(Dropped::FirstSeen) }
    }

    /// The next stamp of our own.
    fn next(&mut self, now: Now) -> u64 {
        let own = self.memory.own;
        let counted = own + 1;
        let next = match ticks(now) {
            // The run before kept no more than this ahead of the clock, which has gone on since: that reserve is nothing to jump over.
            Some(here) if self.fresh && here + AHEAD > own => here,
            // So far ahead of a clock that is right nobody believes us.
            Some(here) if now.trusted && own > here + FIRST_SEEN => here,
            Some(here) => here.max(counted),
            None => counted,
        };
        self.fresh = false;
        self.memory.own = next.min(MOST);
        // A stamp below what is stored, after the clock was set back, keeps the reserve small too.
        if self.memory.own > self.stored.own || self.memory.own + FIRST_SEEN < self.stored.own {
            let memory = self.memory.clone();
            let reserve = if next == counted && next == self.stored.own + 1 { COUNTED } else { AHEAD };
            // Where it can't be stored, the others may refuse us after a restart: that harms nobody.
            let _ = self.store(&memory, reserve, now);
        }
        self.memory.own
    }
}

/// Signs and verifies with one key.
pub struct Signing {
    key: Key,
    link: u8,
    timestamps: Timestamps,
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
    /// As [`Timestamps::open`].
    pub fn new(key: Key, link: u8, floors: Box<dyn Floors>) -> Result<Self, String> {
        Ok(Self::sharing(key, link, Timestamps::open(floors)?))
    }

    /// Signing as link number `link`, with a memory that other lines with this key have too.
    #[must_use]
    pub fn sharing(key: Key, link: u8, timestamps: Timestamps) -> Self {
        Self { key, link, timestamps }
    }

    /// Another key from now on. What was heard stays heard.
    pub fn rekey(&mut self, key: Key) {
        self.key = key;
    }

    /// What was heard goes on in `timestamps`, which others may share.
    pub fn move_to(&mut self, timestamps: Timestamps, now: Now) {
        if !Arc::ptr_eq(&self.timestamps.0, &timestamps.0) {
            let heard = self.timestamps.kept().memory.clone();
            let mut kept = timestamps.kept();
            kept.memory.absorb(&heard);
            let memory = kept.memory.clone();
            // Where it can't be stored, the next packet tries again.
            let _ = kept.store(&memory, AHEAD, now);
            drop(kept);
            self.timestamps = timestamps;
        }
    }

    /// Packets that were not taken because the memory could not be stored, and such stamps of our own.
    #[must_use]
    pub fn unstored(&self) -> u64 {
        self.timestamps.kept().unstored
    }

    /// Puts link number, timestamp and signature on a packet that was written for signing.
    pub fn sign(&mut self, raw: &mut MAVLinkV2MessageRaw, now: Now) {
        let own = self.timestamps.kept().next(now);
        *raw.signature_link_id_mut() = self.link;
        raw.signature_timestamp_bytes_mut().copy_from_slice(&own.to_le_bytes()[..6]);
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
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(field(raw, 1, 6));
        let last = u64::from_le_bytes(bytes);
        let heard = Stream { system: source.system, component: source.component, link: field(raw, 0, 1)[0], last };
        self.timestamps.kept().hear(heard, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::dialect::{HEARTBEAT_DATA, MavMessage};
    use crate::units::UnixMillis;

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
    fn a_memory_of_more_than_48_bits_is_none() {
        let stream = |last| Stream { system: 1, component: 1, link: 0, last };
        let cases = [(MOST + 1, 0, 0), (0, u64::MAX, 0), (0, 0, MOST + 1)];
        for (last, forgotten, own) in cases {
            let memory = Memory { streams: [stream(last)].into_iter().collect(), forgotten, own };
            let floors =
                Shared(Arc::new(Mutex::new(Some(postcard::to_slice(&memory, &mut [0; MAX_STORED]).unwrap().to_vec()))), Arc::default());
            let found = Timestamps::open(Box::new(floors)).err();
            assert_eq!(found, Some(format!("memory of timestamps: wanted 48 bits, found {}", last.max(forgotten).max(own))));
        }
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
        assert!(board.timestamps.kept().memory.streams.is_empty());
    }

    /// The stamp on a packet.
    fn stamp(raw: &MAVLinkV2MessageRaw) -> u64 {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(field(raw, 1, 6));
        u64::from_le_bytes(bytes)
    }

    fn here(ms: i64) -> u64 {
        ticks(now(ms)).unwrap()
    }

    #[test]
    fn lines_of_one_key_share_what_was_heard() {
        let floors = Shared::default();
        let key = || Key::from_passphrase("a long passphrase").unwrap();
        let timestamps = Timestamps::open(Box::new(floors.clone())).unwrap();
        let mut lines = [0, 1].map(|link| Signing::sharing(key(), link, timestamps.clone()));
        let mut ground = signing(7, &Shared::default());
        let packets: Vec<_> = (0..50).map(|at| signed(&mut ground, 255, at * 100)).collect();
        for (at, raw) in packets.iter().enumerate() {
            assert_eq!(lines[0].verify(raw, source(255), now(at as i64 * 100)), Ok(()));
        }
        for raw in &packets {
            assert_eq!(lines[1].verify(raw, source(255), now(5_000)), Err(Dropped::Replayed));
        }
        // A line whose key came later, over the cable, brings what it heard with it.
        let mut alone = signing(2, &Shared::default());
        let late = signed(&mut ground, 255, 60_000);
        assert_eq!(alone.verify(&late, source(255), now(60_000)), Ok(()));
        alone.move_to(timestamps.clone(), now(60_000));
        assert_eq!(lines[0].verify(&late, source(255), now(60_000)), Err(Dropped::Replayed));
        let mut again = signing(3, &floors);
        assert_eq!(again.verify(&late, source(255), now(60_000)), Err(Dropped::Replayed));
    }

    #[test]
    fn starts_do_not_push_our_own_stamps_ahead_of_the_clock() {
        let last_floors = Shared::default();
        let floors = last_floors.clone();
        let mut last = 0;
        // A status a second, each in a process of its own.
        for run in 0..50 {
            let mut ground = signing(0, &floors);
            for packet in 0..20 {
                let ms = run * 1_000 + packet * 10;
                let own = stamp(&signed(&mut ground, 255, ms));
                assert!(own > last && own <= here(ms) + 20, "run {run}: {own} at {}", here(ms));
                last = own;
            }
        }
        // Nor do they where a clock in doubt is behind the others' and follows them.
        let (floors, mut ground) = (Shared::default(), signing(0, &Shared::default()));
        for run in 0..50 {
            let mut board = signing(1, &floors);
            let ms = run * 6_000;
            let beat = signed(&mut ground, 255, ms + 3_600_000);
            assert_eq!(board.verify(&beat, source(255), now(ms).doubted()), Ok(()), "run {run}");
            let mut raw = MAVLinkV2MessageRaw::new();
            for _ in 0..20 {
                frame::write_for_signing(&mut raw, source(1), 0, &MavMessage::HEARTBEAT(HEARTBEAT_DATA::DEFAULT));
                board.sign(&mut raw, now(ms).doubted());
            }
            assert!(stamp(&raw) < here(ms + 3_600_000) + 6 * SECOND, "run {run}");
        }
        // Without a clock, what the run before can have said is jumped over.
        let floors = last_floors;
        let mut raw = MAVLinkV2MessageRaw::new();
        for _ in 0..5 {
            let mut ground = signing(0, &floors);
            frame::write_for_signing(&mut raw, source(255), 0, &MavMessage::HEARTBEAT(HEARTBEAT_DATA::DEFAULT));
            ground.sign(&mut raw, Now::default());
            assert!(stamp(&raw) > last);
            last = stamp(&raw);
        }
    }

    #[test]
    fn a_wrong_clock_with_the_key_does_not_carry_others_away() {
        let mut board = signing(1, &Shared::default());
        let (mut right, mut wrong) = (signing(0, &Shared::default()), signing(0, &Shared::default()));
        let far = |by: &mut Signing, ms| signed(by, 254, ms);
        // Heard when it was right, then an hour ahead.
        assert_eq!(board.verify(&far(&mut wrong, 0), source(254), now(0)), Ok(()));
        assert_eq!(board.verify(&far(&mut wrong, 3_600_000), source(254), now(100)), Err(Dropped::Ahead));
        assert!(stamp(&signed(&mut board, 1, 200)) <= here(200) + 1);
        // Without a clock it is believed, and our stamps follow; once there is a clock they come back.
        let doubt = |ms| now(ms).doubted();
        assert_eq!(board.verify(&far(&mut wrong, 7_200_000), source(254), doubt(300)), Ok(()));
        assert!(stamp(&signed(&mut board, 1, 400)) <= here(400) + 1);
        assert_eq!(board.verify(&signed(&mut right, 255, 500), source(255), now(500)), Ok(()));
        // The end of all stamps is nobody's to say.
        let mut raw = far(&mut wrong, 8_000_000);
        raw.signature_timestamp_bytes_mut().copy_from_slice(&(MOST - 2).to_le_bytes()[..6]);
        let mut signature = [0; 6];
        raw.calculate_signature(wrong.key.bytes(), &mut signature);
        raw.signature_value_mut().copy_from_slice(&signature);
        assert_eq!(board.verify(&raw, source(254), doubt(600)), Err(Dropped::Ahead));
    }

    #[test]
    fn a_clock_in_doubt_refuses_nobody_who_is_ahead() {
        // A board whose clock shows the time of its last shutdown, as if it were right.
        let mut board = signing(1, &Shared::default());
        let mut ground = signing(0, &Shared::default());
        let today = signed(&mut ground, 255, 86_400_000);
        assert_eq!(board.verify(&today, source(255), now(0)), Err(Dropped::FirstSeen));
        assert_eq!(board.verify(&today, source(255), now(0).doubted()), Ok(()));
        // And it is believed: its stamps are above the others'.
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write_for_signing(&mut raw, source(1), 0, &MavMessage::HEARTBEAT(HEARTBEAT_DATA::DEFAULT));
        board.sign(&mut raw, now(10).doubted());
        assert_eq!(ground.verify(&raw, source(1), now(86_400_010)), Ok(()));
    }

    struct Full(bool);
    impl Floors for Full {
        fn load(&mut self) -> Result<Option<Vec<u8>>, String> {
            Ok(None)
        }
        fn store(&mut self, _: &[u8]) -> Result<(), String> {
            self.0 = !self.0;
            if self.0 { Err("no room".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn what_cannot_be_remembered_on_disk_is_not_taken() {
        let key = Key::from_passphrase("a long passphrase").unwrap();
        let mut board = Signing::new(key, 1, Box::new(Full(false))).unwrap();
        let mut ground = signing(0, &Shared::default());
        let at = |ms: u64| Now { at: At(Duration::from_millis(ms)), ..now(0) };
        let raw = signed(&mut ground, 255, 0);
        assert_eq!(board.verify(&raw, source(255), at(0)), Err(Dropped::Unstored));
        // Not tried again at once.
        assert_eq!(board.verify(&raw, source(255), at(500)), Err(Dropped::Unstored));
        assert_eq!(board.unstored(), 2);
        assert_eq!(board.verify(&raw, source(255), at(1_100)), Ok(()));
        assert_eq!(board.verify(&raw, source(255), at(1_200)), Err(Dropped::Replayed));
    }

    #[test]
    fn two_memories_are_as_much_as_both() {
        let heard = |system, ms| {
            let floors = Shared::default();
            let (mut board, mut ground) = (signing(1, &floors), signing(0, &Shared::default()));
            let raw = signed(&mut ground, system, ms);
            assert_eq!(board.verify(&raw, source(system), now(ms)), Ok(()));
            let bytes = floors.0.lock().unwrap().clone().unwrap();
            (raw, bytes)
        };
        let ((one, a), (other, b)) = (heard(10, 0), heard(20, 1_000));
        let both = Shared(Arc::new(Mutex::new(Some(merged(&a, &b).unwrap()))), Arc::default());
        let mut board = signing(1, &both);
        for (raw, system) in [(one, 10), (other, 20)] {
            assert_eq!(board.verify(&raw, source(system), now(1_000)), Err(Dropped::Replayed));
        }
        assert!(merged(&a, b"no memory").is_err());
    }

    #[test]
    fn a_full_memory_fits_what_is_stored() {
        let mut memory = Memory { forgotten: u64::MAX, own: u64::MAX, ..Memory::default() };
        while memory.streams.push(Stream { system: 255, component: 255, link: 255, last: u64::MAX }).is_ok() {}
        let mut bytes = [0; MAX_STORED];
        assert!(postcard::to_slice(&memory, &mut bytes).is_ok());
    }
}
