//! Words in STATUSTEXT, both ways, and in UHR_ASK. Source: <https://mavlink.io/en/messages/common.html#STATUSTEXT>.
//!
//! A text longer than 50 bytes goes in chunks with one id; a chunk of fewer than 50 bytes ends it. A text of just a multiple of 50 gets a space more:
//! receivers would wait for its end.

use std::time::Duration;

use crate::link::clock::At;
use crate::link::dialect::{MavMessage, STATUSTEXT_DATA};
use crate::link::frame::Source;

const CHUNK: usize = 50;
/// Bytes of a question in words, from however many chunks or writes.
pub const MAX_WORDS: usize = 1_024;
/// Texts that come in at once.
const ASSEMBLIES: usize = 8;
/// What doesn't go on for so long is dropped.
const STALE: Duration = Duration::from_secs(30);
/// Bytes of a text that goes out; what is more is named and left to the files.
pub const MAX_LINE: usize = 4_000;
/// Texts that wait to go out.
const LINES: usize = 8;
/// Of them, notes: the other places are for answers.
const NOTES: usize = 4;
/// Writes to UHR_ASK that are known when they come again, and for how long: who hears no acknowledgement writes again.
const WRITES: usize = 8;
const AGAIN: Duration = Duration::from_secs(10);
/// Severity INFO and WARNING.
pub const INFO: u8 = 6;
pub const WARNING: u8 = 4;

struct Line {
    text: heapless::String<{ MAX_LINE + 64 }>,
    id: u16,
    sequence: u8,
    severity: u8,
}

/// Texts that go out, chunk by chunk.
#[derive(Default)]
pub struct Voice {
    lines: heapless::Deque<Line, LINES>,
    last_id: u16,
    pub dropped: u64,
}

impl Voice {
    /// Says `text`; `false`: too many wait.
    pub fn say(&mut self, severity: u8, text: std::fmt::Arguments<'_>) -> bool {
        let mut line = Line { text: heapless::String::new(), id: 0, sequence: 0, severity };
        if self.lines.is_full() {
            self.dropped += 1;
            return false;
        }
        let mut whole = std::fmt::Write::write_fmt(&mut Limited(&mut line.text), text).is_ok();
        if line.text.is_empty() {
            return true;
        }
        if !whole {
            whole = line.text.push_str(" … (all of it: answer.json)").is_ok();
        }
        if whole && line.text.len().is_multiple_of(CHUNK) {
            let _ = line.text.push(' ');
        }
        if line.text.len() > CHUNK {
            self.last_id = self.last_id.wrapping_add(1).max(1);
            line.id = self.last_id;
        }
        self.lines.push_back(line).is_ok()
    }

    /// Says a note, which can be done without: `false` where answers need the places.
    pub fn note(&mut self, severity: u8, text: std::fmt::Arguments<'_>) -> bool {
        if self.lines.len() >= NOTES {
            self.dropped += 1;
            return false;
        }
        self.say(severity, text)
    }

    /// Whether [`Self::say`] has room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.lines.is_full()
    }

    /// The next chunk to go out.
    #[allow(clippy::should_implement_trait, reason = "what comes next depends on what is said meanwhile")]
    pub fn next(&mut self) -> Option<MavMessage> {
        let line = self.lines.front_mut()?;
        let from = usize::from(line.sequence) * CHUNK;
        let piece = &line.text.as_bytes()[from..line.text.len().min(from + CHUNK)];
        let mut text = [0; CHUNK];
        text[..piece.len()].copy_from_slice(piece);
        let message = STATUSTEXT_DATA { severity: line.severity, text: text.into(), id: line.id, chunk_seq: line.sequence };
        if piece.len() < CHUNK {
            self.lines.pop_front();
        } else {
            line.sequence += 1;
        }
        Some(MavMessage::STATUSTEXT(message))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// Takes as much as fits into [`MAX_LINE`], at a whole character.
struct Limited<'a>(&'a mut heapless::String<{ MAX_LINE + 64 }>);

impl std::fmt::Write for Limited<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let fits = text.floor_char_boundary(MAX_LINE.saturating_sub(self.0.len()));
        self.0.push_str(&text[..fits]).map_err(|_| std::fmt::Error)?;
        if fits == text.len() { Ok(()) } else { Err(std::fmt::Error) }
    }
}

/// One text on its way in.
struct Assembly {
    source: Source,
    /// Of the STATUSTEXT; 0 is UHR_ASK.
    id: u16,
    next: u8,
    text: heapless::Vec<u8, MAX_WORDS>,
    at: At,
}

/// A write to UHR_ASK that was taken.
struct Write {
    source: Source,
    sum: u32,
    /// A question by itself: written again it is asked again, and known by its words.
    alone: bool,
    at: At,
}

/// Texts that come in.
#[derive(Default)]
pub struct Words {
    open: heapless::Vec<Assembly, ASSEMBLIES>,
    writes: heapless::Deque<Write, WRITES>,
    pub dropped: u64,
}

/// What a part of a text made of it.
#[allow(clippy::large_enum_variant, reason = "it lives for one packet; a box would be an allocation a packet")]
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// There is more to come.
    More,
    Whole(heapless::String<MAX_WORDS>),
    /// Too long, out of order, not UTF-8, or too many at once.
    Dropped,
}

impl Words {
    fn add(&mut self, source: Source, id: u16, part: &[u8], ends: bool, begins: bool, at: At) -> Part {
        let stale = |open: &Assembly| at.since(open.at) > STALE;
        self.open.retain(|open| !stale(open));
        let known = self.open.iter().position(|open| open.source == source && open.id == id);
        let place = match known {
            Some(place) => place,
            None if !begins => return self.drop(None),
            None => {
                let new = Assembly { source, id, next: 0, text: heapless::Vec::new(), at };
                if self.open.push(new).is_err() {
                    return self.drop(None);
                }
                self.open.len() - 1
            }
        };
        let open = &mut self.open[place];
        if open.text.extend_from_slice(part).is_err() {
            return self.drop(Some(place));
        }
        (open.at, open.next) = (at, open.next.wrapping_add(1));
        if !ends {
            return Part::More;
        }
        let open = self.open.swap_remove(place);
        match std::str::from_utf8(&open.text).ok().and_then(|text| heapless::String::try_from(text.trim()).ok()) {
            Some(text) => Part::Whole(text),
            None => self.drop(None),
        }
    }

    fn drop(&mut self, place: Option<usize>) -> Part {
        if let Some(place) = place {
            self.open.swap_remove(place);
        }
        self.dropped += 1;
        Part::Dropped
    }

    /// A chunk of a text that is for us: its first begins with `uhr: `, in any case. `None`: it isn't.
    pub fn chunk(&mut self, source: Source, chunk: &STATUSTEXT_DATA, at: At) -> Option<Part> {
        const PREFIX: &[u8] = b"uhr: ";
        let bytes: &[u8; CHUNK] = &chunk.text;
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(CHUNK);
        let text = &bytes[..len];
        let addressed = text.len() >= PREFIX.len() && text[..PREFIX.len()].eq_ignore_ascii_case(PREFIX);
        if chunk.id == 0 || chunk.chunk_seq == 0 {
            if !addressed {
                return None;
            }
            let id = chunk.id.max(1);
            self.open.retain(|open| !(open.source == source && open.id == id));
            let ends = chunk.id == 0 || len < CHUNK;
            return Some(self.add(source, id, &text[PREFIX.len()..], ends, true, at));
        }
        let place = self.open.iter().position(|open| open.source == source && open.id == chunk.id)?;
        match chunk.chunk_seq.cmp(&self.open[place].next) {
            // Said twice.
            std::cmp::Ordering::Less => Some(Part::More),
            std::cmp::Ordering::Equal => Some(self.add(source, chunk.id, text, len < CHUNK, false, at)),
            std::cmp::Ordering::Greater => Some(self.drop(Some(place))),
        }
    }

    /// A write to UHR_ASK; one that ends in `\` goes on in the next. A part of a longer question that comes again within 10 s is the same part: its
    /// acknowledgement was lost.
    pub fn write(&mut self, source: Source, value: &str, at: At) -> Part {
        let sum = crate::link::wire::crc32(value.as_bytes());
        let same = |write: &&mut Write| (write.source, write.sum) == (source, sum) && !write.alone && at.since(write.at) < AGAIN;
        if let Some(write) = self.writes.iter_mut().find(same) {
            write.at = at;
            return Part::More;
        }
        let goes_on = self.open.iter().any(|open| open.source == source && open.id == 0 && at.since(open.at) <= STALE);
        let part = match value.strip_suffix('\\') {
            Some(part) => self.add(source, 0, part.as_bytes(), false, true, at),
            None => self.add(source, 0, value.as_bytes(), true, true, at),
        };
        if part != Part::Dropped {
            if self.writes.is_full() {
                self.writes.pop_front();
            }
            let alone = !goes_on && part != Part::More;
            let _ = self.writes.push_back(Write { source, sum, alone, at });
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Source = Source { system: 255, component: 190 };

    fn said(voice: &mut Voice) -> (String, Vec<u16>) {
        let (mut text, mut ids) = (Vec::new(), Vec::new());
        while let Some(MavMessage::STATUSTEXT(chunk)) = voice.next() {
            let bytes: &[u8; 50] = &chunk.text;
            text.extend(bytes.iter().take_while(|byte| **byte != 0));
            assert_eq!(usize::from(chunk.chunk_seq), ids.len());
            ids.push(chunk.id);
        }
        (String::from_utf8(text).unwrap(), ids)
    }

    #[test]
    fn a_text_goes_out_in_chunks_that_end() {
        for len in [1, 49, 50, 51, 99, 100, 149, 150, 1_000, 3_999] {
            let mut voice = Voice::default();
            let text = "a".repeat(len);
            assert!(voice.say(INFO, format_args!("{text}")));
            let (heard, ids) = said(&mut voice);
            assert_eq!(heard.trim_end(), text, "{len}");
            assert!(!heard.len().is_multiple_of(50), "{len}");
            assert_eq!(ids.iter().all(|id| *id == 0), heard.len() < 50, "{len}");
        }
        let mut voice = Voice::default();
        assert!(voice.say(INFO, format_args!("{}", "é".repeat(3_000))));
        let (heard, _) = said(&mut voice);
        assert!(heard.ends_with("(all of it: answer.json)"), "{}", &heard[heard.len() - 40..]);
        for _ in 0..LINES {
            assert!(voice.say(INFO, format_args!("x")));
        }
        assert!(!voice.say(INFO, format_args!("x")));
    }

    #[test]
    fn a_question_comes_in_in_chunks() {
        let mut words = Words::default();
        let question = format!("uhr: {}?", "how many ships ".repeat(20));
        let mut voice = Voice::default();
        voice.say(INFO, format_args!("{question}"));
        let mut parts = Vec::new();
        while let Some(MavMessage::STATUSTEXT(chunk)) = voice.next() {
            parts.push(words.chunk(WHO, &chunk, At::default()).unwrap());
            // Doubled on its way.
            if chunk.chunk_seq == 2 {
                assert_eq!(words.chunk(WHO, &chunk, At::default()), Some(Part::More));
            }
        }
        assert_eq!(parts.last(), Some(&Part::Whole(heapless::String::try_from(&question[5..]).unwrap())));
        let other = STATUSTEXT_DATA { text: "PreArm: no GPS".into(), ..STATUSTEXT_DATA::DEFAULT };
        assert_eq!(words.chunk(WHO, &other, At::default()), None);
    }

    #[test]
    fn writes_go_on_after_a_backslash_and_hostile_ones_cost_nothing() {
        let mut words = Words::default();
        assert_eq!(words.write(WHO, "how many \\", At::default()), Part::More);
        assert_eq!(words.write(WHO, "ships?", At::default()), Part::Whole(heapless::String::try_from("how many ships?").unwrap()));
        // Written again, because the acknowledgement was lost: the same part.
        for part in ["is there \\", "is there \\", "a runway \\", "is there \\"] {
            assert_eq!(words.write(WHO, part, At::default()), Part::More);
        }
        let whole = "is there a runway or a road?";
        assert_eq!(words.write(WHO, "or a road?", At::default()), Part::Whole(heapless::String::try_from(whole).unwrap()));
        assert_eq!(words.write(WHO, "or a road?", At(Duration::from_secs(5))), Part::More);
        // What is a question by itself is the same question again, and much later everything is new.
        for _ in 0..2 {
            assert_eq!(words.write(WHO, "why?", At::default()), Part::Whole(heapless::String::try_from("why?").unwrap()));
        }
        assert_eq!(
            words.write(WHO, "or a road?", At(Duration::from_secs(20))),
            Part::Whole(heapless::String::try_from("or a road?").unwrap())
        );
        for round in 0..10_000_u32 {
            let source = Source { system: (round % 251) as u8, component: 1 };
            words.write(source, &format!("{}\\", "x".repeat(127)), At::default());
        }
        assert!(words.open.len() <= ASSEMBLIES && words.dropped > 9_000);
    }
}
