//! The board's side of our own client: who asks what, how far it is, and the reply on its way. As many as there are slots, whoever knocks.
//!
//! ```text
//!  Free ── QUERY fragment ──▶ Reading ── all there ──▶ Waiting ── reply ──▶ Replying ── DONE-ACK, CANCEL or minutes of silence ──▶ Free
//! ```

use std::time::Duration;

use crate::link::clock::At;
use crate::link::frame::Source;
use crate::link::rto::Rto;
use crate::link::station::Station;
use crate::link::transfer::{Inbound, Outbound, Taken};
use crate::link::wire::{self, Accept, DATA, Header, Kind, Nack, Number, Progress, Query, Reject, Session};

/// Queries at once, of all ground stations.
pub const SLOTS: usize = 16;
/// Of one ground station.
pub const SLOTS_A_SOURCE: usize = 4;
/// Bytes of a query.
pub const MAX_QUERY: usize = 2_048;
/// Conversations whose end is remembered for [`STRAY`].
const RECENT: usize = 16;
/// A query's copy that comes so late after its end was under way twice.
const STRAY: Duration = Duration::from_secs(5);
/// Whoever asks and then isn't heard of for so long gives the slot up.
const SILENT: Duration = Duration::from_secs(600);
/// Progress: at the most, where a stage changed, and so that the other side knows we live.
const WORDS_EVERY: Duration = Duration::from_millis(300);
const STAGE_EVERY: Duration = Duration::from_secs(1);
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// The identity of a query: what was asked under it is never run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    pub source: Source,
    pub session: Session,
    pub number: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Reading,
    /// Told: how much of the text the other side was given.
    Waiting {
        accept: Option<Accept>,
        told: usize,
        progress_at: At,
        stage: u32,
    },
    Replying {
        kind: Kind,
    },
}

struct Slot {
    asker: Asker,
    phase: Phase,
    heard: At,
    rto: Rto,
    query: Inbound<MAX_QUERY>,
    reply: Outbound,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCounts {
    pub queries: u64,
    pub busy: u64,
    pub bad_queries: u64,
    /// Fragments that belong to nothing.
    pub strays: u64,
    pub given_up: u64,
}

/// All slots.
pub struct Served {
    slots: Box<[Slot]>,
    recent: heapless::Deque<(Asker, At), RECENT>,
    turn: usize,
    pub counts: ServedCounts,
}

impl Default for Served {
    fn default() -> Self {
        let nobody = Asker { source: Source { system: 0, component: 0 }, session: Session(0), number: Number(0) };
        let slot = || Slot {
            asker: nobody,
            phase: Phase::Free,
            heard: At::default(),
            rto: Rto::default(),
            query: Inbound::default(),
            reply: Outbound::default(),
        };
        Self { slots: (0..SLOTS).map(|_| slot()).collect(), recent: heapless::Deque::new(), turn: 0, counts: ServedCounts::default() }
    }
}

fn header(asker: Asker, kind: Kind) -> Header {
    Header { kind, session: asker.session, number: asker.number, index: 0, count: 1 }
}

fn tell<T: serde::Serialize>(station: &mut Station, asker: Asker, kind: Kind, record: &T) {
    let mut data = [0; DATA];
    if let Ok(bytes) = wire::record(record, &mut data) {
        station.tell_fragment(asker.source, header(asker, kind), bytes);
    }
}

/// `text` cut at a whole character, at most `most` bytes.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

impl Served {
    /// What all slots hold.
    #[must_use]
    pub fn bytes() -> crate::units::Bytes {
        crate::units::Bytes::of::<u8>(SLOTS * (MAX_QUERY + size_of::<Slot>()) + SLOTS * Outbound::BYTES)
    }

    fn find(&self, asker: Asker) -> Option<usize> {
        self.slots.iter().position(|slot| slot.phase != Phase::Free && slot.asker == asker)
    }

    /// Queries that hold a slot.
    #[must_use]
    pub fn open(&self) -> usize {
        self.slots.iter().filter(|slot| slot.phase != Phase::Free).count()
    }

    /// A fragment from `source`; a query that became whole is given to `query`.
    pub fn take(
        &mut self,
        station: &mut Station,
        source: Source,
        head: Header,
        data: &[u8],
        at: At,
        query: &mut dyn FnMut(Asker, Query<'_>),
    ) {
        let asker = Asker { source, session: head.session, number: head.number };
        if head.kind == Kind::Query {
            return self.query(station, asker, head, data, at, query);
        }
        let Some(place) = self.find(asker) else {
            self.counts.strays += 1;
            return;
        };
        let slot = &mut self.slots[place];
        slot.heard = at;
        match (head.kind, slot.phase) {
            (Kind::Nack, Phase::Replying { .. }) => match wire::read::<Nack<'_>>("nack", data) {
                Ok(nack) => slot.reply.nack(&nack, at, &mut slot.rto),
                Err(_) => self.counts.strays += 1,
            },
            (Kind::DoneAck, Phase::Replying { .. }) => {
                slot.reply.answered(at, &mut slot.rto);
                self.free(place, at);
            }
            (Kind::Cancel, _) => {
                station.tell_fragment(source, header(asker, Kind::DoneAck), &[]);
                self.free(place, at);
            }
            _ => self.counts.strays += 1,
        }
    }

    fn query(&mut self, station: &mut Station, asker: Asker, head: Header, data: &[u8], at: At, query: &mut dyn FnMut(Asker, Query<'_>)) {
        if self.recent.iter().any(|(other, ended)| *other == asker && at.since(*ended) < STRAY) {
            self.counts.strays += 1;
            return;
        }
        let place = match self.find(asker) {
            Some(place) => place,
            None => match self.begin(asker, head, at) {
                Ok(place) => place,
                Err(reject) => return tell(station, asker, Kind::Reject, &reject),
            },
        };
        let slot = &mut self.slots[place];
        slot.heard = at;
        match slot.phase {
            Phase::Reading => {
                if !slot.query.is_of(Kind::Query, head.count) {
                    self.counts.strays += 1;
                    return;
                }
                if slot.query.take(head.index, data, at, slot.rto) != Taken::Whole {
                    return;
                }
                slot.phase = Phase::Waiting { accept: None, told: 0, progress_at: at, stage: 0 };
                let read = slot.query.whole().and_then(|bytes| wire::unseal(bytes).ok()).and_then(|bytes| wire::read("query", bytes).ok());
                match read {
                    Some(read) => {
                        self.counts.queries += 1;
                        query(asker, read);
                    }
                    None => {
                        self.counts.bad_queries += 1;
                        let reason = "wanted a query of wire version 1, found something else";
                        self.refuse(station, asker, &Reject { code: "bad-query", reason, wanted: 0, allowed: 0 }, at);
                    }
                }
            }
            // What we said was lost, or is on its way.
            Phase::Waiting { accept: Some(accept), .. } => tell(station, asker, Kind::Accept, &accept),
            _ => {}
        }
    }

    fn begin(&mut self, asker: Asker, head: Header, at: At) -> Result<usize, Reject<'static>> {
        let refuse = |code, reason, wanted: usize, allowed: usize| {
            let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
            Err(Reject { code, reason, wanted: number(wanted), allowed: number(allowed) })
        };
        let own = self.slots.iter().filter(|slot| slot.phase != Phase::Free && slot.asker.source == asker.source).count();
        if own >= SLOTS_A_SOURCE {
            self.counts.busy += 1;
            return refuse("busy", "too many open questions of yours", own + 1, SLOTS_A_SOURCE);
        }
        let Some(place) = self.slots.iter().position(|slot| slot.phase == Phase::Free) else {
            self.counts.busy += 1;
            return refuse("busy", "too many open questions", SLOTS + 1, SLOTS);
        };
        // What was measured of the same ground station a moment ago holds still.
        let known = self.slots.iter().filter(|slot| slot.asker.source == asker.source).max_by_key(|slot| slot.heard).map(|slot| slot.rto);
        let slot = &mut self.slots[place];
        slot.rto = known.unwrap_or_default();
        if !slot.query.begin(Kind::Query, head.count, at, slot.rto) {
            return refuse("long-query", "the query is too long for the link, in bytes", usize::from(head.count) * DATA, MAX_QUERY);
        }
        slot.asker = asker;
        slot.phase = Phase::Reading;
        slot.heard = at;
        Ok(place)
    }

    fn free(&mut self, place: usize, at: At) {
        let slot = &mut self.slots[place];
        slot.phase = Phase::Free;
        slot.reply.end();
        slot.query.end();
        if self.recent.is_full() {
            self.recent.pop_front();
        }
        let _ = self.recent.push_back((slot.asker, at));
    }

    /// The query was taken.
    pub fn accept(&mut self, station: &mut Station, asker: Asker, accept: Accept, at: At) {
        let Some(place) = self.find(asker) else { return };
        self.slots[place].phase = Phase::Waiting { accept: Some(accept), told: 0, progress_at: at, stage: 0 };
        tell(station, asker, Kind::Accept, &accept);
    }

    /// The query was not taken; its slot is free.
    pub fn refuse(&mut self, station: &mut Station, asker: Asker, reject: &Reject<'_>, at: At) {
        let reject = Reject { code: cut(reject.code, 20), reason: cut(reject.reason, 76), ..*reject };
        tell(station, asker, Kind::Reject, &reject);
        if let Some(place) = self.find(asker) {
            self.free(place, at);
            // Asked again at once, it is refused again at once.
            self.recent.pop_back();
        }
    }

    /// How far a question is; what of it goes out, and when, is decided here.
    pub fn progress(&mut self, station: &mut Station, asker: Asker, stage: &str, per_mille: u16, text: &str, at: At) {
        let Some(place) = self.find(asker) else { return };
        let slot = &mut self.slots[place];
        let Phase::Waiting { accept: Some(accept), mut told, progress_at, stage: before } = slot.phase else { return };
        // A text that begins anew, after a restart of the work.
        told = told.min(text.len());
        while !text.is_char_boundary(told) {
            told -= 1;
        }
        let words = cut(&text[told..], 64);
        let named = wire::crc32(stage.as_bytes());
        let wait = if words.is_empty() { if named == before { ALIVE_EVERY } else { STAGE_EVERY } } else { WORDS_EVERY };
        // The first of all says at once that there are words.
        if (words.is_empty() || told != 0) && at.since(progress_at) < wait {
            return;
        }
        let from = u32::try_from(told).unwrap_or(u32::MAX);
        tell(station, asker, Kind::Progress, &Progress { stage: cut(stage, 24), per_mille, from, words });
        slot.phase = Phase::Waiting { accept: Some(accept), told: told + words.len(), progress_at: at, stage: named };
    }

    /// Sends a reply of what `fill` writes (without the trailer). `false`: nobody waits for it any more, or it doesn't fit.
    pub fn reply(&mut self, asker: Asker, kind: Kind, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some(place) = self.find(asker) else { return false };
        let slot = &mut self.slots[place];
        let begun = slot.reply.begin(|room| {
            let body = room.len() - wire::TRAILER;
            let len = fill(&mut room[..body])?;
            wire::seal(room, len).ok()
        });
        if begun {
            slot.phase = Phase::Replying { kind };
        }
        begun
    }

    /// The next fragment to go out: answers before pictures, in turn among their like.
    pub fn next(&mut self, at: At) -> Option<(Asker, Header, &[u8])> {
        let rank = |kind: Kind| if kind == Kind::Blob { 1 } else { 0 };
        let mut best: Option<(u8, usize)> = None;
        for step in 0..SLOTS {
            let place = (self.turn + step) % SLOTS;
            if let Phase::Replying { kind } = self.slots[place].phase
                && self.slots[place].reply.wants(at)
                && best.is_none_or(|(other, _)| rank(kind) < other)
            {
                best = Some((rank(kind), place));
            }
        }
        let (_, place) = best?;
        self.turn = (place + 1) % SLOTS;
        let slot = &mut self.slots[place];
        let Phase::Replying { kind } = slot.phase else { return None };
        let count = u16::try_from(slot.reply.count()).ok()?;
        let asker = slot.asker;
        let (index, data) = slot.reply.next(at, slot.rto)?;
        Some((asker, Header { kind, session: asker.session, number: asker.number, index, count }, data))
    }

    /// What time alone brings: queries with gaps are asked for, and who went away gives its slot up.
    pub fn tick(&mut self, station: &mut Station, at: At) {
        for place in 0..SLOTS {
            let slot = &mut self.slots[place];
            match slot.phase {
                Phase::Free => continue,
                Phase::Reading => {
                    if let Some((first, bits, len)) = slot.query.nack(at, slot.rto) {
                        let nack = Nack { first, missing: &bits[..len] };
                        tell(station, slot.asker, Kind::Nack, &nack);
                    }
                    if at.since(slot.heard) > Duration::from_secs(60) {
                        self.counts.given_up += 1;
                        self.free(place, at);
                        continue;
                    }
                }
                // Nobody took it up: asked again, it is read again.
                Phase::Waiting { accept: None, progress_at, .. } if at.since(progress_at) > STRAY => {
                    slot.phase = Phase::Free;
                    continue;
                }
                Phase::Waiting { .. } => {}
                Phase::Replying { .. } => {
                    if slot.reply.is_given_up() {
                        self.counts.given_up += 1;
                        self.free(place, at);
                        continue;
                    }
                }
            }
            if at.since(self.slots[place].heard) > SILENT {
                self.counts.given_up += 1;
                self.free(place, at);
            }
        }
    }
}
