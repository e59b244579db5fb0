//! Commands: COMMAND_LONG 31010 asks a stored question. Source: <https://mavlink.io/en/services/command.html>.
//!
//! ```text
//!  COMMAND_LONG ──▶ IN_PROGRESS 0 % … 99 % ──▶ ACCEPTED, or DENIED / TEMPORARILY_REJECTED / FAILED with the reason as a text
//! ```

use std::time::Duration;

use crate::link::clock::At;
use crate::link::dialect::{COMMAND_ACK_DATA, COMMAND_LONG_DATA, MavMessage};
use crate::link::frame::Source;
use crate::link::station::Station;

/// `MAV_CMD_USER_1`.
pub const USER_1: u16 = 31_010;
pub const REQUEST_MESSAGE: u16 = 512;
pub const SET_MESSAGE_INTERVAL: u16 = 511;
/// Commands whose answer is awaited.
const OPEN: usize = 8;
/// Told so often, changed or not: QGroundControl gives up 3 s after the last word, and one in five is lost.
const EVERY: Duration = Duration::from_secs(1);
/// A command without a nonce that comes again so soon is the same one.
const SAME: Duration = Duration::from_secs(30);

/// From here on nonces are made up here.
const OWN_NONCES: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted = 0,
    Busy = 1,
    Denied = 2,
    Unsupported = 3,
    Failed = 4,
}
const IN_PROGRESS: u8 = 5;

/// A stored question asked by command: the same three numbers from the same source are the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Preset {
    pub source: Source,
    /// From 1; 0: the one that the parameter UHR_PRESET names.
    pub preset: u32,
    /// 0: the sender numbers nothing.
    pub nonce: u32,
    /// By number in the journal; 0: the newest.
    pub frame: u32,
}

impl Preset {
    /// Whether the sender numbered it, so that it is the same question after a restart too.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        self.nonce < OWN_NONCES
    }
}

struct Open {
    asked: Preset,
    told_at: At,
    percent: u8,
    done: bool,
    at: At,
}

/// Commands that are awaited, or were answered a moment ago.
#[derive(Default)]
pub struct Commands {
    open: heapless::Vec<Open, OPEN>,
    turn: u32,
}

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    New(Preset),
    /// Sent again while it is worked on; it was told so.
    Again,
    Refused(Verdict),
}

/// A whole number of a parameter, which are floats up to 2²⁴.
#[must_use]
pub fn whole(value: f32) -> Option<u32> {
    (value.is_finite() && value.fract() == 0.0 && (0.0..=16_777_216.0).contains(&value)).then_some(value as u32)
}

impl Commands {
    /// A command 31010 from `source`.
    pub fn call(&mut self, station: &mut Station, source: Source, call: &COMMAND_LONG_DATA, at: At) -> Called {
        let (Some(preset), Some(nonce), Some(frame)) = (whole(call.param1), whole(call.param2), whole(call.param3)) else {
            return Called::Refused(Verdict::Denied);
        };
        let mut asked = Preset { source, preset, nonce, frame };
        self.open.retain(|open| !(open.done && at.since(open.at) > SAME));
        let same = |open: &&mut Open| {
            Preset { nonce, ..open.asked } == asked && (nonce == open.asked.nonce || nonce == 0 && call.confirmation > 0)
        };
        if let Some(open) = self.open.iter_mut().filter(|open| nonce > 0 || open.asked.nonce >= OWN_NONCES).find(same) {
            if !open.done {
                let percent = open.percent;
                ack(station, source, USER_1, IN_PROGRESS, percent);
                return Called::Again;
            }
            // Answered, and the answer was lost: it comes again, from the journal.
            (open.done, open.at) = (false, at);
            return Called::New(open.asked);
        }
        if nonce == 0 {
            // Numbered here, above what a float can say: such numbers are never written down, a later run counts anew.
            self.turn = self.turn.wrapping_add(1);
            asked.nonce = OWN_NONCES + self.turn % OWN_NONCES;
        }
        if self.open.is_full() {
            let Some(done) = self.open.iter().position(|open| open.done) else { return Called::Refused(Verdict::Busy) };
            self.open.swap_remove(done);
        }
        let _ = self.open.push(Open { asked, told_at: at, percent: 0, done: false, at });
        Called::New(asked)
    }

    /// A question of before a restart, that is worked on again.
    pub fn resume(&mut self, asked: Preset, at: At) {
        if !asked.is_numbered() {
            self.turn = self.turn.max(asked.nonce - OWN_NONCES);
        }
        let _ = self.open.push(Open { asked, told_at: at, percent: 0, done: false, at });
    }

    /// How far the question is, of 100.
    pub fn progress(&mut self, station: &mut Station, asked: Preset, percent: u8, at: At) {
        let Some(open) = self.open.iter_mut().find(|open| open.asked == asked && !open.done) else { return };
        let percent = percent.min(99).max(open.percent);
        if at.since(open.told_at) >= EVERY {
            (open.percent, open.told_at) = (percent, at);
            ack(station, asked.source, USER_1, IN_PROGRESS, percent);
        }
    }

    /// The question was taken: the sender knows that it needn't repeat it.
    pub fn taken(&mut self, station: &mut Station, asked: Preset) {
        ack(station, asked.source, USER_1, IN_PROGRESS, 0);
    }

    /// How the question ended.
    pub fn end(&mut self, station: &mut Station, asked: Preset, verdict: Verdict, at: At) {
        if let Some(open) = self.open.iter_mut().find(|open| open.asked == asked) {
            (open.done, open.at) = (true, at);
        }
        answer(station, asked.source, USER_1, verdict);
    }
}

fn ack(station: &mut Station, to: Source, command: u16, result: u8, progress: u8) {
    let message =
        COMMAND_ACK_DATA { command, result, progress, result_param2: 0, target_system: to.system, target_component: to.component };
    station.answer(to, MavMessage::COMMAND_ACK(message));
}

/// Answers a command for good.
pub fn answer(station: &mut Station, to: Source, command: u16, verdict: Verdict) {
    let progress = if verdict == Verdict::Accepted { 100 } else { 0 };
    ack(station, to, command, verdict as u8, progress);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BytesPerSecond;

    const WHO: Source = Source { system: 255, component: 190 };

    fn at(ms: u64) -> At {
        At(Duration::from_millis(ms))
    }

    fn told(station: &mut Station) -> Vec<(u8, u8)> {
        let acks = std::iter::from_fn(|| station.waiting()).filter_map(|message| match message {
            MavMessage::COMMAND_ACK(ack) => Some((ack.result, ack.progress)),
            _ => None,
        });
        acks.collect()
    }

    #[test]
    fn a_question_that_stands_still_is_told_of_every_second() {
        let mut station = Station::new(Source { system: 1, component: 191 }, BytesPerSecond(10_000), None);
        let mut commands = Commands::default();
        let call = COMMAND_LONG_DATA { command: USER_1, param1: 1.0, param2: 5.0, ..COMMAND_LONG_DATA::DEFAULT };
        let Called::New(asked) = commands.call(&mut station, WHO, &call, at(0)) else { panic!("not taken") };
        let mut silent = 0;
        for ms in (0..10_000).step_by(20) {
            commands.progress(&mut station, asked, 40, at(ms));
            silent = if told(&mut station).is_empty() { silent + 20 } else { 0 };
            assert!(silent <= 1_000, "{silent} ms without a word");
        }
        commands.end(&mut station, asked, Verdict::Accepted, at(10_000));
        assert_eq!(told(&mut station), [(0, 100)]);
    }

    #[test]
    fn a_question_of_before_a_restart_goes_on_and_its_number_is_not_given_again() {
        let mut station = Station::new(Source { system: 1, component: 191 }, BytesPerSecond(10_000), None);
        let call = COMMAND_LONG_DATA { command: USER_1, param1: 1.0, ..COMMAND_LONG_DATA::DEFAULT };
        let Called::New(before) = Commands::default().call(&mut station, WHO, &call, at(0)) else { panic!("not taken") };
        let mut commands = Commands::default();
        commands.resume(before, at(0));
        commands.progress(&mut station, before, 50, at(1_000));
        assert_eq!(told(&mut station), [(IN_PROGRESS, 50)]);
        let Called::New(next) = commands.call(&mut station, WHO, &call, at(2_000)) else { panic!("not taken") };
        assert_ne!(next, before);
    }
}
