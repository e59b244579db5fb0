//! The ladder: what a question asked for, then ever less, each rung with the time it takes.
//!
//! # Why
//! A device that gets hot or a frame that comes late must answer with less, not late. Everything that a rung can mean is worked out before the first
//! stage, so that stepping down between two stages is a comparison and allocates nothing.

use serde::Serialize;

use crate::compress::{Mode, Selector};
use crate::config::{Budget, Thermal};
use crate::planner::{PlannerError, Stage, StageTimes};
use crate::units::{Millis, Readings, Tiles, Tokens, ViewId};

/// What nothing waits for.
const NEVER: Millis = Millis(f64::INFINITY);

/// What a question may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// "asked", or the profile's rung by its number from 1.
    pub name: String,
    /// Of all frames together, one a view.
    pub budget: Budget,
    /// Most tiles of a frame that are encoded; `None`: all.
    pub encode_tiles: Option<Tiles>,
    pub max_new: Tokens,
}

impl Step {
    /// This step where it is less than `asked`, and `asked` where that is less. `None` when nothing would be left.
    #[must_use]
    pub fn within(&self, asked: &Self) -> Option<Self> {
        let pairs = self.budget.per_view().iter().zip(asked.budget.per_view());
        let encode_tiles = match (self.encode_tiles, asked.encode_tiles) {
            (Some(mine), Some(asked)) => Some(mine.min(asked)),
            (mine, asked) => mine.or(asked),
        };
        Some(Self {
            name: self.name.clone(),
            budget: Budget::new(pairs.map(|(mine, asked)| *mine.min(asked)).collect()).ok()?,
            encode_tiles,
            max_new: self.max_new.min(asked.max_new),
        })
    }
}

/// A step on given frames.
#[derive(Clone, Debug)]
pub struct Rung {
    pub step: Step,
    pub frames: Vec<FrameShare>,
    /// What is left when all tokens are chosen: the selected tokens' MLP, prefill, generation.
    pub reply: Predicted,
    /// The bound on one step of the decoder.
    pub decoder_step: Millis,
    /// A view of which it wants tokens though the frame that is there was taken in without it: it can't be done.
    pub unseen: Option<(ViewId, Tokens)>,
    /// Stages whose usual work here is outside of what the calibration has measured.
    pub unmeasured: Vec<Stage>,
}

/// One frame's share of a step, and what it takes.
#[derive(Clone, Debug)]
pub struct FrameShare {
    /// Placed on the frame's views.
    pub budget: Budget,
    /// The step encodes fewer than all tiles: a frame that comes is taken in with its coarse views only.
    pub lazy: bool,
    /// Ingest with the coarse views, and with all; zero for a frame that is there.
    pub coarse: Predicted,
    pub whole: Predicted,
    /// Tiles that the question encodes of a frame with coarse views, their regions, and the file read again where another frame's views replaced its own.
    pub fine: Predicted,
    /// Anchor pass, regions made anew for coverage, selection, rows.
    pub own: Predicted,
}

/// Half of the times are below `p50`; `bound` is that of the calibration, absent without one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Predicted {
    pub p50: StageTimes,
    pub bound: Option<StageTimes>,
}

impl std::ops::Add for Predicted {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let bound = self.bound.zip(other.bound).map(|(a, b)| a + b);
        Self { p50: self.p50 + other.p50, bound }
    }
}

/// What there is of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cached {
    /// A file.
    #[default]
    Nothing,
    /// Its coarse views; fine tiles are encoded as a question wants them.
    Coarse,
    /// All views, with regions.
    Whole,
}

/// A place between two stages: a frame, by its number from 0, and the stage that comes next. A question has three for each frame: before its anchor
/// pass, before its fine tiles ([`Stage::Encode`]) and before its tokens are chosen ([`Stage::Select`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    Ingest(usize, Stage),
    Question(usize, Stage),
}

impl Boundary {
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            Self::Ingest(_, stage) | Self::Question(_, stage) => stage,
        }
    }
}

impl FrameShare {
    /// Its ingest, as this step would do it, or as it was begun.
    fn ingest(&self, cached: Cached) -> Predicted {
        match cached {
            Cached::Nothing if self.lazy => self.coarse,
            Cached::Nothing | Cached::Whole => self.whole,
            Cached::Coarse => self.coarse,
        }
    }

    /// What the question does for it.
    fn question(&self, cached: Cached) -> Predicted {
        let encodes = cached == Cached::Coarse || (cached == Cached::Nothing && self.lazy);
        if encodes { self.fine + self.own } else { self.own }
    }
}

impl Rung {
    /// Ingest of the frames that are files.
    #[must_use]
    pub fn ingest(&self, cached: &[Cached]) -> Predicted {
        let files = self.frames.iter().zip(cached).filter(|(_, cached)| **cached == Cached::Nothing);
        files.map(|(frame, &cached)| frame.ingest(cached)).fold(self.none(), |sum, part| sum + part)
    }

    /// Everything after the frames' ingest.
    #[must_use]
    pub fn question(&self, cached: &[Cached]) -> Predicted {
        self.frames.iter().zip(cached).map(|(frame, &cached)| frame.question(cached)).fold(self.reply, |sum, part| sum + part)
    }

    fn none(&self) -> Predicted {
        Predicted { p50: StageTimes::default(), bound: self.reply.bound.map(|_| StageTimes::default()) }
    }

    /// The bound on everything from `boundary` on. `cached`: how each frame stands, those that are being taken in as it was decided; `reply`: that of the
    /// richest step that tokens were chosen under. `None` without a calibration.
    #[must_use]
    pub fn remaining(&self, boundary: Boundary, cached: &[Cached], reply: &Predicted) -> Option<Millis> {
        let mut left = reply.bound?.total();
        if self.unseen.is_some() {
            return Some(NEVER);
        }
        for (number, (frame, &cached)) in self.frames.iter().zip(cached).enumerate() {
            let (own, whole_question) = (frame.own.bound?, frame.question(cached).bound?.total());
            left += match boundary {
                Boundary::Ingest(at, _) if number < at => whole_question,
                Boundary::Ingest(at, stage) => {
                    let ingest = frame.ingest(cached).bound?;
                    whole_question + if number == at { ingest.from(stage) } else { ingest.total() }
                }
                Boundary::Question(at, _) if number < at => Millis::ZERO,
                Boundary::Question(at, _) if number > at => whole_question,
                Boundary::Question(_, Stage::Anchor) => whole_question,
                Boundary::Question(_, Stage::Encode) => whole_question - own.get(Stage::Anchor),
                Boundary::Question(..) => own.total() - own.get(Stage::Anchor),
            };
        }
        Some(left)
    }

    /// The bound on everything, of frames that stand as `cached` says.
    #[must_use]
    pub fn total(&self, cached: &[Cached]) -> Option<Millis> {
        if self.unseen.is_some() {
            return self.reply.bound.map(|_| NEVER);
        }
        Some(self.ingest(cached).bound?.total() + self.question(cached).bound?.total())
    }
}

/// A step taken down, and why.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Descent {
    /// The stage that came next.
    pub before: Stage,
    /// Rungs, from 0.
    pub from: usize,
    pub to: usize,
    pub left_ms: Millis,
    /// What the rung that was left would have needed.
    pub needed_ms: Millis,
}

/// What a question will take, and how it may give way.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Richest first.
    rungs: Vec<Rung>,
    at: usize,
    /// Where it began.
    first: usize,
    /// The richest step that tokens were chosen under.
    chosen: Option<usize>,
    /// How each frame stood when the plan was made, and stands now.
    began: Vec<Cached>,
    cached: Vec<Cached>,
    /// Since the start of the work.
    pub deadline: Option<Millis>,
    /// When the work began, on the pipeline's clock.
    pub started: Millis,
    /// How much slower than calibrated the device was taken to be then.
    pub slowdown: f64,
    pub descents: Vec<Descent>,
    pub selector: Selector,
    pub mode: Mode,
}

impl Plan {
    /// Takes the richest of `rungs` whose bound fits `deadline` with times multiplied by `slowdown`; without a deadline, the first. `cached`: how the frames
    /// stand.
    ///
    /// # Errors
    /// [`PlannerError::Unseen`] where no step can be done, or without a deadline the first can't; [`PlannerError::Deadline`] with the smallest deadline that
    /// would do; [`PlannerError::Uncalibrated`] where there is nothing to hold one against.
    pub fn new(
        rungs: Vec<Rung>,
        cached: Vec<Cached>,
        deadline: Option<Millis>,
        slowdown: f64,
        started: Millis,
    ) -> Result<Self, PlannerError> {
        let can = |rung: &Rung| rung.unseen.is_none();
        if let Some((view, wanted)) = rungs.first().and_then(|rung| rung.unseen)
            && (deadline.is_none() || !rungs.iter().any(can))
        {
            return Err(PlannerError::Unseen { view, wanted });
        }
        let at = match deadline {
            None => 0,
            Some(wanted) => {
                let totals: Option<Vec<Millis>> = rungs.iter().map(|rung| rung.total(&cached).map(|total| total * slowdown)).collect();
                let totals = totals.filter(|totals| !totals.is_empty()).ok_or(PlannerError::Uncalibrated)?;
                let least = totals.iter().map(|total| total.0).fold(f64::INFINITY, f64::min);
                let smallest = Millis(least.ceil());
                totals.iter().position(|total| *total <= wanted).ok_or(PlannerError::Deadline { wanted, smallest })?
            }
        };
        let descents = Vec::with_capacity(rungs.len());
        let (began, selector, mode) = (cached.clone(), Selector::default(), Mode::default());
        Ok(Self { rungs, at, first: at, chosen: None, began, cached, deadline, started, slowdown, descents, selector, mode })
    }

    /// What is in force.
    #[must_use]
    pub fn rung(&self) -> &Rung {
        &self.rungs[self.at]
    }

    /// What was taken when the work began.
    #[must_use]
    pub fn first(&self) -> &Rung {
        &self.rungs[self.first]
    }

    #[must_use]
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// How the frames stood when the plan was made.
    #[must_use]
    pub fn began(&self) -> &[Cached] {
        &self.began
    }

    /// What the step that the work began with was predicted to take: ingest and question, heat not reckoned with.
    #[must_use]
    pub fn predicted(&self) -> Predicted {
        self.first().ingest(&self.began) + self.first().question(&self.began)
    }

    /// Frame `number` is taken in so: whole, or its coarse views.
    pub fn takes_in(&mut self, number: usize, cached: Cached) {
        self.cached[number] = cached;
    }

    /// Tokens of a frame are chosen under the step in force: no later step makes them fewer.
    pub fn chose(&mut self) {
        self.chosen = self.chosen.or(Some(self.at));
    }

    /// Time left at `now`; `None` without a deadline.
    #[must_use]
    pub fn left(&self, now: Millis) -> Option<Millis> {
        self.deadline.map(|deadline| deadline - (now - self.started))
    }

    /// Before a stage: keeps the rung, or steps down to the first whose rest fits the time left, or to the one with the least rest. Allocates nothing.
    pub fn step_down(&mut self, boundary: Boundary, now: Millis, slowdown: f64) {
        let Some(left_ms) = self.left(now) else { return };
        let chosen = self.chosen.map(|chosen| &self.rungs[chosen].reply);
        let needed = |rung: &Rung| rung.remaining(boundary, &self.cached, chosen.unwrap_or(&rung.reply)).unwrap_or_default() * slowdown;
        let needed_ms = needed(self.rung());
        if needed_ms <= left_ms {
            return;
        }
        let lower = self.rungs.iter().enumerate().skip(self.at);
        let fits = lower.clone().find(|(_, rung)| needed(rung) <= left_ms);
        let least = || lower.min_by(|a, b| needed(a.1).0.total_cmp(&needed(b.1).0));
        let to = fits.or_else(least).map_or(self.at, |(at, _)| at);
        if to != self.at {
            self.descents.push(Descent { before: boundary.stage(), from: self.at, to, left_ms, needed_ms });
            self.at = to;
        }
    }

    /// Whether one more step of the decoder would end in time.
    #[must_use]
    pub fn one_more(&self, now: Millis, slowdown: f64) -> bool {
        self.left(now).is_none_or(|left| self.rung().decoder_step * slowdown <= left)
    }
}

/// What `readings` do to times that were measured on a cool device: a factor of 1 or more. On a profile with thermal limits a device that doesn't tell
/// its temperature, or told it too long ago, is taken as the slowest it can be.
#[must_use]
pub fn slowdown(thermal: Option<&Thermal>, readings: &Readings) -> f64 {
    let Some(thermal) = thermal else { return 1.0 };
    let known = readings.temperature.filter(|_| !readings.stale);
    let share = known.map_or(1.0, |now| f64::from((now.0 - thermal.slow_from.0) / (thermal.slowest_at.0 - thermal.slow_from.0)));
    1.0 + (thermal.slowdown - 1.0) * share.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Celsius;

    fn rung(name: &str, ingest: f64, question: f64) -> Rung {
        let times = |stages: &[Stage], each: f64| {
            let times = StageTimes::of(|stage| Millis(if stages.contains(&stage) { each } else { 0.0 }));
            Predicted { p50: times, bound: Some(times) }
        };
        let budget = Budget::new(vec![Tokens(4)]).unwrap();
        let ingest = times(&Stage::ALL[..4], ingest);
        let share = FrameShare {
            budget: budget.clone(),
            lazy: false,
            coarse: ingest,
            whole: ingest,
            fine: times(&[Stage::Encode, Stage::Regions], 7.0),
            own: times(&[Stage::Anchor, Stage::Select, Stage::Merge], question),
        };
        Rung {
            step: Step { name: name.into(), budget, encode_tiles: None, max_new: Tokens(8) },
            frames: vec![share],
            reply: times(&[Stage::Prefill, Stage::Generate], question),
            decoder_step: Millis(question),
            unseen: None,
            unmeasured: Vec::new(),
        }
    }

    const FILE: [Cached; 1] = [Cached::Nothing];

    fn ladder() -> Vec<Rung> {
        vec![rung("asked", 100.0, 100.0), rung("1", 50.0, 50.0), rung("2", 50.0, 10.0)]
    }

    #[test]
    fn the_richest_rung_that_fits_or_the_smallest_deadline_that_would() {
        // Deadline, slowdown, rung or smallest deadline. Totals: 900, 450, 250.
        let cases = [
            (900.0, 1.0, Ok(0)),
            (899.0, 1.0, Ok(1)),
            (449.0, 1.0, Ok(2)),
            (249.0, 1.0, Err(250.0)),
            (899.0, 2.0, Ok(2)),
            (499.0, 2.0, Err(500.0)),
            (300.0, 1.2004, Err(301.0)),
        ];
        for (deadline, slowdown, wanted) in cases {
            let plan =
                |deadline: f64| Plan::new(ladder(), FILE.to_vec(), Some(Millis(deadline)), slowdown, Millis(5.0)).map(|plan| plan.at);
            match wanted {
                Ok(at) => assert_eq!(plan(deadline), Ok(at), "{deadline} {slowdown}"),
                Err(smallest) => {
                    let (wanted, smallest) = (Millis(deadline), Millis(smallest));
                    assert_eq!(plan(deadline), Err(PlannerError::Deadline { wanted, smallest }), "{deadline} {slowdown}");
                    assert!(plan(smallest.0).is_ok());
                }
            }
        }
        assert_eq!(Plan::new(ladder(), FILE.to_vec(), None, 9.0, Millis(0.0)).unwrap().at, 0);
    }

    #[test]
    fn without_a_calibration_no_deadline_is_promised() {
        let mut rungs = ladder();
        rungs[1].reply.bound = None;
        assert_eq!(Plan::new(rungs, FILE.to_vec(), Some(Millis(1e9)), 1.0, Millis(0.0)).err(), Some(PlannerError::Uncalibrated));
    }

    #[test]
    fn late_stages_step_down_and_never_up() {
        let mut plan = Plan::new(ladder(), FILE.to_vec(), Some(Millis(900.0)), 1.0, Millis(1_000.0)).unwrap();
        plan.step_down(Boundary::Ingest(0, Stage::Encode), Millis(1_200.0), 1.0);
        assert_eq!((plan.at, plan.descents.len()), (0, 0));
        plan.takes_in(0, Cached::Whole);
        // 500 left; anchor to generate of the first rung take 500.
        plan.step_down(Boundary::Question(0, Stage::Anchor), Millis(1_400.5), 1.0);
        let descent = Descent { before: Stage::Anchor, from: 0, to: 1, left_ms: Millis(499.5), needed_ms: Millis(500.0) };
        assert_eq!((plan.at, &plan.descents[..]), (1, &[descent][..]));
        plan.step_down(Boundary::Question(0, Stage::Select), Millis(1_401.0), 1.0);
        assert_eq!(plan.at, 1);
        // Nothing fits: the least.
        plan.step_down(Boundary::Question(0, Stage::Select), Millis(1_899.0), 1.0);
        assert_eq!(plan.at, 2);
        assert!(!plan.one_more(Millis(1_899.0), 1.0) && plan.one_more(Millis(1_880.0), 1.0));
        // A clock that steps back makes no time, one that jumps ahead leaves none.
        assert_eq!(plan.left(Millis(0.0)), Some(Millis(900.0)));
        assert_eq!(plan.left(Millis(1e9)), Some(Millis(0.0)));
    }

    #[test]
    fn what_remains_of_several_frames() {
        use Boundary::{Ingest, Question};
        // Two frames, of the second the first rung's ingest is coarse; a reply of 20, for each frame 10 · 3 of its own and 14 for fine tiles.
        let mut rung = rung("asked", 100.0, 10.0);
        rung.frames.push(FrameShare { lazy: true, ..rung.frames[0].clone() });
        let nothing = [Cached::Nothing; 2];
        let there = [Cached::Whole, Cached::Coarse];
        let cases = [
            (nothing, Ingest(0, Stage::Decode), 800.0 + 30.0 + 44.0 + 20.0),
            (nothing, Ingest(0, Stage::Regions), 500.0 + 30.0 + 44.0 + 20.0),
            ([Cached::Coarse, Cached::Nothing], Ingest(1, Stage::Encode), 200.0 + 44.0 + 44.0 + 20.0),
            ([Cached::Whole, Cached::Whole], Ingest(1, Stage::Regions), 100.0 + 30.0 + 30.0 + 20.0),
            (there, Question(0, Stage::Anchor), 30.0 + 44.0 + 20.0),
            (there, Question(0, Stage::Encode), 20.0 + 44.0 + 20.0),
            (there, Question(0, Stage::Select), 20.0 + 44.0 + 20.0),
            (there, Question(1, Stage::Anchor), 44.0 + 20.0),
            (there, Question(1, Stage::Encode), 34.0 + 20.0),
            (there, Question(1, Stage::Select), 20.0 + 20.0),
        ];
        for (cached, boundary, wanted) in cases {
            assert_eq!(rung.remaining(boundary, &cached, &rung.reply), Some(Millis(wanted)), "{boundary:?}");
        }
        assert_eq!((rung.total(&nothing), rung.total(&there)), (Some(Millis(894.0)), Some(Millis(94.0))));
        // Tokens that were chosen under a richer step are read whatever comes after.
        let poor = Rung { reply: Predicted { bound: Some(StageTimes::default()), ..rung.reply }, ..rung.clone() };
        let mut plan = Plan::new(vec![rung, poor], there.to_vec(), Some(Millis(95.0)), 1.0, Millis(0.0)).unwrap();
        plan.chose();
        plan.step_down(Question(1, Stage::Select), Millis(60.0), 1.0);
        assert_eq!((plan.at, plan.descents.len()), (0, 0));
        plan.chosen = None;
        plan.step_down(Question(1, Stage::Select), Millis(60.0), 1.0);
        assert_eq!((plan.at, plan.descents.len()), (1, 1));
    }

    #[test]
    fn a_step_that_wants_what_was_not_taken_in_is_passed_over() {
        let mut rungs = ladder();
        rungs[0].unseen = Some((ViewId(3), Tokens(7)));
        let there = || vec![Cached::Whole];
        let refused = PlannerError::Unseen { view: ViewId(3), wanted: Tokens(7) };
        assert_eq!(Plan::new(rungs.clone(), there(), None, 1.0, Millis(0.0)).err(), Some(refused.clone()));
        let plan = Plan::new(rungs.clone(), there(), Some(Millis(1e6)), 1.0, Millis(0.0)).unwrap();
        assert_eq!((plan.at, plan.first), (1, 1));
        let smallest = Plan::new(rungs.clone(), there(), Some(Millis(1.0)), 1.0, Millis(0.0)).err();
        assert_eq!(smallest, Some(PlannerError::Deadline { wanted: Millis(1.0), smallest: Millis(50.0) }));
        rungs.iter_mut().for_each(|rung| rung.unseen = Some((ViewId(3), Tokens(7))));
        assert_eq!(Plan::new(rungs, there(), Some(Millis(1e6)), 1.0, Millis(0.0)).err(), Some(refused));
    }

    #[test]
    fn heat_slows_and_silence_is_taken_for_heat() {
        let thermal = Thermal { slow_from: Celsius(80.0), slowest_at: Celsius(100.0), slowdown: 3.0 };
        let at = |temperature: Option<f32>, stale| {
            slowdown(Some(&thermal), &Readings { temperature: temperature.map(Celsius), stale, ..Readings::default() })
        };
        let cases = [(Some(20.0), 1.0), (Some(80.0), 1.0), (Some(90.0), 2.0), (Some(100.0), 3.0), (Some(140.0), 3.0), (None, 3.0)];
        cases.iter().for_each(|(now, wanted)| assert_eq!(at(*now, false), *wanted));
        assert_eq!(at(Some(20.0), true), 3.0);
        assert_eq!(slowdown(None, &Readings::default()), 1.0);
    }

    #[test]
    fn a_step_is_never_more_than_what_was_asked() {
        let step = |tokens: [u32; 2], tiles: Option<u32>, new: u32| Step {
            name: "1".into(),
            budget: Budget::new(tokens.map(Tokens).to_vec()).unwrap(),
            encode_tiles: tiles.map(Tiles),
            max_new: Tokens(new),
        };
        let asked = step([0, 10], Some(20), 8);
        assert_eq!(step([5, 20], None, 4).within(&asked), Some(step([0, 10], Some(20), 4)));
        assert_eq!(step([5, 2], Some(30), 40).within(&asked), Some(step([0, 2], Some(20), 8)));
        assert_eq!(step([5, 0], None, 4).within(&asked), None);
    }
}
