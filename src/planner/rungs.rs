//! The rungs of a question's ladder on given frames: what each may take of every view, and how much work that is.

use crate::compress::{Mode, Selector, clusters};
use crate::config::{Budget, Model, Profile};
use crate::geometry::{Layout, ViewLayout};
use crate::planner::ladder::Predicted;
use crate::planner::{Costs, Job, PlannerError, Rung, Stage, StageTimes, Step, admit, allowed, place, share};
use crate::units::{Millis, Tiles, Tokens, ViewId};

/// A question as it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub step: Step,
    pub selector: Selector,
    pub mode: Mode,
    /// Positions of the prompt that are text.
    pub text: Tokens,
    pub cached: Cached,
    /// Regions can be made over some tiles only, so that rungs may encode fewer.
    pub lazy: bool,
}

/// What there is of the frames when a question comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Files.
    Nothing,
    /// Their coarse views; fine tiles are encoded as a question wants them.
    Coarse,
    /// All views, with regions.
    Whole,
}

/// The step that a question asks for.
#[must_use]
pub fn asked(budget: Budget, encode_tiles: Option<Tiles>, max_new: Tokens) -> Step {
    Step { name: "asked".into(), budget, encode_tiles, max_new }
}

/// Views of `layout` that are encoded whole when a frame arrives, whatever is asked: the coarser half, the anchor among them.
#[must_use]
pub fn is_coarse(view: ViewId, views: usize) -> bool {
    view.index() < views.div_ceil(2)
}

/// Tiles of the views of `layout` that `budget` gives tokens, coarse and fine. The anchor is always encoded: importance is read from it.
fn tiles(layout: &Layout, budget: &Budget) -> (u32, u32) {
    let all = layout.views().len();
    let seen = layout.present().filter(|view| view.id == ViewId::ANCHOR || budget.per_view()[view.id.index()].0 > 0);
    seen.fold((0, 0), |(coarse, fine), view| {
        let tiles = Tokens::of(view.encoded_tile_count()).0;
        if is_coarse(view.id, all) { (coarse + tiles, fine) } else { (coarse, fine + tiles) }
    })
}

/// How many fine tiles a frame may have encoded for one question, where that is fewer than it has.
///
/// # Errors
/// [`PlannerError::EncodeTiles`] when not even the coarse views fit.
pub fn lazy_tiles(layout: &Layout, budget: &Budget, most: Option<Tiles>) -> Result<Option<Tiles>, PlannerError> {
    let (coarse, fine) = tiles(layout, budget);
    match most {
        Some(most) if most.0 < coarse => Err(PlannerError::EncodeTiles { wanted: most, least: Tiles(coarse) }),
        Some(most) if most.0 < coarse + fine => Ok(Some(Tiles(most.0 - coarse))),
        _ => Ok(None),
    }
}

/// The asked step and the profile's rungs below it, on frames laid out as `layouts`.
///
/// # Errors
/// What is over a limit in the question as it was asked; a rung that can't be is left out.
pub fn rungs(profile: &Profile, model: &impl Model, costs: &Costs, layouts: &[Layout], asked: &Asked) -> Result<Vec<Rung>, PlannerError> {
    let rung = |step: &Step| Ok::<_, PlannerError>(work(profile, model, costs, layouts, asked, step)?.rung(costs, asked.cached, step));
    let mut rungs = vec![rung(&asked.step)?];
    let views = model.shape().views().len();
    for (number, step) in profile.ladder.iter().enumerate() {
        let Ok(budget) = Budget::parse(&step.budget, views) else { continue };
        let step = Step {
            name: (number + 1).to_string(),
            budget,
            encode_tiles: step.tiles().filter(|_| asked.lazy),
            max_new: step.max_new().unwrap_or(asked.step.max_new),
        };
        let Some(step) = step.within(&asked.step) else { continue };
        let last = rungs.last().map(|rung| &rung.step);
        let same =
            last.is_some_and(|last| (&last.budget, last.encode_tiles, last.max_new) == (&step.budget, step.encode_tiles, step.max_new));
        if !same && let Ok(rung) = rung(&step) {
            rungs.push(rung);
        }
    }
    Ok(rungs)
}

/// What a step has to do on given frames.
pub(super) struct Work {
    per_frame: Vec<Budget>,
    /// Once a frame.
    pub ingest: Job,
    /// What half of the questions stay below, and what none exceeds.
    pub usual: Job,
    worst: Job,
}

pub(super) fn work(
    profile: &Profile,
    model: &impl Model,
    costs: &Costs,
    layouts: &[Layout],
    asked: &Asked,
    step: &Step,
) -> Result<Work, PlannerError> {
    let frame = |(number, layout): (usize, &Layout)| {
        let (placed, _) = place(&share(&step.budget, number, layouts.len())?, layout);
        allowed(asked.selector, placed, layout, profile)
    };
    let per_frame = layouts.iter().enumerate().map(frame).collect::<Result<Vec<_>, _>>()?;
    let visual: Tokens = per_frame.iter().map(Budget::total).sum();
    admit(profile, model, visual, asked.text, step.max_new)?;
    let (mut ingest, mut question) = (Job::default(), Job::default());
    for (layout, budget) in layouts.iter().zip(&per_frame) {
        let (coarse, fine) = tiles(layout, budget);
        let lazy = match (asked.cached, lazy_tiles(layout, budget, step.encode_tiles)?) {
            (Cached::Whole, _) => None,
            (Cached::Coarse, lazy) => Some(lazy.unwrap_or(Tiles(fine))),
            (Cached::Nothing, lazy) => lazy,
        };
        let most = |view: &ViewLayout| clusters(model.policy().clusters, profile.compression.clusters, budget.per_view()[view.id.index()]);
        let views = layout.views().len();
        let taken = || layout.present().filter(|view| budget.per_view()[view.id.index()].0 > 0);
        let product = |view: &ViewLayout, tokens: u64| if asked.selector == Selector::UhrBat { tokens * most(view) as u64 } else { 0 };
        let whole = |fine_too: bool| {
            let views = taken().filter(|view| fine_too || is_coarse(view.id, views));
            views.map(|view| product(view, u64::from(view.unmasked_tokens().0))).sum::<u64>()
        };
        ingest.pixels += u64::from(layout.width.0) * u64::from(layout.height.0);
        ingest.tiles += Tiles(coarse + if lazy.is_some() { 0 } else { fine });
        ingest.clustered += whole(lazy.is_none());
        if let Some(lazy) = lazy {
            // At most these are not in the slot yet; their tokens, in the finest view, are what is clustered.
            let tokens = u64::from(lazy.0) * model.shape().tile_grid().pow(2) as u64;
            question.tiles += lazy;
            question.clustered += product(layout.finest(), tokens);
        }
        // Coverage clusters a view again whose budget is below its regions.
        let before = share(&asked.step.budget, 0, layouts.len()).map_or(0, |budget| budget.total().0);
        if asked.mode == Mode::Coverage && budget.total().0 < before {
            question.clustered += whole(true);
        }
        question.candidates += taken().map(ViewLayout::unmasked_tokens).sum();
        question.anchor += layout.views()[0].unmasked_tokens() + asked.text;
        question.frames += 1;
    }
    question.prompt = visual + asked.text;
    let kept = visual.min(question.candidates);
    let worst = Job { projected: question.candidates, steps: step.max_new - Tokens(1), ..question };
    let calibration = costs.calibration.as_ref();
    let share = calibration.map_or(0.0, |calibration| calibration.projected_share);
    let usual_steps = calibration.map_or(worst.steps, |calibration| Tokens(calibration.steps.round() as u32).min(worst.steps));
    let projected = Tokens((f64::from(question.candidates.0) * share) as u32).max(kept);
    let tiles = match (asked.cached, calibration) {
        (Cached::Coarse, Some(calibration)) => Tiles((f64::from(question.tiles.0) * calibration.tiles_share).round() as u32),
        _ => question.tiles,
    };
    let usual = Job { projected, tiles, steps: usual_steps, ..question };
    Ok(Work { per_frame, ingest, usual, worst })
}

impl Work {
    /// With the times it takes.
    pub fn rung(self, costs: &Costs, cached: Cached, step: &Step) -> Rung {
        let Self { per_frame, ingest, usual, worst } = self;
        let calibration = costs.calibration.as_ref();
        let predicted = |usual: &Job, worst: &Job| Predicted {
            p50: StageTimes::of(|stage| costs.p50(stage, usual)),
            bound: calibration.map(|_| StageTimes::of(|stage| costs.p99(stage, worst).unwrap_or_default())),
        };
        let none = Predicted { p50: StageTimes::default(), bound: calibration.map(|_| StageTimes::default()) };
        let one = costs.p50(Stage::Generate, &Job { steps: Tokens(1), ..worst });
        Rung {
            ingest: if cached == Cached::Nothing { predicted(&ingest, &ingest) } else { none },
            question: predicted(&usual, &worst),
            step: step.clone(),
            per_frame,
            decoder_step: calibration.map_or(one, |calibration| Millis(calibration.step_bound_ms).max(one)),
        }
    }
}
