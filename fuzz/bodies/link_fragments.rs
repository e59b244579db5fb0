//! Fragments, from anybody in any order, into both ends, and what the ends then say to each other over a line that loses. A record is a byte of what, one of time,
//! and what that takes; checksums of fragments and of whole transfers are made to fit here.

use std::time::Duration;

use mavlink_core::MAVLinkV2MessageRaw;
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::MavMessage;
use uhr_edge::link::frame::{self, Source};
use uhr_edge::link::ground::{Ground, Told};
use uhr_edge::link::served::{Asker, SLOTS, Served};
use uhr_edge::link::station::{Station, tunnel};
use uhr_edge::link::wire::{self, Accept, DATA, FRAGMENT, Header, Kind, Nack, Number, Piece, Progress, Query, Reject, Reply, Session};
use uhr_edge::units::{BytesPerSecond, UnixMillis};

const KINDS: [Kind; 10] = [
    Kind::Query,
    Kind::Accept,
    Kind::Reject,
    Kind::Progress,
    Kind::Answer,
    Kind::Blob,
    Kind::Nack,
    Kind::DoneAck,
    Kind::Cancel,
    Kind::Status,
];
const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };
const OWN: Session = Session(1);

struct Ends {
    station: Station,
    served: Served,
    asked: Option<Asker>,
    ground: Ground,
    ms: u64,
}

impl Ends {
    fn at(&self) -> At {
        At(Duration::from_millis(self.ms))
    }

    fn now(&self) -> Now {
        Now::new(self.at(), UnixMillis(0))
    }

    /// A fragment to the board.
    fn tell_board(&mut self, source: Source, header: Header, data: &[u8]) {
        let (at, asked) = (self.at(), &mut self.asked);
        self.served.take(&mut self.station, source, header, data, at, &mut |asker, _| *asked = Some(asker));
        assert!(self.served.open() <= SLOTS);
    }

    /// A fragment to the ground station.
    fn tell_ground(&mut self, header: Header, data: &[u8]) {
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write(&mut raw, BOARD, 0, &tunnel(GROUND, header, data));
        let now = self.now();
        self.ground.receive(raw.raw_bytes(), now, &mut told);
    }

    /// A whole transfer, each of its first 8 fragments lost where `lost` has its bit, or the order turned round.
    fn transfer(&mut self, to_board: Option<Source>, kind: Kind, number: Number, body: &[u8], lost: u8, backwards: bool) {
        let mut room = vec![0; body.len() + wire::TRAILER];
        room[..body.len()].copy_from_slice(body);
        wire::seal(&mut room, body.len()).unwrap();
        let count = u16::try_from(room.len().div_ceil(DATA)).unwrap();
        let mut pieces: Vec<(u16, &[u8])> = (0..).zip(room.chunks(DATA)).filter(|(at, _)| *at > 7 || lost >> at & 1 == 0).collect();
        if backwards {
            pieces.reverse();
        }
        for (index, data) in pieces {
            let header = Header { kind, session: OWN, number, index, count };
            match to_board {
                Some(source) => self.tell_board(source, header, data),
                None => self.tell_ground(header, data),
            }
        }
    }

    /// What both have to say goes over, but for what `lost` has the bit of.
    fn exchange(&mut self, lost: u8) {
        let now = self.now();
        self.served.tick(&mut self.station, now.at);
        let mut said = Vec::new();
        while let Some(message) = self.station.waiting() {
            said.push(message);
        }
        while let Some((asker, header, data)) = self.served.next(now.at) {
            said.push(tunnel(asker.source, header, data));
        }
        let mut raw = MAVLinkV2MessageRaw::new();
        for (at, message) in said.iter().enumerate() {
            if lost >> (at % 8) & 1 == 0 {
                frame::write(&mut raw, BOARD, 0, message);
                self.ground.receive(raw.raw_bytes(), now, &mut told);
            }
        }
        self.ground.tick(now, &mut told);
        let mut back = Vec::new();
        while let Some(bytes) = self.ground.transmit(now) {
            back.push(bytes.to_vec());
        }
        for (at, bytes) in back.iter().enumerate() {
            if lost >> (at % 8) & 1 != 0 {
                continue;
            }
            self.station.push(bytes, now.at);
            while let Some(heard) = self.station.next(now) {
                let MavMessage::TUNNEL(packet) = heard.message else { continue };
                if let Some((header, data)) = self.station.fragment(&packet) {
                    self.tell_board(heard.source, header, data);
                }
            }
        }
    }

    /// What the desk would say of the question that was asked last.
    fn desk(&mut self, what: u8, body: &[u8]) {
        let (Some(asker), at) = (self.asked, self.at()) else { return };
        let text = String::from_utf8_lossy(body);
        match what % 4 {
            0 => self.served.accept(&mut self.station, asker, Accept { id: 1, ahead: what.into() }, at),
            1 => self.served.progress(&mut self.station, asker, "generate", u16::from(what) * 4, &text, at),
            2 => {
                let reject = Reject { code: &text, reason: &text, wanted: 1, allowed: 1 };
                self.served.refuse(&mut self.station, asker, &reject, at);
            }
            _ => {
                let kind = [Kind::Answer, Kind::Blob, Kind::Status][usize::from(what) % 3];
                self.served.reply(asker, kind, |room| {
                    room.get_mut(..body.len())?.copy_from_slice(body);
                    Some(body.len())
                });
            }
        }
    }
}

fn told(told: Told<'_>) {
    if let Told::Reply(_, _, bytes) = told {
        records(bytes);
    }
}

/// Every record that these bytes could be; what reads is written as it was, where it was written in its shortest form.
fn records(bytes: &[u8]) {
    let mut room = [0; 8_192];
    let again = |written: Result<&[u8], wire::WireError>, len: usize| assert!(written.is_ok_and(|written| written.len() <= len));
    if let Ok(query) = wire::read::<Query<'_>>("query", bytes) {
        again(wire::record(&query, &mut room), bytes.len());
    }
    if let Ok(reply) = wire::read::<Reply<'_>>("reply", bytes) {
        again(wire::record(&reply, &mut room), bytes.len());
    }
    let _ = (wire::read::<Accept>("accept", bytes), wire::read::<Reject<'_>>("reject", bytes), wire::read::<Nack<'_>>("nack", bytes));
    let _ = (wire::read::<Progress<'_>>("progress", bytes), wire::read_front::<Piece>("piece", bytes));
}

pub fn run(bytes: &[u8]) {
    let station = Station::new(BOARD, BytesPerSecond(1 << 20), None);
    let ground_station = Station::new(GROUND, BytesPerSecond(1 << 20), None);
    let ground = Ground::new(ground_station, Some(BOARD), OWN, Number(0), Duration::from_secs(60));
    let mut ends = Ends { station, served: Served::default(), asked: None, ground, ms: 0 };
    let mut left = bytes;
    while let [what, time, rest @ ..] = left {
        ends.ms += u64::from(*time) * 20;
        let [a, b, len, rest @ ..] = rest else { return };
        let (data, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        left = rest;
        let source = Source { system: 200 + *a % 8, component: 190 };
        let number = Number(u32::from(*a >> 4));
        match what % 8 {
            0 => {
                let _ = Header::read(data);
                records(data);
            }
            // One fragment of anything.
            1 => {
                let [session, index, count, data @ ..] = data else { continue };
                let (index, count) = (u16::from(*index), u16::from(*count).max(1));
                let header = Header { kind: KINDS[usize::from(*b) % 10], session: Session(u32::from(*session % 4)), number, index, count };
                let mut out = [0; FRAGMENT];
                let written = header.write(data, &mut out);
                if let Ok((header, data)) = Header::read(&out[..written]) {
                    ends.tell_board(source, header, data);
                    ends.tell_ground(header, data);
                }
            }
            2 => ends.transfer(Some(source), Kind::Query, number, data, *b, what & 8 != 0),
            3 => ends.transfer(None, KINDS[[4, 5, 9][usize::from(what >> 3) % 3]], number, data, *b, what & 128 != 0),
            // The ground station asks for itself.
            4 => {
                if let Ok(query) = wire::read::<Query<'_>>("query", data) {
                    let at = ends.at();
                    let _ = if *b == 0 { ends.ground.ask(&query, at).map(drop) } else { ends.ground.ask_as(number, &query, at) };
                }
            }
            5 => {
                // Longer than a fragment where it is said more often.
                let body = data.repeat(usize::from(*a).max(1));
                ends.desk(*b, &body[..body.len().min(6_000)]);
            }
            6 => ends.exchange(*b),
            _ => ends.ground.cancel(number),
        }
        if what & 64 != 0 {
            ends.exchange(*b);
        }
    }
}
