//! What both ends of a link share: packets in and out, checked, signed, numbered and paced.

use mavlink_core::MAVLinkV2MessageRaw;

use crate::link::clock::{At, Now};
use crate::link::dialect::{MavMessage, TUNNEL_DATA};
use crate::link::frame::{self, FrameCounts, Framer, Raw, Source};
use crate::link::key::Key;
use crate::link::pace::Pace;
use crate::link::sign::{Dropped, NoFloors, Signing, Timestamps};
use crate::link::wire::{FRAGMENT, HEADER, Header, PAYLOAD_TYPE, WireError};
use crate::units::BytesPerSecond;

/// Packets that wait to go out before anything else. More are dropped, and counted: whoever asked asks again.
const CONTROL: usize = 48;
/// Of them, replies to one peer, and as many fragments: who asks faster than the line answers costs the others nothing.
const CONTROL_A_PEER: usize = 12;
/// Words of progress that wait, a question each.
const PROGRESS: usize = 8;
const HEARTBEAT: u32 = 0;
const RADIO_STATUS: u32 = 109;

/// What was not taken, and what went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    pub frames: FrameCounts,
    pub unsigned: u64,
    pub wrong_signature: u64,
    pub replayed: u64,
    /// Of those that were replayed, by their timestamps: what was refused because a clock is more than a minute off.
    pub clocks_apart: u64,
    pub malformed: u64,
    /// Fragments that are none.
    pub bad_fragments: u64,
    /// Packets that found no place to wait in.
    pub overflow: u64,
    pub sent: u64,
    pub unstored: u64,
    /// Packets by somebody with the key; all that were let in where there is none.
    pub believed: u64,
}

/// One end of a link.
pub struct Station {
    framer: Framer,
    signing: Option<Signing>,
    pace: Pace,
    pub own: Source,
    sequence: u8,
    raw: MAVLinkV2MessageRaw,
    control: heapless::Deque<(Reply, MavMessage), CONTROL>,
    /// How far accepted questions are; nobody but who asked one can make any.
    progress: heapless::Deque<MavMessage, PROGRESS>,
    counts: LinkCounts,
}

/// To whom, and whether it is a fragment: who reads parameters all the time is told all the same that a question was accepted.
type Reply = (Source, bool);

/// A packet that was let in.
pub struct Heard {
    pub source: Source,
    pub message: MavMessage,
    /// By somebody with the key.
    pub signed: bool,
}

impl Station {
    #[must_use]
    pub fn new(own: Source, rate: BytesPerSecond, signing: Option<Signing>) -> Self {
        Self {
            framer: Framer::default(),
            signing,
            pace: Pace::new(rate),
            own,
            sequence: 0,
            raw: MAVLinkV2MessageRaw::new(),
            control: heapless::Deque::new(),
            progress: heapless::Deque::new(),
            counts: LinkCounts::default(),
        }
    }

    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        let unstored = self.signing.as_ref().map_or(0, Signing::unstored);
        LinkCounts { frames: self.framer.counts, unstored, ..self.counts }
    }

    /// Bytes that went out.
    #[must_use]
    pub fn sent(&self) -> crate::units::Bytes {
        self.pace.sent
    }

    /// Another key from now on; the first one where there was none.
    pub fn rekey(&mut self, key: Key) {
        match &mut self.signing {
            Some(signing) => signing.rekey(key),
            // A memory that was kept nowhere can always be read.
            none => *none = Signing::new(key, 0, Box::<NoFloors>::default()).ok(),
        }
    }

    /// What was heard goes on in `timestamps`, which other lines may share.
    pub fn remember_in(&mut self, timestamps: Timestamps, now: Now) {
        if let Some(signing) = &mut self.signing {
            signing.move_to(timestamps, now);
        }
    }

    #[must_use]
    pub fn has_key(&self) -> bool {
        self.signing.is_some()
    }

    /// Takes bytes, as many as there is room for; there always is after [`Self::next`] gave `None`.
    pub fn push(&mut self, bytes: &[u8], at: At) -> usize {
        self.framer.push(bytes, at)
    }

    /// The next packet that may be acted on. Reports of a radio are acted on here.
    pub fn next(&mut self, now: Now) -> Option<Heard> {
        loop {
            let raw = self.framer.next(now.at)?;
            let source = raw.source();
            // Our own packets come back from a radio or a router that echoes, or from somebody who wants them to be believed.
            if source == self.own {
                continue;
            }
            let Some(signed) = self.is_let_in(&raw, source, now) else { continue };
            match raw.message() {
                Some(MavMessage::RADIO_STATUS(status)) => self.pace.radio(status.txbuf, now.at),
                Some(message) => return Some(Heard { source, message, signed }),
                None => self.counts.malformed += 1,
            }
        }
    }

    /// Whether a packet may be acted on, and whether it is signed: with a key only what is signed, but for two kinds that change next to nothing.
    fn is_let_in(&mut self, raw: &Raw, source: Source, now: Now) -> Option<bool> {
        let Some(signing) = &mut self.signing else {
            self.counts.believed += 1;
            return Some(false);
        };
        let verdict = match raw {
            Raw::V1(_) => Err(Dropped::Unsigned),
            Raw::V2(raw) => signing.verify(raw, source, now),
        };
        match verdict {
            Ok(()) => {
                self.counts.believed += 1;
                Some(true)
            }
            Err(Dropped::Unsigned) if matches!(raw.message_id(), HEARTBEAT | RADIO_STATUS) => Some(false),
            Err(dropped) => {
                let counts = &mut self.counts;
                match dropped {
                    Dropped::Unsigned => counts.unsigned += 1,
                    Dropped::Wrong => counts.wrong_signature += 1,
                    Dropped::Replayed => counts.replayed += 1,
                    Dropped::FirstSeen | Dropped::Ahead => {
                        (counts.replayed, counts.clocks_apart) = (counts.replayed + 1, counts.clocks_apart + 1)
                    }
                    // Counted where it happened.
                    Dropped::Unstored => {}
                }
                None
            }
        }
    }

    /// Puts a reply to `peer` where it goes out next; dropped where there is no room, or where that many wait for this peer already.
    pub fn answer(&mut self, peer: Source, message: MavMessage) {
        self.reply((peer, false), message);
    }

    fn reply(&mut self, to: Reply, message: MavMessage) {
        let own = self.control.iter().filter(|(other, _)| *other == to).count();
        if own >= CONTROL_A_PEER || self.control.push_back((to, message)).is_err() {
            self.counts.overflow += 1;
        }
    }

    /// Puts a fragment where it goes out next.
    pub fn tell_fragment(&mut self, to: Source, header: Header, data: &[u8]) {
        self.reply((to, true), tunnel(to, header, data));
    }

    /// Puts how far an accepted question is where it goes out before all replies; dropped where there is no room.
    pub fn tell_progress(&mut self, to: Source, header: Header, data: &[u8]) {
        if self.progress.push_back(tunnel(to, header, data)).is_err() {
            self.counts.overflow += 1;
        }
    }

    /// How far a question is.
    pub fn progress(&mut self) -> Option<MavMessage> {
        self.progress.pop_front()
    }

    /// What waits to go out before all else.
    pub fn waiting(&mut self) -> Option<MavMessage> {
        self.control.pop_front().map(|(_, message)| message)
    }

    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.control.is_empty() || !self.progress.is_empty()
    }

    /// Whether a packet may go out now.
    pub fn is_open(&mut self, at: At) -> bool {
        self.pace.is_open(at)
    }

    /// When the next packet may go out.
    #[must_use]
    pub fn ready(&self, at: At) -> At {
        self.pace.ready(at)
    }

    /// The bytes of `message`, numbered, signed where there is a key, and counted.
    pub fn packed(&mut self, message: &MavMessage, now: Now) -> &[u8] {
        match &mut self.signing {
            None => frame::write(&mut self.raw, self.own, self.sequence, message),
            Some(signing) => {
                frame::write_for_signing(&mut self.raw, self.own, self.sequence, message);
                signing.sign(&mut self.raw, now);
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.counts.sent += 1;
        self.pace.spend(self.raw.raw_bytes().len());
        self.raw.raw_bytes()
    }

    /// The header and data of a fragment for us; what is none is counted.
    pub fn fragment<'a>(&mut self, tunnel: &'a TUNNEL_DATA) -> Option<(Header, &'a [u8])> {
        match fragment_of(tunnel)? {
            Ok(fragment) => Some(fragment),
            Err(_) => {
                self.counts.bad_fragments += 1;
                None
            }
        }
    }
}

/// A fragment as a message.
#[must_use]
pub fn tunnel(to: Source, header: Header, data: &[u8]) -> MavMessage {
    let mut payload = [0; FRAGMENT];
    let len = header.write(data, &mut payload);
    MavMessage::TUNNEL(TUNNEL_DATA {
        payload_type: PAYLOAD_TYPE,
        target_system: to.system,
        target_component: to.component,
        payload_length: u8::try_from(len).unwrap_or(u8::MAX),
        payload,
    })
}

/// The fragment in a TUNNEL; `None`: another's payload.
#[must_use]
pub fn fragment_of(tunnel: &TUNNEL_DATA) -> Option<Result<(Header, &[u8]), WireError>> {
    let found = usize::from(tunnel.payload_length);
    (tunnel.payload_type == PAYLOAD_TYPE).then(|| {
        let bytes = tunnel.payload.get(..found).filter(|bytes| bytes.len() >= HEADER).ok_or(WireError::Length { found })?;
        Header::read(bytes)
    })
}
