//! Documents of the journal as what goes over the link.

use serde_json::{Value, json};

use crate::journal::{FrameEntry, Outcome, QuestionEntry};
use crate::link::wire::{self, BoxPx, Reply};
use crate::units::QuestionId;

/// The record of how question `id` ended, written into `room`; `None`: it doesn't fit.
pub fn write_reply(id: QuestionId, outcome: &Outcome, room: &mut [u8]) -> Option<usize> {
    let document;
    let reply = match outcome {
        Outcome::Answered { document: kept } => {
            document = kept;
            answered(id, document)
        }
        Outcome::Refused { code, reason } => Reply::Refused { id: id.0, code, reason },
    };
    if let Ok(bytes) = wire::record(&reply, room) {
        return Some(bytes.len());
    }
    let reason = "the answer is longer than the link carries at once: fetch its answer.json";
    wire::record(&Reply::Refused { id: id.0, code: "long-answer", reason }, room).ok().map(<[u8]>::len)
}

fn number(value: &Value) -> u32 {
    value.as_f64().filter(|value| value.is_finite()).map_or(0, |value| value.clamp(0.0, f64::from(u32::MAX)).round() as u32)
}

fn answered(id: QuestionId, document: &Value) -> Reply<'_> {
    let receipt = &document["receipt"];
    let list = |value: &'static str| receipt[value].as_array().map(Vec::as_slice).unwrap_or_default();
    let per_view = receipt["budget"]["per_view"].as_array().map(Vec::as_slice).unwrap_or_default();
    Reply::Answered {
        id: id.0,
        text: document["text"].as_str().unwrap_or_default(),
        finish: document["finish"].as_str().unwrap_or_default(),
        choice: document["choice"].as_str(),
        tokens: per_view.iter().map(|view| number(&view["tokens"])).sum(),
        budget: number(&receipt["budget"]["total"]),
        total_ms: number(&receipt["stages_ms"]["total"]),
        degraded: list("degraded").iter().filter_map(Value::as_str).take(16).collect(),
        evidence: list("evidence")
            .iter()
            .take(8)
            .map(|entry| BoxPx {
                frame: u8::try_from(number(&entry["frame"])).unwrap_or(u8::MAX),
                x: number(&entry["x"]),
                y: number(&entry["y"]),
                w: number(&entry["w"]),
                h: number(&entry["h"]),
            })
            .collect(),
    }
}

/// A frame as a line of a list.
pub fn frame_line(entry: &FrameEntry) -> Value {
    json!({
        "number": entry.number, "id": entry.id, "w": entry.w, "h": entry.h, "state": entry.state, "seen_at": entry.seen_at,
        "name": entry.path.file_name().map(|name| name.to_string_lossy()),
        "position": entry.geotag.as_ref().and_then(|tag| tag.get("position")),
        "time_error_ms": entry.geotag.as_ref().and_then(|tag| tag.get("time_error_ms")),
    })
}

/// A question as a line of a list.
pub fn question_line(entry: &QuestionEntry) -> Value {
    let (answer, refused) = match &entry.outcome {
        Some(Outcome::Answered { document }) => (document["text"].as_str(), None),
        Some(Outcome::Refused { code, .. }) => (None, Some(code)),
        None => (None, None),
    };
    json!({
        "id": entry.id, "text": entry.text, "frames": entry.frames, "state": entry.state, "accepted_at": entry.accepted_at,
        "answer": answer, "refused": refused,
    })
}

/// As many lines as fit into `room`, each whole.
pub fn write_lines(lines: impl Iterator<Item = Value>, room: &mut [u8]) -> usize {
    let mut len = 0;
    for line in lines {
        let line = line.to_string();
        let Some(place) = room.get_mut(len..len + line.len() + 1) else { break };
        place[..line.len()].copy_from_slice(line.as_bytes());
        place[line.len()] = b'\n';
        len += line.len() + 1;
    }
    // A transfer has at least a byte.
    if len == 0 && !room.is_empty() {
        room[0] = b'\n';
        return 1;
    }
    len
}
