//! Plans of questions, and the times that stages took beside those they were planned for.

use std::borrow::Cow;
use std::sync::Arc;

use crate::compress::{Mode, Selector};
use crate::config::{Budget, Profile};
use crate::geometry::Layout;
use crate::imaging::FrameSource;
use crate::pipeline::{Clock, Frame, Pipeline, PipelineError, PromptIds, Senses};
use crate::planner::{self, Asked, Boundary, Cached, Calibration, Costs, Held, Identity, Job, Plan, PlannerError, Stage, StageTimes};
use crate::units::{Millis, Tiles, Tokens, ViewId};

/// What a question asks for beside its text.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of all its frames together.
    pub budget: Budget,
    pub selector: Selector,
    pub mode: Mode,
    /// Most tiles of a frame that are encoded for it.
    pub encode_tiles: Option<Tiles>,
    /// Most tokens of the answer.
    pub max_new: Tokens,
    /// From the plan to the answer.
    pub deadline: Option<Millis>,
}

/// What the stages took, and what they nominally take for the work that they did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub measured: StageTimes,
    pub nominal: StageTimes,
    pub tiles: Tiles,
    /// Tokens that were sorted, rows that were projected for the answer, and steps of the decoder.
    pub candidates: Tokens,
    pub projected: Tokens,
    pub steps: Tokens,
    /// The decoder's longest.
    pub longest_step: Millis,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.measured = self.measured + other.measured;
        self.nominal = self.nominal + other.nominal;
        self.tiles += other.tiles;
        self.candidates += other.candidates;
        self.projected += other.projected;
        self.steps += other.steps;
        self.longest_step = self.longest_step.max(other.longest_step);
    }
}

impl Pipeline {
    /// Deadlines are kept against `clock` from now on.
    pub fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        self.clock = clock;
    }

    /// Plans reckon with what `senses` tells of the board.
    pub fn set_senses(&mut self, senses: Senses) {
        self.senses = senses;
    }

    /// Predictions come from `calibration`, which must be of [`Self::identity`].
    pub fn calibrate(&mut self, calibration: Option<Calibration>) {
        self.costs.calibration = calibration;
    }

    /// What a calibration must be of. `device`: what the board calls itself.
    #[must_use]
    pub fn identity(&self, device: &str) -> Identity {
        let engines = &self.engines;
        Identity {
            profile: self.profile.name.clone(),
            device: format!("{device}, {} threads", self.profile.engines.threads),
            power_mode: (self.senses)().power_mode,
            model: self.model_id(),
            engines: [engines.encoder.id(), engines.projector.id(), engines.decoder.id(), self.partition.id(), &self.manifest.policy.name]
                .join("; "),
            settings: self.settings(),
        }
    }

    /// What of the profile times depend on, or are reckoned from.
    fn settings(&self) -> String {
        let Profile { device, compression, engines, .. } = &self.profile;
        let dim = compression.cluster_dim.map_or_else(|| "all".into(), |dim| dim.to_string());
        format!(
            "{} TFLOP/s, {} GB/s, {} iterations, cluster-dim {dim}, chunks of {}",
            device.tflops, device.bandwidth_gbps, compression.max_iterations, engines.projection_chunk
        )
    }

    /// Name of the model and the first bytes of its manifest's digest.
    #[must_use]
    pub fn model_id(&self) -> String {
        format!("{}@{}", self.manifest.name, &self.manifest.digest.to_string()[..16])
    }

    #[must_use]
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Answers that came after their deadline, since the start.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Plans a question on frames that are still files: their ingest is part of the work.
    ///
    /// # Errors
    /// What is over a limit, or a deadline that nothing on the ladder would keep.
    pub fn plan_first(&self, sources: &[FrameSource], prompt: &PromptIds, request: &Request) -> Result<Plan, PipelineError> {
        let held = Held { reread: sources.len() > 1, ..Held::default() };
        let frames = sources.iter().map(|source| Ok((self.lay_out(source)?, source.kind, held.clone())));
        self.plan(frames.collect::<Result<_, PipelineError>>()?, prompt, request)
    }

    /// Plans a question on frames that are in their slots.
    ///
    /// # Errors
    /// As [`Self::plan_first`]; a stale frame.
    pub fn plan_again(&self, frames: &[&Frame], prompt: &PromptIds, request: &Request) -> Result<Plan, PipelineError> {
        let held = |frame: &&Frame| {
            let slot = self.slots.get(frame.lease)?;
            let cached = if frame.lazy { Cached::Coarse } else { Cached::Whole };
            let reread = frames.len() > 1 || self.pictured != Some(frame.lease);
            let layout = slot.layout()?;
            let may = |view: usize| frame.lazy && !planner::is_coarse(ViewId(view as u8), layout.views().len());
            let seen = (0..).zip(&frame.tiles_encoded).map(|(view, tiles)| *tiles > 0 || may(view)).collect();
            Ok((layout.clone(), frame.source.kind, Held { cached, reread, regions: slot.regions.clone(), seen }))
        };
        self.plan(frames.iter().map(held).collect::<Result<_, PipelineError>>()?, prompt, request)
    }

    /// Plans the ingest of a frame that nobody has asked about yet: all of its views, with as many regions as the profile's default budget has them.
    ///
    /// # Errors
    /// A frame without pixels.
    pub fn plan_capture(&self, source: &FrameSource) -> Result<Plan, PipelineError> {
        let layout = self.lay_out(source)?;
        let budget = planner::capture_budget(&self.profile, &self.manifest)?;
        let rung = planner::capture(&self.profile, &self.manifest, &self.costs, &layout, budget)?;
        Ok(Plan::new(vec![rung], vec![Cached::Nothing], None, self.slowdown(), self.clock.now())?)
    }

    fn plan(&self, frames: Vec<(Layout, &'static str, Held)>, prompt: &PromptIds, request: &Request) -> Result<Plan, PipelineError> {
        let decoded: Vec<&'static str> =
            frames.iter().filter(|(.., held)| held.cached == Cached::Nothing || held.reread).map(|frame| frame.1).collect();
        let (layouts, held): (Vec<Layout>, Vec<Held>) = frames.into_iter().map(|(layout, _, held)| (layout, held)).unzip();
        let (wanted, allowed) = (layouts.len(), self.profile.frame.slots.min(planner::MAX_FRAMES));
        if layouts.is_empty() || wanted > allowed {
            return Err(PlannerError::Frames { wanted, allowed }.into());
        }
        if request.encode_tiles.is_some() && !self.partition.clusters() {
            return Err(PlannerError::EncodeMap { found: self.partition.id().to_owned() }.into());
        }
        let costs = self.costs_now(request.deadline.is_some())?;
        let unknown = self.unknown_kind(&decoded);
        if let (Some(unknown), Some(_)) = (&unknown, request.deadline) {
            return Err(unknown.clone().into());
        }
        let cached: Vec<Cached> = held.iter().map(|frame| frame.cached).collect();
        let asked = Asked {
            step: planner::asked(request.budget.clone(), request.encode_tiles, request.max_new),
            selector: request.selector,
            mode: request.mode,
            text: prompt.tokens(),
            frames: held,
            lazy: self.partition.clusters(),
        };
        let mut rungs = planner::rungs(&self.profile, &self.manifest, &costs, &layouts, &asked)?;
        if unknown.is_some() {
            rungs.iter_mut().for_each(|rung| rung.unmeasured.splice(0..0, [Stage::Decode, Stage::Views]).for_each(drop));
        }
        let mut plan = Plan::new(rungs, cached, request.deadline, self.slowdown(), self.clock.now())?;
        (plan.selector, plan.mode) = (request.selector, request.mode);
        Ok(plan)
    }

    /// The costs that hold in the board's power mode: a calibration is of one. In another, or in none that the board tells, a question with a deadline is
    /// refused, and one without goes unpredicted.
    fn costs_now(&self, deadline: bool) -> Result<Cow<'_, Costs>, PlannerError> {
        let Some(wanted) = self.costs.calibration.as_ref().map(|calibration| &calibration.identity.power_mode) else {
            return Ok(Cow::Borrowed(&self.costs));
        };
        let readings = (self.senses)();
        let found = readings.power_mode.filter(|_| !readings.stale);
        let named = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "none".into());
        match (*wanted == found, deadline) {
            (true, _) => Ok(Cow::Borrowed(&self.costs)),
            (false, true) => Err(PlannerError::PowerMode { wanted: named(wanted), found: named(&found) }),
            (false, false) => Ok(Cow::Owned(Costs { model: self.costs.model.clone(), calibration: None })),
        }
    }

    /// What a calibration says of files of a kind that it hasn't seen decoded.
    fn unknown_kind(&self, kinds: &[&'static str]) -> Option<PlannerError> {
        let known = &self.costs.calibration.as_ref()?.kinds;
        let found = kinds.iter().find(|kind| !known.contains(**kind))?;
        Some(PlannerError::Kind { wanted: known.iter().cloned().collect::<Vec<_>>().join(" or "), found })
    }

    /// How much slower than calibrated the device is by its readings.
    pub(super) fn slowdown(&self) -> f64 {
        if self.profile.thermal.is_none() {
            return 1.0;
        }
        planner::slowdown(self.profile.thermal.as_ref(), &(self.senses)())
    }

    pub(super) fn step_down(&self, plan: &mut Plan, boundary: Boundary) {
        if plan.deadline.is_some() {
            plan.step_down(boundary, self.clock.now(), self.slowdown());
        }
    }

    /// Books a stage that began at `begun` and did `job`.
    pub(super) fn passed(&self, spent: &mut Spent, stage: Stage, begun: Millis, job: &Job) {
        self.passed_in(spent, stage, self.clock.now() - begun, job);
    }

    /// Books a stage that took `measured`.
    pub(super) fn passed_in(&self, spent: &mut Spent, stage: Stage, measured: Millis, job: &Job) {
        let nominal = self.costs.model.nominal(stage, job);
        spent.tiles += job.tiles;
        spent.candidates += job.candidates;
        spent.projected += job.projected;
        spent.steps += job.steps;
        let measured = self.clock.passed(stage, measured, nominal);
        if job.steps.0 > 0 {
            spent.longest_step = spent.longest_step.max(measured);
        }
        spent.nominal.add(stage, nominal);
        spent.measured.add(stage, measured);
    }
}
