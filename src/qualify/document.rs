//! `qualification.json`: what was measured, what it was held against, and the planner's calibration.

use serde::Serialize;

use crate::config::Qualification as Limits;
use crate::pipeline::Pipeline;
use crate::planner::{Calibration, Stage, Step, needed, quantile, upper_bound};
use crate::qualify::QualifyError;
use crate::qualify::measure::{Measured, Settings, StepTimes};
use crate::qualify::verdict::verdicts;
use crate::units::{Bytes, Millis, Readings};

/// The document. The planner reads its `calibration` alone.
#[derive(Clone, Debug, Serialize)]
pub struct Qualification {
    pub format: u32,
    pub calibration: Calibration,
    /// Of this program.
    pub version: &'static str,
    /// RFC 3339, UTC.
    pub date: String,
    pub seconds: f64,
    pub seed: u64,
    /// Different frames that were asked about, and how many times one was taken in.
    pub frames: usize,
    pub ingests: usize,
    pub verdicts: Vec<Verdict>,
    /// Ingests under the first step.
    pub ingest: Distribution,
    /// Richest first; the first is the profile's default.
    pub steps: Vec<StepResult>,
    pub fresh: Fresh,
    pub memory: MemoryUse,
    /// In the order in which they were read.
    pub board: Vec<Sample>,
}

/// One step of the ladder, asked on frames that were there.
#[derive(Clone, Debug, Serialize)]
pub struct StepResult {
    pub step: Step,
    pub power_mode: Option<String>,
    pub distribution: Distribution,
    /// Median milliseconds by the stage's name.
    pub stages_p50: Vec<(&'static str, f64)>,
    /// Questions in which some view gave more tokens than its budget.
    pub over_budget: usize,
}

/// Measured times, and what they show.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    pub n: usize,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// The percentile that the bound is on.
    pub bound_percentile: f64,
    /// Null: too few were measured.
    pub bound_ms: Option<f64>,
    /// Measurements that a bound needs.
    pub needed: usize,
    pub times_ms: Vec<f64>,
}

impl Distribution {
    /// `None` of no times.
    #[must_use]
    pub fn new(times: &[Millis], percentile: f64) -> Option<Self> {
        let times_ms: Vec<f64> = times.iter().map(|time| time.0).collect();
        let mut sorted = times_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let max_ms = *sorted.last()?;
        Some(Self {
            n: sorted.len(),
            p50_ms: quantile(&mut sorted, 0.5),
            p95_ms: quantile(&mut sorted, 0.95),
            p99_ms: quantile(&mut sorted, 0.99),
            max_ms,
            bound_percentile: percentile,
            bound_ms: upper_bound(&mut sorted, percentile),
            needed: needed(percentile),
            times_ms,
        })
    }
}

/// Predictions of the calibration that was just made, held against questions that it hasn't seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fresh {
    pub n: usize,
    /// Those of them that paid for their frame's ingest.
    pub firsts: usize,
    /// Share of the questions within their bound.
    pub coverage: f64,
    /// Median of |predicted − measured| / measured, predicted being the median.
    pub median_error: f64,
    /// Predicted median, predicted bound, measured: milliseconds.
    pub pairs: Vec<[f64; 3]>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MemoryUse {
    pub planned: Bytes,
    /// Largest resident set; null where the system doesn't tell.
    pub peak: Option<Bytes>,
    /// Most of the card's memory that was in use, by whatever; null where there is no card that tells.
    pub device_peak: Option<Bytes>,
    pub limit: Bytes,
    pub lines: Vec<(&'static str, Bytes)>,
}

/// The board at a moment after the start.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub at: Millis,
    pub readings: Readings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Met,
    NotMet,
    /// A limit is set and the measurements are too few to say.
    NotShown,
    /// Nothing to hold it against.
    NoLimit,
}

/// One limit, and what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub what: String,
    pub limit: String,
    pub found: String,
    pub outcome: Outcome,
}

impl Qualification {
    /// What `measured` shows of `pipeline`, held against `limits`. `date`: RFC 3339.
    ///
    /// # Errors
    /// Nothing measured.
    pub fn new(
        measured: Measured,
        pipeline: &Pipeline,
        settings: &Settings,
        limits: &Limits,
        date: String,
        seconds: f64,
    ) -> Result<Self, QualifyError> {
        let nothing = || QualifyError::Input { what: "measurements", wanted: "one a step at least", found: "none".into() };
        let power_mode = measured.calibration.identity.power_mode.clone();
        let step = |times: StepTimes| {
            let median = |stage: Stage| {
                let mut ms: Vec<f64> = times.spent.iter().map(|spent| spent.measured.get(stage).0).collect();
                (stage.name(), quantile(&mut ms, 0.5))
            };
            Some(StepResult {
                distribution: Distribution::new(&times.totals, 0.99)?,
                stages_p50: Stage::ALL.map(median).to_vec(),
                over_budget: times.over_budget,
                step: times.step,
                power_mode: power_mode.clone(),
            })
        };
        let steps = measured.steps.into_iter().map(step).collect::<Option<Vec<_>>>().ok_or_else(nothing)?;
        let ingest = Distribution::new(&measured.ingests, 0.95).ok_or_else(nothing)?;
        let map = pipeline.map();
        let memory = MemoryUse {
            planned: map.total(),
            peak: measured.peak,
            device_peak: measured.board.iter().filter_map(|sample| sample.readings.device_memory).max(),
            limit: pipeline.profile().memory_limit,
            lines: map.lines.iter().map(|line| (line.what, line.bytes)).collect(),
        };
        let verdicts = verdicts(limits, &steps, &ingest, &measured.fresh, &memory, &measured.board);
        Ok(Self {
            format: 1,
            calibration: measured.calibration,
            version: env!("CARGO_PKG_VERSION"),
            date,
            seconds,
            seed: settings.seed,
            frames: settings.frames.len(),
            ingests: measured.ingest_count,
            verdicts,
            ingest,
            steps,
            fresh: measured.fresh,
            memory,
            board: measured.board,
        })
    }

    /// Every limit that is set was shown to be met.
    #[must_use]
    pub fn met(&self) -> bool {
        self.verdicts.iter().all(|verdict| matches!(verdict.outcome, Outcome::Met | Outcome::NoLimit))
    }
}
