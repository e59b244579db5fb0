//! One line's thread: bytes in, things done at the desk, packets out.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{LinkAddress, LinkLine};
use crate::journal::{Desk, Progress};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::geotag::Track;
use crate::link::key::Key;
use crate::link::node::{BoardStatus, Node, NodeSettings};
use crate::link::serve::Say;
use crate::link::serve::asking::{Later, Words};
use crate::link::serve::files::Files;
use crate::link::serve::follow::{self, Follow};
use crate::link::serve::host::{LineHost, Todo};
use crate::link::sign::Signing;
use crate::link::standard::ftp::{MAX_DATA, RADIO_DATA};
use crate::link::standard::param::Params;
use crate::link::station::Station;
use crate::link::transport::{Line, LineState};
use crate::units::{FrameNumber, UnixMillis};

/// Questions of this line that are followed at once.
pub const FOLLOWED: usize = 32;
/// Frames are given places, and the status is looked at, so often.
const LOOK: Duration = Duration::from_secs(1);

/// One line's thread.
pub struct Runner {
    pub(super) desk: Desk,
    pub(super) node: Node,
    pub(super) host: LineHost,
    pub(super) line: Line,
    pub(super) name: String,
    pub(super) presets: Vec<String>,
    pub(super) key_path: Option<PathBuf>,
    pub(super) follows: Vec<Follow>,
    pub(super) later: heapless::Vec<Later, 8>,
    pub(super) words: heapless::Deque<Words, 8>,
    pub(super) begun: Instant,
    pub(super) look_at: At,
    pub(super) newest: Option<FrameNumber>,
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
            words: heapless::Deque::new(),
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

    pub(super) fn keep(&self, params: &Params, say: &Say) {
        let list: Vec<(&str, f32)> = params.list().collect();
        let kept = serde_json::to_vec(&list).map_err(|error| error.to_string());
        if let Err(error) = kept.and_then(|bytes| self.desk.journal().keep_link_memory("params", &bytes).map_err(|error| error.to_string()))
        {
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

    /// Tells how far all questions of this line are.
    fn follow(&mut self, now: Now) {
        let Self { node, follows, .. } = self;
        follows.retain_mut(|follow| {
            let progress = follow.receiver.borrow().clone();
            match progress {
                Progress::Done(outcome) => {
                    follow::done(node, follow, &outcome, now);
                    false
                }
                Progress::Queued { ahead } => {
                    follow::tell(node, follow, &format!("queued, {ahead} before it"), 0.0, "", now);
                    true
                }
                Progress::Working { stage, share, text } => {
                    follow::tell(node, follow, &stage, share, &text, now);
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
