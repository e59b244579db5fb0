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
const BEAT: Duration = Duration::from_secs(1);
const RECENT: usize = 16;

/// What a ground station learns.
#[derive(Debug)]
pub enum Told<'a> {
    /// The board was heard, for the first time.
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
    session: Session,
    next: Number,
    wants: Box<[Want]>,
    recent: heapless::Deque<Number, RECENT>,
    rto: Rto,
    beat_at: At,
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
    /// `board`: where it is known beforehand; otherwise the first onboard computer that is heard.
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
            session,
            next: first,
            wants,
            recent: heapless::Deque::new(),
            rto: Rto::default(),
            beat_at: At::default(),
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
                    // MAV_TYPE_ONBOARD_CONTROLLER.
                    // An unsigned beat may say where to ask: what is asked and what is answered is signed.
                    MavMessage::HEARTBEAT(beat)
                        if beat.mavtype == 18 && heard.source.component == ONBOARD_COMPUTER && self.board.is_none() =>
                    {
                        self.board = Some(heard.source);
                        told(Told::Board(heard.source));
                    }
                    MavMessage::TUNNEL(tunnel)
                        if tunnel.target_system == self.station.own.system && tunnel.target_component == self.station.own.component =>
                    {
                        if fragment_of(&tunnel).is_some_and(|fragment| fragment.is_ok())
                            && self.board.is_none_or(|board| board == heard.source)
                            && let Some((head, data)) = self.station.fragment(&tunnel)
                            && head.session == self.session
                        {
                            self.board = Some(heard.source);
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
            // MAV_TYPE_GCS, MAV_AUTOPILOT_INVALID, MAV_STATE_ACTIVE.
            let beat = HEARTBEAT_DATA { mavtype: 6, autopilot: 8, system_status: 4, mavlink_version: 3, ..HEARTBEAT_DATA::DEFAULT };
            self.station.tell(MavMessage::HEARTBEAT(beat));
        }
    }

    /// The next packet to go out, where the pace allows one.
    pub fn transmit(&mut self, now: Now) -> Option<&[u8]> {
        if !self.station.is_open(now.at) {
            return None;
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
