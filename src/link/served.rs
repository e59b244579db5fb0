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
use crate::link::transfer::{Inbound, Outbound, Taken, end_of};
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
/// Whoever asks, isn't heard of for so long, and of whose question nothing is told any more gives the slot up.
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

/// A conversation that ended a moment ago.
struct Ended {
    asker: Asker,
    at: At,
    /// The last fragment of its query: its number, and the end of its data.
    end: Option<(u16, u32)>,
}

impl Ended {
    /// Whether a fragment of a query can be of the one that ended: the last one of a query has the checksum of all of it.
    fn is_of(&self, head: Header, data: &[u8]) -> bool {
        let Some((last, end)) = self.end else { return true };
        head.count == last + 1 && (head.index != last || end_of(data) == end)
    }
}

const SAME_IDENTITY: Reject<'static> =
    Reject { code: "same-identity", reason: "another question was asked under this identity", wanted: 0, allowed: 0 };

/// All slots.
pub struct Served {
    slots: Box<[Slot]>,
    recent: heapless::Deque<Ended, RECENT>,
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
        match kind {
            Kind::Progress => station.tell_progress(asker.source, header(asker, kind), bytes),
            _ => station.tell_fragment(asker.source, header(asker, kind), bytes),
        }
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
        if let Some(ended) = self.recent.iter().find(|ended| ended.asker == asker && at.since(ended.at) < STRAY) {
            if ended.is_of(head, data) {
                self.counts.strays += 1;
            } else {
                tell(station, asker, Kind::Reject, &SAME_IDENTITY);
            }
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
            // Another text under the identity of one that is open: its answer would be none to this one.
            Phase::Waiting { .. } | Phase::Replying { .. } if !slot.query.has(head.index, head.count, data) => {
                tell(station, asker, Kind::Reject, &SAME_IDENTITY);
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
        if own >= SLOTS_A_SOURCE && !self.evict(asker, at) {
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

    /// Frees the slot of an earlier session of the same ground station whose reply went out whole: its end was not heard here, and what was not heard there
    /// is in the journal.
    fn evict(&mut self, asker: Asker, at: At) -> bool {
        let done = |slot: &Slot| {
            let own = slot.asker.source == asker.source && slot.asker.session != asker.session;
            own && matches!(slot.phase, Phase::Replying { .. }) && slot.reply.is_sent()
        };
        let oldest = (0..SLOTS).filter(|place| done(&self.slots[*place])).min_by_key(|place| self.slots[*place].heard);
        let Some(place) = oldest else { return false };
        self.free(place, at);
        true
    }

    fn free(&mut self, place: usize, at: At) {
        let slot = &mut self.slots[place];
        slot.phase = Phase::Free;
        let end = slot.query.end_of();
        slot.reply.end();
        slot.query.end();
        if self.recent.is_full() {
            self.recent.pop_front();
        }
        let _ = self.recent.push_back(Ended { asker: slot.asker, at, end });
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
        // Its question is followed: who asked need say nothing until it ends.
        slot.heard = at;
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
        let (_, place) = self.best(at)?;
        self.turn = (place + 1) % SLOTS;
        let slot = &mut self.slots[place];
        let Phase::Replying { kind } = slot.phase else { return None };
        let count = u16::try_from(slot.reply.count()).ok()?;
        let asker = slot.asker;
        let (index, data) = slot.reply.next(at, slot.rto)?;
        Some((asker, Header { kind, session: asker.session, number: asker.number, index, count }, data))
    }

    /// The slot whose turn it is, after its rank.
    fn best(&self, at: At) -> Option<(u8, usize)> {
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
        best
    }

    /// Whether what [`Self::next`] gives is of an answer, not of a picture or a list.
    #[must_use]
    pub fn has_answer(&self, at: At) -> bool {
        self.best(at).is_some_and(|(rank, _)| rank == 0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::dialect::MavMessage;
    use crate::link::station::fragment_of;
    use crate::link::wire::Asked;
    use crate::units::BytesPerSecond;

    const WHO: Source = Source { system: 255, component: 190 };

    /// A board's end, and a second's moments.
    struct Board(Station, Served);

    impl Board {
        fn new() -> Self {
            Self(Station::new(Source { system: 1, component: 191 }, BytesPerSecond(10_000), None), Served::default())
        }

        /// All fragments of a question; those that became a question are accepted.
        fn ask(&mut self, session: u32, number: u32, text: &str, at: At) -> Option<Asker> {
            let mut room = [0; MAX_QUERY];
            let asked = Asked { text, frames: heapless::Vec::new(), budget: None, deadline_ms: None, max_new: None, seed: None };
            let len = wire::record(&Query::Ask(asked), &mut room).unwrap().len();
            let len = wire::seal(&mut room, len).unwrap();
            let count = u16::try_from(len.div_ceil(DATA)).unwrap();
            let mut taken = None;
            for (index, data) in (0..).zip(room[..len].chunks(DATA)) {
                let head = Header { kind: Kind::Query, session: Session(session), number: Number(number), index, count };
                self.1.take(&mut self.0, WHO, head, data, at, &mut |asker, _| taken = Some(asker));
            }
            if let Some(asker) = taken {
                self.1.accept(&mut self.0, asker, Accept { id: 7, ahead: 0 }, at);
            }
            taken
        }

        fn told(&mut self) -> Vec<Kind> {
            let messages = std::iter::from_fn(|| self.0.waiting()).filter_map(|message| match message {
                MavMessage::TUNNEL(tunnel) => fragment_of(&tunnel).and_then(Result::ok).map(|(head, _)| head.kind),
                _ => None,
            });
            messages.collect()
        }

        fn reply(&mut self, asker: Asker, at: At) {
            assert!(self.1.reply(asker, Kind::Answer, |room| {
                room[..50].fill(b'a');
                Some(50)
            }));
            while self.1.next(at).is_some() {}
        }
    }

    fn at(ms: u64) -> At {
        At(Duration::from_millis(ms))
    }

    #[test]
    fn another_text_under_the_same_identity_is_refused() {
        let long = ["why is it so? ".repeat(20), "why is it not? ".repeat(20)];
        for [one, other] in [["why?", "how?"], ["why?", &long[0]], [&long[0], &long[1]], [&long[0], "why?"]] {
            let mut board = Board::new();
            let asker = board.ask(9, 1, one, at(0)).unwrap();
            assert_eq!(board.told(), [Kind::Accept]);
            // While it is worked on, while its answer is on the way, and when that was acknowledged.
            let refused = |board: &mut Board, ms| {
                assert!(board.ask(9, 1, other, at(ms)).is_none());
                assert!(board.told().contains(&Kind::Reject), "{one} {other} {ms}");
                assert!(board.ask(9, 1, one, at(ms)).is_none());
                assert!(!board.told().contains(&Kind::Reject), "{one} {other} {ms}");
            };
            refused(&mut board, 100);
            board.reply(asker, at(200));
            refused(&mut board, 300);
            let done = Header { kind: Kind::DoneAck, session: asker.session, number: asker.number, index: 0, count: 1 };
            board.1.take(&mut board.0, WHO, done, &[], at(400), &mut |_, _| ());
            assert_eq!(board.1.open(), 0);
            refused(&mut board, 500);
        }
    }

    #[test]
    fn a_question_that_is_followed_keeps_its_slot() {
        let mut board = Board::new();
        let asker = board.ask(9, 1, "why?", at(0)).unwrap();
        for seconds in 0..1_500 {
            board.1.progress(&mut board.0, asker, "queued", 0, "", at(seconds * 1_000));
            board.1.tick(&mut board.0, at(seconds * 1_000));
            board.told();
        }
        board.reply(asker, at(1_500_000));
        assert_eq!(board.1.open(), 1);
        // One that nobody follows is given up.
        let mut board = Board::new();
        board.ask(9, 1, "why?", at(0)).unwrap();
        board.1.tick(&mut board.0, at(601_000));
        assert_eq!((board.1.open(), board.1.counts.given_up), (0, 1));
    }

    #[test]
    fn short_commands_whose_end_was_lost_leave_room_for_the_next() {
        let mut board = Board::new();
        for session in 0..20 {
            let asker = board.ask(session, 1, "status", at(u64::from(session) * 1_000)).expect("refused");
            board.reply(asker, at(u64::from(session) * 1_000));
            board.told();
        }
        assert_eq!((board.1.open(), board.1.counts.busy), (SLOTS_A_SOURCE, 0));
        // Of one session all stay: it asked for all of them.
        let mut board = Board::new();
        for number in 0..20 {
            if let Some(asker) = board.ask(1, number, "status", at(0)) {
                board.reply(asker, at(0));
            }
        }
        assert_eq!((board.1.open(), board.1.counts.busy), (SLOTS_A_SOURCE, 16));
    }
}
