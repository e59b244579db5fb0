//! `/metrics` in Prometheus' text format: the status document's counts and gauges, and distributions over the questions that ended since the start.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;

use crate::http::failure::Failure;
use crate::http::state::App;
use crate::journal::{Desk, Filter, Outcome, QuestionState};
use crate::units::QuestionId;

/// Seconds.
const BUCKETS: [f64; 14] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0];
/// Questions looked at together.
const MOST: usize = 256;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

type Label = [(&'static str, String); 1];

/// Distributions.
pub struct Metrics {
    stages: Family<Label, Histogram, fn() -> Histogram>,
    tokens: Family<Label, Counter>,
    seen: Mutex<Seen>,
}

/// Which questions were counted: all up to one, and some beyond.
#[derive(Default)]
struct Seen {
    /// `None` before the first look, which only notes what was there.
    floor: Option<u64>,
    beyond: BTreeSet<u64>,
    /// Ends that the desk had counted when it was looked last.
    ended: u64,
}

impl Metrics {
    pub fn new() -> Self {
        Self { stages: Family::new_with_constructor(|| Histogram::new(BUCKETS)), tokens: Family::default(), seen: Mutex::default() }
    }

    /// Counts what ended since the last look. Reads the journal.
    pub fn look(&self, desk: &Desk) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let status = desk.status();
        let ended = status.questions.answered + status.questions.refused;
        let first = seen.floor.is_none();
        if !first && ended == seen.ended {
            return;
        }
        let Ok(entries) = desk.questions(&Filter { limit: MOST, ..Filter::default() }) else { return };
        let floor = seen.floor.unwrap_or(0);
        for entry in &entries {
            let QuestionId(id) = entry.id;
            if entry.state == QuestionState::Open || id <= floor || seen.beyond.contains(&id) {
                continue;
            }
            seen.beyond.insert(id);
            if first {
                continue;
            }
            if let Some(Outcome::Answered { document }) = &entry.outcome {
                self.count(&document["receipt"]);
            }
        }
        // What is open and above stays to be counted; what is below all of it is done with.
        let open = entries.iter().filter(|entry| entry.state == QuestionState::Open).map(|entry| entry.id.0).min();
        let last = open.map_or_else(|| entries.first().map_or(floor, |entry| entry.id.0), |open| open - 1);
        seen.floor = Some(floor.max(last));
        seen.beyond = seen.beyond.split_off(&(last + 1));
        seen.ended = ended;
    }

    fn count(&self, receipt: &Value) {
        for (stage, ms) in receipt["stages_ms"].as_object().into_iter().flatten() {
            if let Some(ms) = ms.as_f64() {
                self.stages.get_or_create(&[("stage", stage.clone())]).observe(ms / 1_000.0);
            }
        }
        for kind in ["kept", "merged"] {
            let views = receipt["budget"]["per_view"].as_array();
            let sum: u64 = views.into_iter().flatten().filter_map(|view| view[kind].as_u64()).sum();
            self.tokens.get_or_create(&[("kind", kind.to_owned())]).inc_by(sum);
        }
        for kind in ["text", "answer"] {
            if let Some(tokens) = receipt["tokens"][kind].as_u64() {
                self.tokens.get_or_create(&[("kind", kind.to_owned())]).inc_by(tokens);
            }
        }
    }
}

/// The status document as counters and gauges.
struct Gauges(Desk);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = self.0.status();
        let (questions, frames, memory, board) = (&status.questions, &status.frames, &status.memory, &status.board);
        let counters = [
            ("questions_accepted", "Questions accepted", questions.accepted),
            ("questions_answered", "Questions answered", questions.answered),
            ("questions_refused", "Questions refused after they were accepted", questions.refused),
            ("questions_turned_away", "Questions never accepted", questions.turned_away),
            ("questions_late", "Answers after their deadline", questions.late),
            ("frames_taken_in", "Frames taken in", frames.taken_in),
            ("frames_dropped", "Frames given up under overload", frames.dropped),
            ("frames_failed", "Frames that could not be taken in", frames.failed),
            ("frames_rejected", "Files that are no frames", frames.rejected),
            ("frames_duplicates", "Files of frames that were known", frames.duplicates),
            ("frames_unrecorded", "Frames not recorded as the journal was full", frames.unrecorded),
            ("journal_pruned", "Questions that went by retention", status.journal.pruned),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let gauges = [
            ("queue_length", "Questions that wait", None, Some(questions.queued as f64)),
            ("queue_places", "Questions that may wait", None, Some(questions.places as f64)),
            ("working", "1 while a question is worked on", None, Some(f64::from(u8::from(questions.working_on.is_some())))),
            ("frames_waiting", "Frames that wait for their ingest", None, Some(frames.waiting as f64)),
            ("frame_slots", "Frame slots", None, Some(frames.slots as f64)),
            ("frame_slots_used", "Frame slots in use", None, Some(frames.in_slots.len() as f64)),
            ("memory_planned", "Memory of the plan", Some(Unit::Bytes), Some(memory.planned_bytes.0 as f64)),
            ("memory_peak", "Largest resident set so far", Some(Unit::Bytes), Some(memory.peak_bytes.0 as f64)),
            ("memory_resident", "Resident set", Some(Unit::Bytes), Some(memory.resident_bytes.0 as f64)),
            ("memory_available", "Memory that the machine has left", Some(Unit::Bytes), board.available.map(|bytes| bytes.0 as f64)),
            ("journal_size", "The journal's file", Some(Unit::Bytes), Some(status.journal.bytes.0 as f64)),
            ("journal_full", "1 while nothing can be written", None, Some(f64::from(u8::from(status.journal.full.is_some())))),
            ("temperature", "The board's hottest zone", Some(Unit::Celsius), board.temperature.map(|celsius| f64::from(celsius.0))),
            ("power", "Drawn by the board", Some(Unit::Other("watts".into())), board.power.map(|power| f64::from(power.0) / 1_000.0)),
            (
                "gpu_load",
                "Share of time that the GPU was busy",
                Some(Unit::Ratios),
                board.gpu_load.map(|share| f64::from(share.0) / 1_000.0),
            ),
            ("readings_stale", "1 while the board's readings are old", None, Some(f64::from(u8::from(board.stale)))),
            ("uptime", "Since the start", Some(Unit::Seconds), Some(status.uptime_ms.0 / 1_000.0)),
            ("watchdog_overdue", "1 while a stage exceeds its limit", None, Some(f64::from(u8::from(status.watchdog.overdue)))),
        ];
        // What the board doesn't tell is absent, never zero.
        for (name, help, unit, value) in gauges {
            let Some(value) = value else { continue };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit.as_ref(), metric.metric_type())?)?;
        }
        Ok(())
    }
}

/// Looks now and then, so that no question is pushed out of the list before it is counted.
pub async fn follow(app: App) {
    loop {
        let own = std::sync::Arc::clone(&app.metrics);
        if app.blocking(move |desk| own.look(desk)).await.is_err() {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

pub async fn metrics(State(app): State<App>) -> Result<Response, Failure> {
    let own = std::sync::Arc::clone(&app.metrics);
    let text = app.blocking(move |desk| {
        own.look(desk);
        let mut registry = Registry::with_prefix("uhr");
        registry.register_with_unit("stage", "Time of a stage of an answered question", Unit::Seconds, own.stages.clone());
        registry.register("tokens", "Tokens of answered questions", own.tokens.clone());
        registry.register_collector(Box::new(Gauges(desk.clone())));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).map(|()| text)
    });
    let text = text.await?.map_err(|_| Failure::broken("metrics: wanted text, found an error of its writer"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
