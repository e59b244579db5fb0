//! The whole pipeline on a virtual clock: real plans, arenas and compression, scripted engines, a scripted board, and time that a seed gives.
//!
//! # Why
//! What throttling does to deadlines shows after hours. Here they pass in seconds, to the same result every time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::board::{ScriptedBoard, Trace};
use crate::compress::{Mode, Selector};
use crate::pipeline::{Clock, Finish, Frame, Pipeline, PipelineError, Question, Request, Spent};
use crate::planner::{Calibration, PlannerError, Stage, Step, slowdown};
use crate::qualify::QualifyError;
use crate::qualify::measure::{Around, Choices, Settings, measure, open, steps};
use crate::units::{Millis, Readings};

/// Milliseconds that a stage takes beside its nominal time, and how many a nominal millisecond takes: as a small board might.
const BASE_MS: f64 = 0.4;
const FACTOR: f64 = 6.0;
/// Half the width of a stage's usual scatter, how often it is far slower, and up to how many times.
const SCATTER: f64 = 0.06;
const SPIKES: f64 = 0.0005;
const SPIKE: f64 = 3.0;

/// A clock that stands still but for the stages.
pub struct ScriptedClock {
    /// Microseconds, shared with the board.
    now: Arc<AtomicU64>,
    board: ScriptedBoard,
    choices: Mutex<Choices>,
}

impl ScriptedClock {
    #[must_use]
    pub fn new(trace: Trace, seed: u64) -> Self {
        let now = Arc::new(AtomicU64::new(0));
        Self { board: ScriptedBoard::new(trace, Arc::clone(&now)), now, choices: Mutex::new(Choices::new(seed)) }
    }

    /// Lets time pass.
    pub fn wait(&self, span: Millis) {
        self.now.fetch_add((span.0 * 1e3) as u64, Ordering::SeqCst);
    }

    /// How the board stands.
    #[must_use]
    pub fn readings(&self) -> Readings {
        self.board.at(self.now()).0
    }
}

impl Clock for ScriptedClock {
    fn now(&self) -> Millis {
        Millis(self.now.load(Ordering::SeqCst) as f64 / 1e3)
    }

    fn passed(&self, _stage: Stage, _measured: Millis, nominal: Millis) -> Millis {
        if nominal == Millis::ZERO {
            return Millis::ZERO;
        }
        let before = self.now();
        let slower = self.board.at(before).1;
        let mut choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        let scatter = 1.0 + SCATTER * (choices.share() + choices.share() - 1.0);
        let spike = if choices.share() < SPIKES { 1.0 + (SPIKE - 1.0) * choices.share() } else { 1.0 };
        self.wait((Millis(BASE_MS) + nominal * FACTOR) * (slower * scatter * spike));
        self.now() - before
    }
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimSettings {
    pub frames: Vec<PathBuf>,
    pub questions: Vec<String>,
    /// Questions, and the hours of flight that they are spread over.
    pub n: usize,
    pub hours: f64,
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SimResult {
    pub hours: f64,
    pub asked: usize,
    pub answered: usize,
    pub refused: usize,
    /// Answers after their deadline, and those of them in which some stage took longer than its calibrated bound under the board's readings.
    pub late: usize,
    pub late_traced: usize,
    /// Questions refused though the least that the ladder has would have fitted by its bound.
    pub refused_wrongly: usize,
    /// Refusals whose smallest deadline was accepted when asked again at the same moment.
    pub accepted_again: usize,
    /// Answers that time ended, and those that stepped down between stages.
    pub ended_by_deadline: usize,
    pub stepped_down: usize,
    /// Answers by the name of the step that they ended with.
    pub by_step: std::collections::BTreeMap<String, usize>,
    /// Of answers.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub hottest_c: f32,
}

/// Calibrates `pipeline`, whose engines should be scripted, on a cool board, then asks it questions with random deadlines while the board follows `trace`.
///
/// # Errors
/// Whatever isn't a refusal.
pub fn simulate(mut pipeline: Pipeline, trace: &Trace, settings: &SimSettings) -> Result<SimResult, QualifyError> {
    let (Some(path), Some(question)) = (settings.frames.first(), settings.questions.first()) else {
        return Err(QualifyError::Input { what: "frames and questions", wanted: "one at least", found: "none".into() });
    };
    let steps = steps(&pipeline, path, question)?;
    let calibration = cool_calibration(&mut pipeline, settings, &steps)?;
    let clock = Arc::new(ScriptedClock::new(trace.clone(), settings.seed));
    let senses = Arc::clone(&clock);
    pipeline.set_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    pipeline.set_senses(Box::new(move || senses.readings()));
    pipeline.calibrate(Some(calibration));
    let mut choices = Choices::new(settings.seed ^ 0x5157);
    let mut result = SimResult::default();
    let mut totals = Vec::new();
    let mut frame: Option<Frame> = None;
    let pause = settings.hours * 3.6e6 / settings.n.max(1) as f64;
    for _ in 0..settings.n {
        // Questions come at random moments, on the frame at hand or on a new one.
        clock.wait(Millis(-pause * (1.0 - choices.share()).ln()));
        result.asked += 1;
        let hot = clock.readings().temperature.map_or(0.0, |now| now.0);
        result.hottest_c = result.hottest_c.max(hot);
        let question = &settings.questions[choices.below(settings.questions.len())];
        let prompt = pipeline.prompt(question)?;
        let first = &steps[choices.below(steps.len())];
        let mut request = Request {
            budget: first.budget.clone(),
            selector: Selector::UhrBat,
            mode: Mode::Paper,
            encode_tiles: first.encode_tiles,
            max_new: first.max_new,
            deadline: None,
        };
        let held = frame.take().filter(|_| choices.share() < 0.9);
        let path = &settings.frames[choices.below(settings.frames.len())];
        let new = if held.is_none() { vec![open(&pipeline, path)?] } else { Vec::new() };
        let plan = |pipeline: &Pipeline, request: &Request| match &held {
            Some(frame) => pipeline.plan_again(&[frame], &prompt, request),
            None => pipeline.plan_first(&new, &prompt, request),
        };
        // From a third of the least that would do to three times the most.
        let heat = slowdown(pipeline.profile().thermal.as_ref(), &clock.readings());
        let totals_of: Vec<f64> =
            plan(&pipeline, &request)?.rungs().iter().filter_map(|rung| rung.total()).map(|total| total.0 * heat).collect();
        let (least, most) = totals_of.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), total| (least.min(*total), most.max(*total)));
        let deadline = Millis((least / 3.0 * (9.0 * most / least).powf(choices.share())).ceil());
        request.deadline = Some(deadline);
        let mut plan = match plan(&pipeline, &request) {
            Ok(plan) => plan,
            Err(PipelineError::Planner(PlannerError::Deadline { wanted, smallest })) => {
                result.refused += 1;
                result.refused_wrongly += usize::from(least <= wanted.0);
                request.deadline = Some(smallest);
                result.accepted_again += usize::from(plan(&pipeline, &request).is_ok());
                frame = held;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let begun = clock.now();
        let (mut held, mut ingest) = (held, None);
        for source in new {
            let (frame, spent) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ())?;
            (held, ingest) = (Some(frame), Some(spent));
        }
        let Some(held) = held else { continue };
        let question = Question { prompt, mode: Mode::Paper };
        let (answer, spent) = pipeline.answer(&[&held], &question, &mut plan, ingest)?;
        frame = Some(held);
        totals.push((clock.now() - begun).0);
        result.answered += 1;
        result.ended_by_deadline += usize::from(answer.finish == Finish::Deadline);
        result.stepped_down += usize::from(!plan.descents.is_empty());
        *result.by_step.entry(plan.rung().step.name.clone()).or_default() += 1;
        if answer.finish == Finish::Late {
            result.late += 1;
            result.late_traced += usize::from(beyond_its_bound(&pipeline, &spent, heat));
        }
    }
    result.hours = clock.now().0 / 3.6e6;
    totals.sort_by(f64::total_cmp);
    if !totals.is_empty() {
        (result.p50_ms, result.p99_ms) = (crate::planner::quantile(&mut totals, 0.5), crate::planner::quantile(&mut totals, 0.99));
    }
    Ok(result)
}

/// A board that stays cool.
const COOL: &str = "seed = 1\nslowdown-noise = 0.0\n[[segment]]\nuntil-s = 1.0\ntemperature-c = 40.0\nslowdown = 1.0\n";

fn cool_calibration(pipeline: &mut Pipeline, settings: &SimSettings, steps: &[Step]) -> Result<Calibration, QualifyError> {
    let clock = Arc::new(ScriptedClock::new(Trace::parse(COOL)?, settings.seed ^ 0xC001));
    pipeline.set_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let identity = pipeline.identity("virtual");
    let measured = measure(
        pipeline,
        &Settings {
            frames: settings.frames.clone(),
            questions: settings.questions.clone(),
            n: 299,
            ingests: 60,
            fresh: 0,
            seed: settings.seed,
        },
        steps,
        identity,
        &mut Around { clock: &*clock, readings: &|| clock.readings(), peak: &|| None, progress: &mut |_| () },
    )?;
    Ok(measured.calibration)
}

/// Whether a stage took longer than the calibration's bound for the work that it did, under what the board told when the question was planned.
fn beyond_its_bound(pipeline: &Pipeline, spent: &Spent, heat: f64) -> bool {
    let Some(calibration) = &pipeline.costs().calibration else { return false };
    Stage::ALL.into_iter().any(|stage| {
        let fit = calibration.stages.get(stage.name());
        fit.is_some_and(|fit| spent.measured.get(stage) > fit.bound(spent.nominal.get(stage)) * heat)
    })
}
