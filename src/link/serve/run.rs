//! One line's thread: bytes in, things done at the desk, packets out.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::board::clock_is_kept;
use crate::config::{LinkAddress, LinkLine};
use crate::journal::{Desk, FrameEntry, Progress};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::geotag::Track;
use crate::link::key::Key;
use crate::link::node::{BoardStatus, Node, NodeSettings};
use crate::link::serve::Say;
use crate::link::serve::asking::{Later, Words};
use crate::link::serve::files::Files;
use crate::link::serve::follow::{self, Follow, Waits};
use crate::link::serve::host::{LineHost, Todo, wanted};
use crate::link::serve::shared::Shared;
use crate::link::sign::Signing;
use crate::link::standard::ftp::{MAX_DATA, RADIO_DATA};
use crate::link::standard::param::Params;
use crate::link::standard::text::WARNING;
use crate::link::station::Station;
use crate::link::transport::{Line, LineState};
use crate::units::{FrameNumber, UnixMillis};

/// Questions of this line that are followed at once.
pub const FOLLOWED: usize = 32;
/// Answers that are on their way out: more than there are places for texts.
const LEAVING: usize = 16;
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
    shared: Shared,
    /// The settings as all lines had them when this one looked last.
    seen: Params,
    /// Somebody who is no client of ours waits who isn't in the journal.
    pub(super) came: bool,
    /// Those who were told how it ended, as long as the text has not gone out.
    pub(super) leaving: heapless::Vec<Waits, LEAVING>,
    /// A time service keeps the clock right.
    kept: bool,
    /// What was said of it already.
    said: Troubles,
}

/// What is told once a run.
#[derive(Default)]
struct Troubles {
    clocks: bool,
    unstored: bool,
    waiting: bool,
    settings: bool,
}

/// Says something the first time.
fn once(said: &mut bool, tell: impl FnOnce()) {
    if !std::mem::replace(said, true) {
        tell();
    }
}

/// When a frame's file was written, and how long after that it was seen: its moment is known no better. Without a time of its file, when it was seen.
fn moment(frame: &FrameEntry) -> (UnixMillis, Duration) {
    let written = std::fs::metadata(&frame.path).and_then(|file| file.modified()).map(UnixMillis::of).ok();
    let written = written.filter(|written| *written <= frame.seen_at).unwrap_or(frame.seen_at);
    (written, Duration::from_millis(u64::try_from(frame.seen_at.0 - written.0).unwrap_or(0)))
}

impl Runner {
    #[allow(clippy::too_many_arguments, reason = "all of one line's, moved into its thread once")]
    pub fn new(
        desk: Desk,
        files: Files,
        line: &LinkLine,
        signing: Option<Signing>,
        open: Line,
        shared: Shared,
        presets: Vec<String>,
        key_path: Option<PathBuf>,
    ) -> Self {
        let station = Station::new(Source { system: line.system, component: 0 }, line.rate, signing);
        let ftp_data = if matches!(line.to, LinkAddress::Serial { .. }) { RADIO_DATA } else { MAX_DATA };
        let node = Node::new(station, NodeSettings { system: line.system, wired: line.wired, ftp_data }, shared.params());
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
            seen: shared.params(),
            shared,
            came: false,
            leaving: heapless::Vec::new(),
            kept: clock_is_kept(),
            said: Troubles::default(),
        }
    }

    fn now(&self) -> Now {
        Now::read(self.begun, self.kept)
    }

    /// Until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool, say: &Say) {
        let mut buffer = [0; 2_048];
        let mut state = LineState::Away;
        if let Err(error) = self.take_up(self.now()) {
            say(&format!("link {}: who waits for an answer isn't known: {error}", self.name));
        }
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
            self.shared.sync(&mut self.node.params, &mut self.seen);
            self.keep_waiting(say);
            self.node.tick(now);
            // What goes to a device that isn't there would be lost.
            while self.line.state() == LineState::Open
                && let Some(packet) = self.node.transmit(Now::read(self.begun, self.kept))
            {
                self.line.write(packet);
            }
            if self.line.state() != state {
                state = self.line.state();
                say(&format!("link {}: {}", self.name, if state == LineState::Open { "open" } else { "the device is not there" }));
            }
        }
        self.keep(say);
        self.keep_waiting(say);
        let counts = self.node.station.counts();
        say(&format!("link {}: ended: {counts:?}, {:?}, {} sent", self.name, self.node.served.counts, self.node.station.sent()));
    }

    fn todo(&mut self, todo: Todo, now: Now, say: &Say) {
        match todo {
            Todo::Query(asker, bytes) => {
                if let Some(wanted) = wanted(&bytes) {
                    self.query(asker, wanted, now);
                }
            }
            Todo::Preset(asked) => self.preset(asked, now),
            Todo::Words(source, text) => self.words(source, text.as_str().to_owned(), now),
            Todo::Learnt(system) => say(&format!("link {}: the autopilot is system {system}", self.name)),
            Todo::NewKey(key) => self.new_key(&key, now, say),
        }
    }

    fn keep(&mut self, say: &Say) {
        if let Err(error) = self.shared.keep() {
            once(&mut self.said.settings, || say(&format!("link {}: settings are not kept: {error}", self.name)));
        }
    }

    fn keep_waiting(&mut self, say: &Say) {
        if let Err(error) = self.write_waiting() {
            once(&mut self.said.waiting, || say(&format!("link {}: who waits for an answer is not kept: {error}", self.name)));
        }
    }

    fn new_key(&mut self, key: &Key, now: Now, say: &Say) {
        match self.shared.timestamps(key) {
            Ok(timestamps) => self.node.station.remember_in(timestamps, now),
            Err(error) => say(&format!("link {}: what is heard with the new key is not kept: {error}", self.name)),
        }
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
        let Self { node, follows, leaving, .. } = self;
        follows.retain_mut(|follow| {
            let waits = Waits::of(follow);
            let Follow { who, id, receiver, said, .. } = follow;
            // Held while it is told, some microseconds: a copy of the words so far would be made 50 times a second.
            match &*receiver.borrow() {
                Progress::Done(outcome) => {
                    let done = follow::done(node, *who, *id, outcome, now);
                    if let Some(waits) = waits.filter(|_| done) {
                        let _ = leaving.push(waits);
                    }
                    !done
                }
                Progress::Queued { ahead } => {
                    let mut stage = heapless::String::<48>::new();
                    let _ = write!(stage, "queued, {ahead} before it");
                    follow::tell(node, *who, *id, said, (stage.as_str(), 0.0, ""), now);
                    true
                }
                Progress::Working { stage, share, text } => {
                    follow::tell(node, *who, *id, said, (stage.as_str(), *share, text.as_str()), now);
                    true
                }
            }
        });
    }

    /// Once a second: what is wrong is said, once.
    fn look_for_trouble(&mut self, say: &Say) {
        let counts = self.node.station.counts();
        let name = &self.name;
        if counts.clocks_apart > 0 {
            once(&mut self.said.clocks, || {
                say(&format!("link {name}: signed packets are refused: their sender's clock and this one are more than a minute apart"));
            });
        }
        if counts.unstored > 0 {
            let voice = &mut self.node.voice;
            once(&mut self.said.unstored, || {
                say(&format!("link {name}: signed packets are refused: that they were heard can't be written to the journal"));
                voice.note(WARNING, format_args!("uhr-edge: the journal can't be written, nothing signed is taken"));
            });
        }
    }

    /// Once a second: the status that others see, and places for new frames.
    fn look(&mut self, now: Now, say: &Say) {
        self.kept = clock_is_kept();
        self.keep(say);
        self.look_for_trouble(say);
        let status = self.desk.status();
        let mib = status.memory.resident_bytes.mib();
        let celsius = status.board.temperature.map_or(127, |temperature| temperature.0.round().clamp(-127.0, 126.0) as i8);
        let uptime_ms = u32::try_from(now.at.0.as_millis()).unwrap_or(u32::MAX);
        self.node.board = BoardStatus { uptime_ms, ram_mib: mib as u32, celsius };
        let (Ok(frames), Some(wall)) = (self.desk.frames(8, None), now.wall) else { return };
        for frame in frames.iter().filter(|frame| frame.geotag.is_none() && self.newest.is_none_or(|newest| frame.number > newest)) {
            let (written, within) = moment(frame);
            let ago = Duration::from_millis(u64::try_from(wall.0 - written.0).unwrap_or(0));
            let Some(taken) = now.at.0.checked_sub(ago).map(At) else { continue };
            if let Some(tag) = self.host.track.tag(taken, within)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    use crate::journal::FrameState;
    use crate::units::FrameId;

    #[test]
    fn a_frame_is_as_old_as_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frame.jpg");
        std::fs::write(&path, "pixels").unwrap();
        let written = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_000);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        let mut frame = FrameEntry {
            number: FrameNumber(1),
            id: FrameId([0; 8]),
            sha256: String::new(),
            path,
            w: 1,
            h: 1,
            bytes: 6,
            seen_at: UnixMillis(1_800_000_002_500),
            state: FrameState::Ready,
            reason: None,
            in_slot: false,
            ingest_ms: None,
            geotag: None,
            begun: 0,
        };
        assert_eq!(moment(&frame), (UnixMillis(1_800_000_000_000), Duration::from_millis(2_500)));
        // A file from the future, or one that is gone: what is known is when it was seen.
        frame.seen_at = UnixMillis(1_799_999_999_000);
        assert_eq!(moment(&frame), (frame.seen_at, Duration::ZERO));
        frame.path = folder.path().join("gone.jpg");
        assert_eq!(moment(&frame), (frame.seen_at, Duration::ZERO));
    }
}
