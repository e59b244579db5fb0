//! The ladder: what a question asked for, then ever less, each rung with the time it takes.
//!
//! # Why
//! A device that gets hot or a frame that comes late must answer with less, not late. Everything that a rung can mean is worked out before the first
//! stage, so that stepping down between two stages is a comparison and allocates nothing.

use serde::Serialize;

use crate::compress::Selector;
use crate::config::{Budget, Thermal};
use crate::planner::{PlannerError, Stage, StageTimes};
use crate::units::{Millis, Readings, Tiles, Tokens};

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
    /// A frame's share of the budget, placed on its views.
    pub per_frame: Vec<Budget>,
    /// What the ingest of all frames takes before the question can begin; zero where they are there.
    pub ingest: Predicted,
    /// What the question itself takes; tiles that are encoded for it and their regions included.
    pub question: Predicted,
    /// The bound on one step of the decoder.
    pub decoder_step: Millis,
}

/// Half of the times are below `p50`; `bound` is that of the calibration, absent without one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Predicted {
    pub p50: StageTimes,
    pub bound: Option<StageTimes>,
}

/// The stages of a question in their order: fine tiles are encoded when importance is known.
const QUESTION: [Stage; 7] = [Stage::Anchor, Stage::Encode, Stage::Regions, Stage::Select, Stage::Merge, Stage::Prefill, Stage::Generate];

/// A place between two stages: the stage that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    Ingest(Stage),
    Question(Stage),
}

impl Boundary {
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            Self::Ingest(stage) | Self::Question(stage) => stage,
        }
    }
}

impl Rung {
    /// The bound on everything from `boundary` on; `whole`: no tile is left to encode for the question. Without a calibration there is none.
    #[must_use]
    pub fn remaining(&self, boundary: Boundary, whole: bool) -> Option<Millis> {
        let (ingest, question) = (self.ingest.bound?, self.question.bound?);
        let own = |from: Stage| {
            let stages = QUESTION.into_iter().skip_while(|stage| *stage != from);
            stages.filter(|stage| !whole || *stage != Stage::Encode).map(|stage| question.get(stage)).sum::<Millis>()
        };
        Some(match boundary {
            Boundary::Ingest(stage) => {
                let stages = Stage::ALL.into_iter().filter(|later| later.at_ingest() && *later >= stage);
                stages.map(|stage| ingest.get(stage)).sum::<Millis>() + own(Stage::Anchor)
            }
            Boundary::Question(stage) => own(stage),
        })
    }

    #[must_use]
    pub fn total(&self) -> Option<Millis> {
        Some(self.ingest.bound?.total() + self.question.bound?.total())
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
    /// Since the start of the work.
    pub deadline: Option<Millis>,
    /// When the work began, on the pipeline's clock.
    pub started: Millis,
    pub descents: Vec<Descent>,
    pub selector: Selector,
    /// All tiles are encoded, or will be at ingest: the question itself encodes none.
    pub whole: bool,
}

impl Plan {
    /// Takes the richest of `rungs` whose bound fits `deadline` with times multiplied by `slowdown`; without a deadline, the first.
    ///
    /// # Errors
    /// [`PlannerError::Deadline`] with the smallest deadline that would do; [`PlannerError::Uncalibrated`] where there is nothing to hold one against.
    pub fn new(rungs: Vec<Rung>, deadline: Option<Millis>, slowdown: f64, started: Millis) -> Result<Self, PlannerError> {
        let at = match deadline {
            None => 0,
            Some(wanted) => {
                let totals: Option<Vec<Millis>> = rungs.iter().map(|rung| rung.total().map(|total| total * slowdown)).collect();
                let totals = totals.filter(|totals| !totals.is_empty()).ok_or(PlannerError::Uncalibrated)?;
                let least = totals.iter().map(|total| total.0).fold(f64::INFINITY, f64::min);
                let smallest = Millis(least.ceil());
                totals.iter().position(|total| *total <= wanted).ok_or(PlannerError::Deadline { wanted, smallest })?
            }
        };
        let descents = Vec::with_capacity(rungs.len());
        Ok(Self { rungs, at, first: at, deadline, started, descents, selector: Selector::default(), whole: false })
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

    /// Time left at `now`; `None` without a deadline.
    #[must_use]
    pub fn left(&self, now: Millis) -> Option<Millis> {
        self.deadline.map(|deadline| deadline - (now - self.started))
    }

    /// Before a stage: keeps the rung, or steps down to the first whose rest fits the time left, or to the one with the least rest. Allocates nothing.
    pub fn step_down(&mut self, boundary: Boundary, now: Millis, slowdown: f64) {
        let Some(left_ms) = self.left(now) else { return };
        let whole = self.whole;
        let needed = |rung: &Rung| rung.remaining(boundary, whole).unwrap_or_default() * slowdown;
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
        Rung {
            step: Step { name: name.into(), budget: Budget::new(vec![Tokens(4)]).unwrap(), encode_tiles: None, max_new: Tokens(8) },
            per_frame: vec![Budget::new(vec![Tokens(4)]).unwrap()],
            ingest: times(&Stage::ALL[..4], ingest),
            question: times(&[Stage::Anchor, Stage::Select, Stage::Merge, Stage::Prefill, Stage::Generate], question),
            decoder_step: Millis(question),
        }
    }

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
            let plan = |deadline: f64| Plan::new(ladder(), Some(Millis(deadline)), slowdown, Millis(5.0)).map(|plan| plan.at);
            match wanted {
                Ok(at) => assert_eq!(plan(deadline), Ok(at), "{deadline} {slowdown}"),
                Err(smallest) => {
                    let (wanted, smallest) = (Millis(deadline), Millis(smallest));
                    assert_eq!(plan(deadline), Err(PlannerError::Deadline { wanted, smallest }), "{deadline} {slowdown}");
                    assert!(plan(smallest.0).is_ok());
                }
            }
        }
        assert_eq!(Plan::new(ladder(), None, 9.0, Millis(0.0)).unwrap().at, 0);
    }

    #[test]
    fn without_a_calibration_no_deadline_is_promised() {
        let mut rungs = ladder();
        rungs[1].question.bound = None;
        assert_eq!(Plan::new(rungs, Some(Millis(1e9)), 1.0, Millis(0.0)).err(), Some(PlannerError::Uncalibrated));
    }

    #[test]
    fn late_stages_step_down_and_never_up() {
        let mut plan = Plan::new(ladder(), Some(Millis(900.0)), 1.0, Millis(1_000.0)).unwrap();
        plan.step_down(Boundary::Ingest(Stage::Encode), Millis(1_200.0), 1.0);
        assert_eq!((plan.at, plan.descents.len()), (0, 0));
        // 500 left; anchor to generate of the first rung take 500.
        plan.step_down(Boundary::Question(Stage::Anchor), Millis(1_400.5), 1.0);
        let descent = Descent { before: Stage::Anchor, from: 0, to: 1, left_ms: Millis(499.5), needed_ms: Millis(500.0) };
        assert_eq!((plan.at, &plan.descents[..]), (1, &[descent][..]));
        plan.step_down(Boundary::Question(Stage::Prefill), Millis(1_401.0), 1.0);
        assert_eq!(plan.at, 1);
        // Nothing fits: the least.
        plan.step_down(Boundary::Question(Stage::Prefill), Millis(1_899.0), 1.0);
        assert_eq!(plan.at, 2);
        assert!(!plan.one_more(Millis(1_899.0), 1.0) && plan.one_more(Millis(1_880.0), 1.0));
        // A clock that steps back makes no time, one that jumps ahead leaves none.
        assert_eq!(plan.left(Millis(0.0)), Some(Millis(900.0)));
        assert_eq!(plan.left(Millis(1e9)), Some(Millis(0.0)));
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
