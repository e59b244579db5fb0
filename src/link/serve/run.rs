//! One line's thread: bytes in, things done at the desk, packets out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::config::{LinkAddress, LinkLine};
use crate::journal::{Asked, Desk, FrameRef, Origin, Outcome, Progress, Refused};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::geotag::Track;
use crate::link::key::Key;
use crate::link::node::{BoardStatus, Node, NodeSettings};
use crate::link::serve::Say;
use crate::link::serve::answers::{frame_line, question_line, write_lines, write_reply};
use crate::link::serve::files::Files;
use crate::link::serve::host::{LineHost, Todo, Wanted};
use crate::link::served::Asker;
use crate::link::sign::Signing;
use crate::link::standard::command::{Preset, Verdict};
use crate::link::standard::ftp::{Found, MAX_DATA, RADIO_DATA, Tree};
use crate::link::standard::param::Params;
use crate::link::standard::text::{INFO, WARNING};
use crate::link::station::Station;
use crate::link::transport::{Line, LineState};
use crate::link::wire::{self, Accept, Kind, Piece, Reject};
use crate::units::{FrameNumber, Millis, QuestionId, Tiles, Tokens, UnixMillis};

/// Questions of this line that are followed at once.
const FOLLOWED: usize = 32;
/// A file that is being made is waited for.
const DRAWING: Duration = Duration::from_secs(120);
/// Frames are given places, and the status is looked at, so often.
const LOOK: Duration = Duration::from_secs(1);
/// Words in a text: at most so often, where the stage changed.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Who waits for a question.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Client(Asker),
    Command(Preset),
    Words(Source),
}

struct Follow {
    who: Who,
    id: QuestionId,
    text: String,
    receiver: watch::Receiver<Progress>,
    said: String,
    said_at: At,
}

struct Later {
    asker: Asker,
    path: String,
    from: u32,
    most: u16,
    until: At,
}

pub struct Runner {
    desk: Desk,
    node: Node,
    host: LineHost,
    line: Line,
    name: String,
    presets: Vec<String>,
    key_path: Option<PathBuf>,
    follows: Vec<Follow>,
    later: heapless::Vec<Later, 8>,
    begun: Instant,
    look_at: At,
    newest: Option<FrameNumber>,
}

impl Runner {
    #[allow(clippy::too_many_arguments, reason = "all of one line's, moved into its thread once")]
    pub fn new(
        desk: Desk,
        files: Files,
        line: &LinkLine,
        signing: Option<Signing>,
        open: Line,
        params: Params,
        presets: Vec<String>,
        key_path: Option<PathBuf>,
    ) -> Self {
        let station = Station::new(Source { system: line.system, component: 0 }, line.rate, signing);
        let ftp_data = if matches!(line.to, LinkAddress::Serial { .. }) { RADIO_DATA } else { MAX_DATA };
        let node = Node::new(station, NodeSettings { system: line.system, wired: line.wired, ftp_data }, params);
        let host = LineHost { files, todo: heapless::Deque::new(), track: Track::default(), dropped: 0 };
        Self {
            desk,
            node,
            host,
            line: open,
            name: line.to.to_string(),
            presets,
            key_path,
            follows: Vec::with_capacity(FOLLOWED),
            later: heapless::Vec::new(),
            begun: Instant::now(),
            look_at: At::default(),
            newest: None,
        }
    }

    fn now(&self) -> Now {
        Now::new(At(self.begun.elapsed()), UnixMillis::of(SystemTime::now()))
    }

    /// Until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool, say: &Say) {
        let mut buffer = [0; 2_048];
        let mut state = LineState::Away;
        while !stop.load(Ordering::Relaxed) {
            let read = self.line.read(&mut buffer);
            let now = self.now();
            self.node.receive(&buffer[..read], now, &mut self.host);
            while let Some(todo) = self.host.todo.pop_front() {
                self.todo(todo, now, say);
            }
            self.follow(now);
            self.fetch_later(now);
            if now.at >= self.look_at {
                self.look_at = now.at.after(LOOK);
                self.look(now, say);
            }
            self.node.tick(now);
            while let Some(packet) = self.node.transmit(self.now()) {
                self.line.write(packet);
            }
            if self.line.state() != state {
                state = self.line.state();
                say(&format!("link {}: {}", self.name, if state == LineState::Open { "open" } else { "the device is not there" }));
            }
        }
        let counts = self.node.station.counts();
        say(&format!("link {}: ended: {counts:?}, {:?}, {} sent", self.name, self.node.served.counts, self.node.station.sent()));
    }

    fn todo(&mut self, todo: Todo, now: Now, say: &Say) {
        match todo {
            Todo::Query(asker, wanted) => self.query(asker, wanted, now),
            Todo::Preset(asked) => self.preset(asked, now),
            Todo::Words(source, text) => self.words(source, text, now),
            Todo::Params(params) => self.keep(&params, say),
            Todo::Learnt(system) => say(&format!("link {}: the autopilot is system {system}", self.name)),
            Todo::NewKey(key) => self.new_key(&key, say),
        }
    }

    fn keep(&self, params: &Params, say: &Say) {
        let list: Vec<(&str, f32)> = params.list().collect();
        let kept = serde_json::to_vec(&list).map_err(|error| error.to_string());
        if let Err(error) = kept.and_then(|bytes| self.desk.journal().keep_link_memory("params", &bytes).map_err(|error| error.to_string())) {
            say(&format!("link {}: settings are not kept: {error}", self.name));
        }
    }

    fn new_key(&self, key: &Key, say: &Say) {
        match &self.key_path {
            Some(path) => match key.replace(path) {
                Ok(()) => say(&format!("link {}: a new key came over the cable and is kept", self.name)),
                Err(error) => say(&format!("link {}: a new key came over the cable and holds until the end: {error}", self.name)),
            },
            None => say(&format!("link {}: a key came over the cable; the line has no key-file, so it is not kept", self.name)),
        }
    }

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

    fn query(&mut self, asker: Asker, wanted: Wanted, now: Now) {
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
                if !self.fetch(&later, now) && self.later.push(later).is_err() {
                    self.refuse(asker, "busy", "too many pictures are being drawn", now);
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
                if let Some((name, value)) = setting {
                    if let Err(error) = self.node.params.set(&name, value) {
                        return self.refuse(asker, "bad-setting", &error.to_string(), now);
                    }
                    self.keep(&self.node.params, &(Arc::new(|_: &str| ()) as Say));
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

    fn fetch_later(&mut self, now: Now) {
        for at in (0..self.later.len()).rev() {
            let later = self.later.swap_remove(at);
            if now.at > later.until {
                self.refuse(later.asker, "no-file", "the picture was not drawn in time", now);
            } else if !self.fetch(&later, now) {
                let _ = self.later.push(later);
            }
        }
    }

    fn preset(&mut self, asked: Preset, now: Now) {
        let text = usize::try_from(asked.preset).ok().and_then(|number| self.presets.get(number.checked_sub(1)?)).cloned();
        let Some(text) = text else {
            let all = self.presets.len();
            self.node.voice.say(WARNING, format_args!("uhr: wanted a stored question of 1 to {all}, found {}", asked.preset));
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
            self.node.voice.say(WARNING, format_args!("uhr: wanted a frame of the journal, found none of number {}", asked.frame));
            return self.node.commands.end(&mut self.node.station, asked, Verdict::Denied, now.at);
        };
        let source = asked.source;
        let key = asked.is_numbered().then(|| format!("link/{source}/command/{}/{}/{}", asked.preset, asked.nonce, asked.frame));
        let question = Asked { key, ..self.asked(&text, vec![frame]) };
        self.ask(Who::Command(asked), question, now);
    }

    fn words(&mut self, source: Source, text: String, now: Now) {
        // The same words again while they are worked on: a repeated packet, not a second question.
        if self.follows.iter().any(|follow| follow.who == Who::Words(source) && follow.text == text) {
            return;
        }
        let question = self.asked(&text, vec![FrameRef::Newest]);
        self.ask(Who::Words(source), question, now);
    }

    fn ask(&mut self, who: Who, asked: Asked, now: Now) {
        // The same identity over two ways, or again: followed once.
        if self.follows.iter().any(|follow| follow.who == who) && !matches!(who, Who::Words(_)) {
            return;
        }
        if self.follows.len() == FOLLOWED {
            return self.refused(who, "busy", "too many questions of this line are open", FOLLOWED + 1, FOLLOWED, now);
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
        let ahead = match &*receiver.borrow() {
            Progress::Queued { ahead } => *ahead,
            _ => 0,
        };
        match who {
            Who::Client(asker) => {
                let ahead = u16::try_from(ahead).unwrap_or(u16::MAX);
                self.node.served.accept(&mut self.node.station, asker, Accept { id: id.0, ahead }, now.at);
            }
            Who::Command(preset) => self.node.commands.taken(&mut self.node.station, preset),
            Who::Words(_) => {
                self.node.voice.say(INFO, format_args!("uhr {id}: accepted, {ahead} before it"));
            }
        }
        self.follows.push(Follow { who, id, text, receiver, said: String::new(), said_at: now.at });
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
                self.node.voice.say(WARNING, format_args!("uhr: not accepted ({code}): {reason}"));
                self.node.commands.end(&mut self.node.station, preset, verdict, now.at);
            }
            Who::Words(_) => {
                self.node.voice.say(WARNING, format_args!("uhr: not accepted ({code}): {reason}"));
            }
        }
    }

    /// Tells how far all questions of this line are.
    fn follow(&mut self, now: Now) {
        let Self { node, follows, .. } = self;
        follows.retain_mut(|follow| {
            let progress = follow.receiver.borrow().clone();
            match progress {
                Progress::Done(outcome) => {
                    done(node, follow, &outcome, now);
                    false
                }
                Progress::Queued { ahead } => {
                    tell(node, follow, &format!("queued, {ahead} before it"), 0.0, "", now);
                    true
                }
                Progress::Working { stage, share, text } => {
                    tell(node, follow, &stage, share, &text, now);
                    true
                }
            }
        });
    }

    /// Once a second: the status that others see, and places for new frames.
    fn look(&mut self, now: Now, say: &Say) {
        let status = self.desk.status();
        let mib = status.memory.resident_bytes.mib();
        let celsius = status.board.temperature.map_or(127, |temperature| temperature.0.round().clamp(-127.0, 126.0) as i8);
        let uptime_ms = u32::try_from(now.at.0.as_millis()).unwrap_or(u32::MAX);
        self.node.board = BoardStatus { uptime_ms, ram_mib: mib as u32, celsius };
        let (Ok(frames), Some(wall)) = (self.desk.frames(8, None), now.wall) else { return };
        for frame in frames.iter().filter(|frame| frame.geotag.is_none() && self.newest.is_none_or(|newest| frame.number > newest)) {
            let ago = Duration::from_millis(u64::try_from(wall.0 - frame.seen_at.0).unwrap_or(0));
            let Some(taken) = now.at.0.checked_sub(ago).map(At) else { continue };
            if let Some(tag) = self.host.track.tag(taken)
                && let Err(error) = self.desk.journal().place_frame(frame.id, &tag)
            {
                say(&format!("link {}: frame {} gets no place: {error}", self.name, frame.id));
            }
        }
        // What is older than the track needn't be looked at again.
        let old = frames.iter().filter(|frame| wall.0 - frame.seen_at.0 > 10_000).map(|frame| frame.number).max();
        self.newest = self.newest.max(old);
    }
}

fn tell(node: &mut Node, follow: &mut Follow, stage: &str, share: f64, text: &str, now: Now) {
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

fn done(node: &mut Node, follow: &Follow, outcome: &Outcome, now: Now) {
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
