//! The whole pipeline on a virtual clock: real plans, arenas and compression, scripted engines, a scripted board, and time that a seed gives.
//!
//! # Why
//! What throttling does to deadlines shows after hours. Here they pass in seconds, to the same result every time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::board::{ScriptedBoard, Trace};
use crate::compress::Mode;
use crate::imaging::FrameSource;
use crate::pipeline::{Clock, Finish, Frame, Pipeline, PipelineError, PromptIds, Request, Spent};
use crate::planner::{Calibration, Plan, PlannerError, Stage, Step, slowdown};
use crate::qualify::QualifyError;
use crate::qualify::measure::{Around, Choices, Settings, measure, open, request, steps};
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
    /// Answers after their deadline, and those of them whose stages went over their calibrated bounds, under what the board told when the question was planned,
    /// by at least as much as the answer was late.
    pub late: usize,
    pub late_traced: usize,
    /// Questions refused though the least that the ladder has would have fitted by its bound.
    pub refused_wrongly: usize,
    /// Refusals whose smallest deadline was accepted when asked again at the same moment; one in eight of them is then answered.
    pub accepted_again: usize,
    pub answered_again: usize,
    /// Questions refused because the board was in another power mode than the calibrated one.
    pub other_mode: usize,
    /// Answers about two frames, and those with coverage.
    pub of_two: usize,
    pub covered: usize,
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
    let calibration = cool_calibration(&mut pipeline, settings, &steps, trace.segments()[0].power_mode.clone())?;
    let clock = Arc::new(ScriptedClock::new(trace.clone(), settings.seed));
    let senses = Arc::clone(&clock);
    pipeline.set_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    pipeline.set_senses(Box::new(move || senses.readings()));
    pipeline.calibrate(Some(calibration));
    let mut flight = Flight {
        pipeline,
        clock,
        settings,
        steps,
        choices: Choices::new(settings.seed ^ 0x5157),
        held: Vec::new(),
        result: SimResult::default(),
        totals: Vec::new(),
    };
    let pause = settings.hours * 3.6e6 / settings.n.max(1) as f64;
    for _ in 0..settings.n {
        // Questions come at random moments.
        flight.clock.wait(Millis(-pause * (1.0 - flight.choices.share()).ln()));
        flight.question()?;
    }
    let Flight { clock, mut result, mut totals, .. } = flight;
    result.hours = clock.now().0 / 3.6e6;
    totals.sort_by(f64::total_cmp);
    if !totals.is_empty() {
        (result.p50_ms, result.p99_ms) = (crate::planner::quantile(&mut totals, 0.5), crate::planner::quantile(&mut totals, 0.99));
    }
    Ok(result)
}

/// A simulation in its course.
struct Flight<'a> {
    pipeline: Pipeline,
    clock: Arc<ScriptedClock>,
    settings: &'a SimSettings,
    steps: Vec<Step>,
    choices: Choices,
    /// Frames in their slots that the next question may be about.
    held: Vec<Frame>,
    result: SimResult,
    totals: Vec<f64>,
}

impl Flight<'_> {
    fn heat(&self) -> f64 {
        slowdown(self.pipeline.profile().thermal.as_ref(), &self.clock.readings())
    }

    fn plan(&self, new: &[FrameSource], prompt: &PromptIds, request: &Request) -> Result<Plan, PipelineError> {
        if new.is_empty() {
            let held: Vec<&Frame> = self.held.iter().collect();
            self.pipeline.plan_again(&held, prompt, request)
        } else {
            self.pipeline.plan_first(new, prompt, request)
        }
    }

    /// One question, on the frames at hand or on new ones, one in five on two of them, one in five with coverage.
    fn question(&mut self) -> Result<(), QualifyError> {
        let settings = self.settings;
        self.result.asked += 1;
        let hot = self.clock.readings().temperature.map_or(0.0, |now| now.0);
        self.result.hottest_c = self.result.hottest_c.max(hot);
        let text = &settings.questions[self.choices.below(settings.questions.len())];
        let prompt = self.pipeline.prompt(text)?;
        let step = &self.steps[self.choices.below(self.steps.len())];
        let mode = if self.choices.share() < 0.2 { Mode::Coverage } else { Mode::Paper };
        let mut request = Request { mode, ..request(step) };
        let mut new = Vec::new();
        if self.held.is_empty() || self.choices.share() < 0.1 {
            let frames = if self.choices.share() < 0.2 { 2 } else { 1 };
            for _ in 0..frames.min(self.pipeline.profile().frame.slots) {
                new.push(open(&self.pipeline, &settings.frames[self.choices.below(settings.frames.len())])?);
            }
        }
        // From a third of the least that would do to three times the most.
        let free = match self.plan(&new, &prompt, &request) {
            // What was taken in for a small step hasn't what this question wants: its frame is taken in again.
            Err(PipelineError::Planner(PlannerError::Unseen { .. })) => {
                new.push(open(&self.pipeline, &settings.frames[0])?);
                self.plan(&new, &prompt, &request)?
            }
            plan => plan?,
        };
        let heat = self.heat();
        let totals: Vec<f64> = free.rungs().iter().filter_map(|rung| rung.total(free.began())).map(|total| total.0 * heat).collect();
        let (least, most) = totals.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), total| (least.min(*total), most.max(*total)));
        // In another power mode there are no predictions: any deadline will do to be refused.
        let least = if totals.is_empty() { 1.0 } else { least };
        let deadline = Millis((least / 3.0 * (9.0 * most.max(least) / least).powf(self.choices.share())).ceil());
        request.deadline = Some(deadline);
        match self.plan(&new, &prompt, &request) {
            Ok(plan) => self.answer(new, prompt, plan),
            Err(PipelineError::Planner(PlannerError::Deadline { wanted, smallest })) => {
                self.result.refused += 1;
                self.result.refused_wrongly += usize::from(least <= wanted.0);
                request.deadline = Some(smallest);
                if let Ok(plan) = self.plan(&new, &prompt, &request) {
                    self.result.accepted_again += 1;
                    if self.choices.below(8) == 0 {
                        self.result.answered_again += 1;
                        self.answer(new, prompt, plan)?;
                    }
                }
                Ok(())
            }
            Err(PipelineError::Planner(PlannerError::PowerMode { .. })) => {
                self.result.other_mode += 1;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn answer(&mut self, new: Vec<FrameSource>, prompt: PromptIds, mut plan: Plan) -> Result<(), QualifyError> {
        let begun = self.clock.now();
        let mut ingest = None;
        if !new.is_empty() {
            self.held.clear();
            let mut spent = Spent::default();
            for (number, source) in new.into_iter().enumerate() {
                let (frame, of_frame) = self.pipeline.ingest(number, source, &mut plan, &mut |_, _| ())?;
                spent += of_frame;
                self.held.push(frame);
            }
            ingest = Some(spent);
        }
        let frames: Vec<&Frame> = self.held.iter().collect();
        let mode = plan.mode;
        let (answer, spent) = self.pipeline.answer(&frames, &prompt, &mut plan, ingest, &mut |_| ())?;
        let took = self.clock.now() - begun;
        self.totals.push(took.0);
        let result = &mut self.result;
        result.answered += 1;
        result.of_two += usize::from(frames.len() > 1);
        result.covered += usize::from(mode == Mode::Coverage);
        result.ended_by_deadline += usize::from(answer.finish == Finish::Deadline);
        result.stepped_down += usize::from(!plan.descents.is_empty());
        *result.by_step.entry(plan.rung().step.name.clone()).or_default() += 1;
        if answer.finish == Finish::Late {
            let late = took - plan.deadline.unwrap_or_default();
            result.late += 1;
            result.late_traced += usize::from(excess(&self.pipeline, &spent, plan.slowdown, frames.len()).0 >= late.0);
        }
        Ok(())
    }
}

/// A board that stays cool.
const COOL: &str = "seed = 1\nslowdown-noise = 0.0\n[[segment]]\nuntil-s = 1.0\ntemperature-c = 40.0\nslowdown = 1.0\n";

fn cool_calibration(
    pipeline: &mut Pipeline,
    settings: &SimSettings,
    steps: &[Step],
    mode: Option<String>,
) -> Result<Calibration, QualifyError> {
    let clock = Arc::new(ScriptedClock::new(Trace::parse(COOL)?, settings.seed ^ 0xC001));
    pipeline.set_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    // The calibration is of the power mode in which the flight begins.
    let mut identity = pipeline.identity("virtual");
    identity.power_mode = mode;
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

/// How much longer than the calibration's bounds for the work that they did the stages took, under what the board told when the question was planned. Of
/// the decoder's steps, which are looked at one by one, the longest counts.
fn excess(pipeline: &Pipeline, spent: &Spent, heat: f64, frames: usize) -> Millis {
    let Some(calibration) = &pipeline.costs().calibration else { return Millis::ZERO };
    let over = |stage: Stage| {
        let Some(fit) = calibration.stages.get(stage.name()) else { return Millis::ZERO };
        let nominal = spent.nominal.get(stage);
        // Each frame has its own bound, which is never below that of the smallest work that was measured.
        let each = fit.bound(nominal * (1.0 / frames as f64)) * frames as f64;
        spent.measured.get(stage) - each * heat
    };
    let step = spent.longest_step - Millis(calibration.step_bound_ms) * heat;
    Stage::ALL.into_iter().filter(|stage| *stage != Stage::Generate).map(over).sum::<Millis>() + over(Stage::Generate).max(step)
}
