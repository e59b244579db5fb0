//! What a line's packets bring, put aside until the packet is done with: the desk writes to a disk, a packet must not wait for it, nor take memory.

use crate::journal::{Asked, FrameRef, Origin};
use crate::link::clock::Now;
use crate::link::frame::Source;
use crate::link::geotag::Track;
use crate::link::key::Key;
use crate::link::node::{Event, Host};
use crate::link::serve::files::Files;
use crate::link::served::{Asker, MAX_QUERY};
use crate::link::standard::command::Preset;
use crate::link::standard::ftp::{EachEntry, Found, Tree};
use crate::link::standard::text::MAX_WORDS;
use crate::link::wire::{self, Query};
use crate::units::{FrameId, Millis, Tokens};

/// Things to do that wait.
const TODO: usize = 32;

/// What a ground station of ours wants, its own.
#[derive(Clone, Debug)]
pub enum Wanted {
    Ask(Box<Asked>),
    Fetch { path: String, from: u32, most: u16 },
    Frames(u8),
    Answers(u8),
    Settings(Option<(String, f32)>),
    Status,
}

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation a packet")]
pub enum Todo {
    /// As it came.
    Query(Asker, heapless::Vec<u8, MAX_QUERY>),
    Preset(Preset),
    Words(Source, heapless::String<MAX_WORDS>),
    NewKey(Key),
    Learnt(u8),
}

/// Gets a line's events.
pub struct LineHost {
    pub files: Files,
    pub todo: heapless::Deque<Todo, TODO>,
    pub track: Track,
    /// Things that found no place; whoever wanted them asks again.
    pub dropped: u64,
}

/// What was wanted, read once more; `None`: it was no query.
pub fn wanted(bytes: &[u8]) -> Option<Wanted> {
    Some(match wire::read("query", bytes).ok()? {
        Query::Ask(asked) => {
            let frames = if asked.frames.is_empty() {
                vec![FrameRef::Newest]
            } else {
                asked.frames.iter().map(|id| FrameRef::Id(FrameId(*id))).collect()
            };
            Wanted::Ask(Box::new(Asked {
                budget: asked.budget.map(str::to_owned),
                max_new: asked.max_new.map(Tokens),
                deadline: asked.deadline_ms.map(|ms| Millis(f64::from(ms))),
                seed: asked.seed,
                ..Asked::new(asked.text, frames, Origin::Link)
            }))
        }
        Query::Fetch(what) => Wanted::Fetch { path: what.path.to_owned(), from: what.from, most: what.most },
        Query::Frames { limit } => Wanted::Frames(limit),
        Query::Answers { limit } => Wanted::Answers(limit),
        Query::Settings(setting) => Wanted::Settings(setting.map(|setting| (setting.name.to_owned(), setting.value))),
        Query::Status => Wanted::Status,
    })
}

impl LineHost {
    fn put(&mut self, todo: Todo) {
        if self.todo.push_back(todo).is_err() {
            self.dropped += 1;
        }
    }
}

impl Host for LineHost {
    fn event(&mut self, event: Event<'_>, _now: Now) {
        match event {
            Event::Query(asker, query) => {
                let mut bytes = heapless::Vec::new();
                // It came in as many.
                let _ = bytes.resize_default(MAX_QUERY);
                let len = wire::record(&query, &mut bytes).map_or(0, <[u8]>::len);
                bytes.truncate(len);
                self.put(Todo::Query(asker, bytes));
            }
            Event::Preset(asked) => self.put(Todo::Preset(asked)),
            Event::Words(source, text) => {
                if let Ok(text) = heapless::String::try_from(text) {
                    self.put(Todo::Words(source, text));
                }
            }
            // The node has them; all lines are told after the packets.
            Event::Params(_) => {}
            Event::NewKey(key) => self.put(Todo::NewKey(key)),
            Event::Learnt(system) => self.put(Todo::Learnt(system)),
            Event::Pose(pose) => self.track.hear(pose),
            Event::Shot(shot) => self.track.shot(shot),
        }
    }
}

impl Tree for LineHost {
    fn open(&mut self, path: &str) -> Found {
        self.files.open(path)
    }
    fn list(&mut self, path: &str, each: &mut EachEntry<'_>) -> bool {
        self.files.list(path, each)
    }
}
