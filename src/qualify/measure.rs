//! The measurements: ingests and questions under every step of the ladder, then fresh questions against what was predicted of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::compress::{Mode, Selector};
use crate::imaging::{FrameSource, Reading};
use crate::pipeline::{Clock, Frame, Pipeline, PipelineError, PromptIds, Request, Spent};
use crate::planner::{self, Calibration, Fit, Identity, Plan, Stage, Step, needed, percentile, quantile, upper_bound};
use crate::qualify::QualifyError;
use crate::qualify::document::{Fresh, Sample};
use crate::units::{Bytes, Millis, Readings};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    pub frames: Vec<PathBuf>,
    pub questions: Vec<String>,
    /// Questions a step.
    pub n: usize,
    /// Ingests under the first step.
    pub ingests: usize,
    /// Questions against predictions, after all others.
    pub fresh: usize,
    pub seed: u64,
}

/// One step's questions.
#[derive(Clone, Debug)]
pub struct StepTimes {
    pub step: Step,
    pub totals: Vec<Millis>,
    pub spent: Vec<Spent>,
    pub over_budget: usize,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    pub calibration: Calibration,
    pub steps: Vec<StepTimes>,
    /// Under the first step.
    pub ingests: Vec<Millis>,
    /// Of all.
    pub ingest_count: usize,
    pub fresh: Fresh,
    pub board: Vec<Sample>,
    pub peak: Option<Bytes>,
}

/// What else a measurement looks at.
pub struct Around<'a> {
    pub clock: &'a dyn Clock,
    pub readings: &'a dyn Fn() -> Readings,
    /// Largest resident set.
    pub peak: &'a dyn Fn() -> Option<Bytes>,
    /// Told the share done.
    pub progress: &'a mut dyn FnMut(f64),
}

/// Questions on one ingested frame, of a step that isn't the first.
const ON_A_FRAME: usize = 20;

/// And of those that predictions are held against.
const ON_A_FRESH: usize = 5;

/// Seeded choices.
pub(super) struct Choices(ChaCha8Rng);

impl Choices {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    /// In [0, 1).
    pub fn share(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A request for just that step.
#[must_use]
pub(super) fn request(step: &Step) -> Request {
    Request {
        budget: step.budget.clone(),
        selector: Selector::UhrBat,
        mode: Mode::Paper,
        encode_tiles: step.encode_tiles,
        max_new: step.max_new,
        deadline: None,
    }
}

/// Opens a frame as the profile reads frames.
pub(super) fn open(pipeline: &Pipeline, path: &Path) -> Result<FrameSource, QualifyError> {
    let reading = Reading { bands: pipeline.profile().frame.bands, allow_truncated: false };
    Ok(FrameSource::open_as(path, &pipeline.limits(), &reading)?)
}

/// Takes a frame in under `step`.
pub(super) fn take_in(pipeline: &mut Pipeline, path: &Path, question: &str, step: &Step) -> Result<(Frame, Spent), QualifyError> {
    let sources = [open(pipeline, path)?];
    let prompt = pipeline.prompt(question)?;
    let mut plan = pipeline.plan_first(&sources, &prompt, &request(step))?;
    let [source] = sources;
    Ok(pipeline.ingest(0, source, &mut plan, &mut |_, _| ())?)
}

/// One question's measurements.
struct Taken {
    total: Millis,
    spent: Spent,
    /// No view gave more than its budget.
    within: bool,
    /// Median and bound.
    predicted: [Millis; 2],
}

/// Asks a question on a frame that is there.
fn ask(pipeline: &mut Pipeline, frame: &Frame, question: &str, step: &Step) -> Result<Taken, PipelineError> {
    let prompt = pipeline.prompt(question)?;
    let plan = pipeline.plan_again(&[frame], &prompt, &request(step))?;
    reply(pipeline, frame, prompt, plan, None)
}

/// A first question: the frame's ingest is part of it.
fn ask_first(pipeline: &mut Pipeline, path: &Path, question: &str, step: &Step) -> Result<(Frame, Taken), QualifyError> {
    let sources = [open(pipeline, path)?];
    let prompt = pipeline.prompt(question)?;
    let mut plan = pipeline.plan_first(&sources, &prompt, &request(step))?;
    let [source] = sources;
    let (frame, spent) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ())?;
    let taken = reply(pipeline, &frame, prompt, plan, Some(spent))?;
    Ok((frame, taken))
}

fn reply(pipeline: &mut Pipeline, frame: &Frame, prompt: PromptIds, mut plan: Plan, ingest: Option<Spent>) -> Result<Taken, PipelineError> {
    let predicted = plan.predicted();
    let predicted = [predicted.p50.total(), predicted.bound.unwrap_or_default().total()].map(|time| time * plan.slowdown);
    let (answer, spent) = pipeline.answer(&[frame], &prompt, &mut plan, ingest, &mut |_| ())?;
    let within = answer.receipt.budget.per_view.iter().all(|view| view.tokens <= view.budget);
    Ok(Taken { total: Millis(answer.receipt.stages_ms.total), spent, within, predicted })
}

/// The profile's default and the steps below it, as a first frame has them.
///
/// # Errors
/// A frame or a question that is refused.
pub fn steps(pipeline: &Pipeline, path: &Path, question: &str) -> Result<Vec<Step>, QualifyError> {
    let profile = pipeline.profile();
    let sources = [open(pipeline, path)?];
    let budget = planner::budget(None, profile, pipeline.manifest()).map_err(PipelineError::from)?;
    let whole = planner::asked(budget, None, profile.tokens.max_new);
    let plan = pipeline.plan_first(&sources, &pipeline.prompt(question)?, &request(&whole))?;
    Ok(plan.rungs().iter().map(|rung| rung.step.clone()).collect())
}

/// Measures `steps` on `pipeline`, after a warm-up that counts for nothing. `identity`: what the calibration will be of.
///
/// # Errors
/// No frames or questions; whatever a pipeline refuses.
pub fn measure(
    pipeline: &mut Pipeline,
    settings: &Settings,
    steps: &[Step],
    identity: Identity,
    around: &mut Around<'_>,
) -> Result<Measured, QualifyError> {
    let none = |what| QualifyError::Input { what, wanted: "one at least", found: "none".into() };
    let (Some(path), Some(question), Some(first)) = (settings.frames.first(), settings.questions.first(), steps.first()) else {
        return Err(none("frames, questions and steps"));
    };
    let begun = around.clock.now();
    let mut choices = Choices::new(settings.seed);
    pipeline.calibrate(None);
    let (frame, _) = take_in(pipeline, path, question, first)?;
    for _ in 0..3 {
        ask(pipeline, &frame, question, first)?;
    }
    // One entry an ingest: its step, and how many questions follow. Mixed, so that whatever drifts drifts under all steps.
    let mut rounds: Vec<(usize, usize)> = Vec::new();
    for at in 0..steps.len() {
        let ingests = if at == 0 { settings.ingests } else { settings.n.div_ceil(ON_A_FRAME) };
        let ingests = ingests.max(1);
        rounds.extend((0..ingests).map(|number| (at, settings.n * (number + 1) / ingests - settings.n * number / ingests)));
    }
    for at in (1..rounds.len()).rev() {
        rounds.swap(at, choices.below(at + 1));
    }
    let empty = |step: &Step| StepTimes { step: step.clone(), totals: Vec::new(), spent: Vec::new(), over_budget: 0 };
    let mut of_steps: Vec<StepTimes> = steps.iter().map(empty).collect();
    let (mut ingests, mut ingest_spent, mut board) = (Vec::new(), Vec::new(), Vec::new());
    let (mut peak, mut kinds) = (None, BTreeSet::new());
    let all = (rounds.len() + settings.fresh.div_ceil(ON_A_FRESH)) as f64;
    let mut look = |around: &mut Around<'_>, done: usize| {
        board.push(Sample { at: around.clock.now() - begun, readings: (around.readings)() });
        peak = (around.peak)().max(peak);
        (around.progress)(done as f64 / all);
    };
    for (done, &(at, questions)) in rounds.iter().enumerate() {
        look(around, done);
        let path = &settings.frames[choices.below(settings.frames.len())];
        let start = around.clock.now();
        let (frame, spent) = take_in(pipeline, path, question, &steps[at])?;
        if at == 0 {
            ingests.push(around.clock.now() - start);
        }
        ingest_spent.push(spent);
        kinds.insert(frame.source.kind.to_owned());
        for _ in 0..questions {
            let question = &settings.questions[choices.below(settings.questions.len())];
            let taken = ask(pipeline, &frame, question, &steps[at])?;
            of_steps[at].totals.push(taken.total);
            of_steps[at].spent.push(taken.spent);
            of_steps[at].over_budget += usize::from(!taken.within);
        }
    }
    let calibration = calibrate(identity, kinds, &ingest_spent, &of_steps);
    let mut fresh = Fresh::default();
    if settings.fresh > 0 {
        pipeline.calibrate(Some(calibration.clone()));
        let mut frame: Option<Frame> = None;
        for number in 0..settings.fresh {
            let question = &settings.questions[choices.below(settings.questions.len())];
            // The first on a frame pays for its ingest, with all tiles and with coarse views in turn; a frame that was taken in for a small step can't give more
            // than that.
            let lazy = (number / ON_A_FRESH).is_multiple_of(2);
            let of_kind: Vec<&Step> = steps.iter().filter(|step| step.encode_tiles.is_some() == lazy).collect();
            let of_kind = if of_kind.is_empty() { steps.iter().collect() } else { of_kind };
            let taken = match &frame {
                Some(frame) if !number.is_multiple_of(ON_A_FRESH) => ask(pipeline, frame, question, of_kind[choices.below(of_kind.len())])?,
                _ => {
                    look(around, rounds.len() + number / ON_A_FRESH);
                    let path = &settings.frames[choices.below(settings.frames.len())];
                    let (new, taken) = ask_first(pipeline, path, question, of_kind[0])?;
                    frame = Some(new);
                    fresh.firsts += 1;
                    taken
                }
            };
            let [p50, bound] = taken.predicted;
            fresh.pairs.push([p50.0, bound.0, taken.total.0]);
        }
        fresh.judge();
    }
    let peak = (around.peak)().max(peak);
    Ok(Measured { calibration, steps: of_steps, ingests, ingest_count: ingest_spent.len(), fresh, board, peak })
}

impl Fresh {
    fn judge(&mut self) {
        self.n = self.pairs.len();
        let within = self.pairs.iter().filter(|[_, bound, measured]| measured <= bound).count();
        self.coverage = within as f64 / self.n.max(1) as f64;
        let mut errors: Vec<f64> = self.pairs.iter().map(|[p50, _, measured]| (p50 - measured).abs() / measured).collect();
        self.median_error = if errors.is_empty() { 0.0 } else { quantile(&mut errors, 0.5) };
    }
}

/// The calibration that `ingests` and the questions of `steps` make.
fn calibrate(identity: Identity, kinds: BTreeSet<String>, ingests: &[Spent], steps_of_ladder: &[StepTimes]) -> Calibration {
    let questions = || steps_of_ladder.iter().flat_map(|step| &step.spent);
    let pairs = |spent: &mut dyn Iterator<Item = &Spent>, stage: Stage| -> Vec<(Millis, Millis)> {
        let all = spent.map(|spent| (spent.nominal.get(stage), spent.measured.get(stage)));
        all.filter(|(nominal, _)| nominal.0 > 0.0).collect()
    };
    let stages = Stage::ALL.into_iter().filter_map(|stage| {
        // A bound holds for each step by itself. Of what belongs to ingest a step has too few: those are one group.
        let groups: Vec<_> = if stage.at_ingest() {
            vec![pairs(&mut ingests.iter().chain(questions()), stage)]
        } else {
            steps_of_ladder.iter().map(|step| pairs(&mut step.spent.iter(), stage)).collect()
        };
        // What was measured often enough for the 99th percentile is held to that one.
        let enough = groups.iter().all(|group| group.len() >= needed(0.99));
        Some((stage.name().to_owned(), Fit::new(&groups, if enough { 0.99 } else { percentile(stage) })?))
    });
    let median = |values: Vec<f64>| {
        let mut values = values;
        if values.is_empty() { 0.0 } else { quantile(&mut values, 0.5) }
    };
    let shares = questions().filter(|spent| spent.candidates.0 > 0);
    let projected_share = median(shares.map(|spent| f64::from(spent.projected.0) / f64::from(spent.candidates.0)).collect());
    // Coarse tiles are a small part of a step's; the share is of all that it may have encoded.
    let lazy = steps_of_ladder.iter().filter_map(|step| Some((f64::from(step.step.encode_tiles?.0), &step.spent)));
    let tiles_share = median(lazy.flat_map(|(most, spent)| spent.iter().map(move |spent| f64::from(spent.tiles.0) / most)).collect());
    let steps = median(questions().map(|spent| f64::from(spent.steps.0)).collect());
    // Of each answer the longest step: what is above the 99th percentile of those is above that of all its steps.
    let bounds = steps_of_ladder.iter().map(|step| {
        let stepped = step.spent.iter().filter(|spent| spent.steps.0 > 0);
        let mut longest: Vec<f64> = stepped.map(|spent| spent.longest_step.0).collect();
        let most = longest.iter().copied().fold(0.0, f64::max);
        upper_bound(&mut longest, 0.99).unwrap_or(most)
    });
    let step_bound_ms = bounds.fold(0.0, f64::max);
    Calibration { format: 1, identity, kinds, stages: stages.collect(), projected_share, tiles_share, steps, step_bound_ms }
}
