//! What a device was measured to need for each stage: written by `qualify`, read by the planner.
//!
//! # Why
//! A bound on a percentile holds only when enough was measured: the largest of n measurements is above the p-th percentile with a probability of
//! `1 − pⁿ`, whatever their distribution. For 95 % and p = 0.99 that takes 299 of them, for p = 0.95 it takes 59.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::planner::Stage;
use crate::units::Millis;

/// The one format of the document.
const FORMAT: u32 = 1;
/// How sure a bound is.
pub const CONFIDENCE: f64 = 0.95;

/// Why a calibration can't be used, with wanted and found.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("{path}: the calibration is of another {what}: wanted {wanted}, found {found}")]
    Other { path: PathBuf, what: &'static str, wanted: String, found: String },
    #[error("{path}: stage {stage}: a bound on its {percentile}th percentile needs {wanted} measurements, found {found}")]
    TooFew { path: PathBuf, stage: String, percentile: u32, wanted: usize, found: usize },
}

/// What a calibration holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Identity {
    pub profile: String,
    /// Processor and count of threads, or the board's name.
    pub device: String,
    /// By name, where the board has modes.
    pub power_mode: Option<String>,
    /// Name and digest of the manifest.
    pub model: String,
    /// Names of encoder, projector, decoder and partition.
    pub engines: String,
}

/// One stage's time as a function of its nominal time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Fit {
    pub base_ms: f64,
    /// Measured time a nominal millisecond.
    pub factor: f64,
    /// The bound on the percentile of measured time over `p50`.
    pub bound_ratio: f64,
    /// Measurements that it rests on.
    pub n: usize,
    /// Nominal times that were seen.
    pub from_ms: f64,
    pub to_ms: f64,
}

impl Fit {
    #[must_use]
    pub fn p50(&self, nominal: Millis) -> Millis {
        Millis(self.base_ms) + nominal * self.factor
    }

    #[must_use]
    pub fn bound(&self, nominal: Millis) -> Millis {
        self.p50(nominal) * self.bound_ratio
    }

    /// Of (nominal, measured) pairs: the line through medians (Theil and Sen: the median of slopes, never below 0), and the bound on the
    /// `percentile` of what measured times are above it. `None` of no pairs.
    #[must_use]
    pub fn new(pairs: &[(Millis, Millis)], percentile: f64) -> Option<Self> {
        let nominal = |pair: &(Millis, Millis)| pair.0.0;
        let (from_ms, to_ms) = (min(pairs.iter().map(nominal))?, -min(pairs.iter().map(|pair| -nominal(pair)))?);
        // Sizes that differ by less than a fifth tell of noise, not of a slope.
        let distinct = to_ms > from_ms * 1.2;
        let pairs_of_pairs = pairs.iter().enumerate().flat_map(|(at, a)| pairs[at + 1..].iter().map(move |b| (a, b)));
        let slopes = pairs_of_pairs.filter(|(a, b)| (a.0.0 - b.0.0).abs() > 0.1 * (to_ms - from_ms));
        let mut slopes: Vec<f64> = slopes.map(|(a, b)| (b.1.0 - a.1.0) / (b.0.0 - a.0.0)).collect();
        let mut ratios: Vec<f64> = pairs.iter().filter(|pair| pair.0.0 > 0.0).map(|pair| pair.1.0 / pair.0.0).collect();
        let ratio = if ratios.is_empty() { 0.0 } else { quantile(&mut ratios, 0.5) };
        let mut factor = if distinct && !slopes.is_empty() { quantile(&mut slopes, 0.5).max(0.0) } else { ratio };
        let mut rests: Vec<f64> = pairs.iter().map(|(nominal, measured)| measured.0 - factor * nominal.0).collect();
        let mut base_ms = quantile(&mut rests, 0.5);
        if base_ms < 0.0 {
            (base_ms, factor) = (0.0, ratio);
        }
        let line = Self { base_ms, factor, bound_ratio: 1.0, n: pairs.len(), from_ms, to_ms };
        let mut over: Vec<f64> = pairs.iter().map(|&(nominal, measured)| measured.0 / line.p50(nominal).0.max(1e-6)).collect();
        Some(Self { bound_ratio: upper_bound(&mut over, percentile).unwrap_or_else(|| over.iter().copied().fold(1.0, f64::max)), ..line })
    }
}

fn min(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.min_by(f64::total_cmp)
}

/// The value below which a share `at` of `values` lies: the ⌈at·n⌉-th smallest. `values` are sorted; there must be one.
#[must_use]
pub fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (at * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// Fewest measurements for a bound on that percentile: `1 − pⁿ ≥ 0.95`.
#[must_use]
pub fn needed(percentile: f64) -> usize {
    ((1.0 - CONFIDENCE).ln() / percentile.ln()).ceil() as usize
}

/// A bound that is above the `percentile` of whatever `values` are drawn from, with 95 % confidence: the smallest order statistic that is (Wilks). `None`
/// of fewer values than [`needed`].
#[must_use]
pub fn upper_bound(values: &mut [f64], percentile: f64) -> Option<f64> {
    if values.len() < needed(percentile) {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let n = values.len();
    // The r-th smallest is above the percentile when fewer than r values are below it: P(Binomial(n, p) ≤ r − 1).
    let mut log_term = n as f64 * percentile.ln();
    let mut above = 0.0;
    for missed in 0..n {
        // P(exactly `missed` values lie above the percentile); the (n − missed)-th smallest is the bound while they are more.
        above += log_term.exp();
        if above > 1.0 - CONFIDENCE {
            return Some(values[n - missed.max(1)]);
        }
        log_term += ((n - missed) as f64 / (missed + 1) as f64).ln() + ((1.0 - percentile) / percentile).ln();
    }
    values.last().copied()
}

/// The percentile that a stage's bound is on.
#[must_use]
pub fn percentile(stage: Stage) -> f64 {
    if stage.at_ingest() { 0.95 } else { 0.99 }
}

/// The document of a qualification, of which the rest is for people.
#[derive(Deserialize)]
struct Qualified {
    calibration: Calibration,
}

/// A device's times under a power mode with a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Calibration {
    pub format: u32,
    pub identity: Identity,
    /// By the stage's name.
    pub stages: BTreeMap<String, Fit>,
    /// Rows through the projector, as a share of a view's tokens, that half of the questions stay below.
    pub projected_share: f64,
    /// Tiles that a question on a frame with coarse views encodes, as a share of those that it may, that half of such questions stay below.
    pub tiles_share: f64,
    /// Steps of the decoder that half of the answers stay below, and what a step may take at most.
    pub steps: f64,
    pub step_bound_ms: f64,
}

impl Calibration {
    /// Reads the document `text` of `path`, for use on `wanted`.
    ///
    /// # Errors
    /// A document of another device, mode or model, or one that rests on too little.
    pub fn parse(path: &Path, text: &str, wanted: &Identity) -> Result<Self, CalibrationError> {
        let format = |reason: String| CalibrationError::Format { path: path.to_owned(), reason };
        let Qualified { calibration: document } = serde_json::from_str(text).map_err(|error| format(error.to_string()))?;
        if document.format != FORMAT {
            return Err(format(format!("wanted format {FORMAT}, found {}", document.format)));
        }
        document.identity.matches(wanted, path)?;
        for stage in Stage::ALL {
            let fit = document.stages.get(stage.name()).ok_or_else(|| format(format!("wanted a stage {}, found none", stage.name())))?;
            let numbers = [fit.base_ms, fit.factor, fit.bound_ratio, fit.from_ms, fit.to_ms];
            if numbers.iter().any(|number| !number.is_finite() || *number < 0.0) {
                return Err(format(format!("stage {}: wanted finite numbers of 0 or more, found {numbers:?}", stage.name())));
            }
            let (percentile, found) = (percentile(stage), fit.n);
            let wanted = needed(percentile);
            if found < wanted {
                let percentile = (percentile * 100.0).round() as u32;
                return Err(CalibrationError::TooFew { path: path.to_owned(), stage: stage.name().into(), percentile, wanted, found });
            }
        }
        Ok(document)
    }
}

impl Identity {
    fn matches(&self, wanted: &Self, path: &Path) -> Result<(), CalibrationError> {
        let none = || "none".to_owned();
        let mode = |identity: &Self| identity.power_mode.clone().unwrap_or_else(none);
        let parts = [
            ("profile", self.profile.clone(), wanted.profile.clone()),
            ("device", self.device.clone(), wanted.device.clone()),
            ("power mode", mode(self), mode(wanted)),
            ("model", self.model.clone(), wanted.model.clone()),
            ("engine", self.engines.clone(), wanted.engines.clone()),
        ];
        match parts.into_iter().find(|(_, found, wanted)| found != wanted) {
            Some((what, found, wanted)) => Err(CalibrationError::Other { path: path.to_owned(), what, wanted, found }),
            None => Ok(()),
        }
    }
}
