//! One transfer: bytes in fragments from one side to the other. The receiver says what is missing; the sender sends that again.
//!
//! ```text
//!  sender   Sending ── all sent ──▶ Waiting ── NACK ──▶ Sending        DONE-ACK from anywhere ──▶ over
//!                                     └─ time-out: the last fragment again, less and less often
//!  receiver fragments … ── the last one, or silence ──▶ NACK of what is missing, again after a time-out ── all there ──▶ DONE-ACK
//! ```
//!
//! # Why
//! On a radio that loses one packet in five, an acknowledgement a fragment costs more than what it saves. A NACK after a round names all that is
//! missing in one small packet; while fragments still come in, waiting for the round to end costs no time, because the line is busy anyway.

use std::time::Duration;

use crate::link::clock::At;
use crate::link::rto::Rto;
use crate::link::wire::{self, DATA, Kind, Nack};

/// Most fragments of a transfer.
pub const MAX_FRAGMENTS: usize = 256;
/// Most bytes of a transfer.
pub const MAX_TRANSFER: usize = MAX_FRAGMENTS * DATA;
/// Packets may overtake each other by so much.
const REORDER: Duration = Duration::from_millis(250);
/// Time-outs in a row before a side gives up: a few minutes.
const PATIENCE: u32 = 24;

/// A set of fragment numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set([u64; MAX_FRAGMENTS / 64]);

impl Set {
    fn first(count: usize) -> Self {
        let mut set = Self::default();
        (0..count).for_each(|at| set.put(at));
        set
    }
    fn put(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }
    fn remove(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & 1 << (at % 64) != 0
    }
    fn lowest(&self) -> Option<usize> {
        self.0.iter().zip(0..).find(|(word, _)| **word != 0).map(|(word, at)| at * 64 + word.trailing_zeros() as usize)
    }
}

/// What goes out. Its storage is allocated once.
pub struct Outbound {
    bytes: Box<[u8; MAX_TRANSFER]>,
    len: usize,
    due: Set,
    sent: Box<[Option<At>; MAX_FRAGMENTS]>,
    again: Set,
    probe_at: At,
    timeouts: u32,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; MAX_TRANSFER]),
            len: 0,
            due: Set::default(),
            sent: Box::new([None; MAX_FRAGMENTS]),
            again: Set::default(),
            probe_at: At::default(),
            timeouts: 0,
        }
    }
}

impl Outbound {
    /// What one holds.
    pub const BYTES: usize = MAX_TRANSFER + MAX_FRAGMENTS * size_of::<Option<At>>();

    /// Begins a transfer of what `fill` writes; `None` from it, or nothing written, begins none.
    pub fn begin(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        self.len = 0;
        let Some(len) = fill(&mut self.bytes[..]).filter(|len| (1..=MAX_TRANSFER).contains(len)) else { return false };
        self.len = len;
        self.due = Set::first(self.count());
        self.again = Set::default();
        self.sent.fill(None);
        self.timeouts = 0;
        true
    }

    /// All of it again, from the beginning: the other side may have forgotten.
    pub fn again(&mut self) {
        self.due = Set::first(self.count());
        self.again = self.due;
        self.timeouts = 0;
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.len.div_ceil(DATA)
    }

    /// Whether something could go out now.
    #[must_use]
    pub fn wants(&self, at: At) -> bool {
        self.len > 0 && (self.due.lowest().is_some() || at >= self.probe_at)
    }

    /// Whether every fragment went out, some perhaps in vain.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.due.lowest().is_none()
    }

    /// The fragment that goes out next, and its data. The caller sends it.
    pub fn next(&mut self, at: At, rto: Rto) -> Option<(u16, &[u8])> {
        if self.len == 0 {
            return None;
        }
        let index = match self.due.lowest() {
            Some(index) => index,
            None if at >= self.probe_at => {
                self.timeouts += 1;
                self.count() - 1
            }
            None => return None,
        };
        if self.sent[index].is_some() {
            self.again.put(index);
        }
        self.due.remove(index);
        self.sent[index] = Some(at);
        self.probe_at = at.after(rto.backed_off(self.timeouts).max(REORDER * 2));
        let from = index * DATA;
        Some((u16::try_from(index).unwrap_or(u16::MAX), &self.bytes[from..self.len.min(from + DATA)]))
    }

    /// The other side misses fragments. Those that went out a moment ago are still on their way.
    pub fn nack(&mut self, nack: &Nack<'_>, at: At, rto: &mut Rto) {
        let count = self.count();
        self.answered(at, rto);
        for (byte, bits) in nack.missing.iter().enumerate() {
            for bit in (0..8).filter(|bit| bits & 1 << bit != 0) {
                let index = usize::from(nack.first) + byte * 8 + bit;
                let just_sent = |sent: At| at.since(sent) < rto.trip() / 2;
                if index < count && !self.sent[index].is_some_and(just_sent) {
                    self.due.put(index);
                }
            }
        }
    }

    /// The other side lives: a round trip is measured where the last fragment went out only once.
    pub fn answered(&mut self, at: At, rto: &mut Rto) {
        self.timeouts = 0;
        let last = self.count().saturating_sub(1);
        if self.len > 0
            && !self.again.has(last)
            && self.due.lowest().is_none()
            && let Some(sent) = self.sent[last]
        {
            rto.measured(at.since(sent));
            self.again.put(last);
        }
    }

    /// Nothing more goes out until [`Self::again`].
    pub fn rest(&mut self, at: At) {
        self.due = Set::default();
        self.probe_at = at.after(Duration::from_secs(u64::from(u32::MAX)));
    }

    /// Over: its storage is free.
    pub fn end(&mut self) {
        self.len = 0;
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.len == 0
    }

    /// The other side has been silent for minutes.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.timeouts > PATIENCE
    }
}

/// The last four bytes, or as many as there are.
#[must_use]
pub fn end_of(data: &[u8]) -> u32 {
    data.iter().rev().take(wire::TRAILER).fold(0, |end, byte| end << 8 | u32::from(*byte))
}

/// What comes in, `N` bytes at most. Its storage is allocated once.
pub struct Inbound<const N: usize> {
    bytes: Box<[u8; N]>,
    len: usize,
    count: usize,
    kind: Kind,
    missing: Set,
    heard: At,
    /// The round is over when this one is there.
    tail: usize,
    tail_there: bool,
    next_nack: At,
    timeouts: u32,
}

/// What a fragment made of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    New,
    /// It was there already, or is no part of this transfer.
    Nothing,
    /// It was the last one missing.
    Whole,
}

impl<const N: usize> Default for Inbound<N> {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; N]),
            len: 0,
            count: 0,
            kind: Kind::Query,
            missing: Set::default(),
            heard: At::default(),
            tail: 0,
            tail_there: false,
            next_nack: At::default(),
            timeouts: 0,
        }
    }
}

impl<const N: usize> Inbound<N> {
    /// Begins a transfer of `count` fragments; `false`: more than there is room for.
    pub fn begin(&mut self, kind: Kind, count: u16, at: At, rto: Rto) -> bool {
        let count = usize::from(count);
        if count == 0 || count > MAX_FRAGMENTS || (count - 1) * DATA >= N {
            return false;
        }
        self.kind = kind;
        self.count = count;
        self.len = 0;
        self.missing = Set::first(count);
        (self.tail, self.tail_there) = (count - 1, false);
        self.heard = at;
        self.next_nack = at.after(rto.get());
        self.timeouts = 0;
        true
    }

    #[must_use]
    pub fn is_of(&self, kind: Kind, count: u16) -> bool {
        self.count > 0 && self.kind == kind && self.count == usize::from(count)
    }

    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.count > 0
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Fragments that are there, and all.
    #[must_use]
    pub fn share(&self) -> (usize, usize) {
        let missing: u32 = self.missing.0.iter().map(|word| word.count_ones()).sum();
        (self.count - missing as usize, self.count)
    }

    /// A fragment of this transfer.
    pub fn take(&mut self, index: u16, data: &[u8], at: At, rto: Rto) -> Taken {
        let index = usize::from(index);
        let last = self.count.checked_sub(1);
        let fits = if Some(index) == last { !data.is_empty() } else { data.len() == DATA };
        let from = index * DATA;
        if index >= self.count || !fits || from + data.len() > N {
            return Taken::Nothing;
        }
        if index >= self.tail {
            self.tail_there = true;
            self.next_nack = self.next_nack.min(at.after(REORDER));
        }
        if !self.missing.has(index) {
            return Taken::Nothing;
        }
        self.missing.remove(index);
        self.bytes[from..from + data.len()].copy_from_slice(data);
        if Some(index) == last {
            self.len = from + data.len();
        }
        self.heard = at;
        self.timeouts = 0;
        self.next_nack = at.after(if self.tail_there { REORDER } else { rto.get() });
        if self.missing.lowest().is_none() { Taken::Whole } else { Taken::New }
    }

    /// The bytes, once all are there.
    #[must_use]
    pub fn whole(&self) -> Option<&[u8]> {
        (self.count > 0 && self.missing.lowest().is_none()).then(|| &self.bytes[..self.len])
    }

    /// Whether `data` is what is there of a whole transfer as its fragment `index` of `count`.
    #[must_use]
    pub fn has(&self, index: u16, count: u16, data: &[u8]) -> bool {
        let from = usize::from(index) * DATA;
        let whole = self.whole().unwrap_or_default();
        self.count == usize::from(count) && whole.get(from..whole.len().min(from + DATA)) == Some(data)
    }

    /// The last fragment of a whole transfer, by number, and the end of its data: of the checksum over all as much as is in it.
    #[must_use]
    pub fn end_of(&self) -> Option<(u16, u32)> {
        let index = self.count.checked_sub(1)?;
        Some((u16::try_from(index).ok()?, end_of(self.whole()?.get(index * DATA..)?)))
    }

    /// What to ask for again now, as [`Nack::first`] and its bits; `None`: nothing yet.
    pub fn nack(&mut self, at: At, rto: Rto) -> Option<(u16, [u8; 96], usize)> {
        let first = self.missing.lowest().filter(|_| self.count > 0 && at >= self.next_nack)?;
        self.timeouts += u32::from(!self.tail_there);
        let (mut bits, mut len) = ([0; 96], 0);
        self.tail = first;
        for index in (first..self.count).filter(|index| self.missing.has(*index)) {
            let byte = (index - first) / 8;
            bits[byte] |= 1 << ((index - first) % 8);
            len = byte + 1;
            self.tail = index;
        }
        self.tail_there = false;
        self.next_nack = at.after(rto.backed_off(self.timeouts));
        Some((u16::try_from(first).unwrap_or(u16::MAX), bits, len))
    }

    #[must_use]
    pub fn wants_nack(&self, at: At) -> bool {
        self.count > 0 && self.missing.lowest().is_some() && at >= self.next_nack
    }

    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.timeouts > PATIENCE
    }

    /// Over: its storage is free.
    pub fn end(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_sent_again_and_nothing_else() {
        let text: Vec<u8> = (0..2_000).map(|at| (at % 251) as u8).collect();
        let mut rto = Rto::default();
        rto.measured(Duration::from_millis(100));
        let (mut out, mut into) = (Outbound::default(), Inbound::<MAX_TRANSFER>::default());
        assert!(out.begin(|room| {
            room[..text.len()].copy_from_slice(&text);
            Some(text.len())
        }));
        assert!(into.begin(Kind::Answer, 18, At::default(), rto));
        let mut ms = 0;
        let at = |ms| At(Duration::from_millis(ms));
        let mut indices = Vec::new();
        while let Some((index, data)) = out.next(at(ms), rto) {
            ms += 10;
            indices.push(index);
            if !matches!(index, 3 | 7 | 17) {
                into.take(index, data, at(ms), rto);
            }
            if indices.len() == 18 {
                break;
            }
        }
        assert!(into.nack(at(ms + 100), rto).is_none());
        ms += 600;
        let (first, bits, len) = into.nack(at(ms), rto).unwrap();
        assert_eq!((first, &bits[..len]), (3, &[0b0001_0001, 0b0100_0000][..]));
        out.nack(&Nack { first, missing: &bits[..len] }, at(ms), &mut rto);
        let mut again = Vec::new();
        let mut state = Taken::Nothing;
        for _ in 0..3 {
            let (index, data) = out.next(at(ms), rto).unwrap();
            again.push(index);
            state = into.take(index, data, at(ms), rto);
        }
        assert_eq!((again, state), (vec![3, 7, 17], Taken::Whole));
        assert_eq!(into.whole(), Some(&text[..]));
    }

    #[test]
    fn hostile_fragments_and_nacks_change_nothing() {
        let rto = Rto::default();
        let mut into = Inbound::<1_000>::default();
        assert!(!into.begin(Kind::Query, 0, At::default(), rto));
        assert!(!into.begin(Kind::Query, 10, At::default(), rto));
        assert!(!into.begin(Kind::Query, u16::MAX, At::default(), rto));
        assert!(into.begin(Kind::Query, 9, At::default(), rto));
        for (index, data) in [(9, &[0; 112][..]), (0, &[0; 5]), (8, &[]), (u16::MAX, &[1; 112])] {
            assert_eq!(into.take(index, data, At::default(), rto), Taken::Nothing);
        }
        let mut out = Outbound::default();
        let mut rto = Rto::default();
        out.nack(&Nack { first: 0, missing: &[255; 96] }, At::default(), &mut rto);
        assert!(out.next(At(Duration::from_secs(100)), rto).is_none());
        assert!(out.begin(|_| Some(300)));
        out.nack(&Nack { first: u16::MAX, missing: &[255; 96] }, At::default(), &mut rto);
        assert_eq!(out.count(), 3);
    }
}
