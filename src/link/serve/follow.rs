//! Who waits for a question, and what each is told of it.

use std::time::Duration;

use tokio::sync::watch;

use crate::journal::{Outcome, Progress};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::node::Node;
use crate::link::serve::answers::write_reply;
use crate::link::served::Asker;
use crate::link::standard::command::{Preset, Verdict};
use crate::link::standard::text::{INFO, WARNING};
use crate::link::wire::Kind;
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
    pub said: String,
    pub said_at: At,
}

/// Tells how far it is; what of it goes out, and when, is each way's own.
pub fn tell(node: &mut Node, follow: &mut Follow, stage: &str, share: f64, text: &str, now: Now) {
    let per_mille = (share.clamp(0.0, 1.0) * 1_000.0) as u16;
    match follow.who {
        Who::Client(asker) => node.served.progress(&mut node.station, asker, stage, per_mille, text, now.at),
        Who::Command(preset) => {
            let percent = (share.clamp(0.0, 1.0) * 100.0) as u8;
            node.commands.progress(&mut node.station, preset, percent, now.at);
        }
        Who::Words(_) => {
            if follow.said != stage && now.at.since(follow.said_at) >= SAY_EVERY {
                (follow.said, follow.said_at) = (stage.to_owned(), now.at);
                node.voice.say(INFO, format_args!("uhr {}: {stage}, {:.0} %", follow.id, share * 100.0));
            }
        }
    }
}

/// Tells how it ended.
pub fn done(node: &mut Node, follow: &Follow, outcome: &Outcome, now: Now) {
    let id = follow.id;
    if let Who::Client(asker) = follow.who {
        node.served.reply(asker, Kind::Answer, |room| write_reply(id, outcome, room));
        return;
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
    if let Who::Command(preset) = follow.who {
        node.commands.end(&mut node.station, preset, verdict, now.at);
    }
}
