//! What leaves with every answer: what was asked of the machine, what it did, and what it left out.

use serde::Serialize;

use crate::compress::{Mode, Selector};
use crate::geometry::Rect;
use crate::imaging::Geotag;
use crate::planner::{Descent, Plan, Stage, StageTimes, Step};
use crate::units::Millis;

/// An answer with its receipt: the document of `ask --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    pub text: String,
    /// The letter, of a question with choices.
    pub choice: Option<char>,
    pub choices: Vec<Choice>,
    pub margin: Option<f32>,
    pub finish: Finish,
    pub receipt: Receipt,
}

#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    pub letter: char,
    pub logprob: f32,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model's stop token.
    Stop,
    /// The most new tokens allowed.
    Length,
    /// Time: one more token would have come too late.
    Deadline,
    /// It came after its deadline all the same.
    Late,
}

#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// Name and first bytes of the manifest's digest.
    pub model: String,
    pub profile: String,
    pub engines: EngineIds,
    pub seed: u64,
    pub policy: String,
    pub mode: Mode,
    pub select: Selector,
    pub clusters: u32,
    /// Coordinates that features were projected to before clustering; null: all of them.
    pub cluster_dim: Option<u32>,
    pub budget: BudgetUse,
    pub tokens: TokenUse,
    /// What is not as asked for, in words.
    pub degraded: Vec<String>,
    pub stages_ms: Stages,
    /// Of each stage and in all, under the step that the work began with: `p50`, and the calibration's bound as `p99` (of stages at ingest it is that
    /// on the 95th percentile), at the device's temperature. Empty without a calibration of the device in its power mode.
    pub predicted_ms: serde_json::Map<String, serde_json::Value>,
    pub plan: Planned,
    pub memory: Memory,
    pub evidence: Vec<Evidence>,
    pub frames: Vec<FrameRecord>,
}

/// What was asked, what there was time for, and what gave way.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    pub asked: Step,
    /// Name of the step that the work began with.
    pub began: String,
    /// The step in force at the end.
    pub ended: Step,
    /// How much slower than calibrated the device was taken to be, by its temperature; predictions reckon with it.
    pub slowdown: f64,
    /// Stages whose work here is outside of what the calibration has measured; predictions of them are in proportion to the nearest that was.
    pub unmeasured: Vec<Stage>,
    /// From the plan to the answer; null: none.
    pub deadline_ms: Option<Millis>,
    pub descents: Vec<Descended>,
}

/// A step down the ladder, by names.
#[derive(Clone, Debug, Serialize)]
pub struct Descended {
    pub before: Stage,
    pub from: String,
    pub to: String,
    pub left_ms: Millis,
    pub needed_ms: Millis,
}

impl Descended {
    #[must_use]
    pub fn new(descent: &Descent, plan: &Plan) -> Self {
        let name = |rung: usize| plan.rungs()[rung].step.name.clone();
        let Descent { before, from, to, left_ms, needed_ms } = *descent;
        Self { before, from: name(from), to: name(to), left_ms, needed_ms }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct EngineIds {
    pub encoder: String,
    pub projector: String,
    pub decoder: String,
    pub partition: String,
    /// Where the profile leaves engines to what is there: `TensorRT`, or `CPU; TensorRT missing: ` and what of it.
    pub chosen: Option<String>,
}

/// Rows of the decoder's input, and what came out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokenUse {
    /// Template and question.
    pub text: u32,
    /// Kept and merged, of all views.
    pub visual: u32,
    /// Of the answer, the stop token not counted.
    pub answer: u32,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct BudgetUse {
    pub total: u32,
    pub per_view: Vec<ViewUse>,
}

/// One view's share and what came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ViewUse {
    /// Of the question's frames, from 0.
    pub frame: u32,
    pub view_px: u32,
    /// Under `topk`, which goes by the sum of all views', the most that could come of this one.
    pub budget: u32,
    /// `kept + merged`; never above `budget`.
    pub tokens: u32,
    pub regions: u32,
    /// Regions that the cut left without any token.
    pub regions_starved: u32,
    pub kept: u32,
    pub merged: u32,
    /// Tiles of the view, padding included.
    pub tiles: u32,
    /// Tiles that are not all padding: those the encoder saw.
    pub tiles_encoded: u32,
    /// Tiles that are not all padding and that this question left unseen.
    pub tiles_skipped: u32,
    /// Of a dropped view: the view that got its budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_moved_to_px: Option<u32>,
    /// Regions were made anew for this question's coverage, in number the budget.
    pub reclustered: bool,
}

/// Milliseconds a stage. Stages at ingest are 0 for a question on a frame that was there already.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stages {
    pub decode: f64,
    pub views: f64,
    pub encode: f64,
    pub regions: f64,
    pub anchor: f64,
    pub select: f64,
    pub merge: f64,
    pub prefill: f64,
    pub generate: f64,
    pub total: f64,
    /// From the start of the work on this question (ingest included, where it was this question's) to its first token.
    pub first_token: f64,
}

impl Stages {
    /// The stages of `times`, without the sums.
    #[must_use]
    pub fn of(times: &StageTimes) -> Self {
        let ms = |stage| times.get(stage).0;
        Self {
            decode: ms(Stage::Decode),
            views: ms(Stage::Views),
            encode: ms(Stage::Encode),
            regions: ms(Stage::Regions),
            anchor: ms(Stage::Anchor),
            select: ms(Stage::Select),
            merge: ms(Stage::Merge),
            prefill: ms(Stage::Prefill),
            generate: ms(Stage::Generate),
            total: 0.0,
            first_token: 0.0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    pub planned_bytes: u64,
    /// Largest resident set of the process so far; 0 where the system doesn't tell.
    pub peak_bytes: u64,
}

/// A place the answer rests on, in pixels of the original frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// Of the question's frames, from 0.
    pub frame: u32,
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
    /// The best score in it.
    pub score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wgs84: Option<Wgs84>,
}

/// Where a box lies on the ground.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wgs84 {
    /// Latitude and longitude in degrees, clockwise from the upper left corner.
    pub corners: [[f64; 2]; 4],
    /// Of the worst corner, metres.
    pub error_m: f64,
}

impl Evidence {
    #[must_use]
    pub fn new(frame: u32, rect: Rect, score: f32) -> Self {
        Self { frame, x: rect.x, y: rect.y, w: rect.w, h: rect.h, score, wgs84: None }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct FrameRecord {
    pub id: String,
    pub w: u32,
    pub h: u32,
    pub sha256: String,
    /// SHA-256 of the map of labels that its regions are from, where that is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_map: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geotag: Option<Geotag>,
}
