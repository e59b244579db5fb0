//! The rungs of a question's ladder on given frames: what each may take of every view, and how much work that is.

use crate::compress::{Mode, Selector, clusters};
use crate::config::{Budget, Model, Profile};
use crate::geometry::{Layout, ViewLayout};
use crate::planner::{
    Cached, Costs, FrameShare, Job, PlannerError, Predicted, Rung, Stage, StageTimes, Step, admit, allowed, place, share,
};
use crate::units::{Millis, Tiles, Tokens, ViewId};

/// A question as it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub step: Step,
    pub selector: Selector,
    pub mode: Mode,
    /// Positions of the prompt that are text.
    pub text: Tokens,
    /// As many as there are frames.
    pub frames: Vec<Held>,
    /// Regions can be made over some tiles only, so that rungs may encode fewer.
    pub lazy: bool,
}

/// What there is of a frame when a question comes.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub cached: Cached,
    /// Its file is read again before fine tiles are encoded: another frame's views stand where its own did, or will.
    pub reread: bool,
    /// Of a frame that is there: regions of each view, and whether it was taken in, or may be looked at yet.
    pub regions: Vec<usize>,
    pub seen: Vec<bool>,
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

/// The asked step and the profile's rungs below it, each no more than the one before, on frames laid out as `layouts`.
///
/// # Errors
/// What is over a limit in the question as it was asked; a rung that can't be is left out.
pub fn rungs(profile: &Profile, model: &impl Model, costs: &Costs, layouts: &[Layout], asked: &Asked) -> Result<Vec<Rung>, PlannerError> {
    let work = Work { profile, model, costs, layouts, asked };
    let mut rungs = vec![work.rung(&asked.step)?];
    let views = model.shape().views().len();
    for (number, step) in profile.ladder.iter().enumerate() {
        let Ok(budget) = Budget::parse(&step.budget, views) else { continue };
        let step = Step {
            name: (number + 1).to_string(),
            budget,
            encode_tiles: step.tiles().filter(|_| asked.lazy),
            max_new: step.max_new().unwrap_or(asked.step.max_new),
        };
        let last = &rungs[rungs.len() - 1].step;
        let Some(step) = step.within(last) else { continue };
        let same = (&last.budget, last.encode_tiles, last.max_new) == (&step.budget, step.encode_tiles, step.max_new);
        if !same && let Ok(rung) = work.rung(&step) {
            rungs.push(rung);
        }
    }
    Ok(rungs)
}

/// A rung for frames that are taken in before anybody asks: every view is encoded, `budget` says for how many tokens its regions are.
///
/// # Errors
/// A frame without any view that `budget` gives tokens.
pub fn capture(profile: &Profile, model: &impl Model, costs: &Costs, layout: &Layout, budget: Budget) -> Result<Rung, PlannerError> {
    let step = Step { name: "capture".into(), budget, encode_tiles: None, max_new: Tokens(1) };
    let frames = vec![Held::default()];
    let asked = Asked { step, selector: Selector::UhrBat, mode: Mode::Paper, text: Tokens(0), frames, lazy: false };
    Work { profile, model, costs, layouts: std::slice::from_ref(layout), asked: &asked }.shares(&asked.step).map(|shares| shares.rung)
}

/// What steps of one question have to do on given frames.
pub(super) struct Work<'a, M> {
    pub profile: &'a Profile,
    pub model: &'a M,
    pub costs: &'a Costs,
    pub layouts: &'a [Layout],
    pub asked: &'a Asked,
}

/// A rung, and the work behind its medians: of the frames' ingest with all tiles, and of the question itself.
pub(super) struct Shares {
    pub rung: Rung,
    pub ingest: Job,
    pub question: Job,
}

/// Work that half of the questions stay below, and that none exceeds.
struct Span {
    usual: Job,
    worst: Job,
}

impl<M: Model> Work<'_, M> {
    /// The rung of an admitted step.
    pub fn rung(&self, step: &Step) -> Result<Rung, PlannerError> {
        let shares = self.shares(step)?;
        let visual = shares.rung.frames.iter().map(|frame| frame.budget.total()).sum();
        admit(self.profile, self.model, visual, self.asked.text, step.max_new)?;
        Ok(shares.rung)
    }

    pub fn shares(&self, step: &Step) -> Result<Shares, PlannerError> {
        let mut frames = Vec::with_capacity(self.layouts.len());
        let (mut ingest, mut question, mut usual) = (Job::default(), Job::default(), Vec::new());
        let mut unseen = None;
        for (number, layout) in self.layouts.iter().enumerate() {
            let budget = self.budget(step, number)?;
            let lazy = lazy_tiles(layout, &budget, step.encode_tiles)?;
            let held = &self.asked.frames[number];
            let file = held.cached == Cached::Nothing;
            let [coarse, whole] = [false, true].map(|fine| self.ingest(layout, &budget, fine));
            let of_file = |job: Job| if file { self.predicted(&job, &job) } else { self.nothing() };
            let own = self.own(number, layout, &budget)?;
            let fine = self.fine(number, layout, &budget, lazy);
            ingest = ingest + whole;
            question = question + own.usual;
            if file {
                usual.push(if lazy.is_some() { coarse } else { whole });
            }
            usual.push(own.usual);
            if lazy.is_some() || held.cached == Cached::Coarse {
                usual.push(fine.usual);
            }
            let missing = taken(layout, &budget).find(|view| !file && !held.seen[view.id.index()]);
            unseen = unseen.or(missing.map(|view| (view.id, budget.per_view()[view.id.index()])));
            let fine = if held.cached == Cached::Whole { self.nothing() } else { self.predicted_of(&fine) };
            frames.push(FrameShare {
                lazy: lazy.is_some(),
                coarse: of_file(coarse),
                whole: of_file(whole),
                fine,
                own: self.predicted_of(&own),
                budget,
            });
        }
        let visual: Tokens = frames.iter().map(|frame| frame.budget.total()).sum();
        let reply = self.reply(visual, step);
        usual.push(reply.usual);
        question = question + Job { steps: reply.usual.steps, prompt: reply.usual.prompt, ..Job::default() };
        let calibration = self.costs.calibration.as_ref();
        let one = self.costs.p50(Stage::Generate, &Job { steps: Tokens(1), ..reply.worst });
        let rung = Rung {
            step: step.clone(),
            frames,
            reply: self.predicted_of(&reply),
            decoder_step: calibration.map_or(one, |calibration| Millis(calibration.step_bound_ms).max(one)),
            unseen,
            unmeasured: Stage::ALL.into_iter().filter(|&stage| usual.iter().any(|job| !self.costs.has_seen(stage, job))).collect(),
        };
        Ok(Shares { rung, ingest, question })
    }

    /// A frame's share of the step's budget, placed on its views.
    fn budget(&self, step: &Step, number: usize) -> Result<Budget, PlannerError> {
        let layout = &self.layouts[number];
        let (placed, _) = place(&share(&step.budget, number, self.layouts.len())?, layout);
        allowed(self.asked.selector, placed, layout, self.profile)
    }

    /// Tokens times clusters of a view of which `tokens` are clustered.
    fn product(&self, view: &ViewLayout, budget: &Budget, tokens: u64) -> u64 {
        let rule = self.model.policy().clusters;
        let most = clusters(rule, self.profile.compression.clusters, budget.per_view()[view.id.index()]);
        if self.asked.selector == Selector::UhrBat { tokens * most as u64 } else { 0 }
    }

    /// Ingest of a file, with its fine views or without.
    fn ingest(&self, layout: &Layout, budget: &Budget, fine_too: bool) -> Job {
        let (coarse, fine) = tiles(layout, budget);
        let views = layout.views().len();
        let clustered = taken(layout, budget).filter(|view| fine_too || is_coarse(view.id, views));
        Job {
            pixels: pixels(layout),
            tiles: Tiles(coarse + if fine_too { fine } else { 0 }),
            clustered: clustered.map(|view| self.product(view, budget, u64::from(view.unmasked_tokens().0))).sum(),
            ..Job::default()
        }
    }

    /// Fine tiles that a question encodes of a frame with coarse views, at most `lazy` of them.
    fn fine(&self, number: usize, layout: &Layout, budget: &Budget, lazy: Option<Tiles>) -> Span {
        let held = &self.asked.frames[number];
        let (_, all) = tiles(layout, budget);
        let tile_tokens = self.model.shape().tile_grid().pow(2) as u64;
        let most = lazy.unwrap_or(Tiles(all));
        // At most these are not in the slot yet; their tokens, in the fine view with the most clusters, are what is clustered, with those of padding where
        // the policy keeps them.
        let views = layout.views().len();
        let fine = || taken(layout, budget).filter(|view| !is_coarse(view.id, views));
        let kept = |view: &ViewLayout| (view.unmasked_tokens().get() as u64).saturating_sub(view.encoded_tile_count() as u64 * tile_tokens);
        let tokens = u64::from(most.0) * tile_tokens + fine().map(kept).sum::<u64>();
        let again = if held.reread && most.0 > 0 { pixels(layout) } else { 0 };
        let clustered = if most.0 > 0 { fine().map(|view| self.product(view, budget, tokens)).max().unwrap_or(0) } else { 0 };
        let worst = Job { tiles: most, clustered, pixels: again, digested: again, ..Job::default() };
        let usual = match (held.cached, &self.costs.calibration) {
            (Cached::Coarse, Some(calibration)) => Tiles((f64::from(most.0) * calibration.tiles_share).round() as u32),
            _ => most,
        };
        Span { usual: Job { tiles: usual, ..worst }, worst }
    }

    /// What a question does for one frame, fine tiles aside.
    fn own(&self, number: usize, layout: &Layout, budget: &Budget) -> Result<Span, PlannerError> {
        let held = &self.asked.frames[number];
        let views = layout.views().len();
        let candidates: Tokens = taken(layout, budget).map(ViewLayout::unmasked_tokens).sum();
        let job = Job { anchor: layout.views()[0].unmasked_tokens() + self.asked.text, frames: 1, candidates, ..Job::default() };
        // Coverage clusters a view again whose budget is below its regions; fine views of a frame with coarse ones have them for the step that they were looked
        // at under.
        let mut again = 0;
        if self.asked.mode == Mode::Coverage {
            let first = self.budget(&self.asked.step, number)?;
            let (rule, most) = (self.model.policy().clusters, self.profile.compression.clusters);
            let regions = |view: &ViewLayout| match held.cached {
                Cached::Coarse if is_coarse(view.id, views) => held.regions[view.id.index()],
                Cached::Whole => held.regions[view.id.index()],
                Cached::Nothing | Cached::Coarse => clusters(rule, most, first.per_view()[view.id.index()]),
            };
            let over = taken(layout, budget).filter(|view| regions(view) > budget.per_view()[view.id.index()].get());
            again = over.map(|view| self.product(view, budget, u64::from(view.unmasked_tokens().0))).sum();
        }
        let share = self.costs.calibration.as_ref().map_or(0.0, |calibration| calibration.projected_share);
        let projected = Tokens((f64::from(candidates.0) * share) as u32).max(budget.total().min(candidates));
        // A file's regions are made for the step that it is taken in under; only a later step down finds too many.
        let usually = if held.cached == Cached::Nothing { 0 } else { again };
        Ok(Span { usual: Job { projected, clustered: usually, ..job }, worst: Job { projected: candidates, clustered: again, ..job } })
    }

    /// What is left when `visual` tokens are chosen.
    fn reply(&self, visual: Tokens, step: &Step) -> Span {
        let worst = Job { prompt: visual + self.asked.text, steps: step.max_new - Tokens(1), ..Job::default() };
        let calibration = self.costs.calibration.as_ref();
        let steps = calibration.map_or(worst.steps, |calibration| Tokens(calibration.steps.round() as u32).min(worst.steps));
        Span { usual: Job { steps, ..worst }, worst }
    }

    fn predicted_of(&self, span: &Span) -> Predicted {
        self.predicted(&span.usual, &span.worst)
    }

    /// Of the stages that have work.
    fn predicted(&self, usual: &Job, worst: &Job) -> Predicted {
        let costs = self.costs;
        let mut all = true;
        let bound = StageTimes::of(|stage| {
            let bound = costs.p99(stage, worst);
            all &= bound.is_some();
            bound.unwrap_or_default()
        });
        Predicted { p50: StageTimes::of(|stage| costs.p50(stage, usual)), bound: all.then_some(bound) }
    }

    fn nothing(&self) -> Predicted {
        self.predicted(&Job::default(), &Job::default())
    }
}

/// Views that `budget` gives tokens.
fn taken<'a>(layout: &'a Layout, budget: &'a Budget) -> impl Iterator<Item = &'a ViewLayout> {
    layout.present().filter(|view| budget.per_view()[view.id.index()].0 > 0)
}

fn pixels(layout: &Layout) -> u64 {
    u64::from(layout.width.0) * u64::from(layout.height.0)
}
