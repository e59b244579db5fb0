//! The ground station's side of our own client: asks until it is heard, puts replies together, says what is missing.
//!
//! ```text
//!  Asking ── ACCEPT, PROGRESS or a reply's fragment ──▶ Waiting ── reply whole ──▶ over (its copies are acknowledged again)
//!    ▲                                                    │  └─ REJECT ──▶ over
//!    └───────────────── 15 s of silence ──────────────────┘
//! ```
//!
//! # Why
//! The board says at least every 5 s that it lives. Who hears nothing for 15 s can't tell a bad line from a board that started anew; asking again under
//! the same identity is right in both cases, because the board runs nothing twice.

use std::time::Duration;

use crate::link::clock::{At, Now};
use crate::link::dialect::{HEARTBEAT_DATA, MavMessage};
use crate::link::frame::Source;
use crate::link::rto::Rto;
use crate::link::station::{LinkCounts, Station, fragment_of, tunnel};
use crate::link::transfer::{Inbound, MAX_TRANSFER, Outbound, Taken};
use crate::link::wire::{self, Accept, DATA, Header, Kind, Nack, Number, Progress, Query, Reject, Session};

/// Queries at once.
pub const WANTS: usize = 4;
/// MAVLink component of the board.
pub const ONBOARD_COMPUTER: u8 = 191;
const SILENCE: Duration = Duration::from_secs(15);
/// Who has said all lingers for so long at least, in case that its last word was lost.
const LINGER: Duration = Duration::from_millis(600);
const LINGER_MOST: Duration = Duration::from_secs(6);
const BEAT: Duration = Duration::from_secs(1);
const RECENT: usize = 16;

/// What a ground station learns.
#[derive(Debug)]
pub enum Told<'a> {
    /// The board was heard, for the first time or under another address.
    Board(Source),
    Accepted(Number, Accept),
    Rejected(Number, Reject<'a>),
    Progress(Number, Progress<'a>),
    /// So many fragments of a reply are there, of all.
    Share(Number, usize, usize),
    /// A reply, whole.
    Reply(Number, Kind, &'a [u8]),
    /// The other side has been silent for minutes; nothing more is sent for this.
    GivenUp(Number),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Asking,
    Waiting,
}

struct Want {
    number: Number,
    phase: Phase,
    heard: At,
    query: Outbound,
    reply: Inbound<MAX_TRANSFER>,
    began: At,
}

/// The ground station's end.
pub struct Ground {
    pub station: Station,
    board: Option<Source>,
    /// The board was named beforehand: nobody else is one.
    named: bool,
    board_heard: At,
    session: Session,
    next: Number,
    wants: Box<[Want]>,
    recent: heapless::Deque<Number, RECENT>,
    rto: Rto,
    beat_at: At,
    beat_due: bool,
    /// A want that was heard nothing of for so long is given up.
    patience: Duration,
}

/// Why a query can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("queries: wanted a free place, found all {WANTS} taken")]
    Full,
    #[error("query: wanted at most 2048 bytes, found more")]
    Long,
}

impl Ground {
    /// `board`: where it is known beforehand; otherwise the onboard computer that is heard. A board's system changes when it hears its autopilot, so that
    /// what was learnt holds for as long as it is heard, and an answer of our own session says better where the board is.
    #[must_use]
    pub fn new(station: Station, board: Option<Source>, session: Session, first: Number, patience: Duration) -> Self {
        let want = || Want {
            number: Number(0),
            phase: Phase::Free,
            heard: At::default(),
            query: Outbound::default(),
            reply: Inbound::default(),
            began: At::default(),
        };
        let wants = (0..WANTS).map(|_| want()).collect();
        Self {
            station,
            board,
            named: board.is_some(),
            board_heard: At::default(),
            session,
            next: first,
            wants,
            recent: heapless::Deque::new(),
            rto: Rto::default(),
            beat_at: At::default(),
            beat_due: false,
            patience,
        }
    }

    #[must_use]
    pub fn board(&self) -> Option<Source> {
        self.board
    }

    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        self.station.counts()
    }

    /// Asks; the identity is what is given back, with this ground station's session.
    ///
    /// # Errors
    /// No place, or a query that is too long.
    pub fn ask(&mut self, query: &Query<'_>, at: At) -> Result<Number, AskError> {
        let number = self.next;
        self.ask_as(number, query, at)?;
        self.next = Number(number.0.wrapping_add(1));
        Ok(number)
    }

    /// Asks again under a number of before, after a restart.
    ///
    /// # Errors
    /// No place, or a query that is too long.
    pub fn ask_as(&mut self, number: Number, query: &Query<'_>, at: At) -> Result<(), AskError> {
        let want = self.wants.iter_mut().find(|want| want.phase == Phase::Free).ok_or(AskError::Full)?;
        let begun = want.query.begin(|room| {
            let body = room.len().min(crate::link::served::MAX_QUERY) - wire::TRAILER;
            let len = wire::record(query, &mut room[..body]).ok()?.len();
            wire::seal(room, len).ok()
        });
        if !begun {
            return Err(AskError::Long);
        }
        want.reply.end();
        (want.number, want.phase, want.heard, want.began) = (number, Phase::Asking, at, at);
        Ok(())
    }

    /// No longer wanted.
    pub fn cancel(&mut self, number: Number) {
        if let (Some(place), Some(board)) = (self.find(number), self.board) {
            let header = Header { kind: Kind::Cancel, session: self.session, number, index: 0, count: 1 };
            self.station.tell_fragment(board, header, &[]);
            self.end(place);
        }
    }

    /// Whether anything is still wanted.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.wants.iter().any(|want| want.phase != Phase::Free)
    }

    fn find(&self, number: Number) -> Option<usize> {
        self.wants.iter().position(|want| want.phase != Phase::Free && want.number == number)
    }

    fn end(&mut self, place: usize) {
        let want = &mut self.wants[place];
        want.phase = Phase::Free;
        want.query.end();
        want.reply.end();
        if self.recent.is_full() {
            self.recent.pop_front();
        }
        let _ = self.recent.push_back(want.number);
    }

    /// Takes bytes; what they tell goes to `told`.
    pub fn receive(&mut self, mut bytes: &[u8], now: Now, told: &mut dyn FnMut(Told<'_>)) {
        loop {
            bytes = &bytes[self.station.push(bytes, now.at)..];
            while let Some(heard) = self.station.next(now) {
                match heard.message {
                    // MAV_TYPE_ONBOARD_CONTROLLER. With a key only a signed beat says where to ask: anybody could lead us away.
                    MavMessage::HEARTBEAT(beat)
                        if beat.mavtype == 18
                            && heard.source.component == ONBOARD_COMPUTER
                            && (heard.signed || !self.station.has_key()) =>
                    {
                        let gone = now.at.since(self.board_heard) > SILENCE;
                        if self.board == Some(heard.source) || !self.named && (self.board.is_none() || gone) {
                            self.is_at(heard.source, now.at, told);
                        }
                    }
                    MavMessage::TUNNEL(tunnel)
                        if tunnel.target_system == self.station.own.system && tunnel.target_component == self.station.own.component =>
                    {
                        if fragment_of(&tunnel).is_some_and(|fragment| fragment.is_ok())
                            && (self.board == Some(heard.source) || !self.named && heard.source.component == ONBOARD_COMPUTER)
                            && let Some((head, data)) = self.station.fragment(&tunnel)
                            && head.session == self.session
                        {
                            self.is_at(heard.source, now.at, told);
                            self.fragment(head, data, now.at, told);
                        }
                    }
                    _ => {}
                }
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    fn is_at(&mut self, board: Source, at: At, told: &mut dyn FnMut(Told<'_>)) {
        self.board_heard = at;
        if self.board.replace(board) != Some(board) {
            told(Told::Board(board));
        }
    }

    /// How long the last acknowledgement may take to be missed over there and asked for again.
    #[must_use]
    pub fn linger(&self) -> Duration {
        self.rto.get().mul_f64(1.5).clamp(LINGER, LINGER_MOST)
    }

    fn fragment(&mut self, head: Header, data: &[u8], at: At, told: &mut dyn FnMut(Told<'_>)) {
        let number = head.number;
        let Some(place) = self.find(number) else {
            // A reply whose end was not heard over there.
            if head.kind.is_transfer() && self.recent.iter().any(|other| *other == number) {
                self.acknowledge(number);
            }
            return;
        };
        let want = &mut self.wants[place];
        want.heard = at;
        if want.phase == Phase::Asking {
            if let Kind::Nack = head.kind {
                if let Ok(nack) = wire::read("nack", data) {
                    want.query.nack(&nack, at, &mut self.rto);
                }
                return;
            }
            want.query.answered(at, &mut self.rto);
            want.query.rest(at);
            want.phase = Phase::Waiting;
        }
        match head.kind {
            Kind::Accept => {
                if let Ok(accept) = wire::read("accept", data) {
                    told(Told::Accepted(number, accept));
                }
            }
            Kind::Reject => {
                if let Ok(reject) = wire::read("reject", data) {
                    self.end(place);
                    told(Told::Rejected(number, reject));
                }
            }
            Kind::Progress => {
                if let Ok(progress) = wire::read("progress", data) {
                    told(Told::Progress(number, progress));
                }
            }
            Kind::Answer | Kind::Blob | Kind::Status => self.reply(place, head, data, at, told),
            Kind::Query | Kind::Nack | Kind::DoneAck | Kind::Cancel => {}
        }
    }

    fn reply(&mut self, place: usize, head: Header, data: &[u8], at: At, told: &mut dyn FnMut(Told<'_>)) {
        let want = &mut self.wants[place];
        let number = want.number;
        // Another reply than the one that was begun: the board started anew.
        if !want.reply.is_of(head.kind, head.count) && !want.reply.begin(head.kind, head.count, at, self.rto) {
            return;
        }
        match want.reply.take(head.index, data, at, self.rto) {
            Taken::Nothing => {}
            Taken::New => {
                let (there, all) = want.reply.share();
                told(Told::Share(number, there, all));
            }
            Taken::Whole => {
                let Some(Ok(bytes)) = want.reply.whole().map(wire::unseal) else {
                    // Pieces of two replies: from the beginning.
                    want.reply.end();
                    want.query.again();
                    want.phase = Phase::Asking;
                    return;
                };
                told(Told::Reply(number, head.kind, bytes));
                self.acknowledge(number);
                self.end(place);
            }
        }
    }

    fn acknowledge(&mut self, number: Number) {
        if let Some(board) = self.board {
            let header = Header { kind: Kind::DoneAck, session: self.session, number, index: 0, count: 1 };
            self.station.tell_fragment(board, header, &[]);
        }
    }

    /// What time alone brings.
    pub fn tick(&mut self, now: Now, told: &mut dyn FnMut(Told<'_>)) {
        let at = now.at;
        for place in 0..WANTS {
            let want = &mut self.wants[place];
            let number = want.number;
            if want.phase == Phase::Free {
                continue;
            }
            if at.since(want.heard) > self.patience {
                self.end(place);
                told(Told::GivenUp(number));
                continue;
            }
            if want.phase == Phase::Waiting && at.since(want.heard) > SILENCE {
                want.phase = Phase::Asking;
                want.query.again();
            }
            if let (Some((first, bits, len)), Some(board)) = (want.reply.nack(at, self.rto), self.board) {
                let mut data = [0; DATA];
                if let Ok(bytes) = wire::record(&Nack { first, missing: &bits[..len] }, &mut data) {
                    let header = Header { kind: Kind::Nack, session: self.session, number, index: 0, count: 1 };
                    self.station.tell_fragment(board, header, bytes);
                }
            }
        }
        if at >= self.beat_at {
            self.beat_at = at.after(BEAT);
            self.beat_due = true;
        }
    }

    /// The next packet to go out, where the pace allows one.
    pub fn transmit(&mut self, now: Now) -> Option<&[u8]> {
        if !self.station.is_open(now.at) {
            return None;
        }
        if std::mem::take(&mut self.beat_due) {
            // MAV_TYPE_GCS, MAV_AUTOPILOT_INVALID, MAV_STATE_ACTIVE.
            let beat = HEARTBEAT_DATA { mavtype: 6, autopilot: 8, system_status: 4, mavlink_version: 3, ..HEARTBEAT_DATA::DEFAULT };
            return Some(self.station.packed(&MavMessage::HEARTBEAT(beat), now));
        }
        let message = match self.station.waiting() {
            Some(message) => message,
            None => {
                let board = self.board?;
                let want = self.wants.iter_mut().find(|want| want.phase == Phase::Asking && want.query.wants(now.at))?;
                let count = u16::try_from(want.query.count()).ok()?;
                let (index, data) = want.query.next(now.at, self.rto)?;
                tunnel(board, Header { kind: Kind::Query, session: self.session, number: want.number, index, count }, data)
            }
        };
        Some(self.station.packed(&message, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::frame;
    use crate::link::key::Key;
    use crate::link::sign::{NoFloors, Signing};
    use crate::units::{BytesPerSecond, UnixMillis};
    use mavlink_core::MAVLinkV2MessageRaw;

    const OWN: Source = Source { system: 255, component: 190 };

    fn now(ms: u64) -> Now {
        Now::new(At(Duration::from_millis(ms)), UnixMillis(1_800_000_000_000 + ms.cast_signed()))
    }

    fn signing() -> Signing {
        Signing::new(Key::from_passphrase("of the test's own").unwrap(), 0, Box::<NoFloors>::default()).unwrap()
    }

    fn ground(key: bool, board: Option<Source>) -> Ground {
        let station = Station::new(OWN, BytesPerSecond(10_000), key.then(signing));
        Ground::new(station, board, Session(5), Number(0), Duration::from_secs(300))
    }

    fn board(system: u8) -> Source {
        Source { system, component: ONBOARD_COMPUTER }
    }

    fn packet(by: Option<&mut Signing>, source: Source, message: &MavMessage, ms: u64) -> Vec<u8> {
        let mut raw = MAVLinkV2MessageRaw::new();
        match by {
            None => frame::write(&mut raw, source, 0, message),
            Some(by) => {
                frame::write_for_signing(&mut raw, source, 0, message);
                by.sign(&mut raw, now(ms));
            }
        }
        raw.raw_bytes().to_vec()
    }

    fn beat() -> MavMessage {
        MavMessage::HEARTBEAT(HEARTBEAT_DATA { mavtype: 18, autopilot: 8, ..HEARTBEAT_DATA::DEFAULT })
    }

    #[test]
    fn with_a_key_a_forged_beat_leads_nobody_away() {
        let (mut ground, mut by) = (ground(true, None), signing());
        ground.receive(&packet(None, board(66), &beat(), 0), now(0), &mut |_| ());
        assert_eq!(ground.board(), None);
        ground.receive(&packet(Some(&mut by), board(1), &beat(), 10), now(10), &mut |_| ());
        assert_eq!(ground.board(), Some(board(1)));
    }

    #[test]
    fn a_board_that_changes_its_system_is_found_again() {
        // By its beats, after those of the old address ended.
        let (mut end, mut by) = (ground(true, None), signing());
        let mut boards = Vec::new();
        for second in 0..60 {
            let system = if second < 5 { 1 } else { 42 };
            let bytes = packet(Some(&mut by), board(system), &beat(), second * 1_000);
            end.receive(&bytes, now(second * 1_000), &mut |told| {
                if let Told::Board(source) = told {
                    boards.push((second, source.system));
                }
            });
        }
        assert_eq!(boards, [(0, 1), (20, 42)]);
        // At once, by an answer to what was asked.
        let mut end = ground(true, None);
        end.receive(&packet(Some(&mut by), board(1), &beat(), 60_000), now(60_000), &mut |_| ());
        let number = end.ask(&Query::Status, now(60_000).at).unwrap();
        let mut data = [0; DATA];
        let accept = wire::record(&Accept { id: 3, ahead: 0 }, &mut data).unwrap();
        let header = Header { kind: Kind::Accept, session: Session(5), number, index: 0, count: 1 };
        let bytes = packet(Some(&mut by), board(42), &tunnel(OWN, header, accept), 61_000);
        let mut accepted = false;
        end.receive(&bytes, now(61_000), &mut |told| accepted |= matches!(told, Told::Accepted(..)));
        assert!(accepted && end.board() == Some(board(42)));
        // One that was named stays.
        let mut end = ground(true, Some(board(1)));
        let bytes = packet(Some(&mut by), board(42), &beat(), 100_000);
        end.receive(&bytes, now(100_000), &mut |_| ());
        assert_eq!(end.board(), Some(board(1)));
    }

    #[test]
    fn the_farewell_is_as_long_as_the_line() {
        let mut end = ground(false, None);
        assert_eq!(end.linger(), Duration::from_millis(4_500));
        for _ in 0..50 {
            end.rto.measured(Duration::from_millis(20));
        }
        assert_eq!(end.linger(), Duration::from_millis(750));
    }
}
