//! The records in the fragments, in postcard's form: borrowed from the bytes they came in, so that reading one takes no memory.
//!
//! Fields and variants are only ever appended; a field more is a wire version more.

use serde::{Deserialize, Serialize};

/// What a ground station wants: the data of `QUERY`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Query<'a> {
    #[serde(borrow)]
    Ask(Asked<'a>),
    /// A piece of a file of the answers' tree; the reply is a `BLOB` that begins with [`Piece`].
    #[serde(borrow)]
    Fetch(What<'a>),
    /// The newest frames; the reply is a `BLOB` of JSON lines.
    Frames { limit: u8 },
    /// The newest questions; the reply is a `BLOB` of JSON lines.
    Answers { limit: u8 },
    /// All settings, one of them changed first; the reply is a `BLOB` of JSON.
    #[serde(borrow)]
    Settings(Option<Setting<'a>>),
    /// The reply is a `STATUS` of JSON.
    Status,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked<'a> {
    pub text: &'a str,
    /// First bytes of the file's SHA-256; empty: the newest.
    pub frames: heapless::Vec<[u8; 8], 4>,
    /// A preset or numbers; `None`: the board's setting.
    pub budget: Option<&'a str>,
    pub deadline_ms: Option<u32>,
    pub max_new: Option<u32>,
    pub seed: Option<u64>,
}

/// A file, and from where on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct What<'a> {
    /// `/answers/ID/answer.json`, `/answers/ID/evidence.jpg` or `/answers/ID/glimpse.jpg`.
    pub path: &'a str,
    pub from: u32,
    pub most: u16,
}

/// What goes before the bytes of a file in a `BLOB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Of the whole file.
    pub bytes: u32,
    pub crc32: u32,
    pub from: u32,
}

/// A setting by its parameter's name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting<'a> {
    pub name: &'a str,
    pub value: f32,
}

/// A query was taken: the data of `ACCEPT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The question's number in the journal; 0 for what is no question.
    pub id: u64,
    pub ahead: u16,
}

/// A query was not taken: the data of `REJECT`. `wanted` and `allowed` are 0 where no number says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject<'a> {
    /// One word for programs.
    pub code: &'a str,
    /// For people.
    pub reason: &'a str,
    pub wanted: u32,
    pub allowed: u32,
}

/// How far a question is: the data of `PROGRESS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress<'a> {
    pub stage: &'a str,
    /// Of the stage.
    pub per_mille: u16,
    /// `words` begin at this byte of the text.
    pub from: u32,
    pub words: &'a str,
}

/// How a question ended: the data of `ANSWER`.
#[allow(clippy::large_enum_variant, reason = "made once an answer; a box would be an allocation")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply<'a> {
    Answered {
        id: u64,
        text: &'a str,
        /// `stop`, `length`, `deadline` or `late`.
        finish: &'a str,
        choice: Option<&'a str>,
        /// Visual tokens that were used, and those that could have been.
        tokens: u32,
        budget: u32,
        total_ms: u32,
        /// What was left out or given up, a line each.
        #[serde(borrow)]
        degraded: heapless::Vec<&'a str, 16>,
        evidence: heapless::Vec<BoxPx, 8>,
    },
    Refused {
        id: u64,
        code: &'a str,
        reason: &'a str,
    },
}

/// Where in a frame the answer was seen, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxPx {
    pub frame: u8,
    pub x: u32,
    pub y: u32,
    pub w: u32,
    pub h: u32,
}

/// Fragments that are missing: bit `b` of byte `n` stands for fragment `first + 8 n + b`. The data of `NACK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack<'a> {
    pub first: u16,
    pub missing: &'a [u8],
}
