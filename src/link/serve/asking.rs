//! What a line's ground stations want, handed in at the desk.

use std::time::{Duration, SystemTime};

use crate::journal::{Asked, FrameRef, Origin, Progress, Refused};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::serve::answers::{frame_line, question_line, write_lines};
use crate::link::serve::follow::{Follow, Said, Waits, Who};
use crate::link::serve::host::Wanted;
use crate::link::serve::run::{FOLLOWED, Runner};
use crate::link::served::{Asker, SLOTS_A_SOURCE};
use crate::link::standard::command::{Preset, Verdict};
use crate::link::standard::ftp::{Found, Tree};
use crate::link::standard::text::{INFO, WARNING};
use crate::link::wire::{self, Accept, Kind, Piece, Reject};
use crate::units::{FrameNumber, Millis, QuestionId, Tiles, Tokens, UnixMillis};

/// The same words from the same source within such a time are the same question.
const REPEATED: Duration = Duration::from_secs(10);

/// Words that were asked a moment ago.
pub struct Words {
    source: Source,
    sum: u32,
    at: At,
    since: UnixMillis,
}

/// Questions that go before one that waits.
fn ahead(follow: &Follow) -> usize {
    match &*follow.receiver.borrow() {
        Progress::Queued { ahead } => *ahead,
        _ => 0,
    }
}

/// A file that is being made is waited for.
const DRAWING: Duration = Duration::from_secs(120);

/// A file that was wanted before it was there.
pub struct Later {
    asker: Asker,
    path: String,
    from: u32,
    most: u16,
    until: At,
}

impl Runner {
    /// A question of this line with what its settings say where the question says nothing.
    fn asked(&self, text: &str, frames: Vec<FrameRef>) -> Asked {
        let params = &self.node.params;
        Asked {
            budget: params.budget().map(|tokens| tokens.to_string()),
            encode_tiles: params.encode_tiles().map(Tiles),
            max_new: params.max_new().map(Tokens),
            deadline: params.deadline_ms().map(|ms| Millis(f64::from(ms))),
            ..Asked::new(text, frames, Origin::Link)
        }
    }

    pub fn query(&mut self, asker: Asker, wanted: Wanted, now: Now) {
        match wanted {
            Wanted::Ask(asked) => {
                let usual = self.asked("", Vec::new());
                let asked = Asked {
                    budget: asked.budget.or(usual.budget),
                    encode_tiles: usual.encode_tiles,
                    max_new: asked.max_new.or(usual.max_new),
                    deadline: asked.deadline.or(usual.deadline),
                    key: Some(format!("link/{}/{:08x}/{}", asker.source, asker.session.0, asker.number.0)),
                    text: asked.text,
                    frames: asked.frames,
                    ..usual
                };
                self.ask(Who::Client(asker), asked, now);
            }
            Wanted::Fetch { path, from, most } => {
                let later = Later { asker, path, from, most, until: now.at.after(DRAWING) };
                if self.fetch(&later, now) {
                    return;
                }
                match self.later.push(later) {
                    Ok(()) => self.node.served.accept(&mut self.node.station, asker, Accept { id: 0, ahead: 0 }, now.at),
                    Err(_) => self.refuse(asker, "busy", "too many pictures are being drawn", now),
                }
            }
            Wanted::Frames(limit) => match self.desk.frames(usize::from(limit.clamp(1, 64)), None) {
                Ok(frames) => self.reply(asker, Kind::Blob, now, |room| Some(write_lines(frames.iter().map(frame_line), room))),
                Err(error) => self.refuse(asker, "journal", &error.to_string(), now),
            },
            Wanted::Answers(limit) => {
                let filter = crate::journal::Filter { limit: usize::from(limit.clamp(1, 64)), ..Default::default() };
                match self.desk.questions(&filter) {
                    Ok(all) => self.reply(asker, Kind::Blob, now, |room| Some(write_lines(all.iter().map(question_line), room))),
                    Err(error) => self.refuse(asker, "journal", &error.to_string(), now),
                }
            }
            Wanted::Settings(setting) => {
                if let Some((name, value)) = setting
                    && let Err(error) = self.node.params.set(&name, value)
                {
                    return self.refuse(asker, "bad-setting", &error.to_string(), now);
                }
                let all: serde_json::Map<_, _> = self.node.params.list().map(|(name, value)| (name.to_owned(), value.into())).collect();
                let all = serde_json::Value::Object(all);
                self.reply(asker, Kind::Blob, now, |room| Some(write_lines(std::iter::once(all), room)));
            }
            Wanted::Status => {
                let status = serde_json::to_value(&*self.desk.status()).unwrap_or_default();
                self.reply(asker, Kind::Status, now, |room| Some(write_lines(std::iter::once(status), room)));
            }
        }
    }

    fn reply(&mut self, asker: Asker, kind: Kind, now: Now, fill: impl FnOnce(&mut [u8]) -> Option<usize>) {
        if !self.node.served.reply(asker, kind, fill) {
            self.refuse(asker, "long-reply", "what was asked for is longer than the link carries at once", now);
        }
    }

    fn refuse(&mut self, asker: Asker, code: &str, reason: &str, now: Now) {
        self.node.served.refuse(&mut self.node.station, asker, &Reject { code, reason, wanted: 0, allowed: 0 }, now.at);
    }

    /// Replies with a piece of a file; `false`: it is being made.
    fn fetch(&mut self, later: &Later, now: Now) -> bool {
        let file = match self.host.files.open(&later.path) {
            Found::File(file) => file,
            Found::Later => return false,
            Found::Missing => {
                self.refuse(later.asker, "no-file", "there is no such file", now);
                return true;
            }
        };
        let bytes = u32::try_from(file.len()).unwrap_or(u32::MAX);
        let head = Piece { bytes, crc32: wire::crc32(&file), from: later.from };
        let from = file.len().min(later.from as usize);
        let body = &file[from..file.len().min(from + usize::from(later.most))];
        self.reply(later.asker, Kind::Blob, now, |room| {
            let len = wire::record(&head, room).ok()?.len();
            room.get_mut(len..len + body.len())?.copy_from_slice(body);
            Some(len + body.len())
        });
        true
    }

    pub fn fetch_later(&mut self, now: Now) {
        for at in (0..self.later.len()).rev() {
            let later = self.later.swap_remove(at);
            if now.at > later.until {
                self.refuse(later.asker, "no-file", "the picture was not drawn in time", now);
            } else if !self.fetch(&later, now) {
                self.node.served.progress(&mut self.node.station, later.asker, "drawing", 0, "", now.at);
                let _ = self.later.push(later);
            }
        }
    }

    pub fn preset(&mut self, asked: Preset, now: Now) {
        let text = usize::try_from(asked.preset).ok().and_then(|number| self.presets.get(number.checked_sub(1)?)).cloned();
        let Some(text) = text else {
            let all = self.presets.len();
            self.node.voice.note(WARNING, format_args!("uhr-edge: wanted a stored question of 1 to {all}, found {}", asked.preset));
            return self.node.commands.end(&mut self.node.station, asked, Verdict::Denied, now.at);
        };
        let frame = if asked.frame == 0 {
            Ok(Some(FrameRef::Newest))
        } else {
            let number = u64::from(asked.frame);
            let frames = self.desk.frames(1, Some(FrameNumber(number + 1)));
            frames.map(|frames| frames.first().filter(|entry| entry.number.0 == number).map(|entry| FrameRef::Id(entry.id)))
        };
        let Ok(Some(frame)) = frame else {
            self.node.voice.note(WARNING, format_args!("uhr-edge: wanted a frame of the journal, found none of number {}", asked.frame));
            return self.node.commands.end(&mut self.node.station, asked, Verdict::Denied, now.at);
        };
        let source = asked.source;
        let key = asked.is_numbered().then(|| format!("link/{source}/command/{}/{}/{}", asked.preset, asked.nonce, asked.frame));
        let question = Asked { key, ..self.asked(&text, vec![frame]) };
        self.ask(Who::Command(asked), question, now);
    }

    pub fn words(&mut self, source: Source, text: String, now: Now) {
        // The same words again at once: a packet that was repeated, not a second question. It has the same answer.
        let sum = wire::crc32(text.as_bytes());
        let fresh = |words: &&Words| (words.source, words.sum) == (source, sum) && now.at.since(words.at) < REPEATED;
        let since = match self.words.iter().find(fresh) {
            Some(words) => words.since,
            None => {
                let since = UnixMillis::of(SystemTime::now());
                if self.words.is_full() {
                    self.words.pop_front();
                }
                let _ = self.words.push_back(Words { source, sum, at: now.at, since });
                since
            }
        };
        if self.follows.iter().any(|follow| follow.who == Who::Words(source) && follow.text == text) {
            return;
        }
        let key = Some(format!("link/{source}/words/{}/{sum:08x}", since.0));
        let question = Asked { key, ..self.asked(&text, vec![FrameRef::Newest]) };
        self.ask(Who::Words(source), question, now);
    }

    fn ask(&mut self, who: Who, asked: Asked, now: Now) {
        // The same identity over two ways, or again: followed once. Its slot may be new, and is told so.
        if !matches!(who, Who::Words(_))
            && let Some(follow) = self.follows.iter().find(|follow| follow.who == who)
        {
            if follow.text != asked.text {
                return self.refused(who, "same-identity", "another question was asked under this identity", 0, 0, now);
            }
            let (id, ahead) = (follow.id, ahead(follow));
            return self.accepted(who, id, ahead, now);
        }
        if self.follows.len() == FOLLOWED {
            return self.refused(who, "busy", "too many questions of this line are open", FOLLOWED + 1, FOLLOWED, now);
        }
        let own = self.follows.iter().filter(|follow| follow.who.source() == who.source()).count();
        if own >= SLOTS_A_SOURCE {
            return self.refused(who, "busy", "too many open questions of yours", own + 1, SLOTS_A_SOURCE, now);
        }
        let text = asked.text.clone();
        let id = match self.desk.ask(asked) {
            Ok(id) => id,
            Err(refused) => {
                let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
                let (wanted, allowed) = match &refused {
                    Refused::Full { places } => (places + 1, *places),
                    Refused::Long { wanted, allowed } => (number(wanted.0), number(allowed.0)),
                    Refused::Frames { found, most } => (*found, *most),
                    _ => (0, 0),
                };
                return self.refused(who, refused.code(), &refused.to_string(), wanted, allowed, now);
            }
        };
        // Somebody else's question under the same identity: its answer is none to this one.
        if let Ok(Some(entry)) = self.desk.question(id)
            && entry.text != text
        {
            return self.refused(who, "same-identity", "another question was asked under this identity", 0, 0, now);
        }
        let Some(receiver) = self.desk.follow(id) else {
            return self.refused(who, "journal", "the question can't be followed", 0, 0, now);
        };
        let follow = Follow { who, id, text, receiver, said: Said { stage: 0, at: now.at } };
        let ahead = ahead(&follow);
        self.came |= Waits::of(&follow).is_some();
        self.follows.push(follow);
        self.accepted(who, id, ahead, now);
    }

    fn accepted(&mut self, who: Who, id: QuestionId, ahead: usize, now: Now) {
        match who {
            Who::Client(asker) => {
                let ahead = u16::try_from(ahead).unwrap_or(u16::MAX);
                self.node.served.accept(&mut self.node.station, asker, Accept { id: id.0, ahead }, now.at);
            }
            Who::Command(preset) => self.node.commands.taken(&mut self.node.station, preset),
            Who::Words(_) => {
                self.node.voice.note(INFO, format_args!("uhr {id}: accepted, {ahead} before it"));
            }
        }
    }

    /// Those who were told "accepted" in the run before and not yet how it ended.
    pub fn take_up(&mut self, now: Now) -> Result<(), String> {
        let kept = self.desk.journal().link_memory(&self.waiting_name()).map_err(|error| error.to_string())?;
        let all: Vec<Waits> =
            kept.map_or_else(|| Ok(Vec::new()), |bytes| serde_json::from_slice(&bytes)).map_err(|error| error.to_string())?;
        for waits in all.into_iter().take(FOLLOWED) {
            let (Ok(Some(entry)), Some(receiver)) = (self.desk.question(waits.id), self.desk.follow(waits.id)) else { continue };
            if let Who::Command(asked) = waits.who() {
                self.node.commands.resume(asked, now.at);
            }
            let said = Said { stage: 0, at: now.at };
            self.follows.push(Follow { who: waits.who(), id: waits.id, text: entry.text, receiver, said });
        }
        Ok(())
    }

    /// Writes who waits: before anybody is told "accepted", and after what they waited for went out.
    pub fn write_waiting(&mut self) -> Result<(), String> {
        let gone = !self.leaving.is_empty() && self.node.voice.is_empty();
        if !(self.came || gone) {
            return Ok(());
        }
        if gone {
            self.leaving.clear();
        }
        self.came = false;
        let all: Vec<Waits> = self.leaving.iter().copied().chain(self.follows.iter().filter_map(Waits::of)).collect();
        let bytes = serde_json::to_vec(&all).map_err(|error| error.to_string())?;
        self.desk.journal().keep_link_memory(&self.waiting_name(), &bytes).map_err(|error| error.to_string())
    }

    fn waiting_name(&self) -> String {
        format!("waiting {}", self.name)
    }

    fn refused(&mut self, who: Who, code: &str, reason: &str, wanted: usize, allowed: usize, now: Now) {
        match who {
            Who::Client(asker) => {
                let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
                let reject = Reject { code, reason, wanted: number(wanted), allowed: number(allowed) };
                self.node.served.refuse(&mut self.node.station, asker, &reject, now.at);
            }
            Who::Command(preset) => {
                let verdict = if matches!(code, "busy" | "queue-full" | "disk-full") { Verdict::Busy } else { Verdict::Denied };
                self.node.voice.note(WARNING, format_args!("uhr-edge: not accepted ({code}): {reason}"));
                self.node.commands.end(&mut self.node.station, preset, verdict, now.at);
            }
            Who::Words(_) => {
                self.node.voice.note(WARNING, format_args!("uhr-edge: not accepted ({code}): {reason}"));
            }
        }
    }
}
