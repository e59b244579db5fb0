//! A desk over a real journal, and a thread that plays the service: a scripted answer, stage by stage.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use uhr_edge::imaging::{FrameSource, Limits, Reading};
use uhr_edge::journal::{Desk, DeskLimits, FileMark, FrameState, Journal, JournalLimits, Outcome, Status, Work, deflated};
use uhr_edge::units::{Bytes, Celsius, FrameId, Milliwatts, Px, Readings};

pub const MODEL: &str = "uhr-nano@0123456789abcdef";

pub fn limits() -> Limits {
    Limits { max_side: Px(32_768), max_pixels: 200_000_000, whole: Bytes(128 << 20) }
}

pub fn desk(folder: &Path) -> Desk {
    let journal = Journal::open(&folder.join("journal.sqlite"), JournalLimits { max: Bytes(64 << 20), looked: 100 }).unwrap();
    let limits = DeskLimits {
        places: 8,
        backlog: 8,
        text: Bytes(4_096),
        frames: 4,
        brought: folder.join("brought"),
        picture: Bytes(8 << 20),
        brought_max: Bytes(64 << 20),
        admits: limits(),
        reading: Reading::default(),
    };
    let desk = Desk::new(journal, limits).unwrap();
    desk.publish(status());
    desk
}

/// Puts a file before the desk as a watched folder would.
pub fn capture(desk: &Desk, path: &Path) -> FrameId {
    let source = FrameSource::open(path, &limits()).unwrap();
    let mark = FileMark::of(&std::fs::metadata(path).unwrap());
    desk.captured(&source, mark).unwrap().entry.id
}

fn status() -> Status {
    let mut status = Status { model: MODEL.into(), profile: "scripted".into(), version: "0.1.0".into(), ..Status::default() };
    status.board = Readings {
        temperature: Some(Celsius(61.5)),
        power: Some(Milliwatts(14_200)),
        available: Some(Bytes(3 << 30)),
        ..Readings::default()
    };
    (status.memory.planned_bytes, status.memory.peak_bytes) = (Bytes(250_191_532), Bytes(231_227_392));
    status.memory.resident_bytes = Bytes(228_000_000);
    status.frames.slots = 4;
    status
}

/// What the service would do, at `pace` a step.
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    desk: Desk,
    pub answered: Arc<AtomicU64>,
}

impl Worker {
    pub fn start(desk: &Desk, pace: Duration) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let (own, count) = (desk.clone(), Arc::clone(&answered));
        let thread = std::thread::spawn(move || work(&own, pace, &count));
        Self { thread: Some(thread), desk: desk.clone(), answered }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn work(desk: &Desk, pace: Duration, answered: &AtomicU64) {
    let mut slots: Vec<FrameId> = Vec::new();
    loop {
        desk.publish(status());
        match desk.next_work(Duration::from_millis(200)) {
            Work::Stop => return,
            Work::Idle => {}
            Work::Frame(frame) => {
                let id = frame.entry.id;
                desk.journal().frame_is(id, FrameState::Ready, None, None).unwrap();
                desk.count(|counts| counts.taken_in += 1);
                slots.insert(0, id);
                slots.truncate(4);
                desk.slots_hold(slots.iter().copied());
            }
            Work::Question(question) => {
                for stage in ["anchor", "select", "merge", "prefill"] {
                    desk.working(question.id, stage, 0.5, "");
                    std::thread::sleep(pace);
                }
                let words: Vec<String> = question.text.split_whitespace().map(str::to_owned).collect();
                if words.first().is_some_and(|word| word == "refuse") {
                    desk.finish(
                        question.id,
                        Outcome::Refused { code: "deadline".into(), reason: "scripted: wanted more time".into() },
                        None,
                    )
                    .unwrap();
                    desk.rest();
                    continue;
                }
                let mut text = String::new();
                for word in words.iter().rev() {
                    text.push_str(if text.is_empty() { "" } else { " " });
                    text.push_str(word);
                    desk.working(question.id, "generate", 0.5, &text);
                    std::thread::sleep(pace);
                }
                let frames: Vec<_> = question.frames.iter().map(|id| desk.frame(id).unwrap().unwrap()).collect();
                let sizes: Vec<(u32, u32)> = frames.iter().map(|frame| (frame.w, frame.h)).collect();
                let outcome = Outcome::Answered {
                    document: document(&text, &frames.iter().map(|frame| (frame.id.to_string(), frame.w, frame.h)).collect::<Vec<_>>()),
                };
                let looked = deflated(&looked(&sizes).to_string()).unwrap();
                desk.finish(question.id, outcome, Some(&looked)).unwrap();
                desk.rest();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn document(text: &str, frames: &[(String, u32, u32)]) -> Value {
    let view = |px: u32, budget: u32, kept: u32, merged: u32| {
        json!({
            "frame": 0, "view_px": px, "budget": budget, "tokens": kept + merged, "regions": 600, "regions_starved": 0, "kept": kept, "merged": merged,
            "tiles": (px / 336).pow(2), "tiles_encoded": (px / 336).pow(2), "tiles_skipped": 0, "reclustered": false,
        })
    };
    let (_, w, h) = &frames[0];
    let place = |x: f64, y: f64, score: f64| {
        json!({
            "frame": 0, "x": x * f64::from(*w), "y": y * f64::from(*h), "w": 0.06 * f64::from(*w), "h": 0.05 * f64::from(*h), "score": score,
        })
    };
    json!({
        "text": text, "choice": null, "choices": [], "margin": null, "finish": "stop",
        "receipt": {
            "model": MODEL, "profile": "scripted", "engines": { "encoder": "scripted", "projector": "scripted", "decoder": "scripted", "partition": "kmeans" },
            "seed": 0, "policy": "paper", "mode": "paper", "select": "uhr-bat", "clusters": 600, "cluster_dim": null,
            "budget": { "total": 3000, "per_view": [view(672, 80, 55, 25), view(1344, 320, 236, 84), view(2688, 600, 520, 80), view(4032, 2000, 1868, 132)] },
            "degraded": ["stepped down from bench to onboard before anchor: 900 ms left, 1200 ms needed"],
            "stages_ms": { "decode": 0.0, "views": 0.0, "encode": 0.0, "regions": 0.0, "anchor": 344.0, "select": 3.2, "merge": 111.4, "prefill": 1863.5, "generate": 35.7, "total": 2357.8, "first_token": 2322.1 },
            "predicted_ms": { "total": { "p50": 2300.0, "p99": 2900.0 } },
            "tokens": { "text": 21, "visual": 3000, "answer": text.split_whitespace().count() },
            "plan": { "asked": { "name": "bench", "budget": [80, 320, 1600, 4000], "encode_tiles": null, "max_new": 32 }, "began": "onboard",
                "ended": { "name": "onboard", "budget": [80, 320, 600, 2000], "encode_tiles": null, "max_new": 32 }, "deadline_ms": 3000.0,
                "descents": [{ "before": "anchor", "from": "bench", "to": "onboard", "left_ms": 900.0, "needed_ms": 1200.0 }] },
            "memory": { "planned_bytes": 250_191_532, "peak_bytes": 231_227_392 },
            "evidence": [place(0.28, 0.72, 0.042), place(0.57, 0.48, 0.033), place(0.1, 0.15, 0.01)],
            "frames": frames.iter().map(|(id, w, h)| json!({ "id": id, "w": w, "h": h, "sha256": id })).collect::<Vec<_>>(),
        },
    })
}

/// A checkerboard of kept tokens, a few merged regions, and importance that rises to the right.
fn looked(sizes: &[(u32, u32)]) -> Value {
    let frame = |&(w, h): &(u32, u32)| {
        let (w, h) = (f64::from(w), f64::from(h));
        let grid = |view: u32, cells: u32, every: u32| {
            let side = w.max(h) / f64::from(cells);
            (0..cells * cells)
                .filter(move |cell| (cell * 7 + cell / cells * 3).is_multiple_of(every))
                .map(move |cell| (f64::from(cell % cells) * side, f64::from(cell / cells) * side, side))
                .filter(move |(x, y, _)| *x < w && *y < h)
                .map(move |(x, y, side)| json!({ "view": view, "x": x, "y": y, "w": side.min(w - x), "h": side.min(h - y) }))
        };
        let kept: Vec<Value> = grid(0, 48, 41).chain(grid(1, 96, 39)).chain(grid(2, 192, 71)).chain(grid(3, 288, 44)).collect();
        let side = w.max(h) / 48.0;
        let region = |number: u32| {
            let (left, top) = (f64::from(number * 5 % 24) * side, f64::from(number * 7 % 24) * side);
            let members: Vec<Value> =
                (0..9).map(|at| json!([left + f64::from(at % 3) * side, top + f64::from(at / 3) * side, side, side])).collect();
            json!({ "region": number, "members": members })
        };
        let scores: Vec<u32> = (0..48 * 48).map(|at| (at % 48) * 5).collect();
        json!({ "kept": kept, "merged": (0..12).map(region).collect::<Vec<_>>(), "importance": { "side": 48, "scores": scores } })
    };
    Value::Array(sizes.iter().map(frame).collect())
}
