//! Who waits for a question, and what each is told of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::journal::{Outcome, Progress};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::node::Node;
use crate::link::serve::answers::write_reply;
use crate::link::served::Asker;
use crate::link::standard::command::{Preset, Verdict};
use crate::link::standard::text::{INFO, WARNING};
use crate::link::wire::{self, Kind};
use crate::units::QuestionId;

/// Words in a text: at most so often, where the stage changed.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Who waits for a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Client(Asker),
    Command(Preset),
    Words(Source),
}

impl Who {
    pub fn source(&self) -> Source {
        match self {
            Self::Client(asker) => asker.source,
            Self::Command(preset) => preset.source,
            Self::Words(source) => *source,
        }
    }
}

/// A question that somebody waits for.
pub struct Follow {
    pub who: Who,
    pub id: QuestionId,
    pub text: String,
    pub receiver: watch::Receiver<Progress>,
    pub said: Said,
}

/// The stage that was told of last, by its checksum, and when.
#[derive(Clone, Copy)]
pub struct Said {
    pub stage: u32,
    pub at: At,
}

/// One who waits, as the journal has it: our own client asks again by itself, the others were told "accepted" once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    pub id: QuestionId,
    system: u8,
    component: u8,
    /// Preset, nonce and frame; `None`: asked in words.
    command: Option<(u32, u32, u32)>,
}

impl Waits {
    /// `None`: our own client.
    pub fn of(follow: &Follow) -> Option<Self> {
        let command = match follow.who {
            Who::Client(_) => return None,
            Who::Command(asked) => Some((asked.preset, asked.nonce, asked.frame)),
            Who::Words(_) => None,
        };
        let Source { system, component } = follow.who.source();
        Some(Self { id: follow.id, system, component, command })
    }

    pub fn who(self) -> Who {
        let source = Source { system: self.system, component: self.component };
        match self.command {
            Some((preset, nonce, frame)) => Who::Command(Preset { source, preset, nonce, frame }),
            None => Who::Words(source),
        }
    }
}

/// Tells how far it is; what of it goes out, and when, is each way's own.
pub fn tell(node: &mut Node, who: Who, id: QuestionId, said: &mut Said, (stage, share, text): (&str, f64, &str), now: Now) {
    let per_mille = (share.clamp(0.0, 1.0) * 1_000.0) as u16;
    match who {
        Who::Client(asker) => node.served.progress(&mut node.station, asker, stage, per_mille, text, now.at),
        Who::Command(preset) => {
            let percent = (share.clamp(0.0, 1.0) * 100.0) as u8;
            node.commands.progress(&mut node.station, preset, percent, now.at);
        }
        Who::Words(_) => {
            let named = wire::crc32(stage.as_bytes());
            if said.stage != named && now.at.since(said.at) >= SAY_EVERY {
                *said = Said { stage: named, at: now.at };
                node.voice.note(INFO, format_args!("uhr {id}: {stage}, {:.0} %", share * 100.0));
            }
        }
    }
}

/// Tells how it ended. `false`: there is no room for it yet, and it is to be told again.
pub fn done(node: &mut Node, who: Who, id: QuestionId, outcome: &Outcome, now: Now) -> bool {
    if let Who::Client(asker) = who {
        node.served.reply(asker, Kind::Answer, |room| write_reply(id, outcome, room));
        return true;
    }
    if !node.voice.has_room() {
        return false;
    }
    let verdict = match outcome {
        Outcome::Answered { document } => {
            let text = document["text"].as_str().unwrap_or_default();
            node.voice.say(INFO, format_args!("uhr {id}: {text}"));
            Verdict::Accepted
        }
        Outcome::Refused { code, reason } => {
            node.voice.say(WARNING, format_args!("uhr {id}: refused ({code}): {reason}"));
            Verdict::Failed
        }
    };
    if let Who::Command(preset) = who {
        node.commands.end(&mut node.station, preset, verdict, now.at);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::node::NodeSettings;
    use crate::link::standard::param::Params;
    use crate::link::station::Station;
    use crate::units::BytesPerSecond;

    #[test]
    fn no_answer_is_dropped_and_none_acknowledged_before_it_has_a_place() {
        let source = Source { system: 255, component: 190 };
        let station = Station::new(Source { system: 1, component: 191 }, BytesPerSecond(1_152), None);
        let mut node = Node::new(station, NodeSettings { system: 1, wired: false, ftp_data: 212 }, Params::default());
        let outcome = Outcome::Answered { document: serde_json::json!({ "text": "a long answer ".repeat(20) }) };
        let asked = |nonce| Who::Command(Preset { source, preset: 1, nonce, frame: 0 });
        let mut open: Vec<u32> = (1..=20).collect();
        let (mut texts, mut acknowledged) = (0, 0);
        for ms in (0..120_000).step_by(20) {
            let now = Now::new(At(Duration::from_millis(ms)), crate::units::UnixMillis(0));
            open.retain(|nonce| !done(&mut node, asked(*nonce), QuestionId(u64::from(*nonce)), &outcome, now));
            // The acknowledgements that were given, and the chunks that went out.
            while let Some(bytes) = node.transmit(now) {
                match bytes[7] {
                    253 => texts += u32::from(bytes[1] < 54),
                    77 => acknowledged += 1,
                    _ => {}
                }
            }
        }
        assert!(open.is_empty());
        assert_eq!((texts, acknowledged), (20, 20));
    }

    #[test]
    fn who_waits_reads_as_it_was_written() {
        let source = Source { system: 255, component: 190 };
        let (_, receiver) = watch::channel(Progress::Queued { ahead: 0 });
        for who in [Who::Command(Preset { source, preset: 2, nonce: 41, frame: 0 }), Who::Words(source)] {
            let said = Said { stage: 0, at: At::default() };
            let follow = Follow { who, id: QuestionId(12), text: "why?".into(), receiver: receiver.clone(), said };
            let bytes = serde_json::to_vec(&Waits::of(&follow).unwrap()).unwrap();
            let read: Waits = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((read.id, read.who()), (QuestionId(12), who));
        }
    }
}
