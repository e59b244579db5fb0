//! What a device was measured to need for each stage: written by `qualify`, read by the planner.
//!
//! # Why
//! A bound on a percentile holds only when enough was measured: the largest of n measurements is above the p-th percentile with a probability of
//! `1 − pⁿ`, whatever their distribution. For 95 % and p = 0.99 that takes 299 of them, for p = 0.95 it takes 59.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::planner::Stage;
use crate::units::Millis;

/// The one format of the document.
const FORMAT: u32 = 1;
/// How far beyond what was measured a size may be and still count as measured.
const NEARLY: f64 = 1.1;
/// Largest number that a calibration may hold: eleven days in milliseconds.
const MOST: f64 = 1e9;
/// Most pairs that slopes are taken between: their number grows with its square.
const SLOPES_OF: usize = 600;
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
    /// Names of encoder, projector, decoder, partition and policy.
    pub engines: String,
    /// What else of the profile its times depend on, in words.
    pub settings: String,
}

/// One stage's time as a function of its nominal time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Fit {
    pub base_ms: f64,
    /// Measured time a nominal millisecond.
    pub factor: f64,
    /// The bound on the percentile of measured time over `p50`: the largest of the steps' own.
    pub bound_ratio: f64,
    /// Measurements that it rests on: of the step with the fewest.
    pub n: usize,
    /// Nominal times that were seen.
    pub from_ms: f64,
    pub to_ms: f64,
}

impl Fit {
    /// On the line within what was seen; beyond it in proportion to the largest that was, and never below the smallest.
    #[must_use]
    pub fn p50(&self, nominal: Millis) -> Millis {
        let line = |nominal: f64| Millis(self.base_ms + nominal * self.factor);
        match nominal.0 {
            more if more > self.to_ms && self.to_ms > 0.0 => line(self.to_ms) * (more / self.to_ms),
            less => line(less.max(self.from_ms)),
        }
    }

    #[must_use]
    pub fn bound(&self, nominal: Millis) -> Millis {
        self.p50(nominal) * self.bound_ratio
    }

    /// Whether work of that size was measured, or nearly.
    #[must_use]
    pub fn has_seen(&self, nominal: Millis) -> bool {
        (self.from_ms / NEARLY..=self.to_ms * NEARLY).contains(&nominal.0)
    }

    /// Of (nominal, measured) pairs, in groups that were measured alike: the line through the medians of all (Theil and Sen: the median of slopes, never
    /// below 0), and the largest of the groups' bounds on the `percentile` of what measured times are above it. `n` is that of the smallest group. `None` of
    /// no pairs.
    #[must_use]
    pub fn new(groups: &[Vec<(Millis, Millis)>], percentile: f64) -> Option<Self> {
        let pairs: Vec<(Millis, Millis)> = groups.iter().flatten().copied().collect();
        let nominal = |pair: &(Millis, Millis)| pair.0.0;
        let (from_ms, to_ms) = (min(pairs.iter().map(nominal))?, -min(pairs.iter().map(|pair| -nominal(pair)))?);
        // Sizes that differ by less than a fifth tell of noise, not of a slope.
        let distinct = to_ms > from_ms * 1.2;
        let some: Vec<&(Millis, Millis)> = pairs.iter().step_by(pairs.len().div_ceil(SLOPES_OF)).collect();
        let pairs_of_pairs = some.iter().enumerate().flat_map(|(at, a)| some[at + 1..].iter().map(move |b| (*a, *b)));
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
        let n = groups.iter().map(Vec::len).filter(|len| *len > 0).min()?;
        let line = Self { base_ms, factor, bound_ratio: 1.0, n, from_ms, to_ms };
        let bounds = groups.iter().filter(|group| !group.is_empty()).map(|group| {
            let mut over: Vec<f64> = group.iter().map(|&(nominal, measured)| measured.0 / line.p50(nominal).0.max(1e-6)).collect();
            upper_bound(&mut over, percentile).unwrap_or_else(|| over.iter().copied().fold(1.0, f64::max))
        });
        Some(Self { bound_ratio: bounds.fold(1.0, f64::max), ..line })
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
    /// Kinds of files that were decoded: each takes its own time.
    pub kinds: BTreeSet<String>,
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
        document.shares().map_err(format)?;
        for stage in Stage::ALL {
            let few = |found: usize| {
                let wanted = needed(percentile(stage));
                let percentile = (percentile(stage) * 100.0).round() as u32;
                CalibrationError::TooFew { path: path.to_owned(), stage: stage.name().into(), percentile, wanted, found }
            };
            // Answers of one token have no step to time.
            let Some(fit) = document.stages.get(stage.name()) else {
                if stage == Stage::Generate && document.steps == 0.0 {
                    continue;
                }
                return Err(few(0));
            };
            let numbers = [fit.base_ms, fit.factor, fit.bound_ratio, fit.from_ms, fit.to_ms];
            if numbers.iter().any(|number| !(0.0..=MOST).contains(number)) {
                return Err(format(format!("stage {}: wanted numbers from 0 to {MOST:e}, found {numbers:?}", stage.name())));
            }
            if fit.bound_ratio < 1.0 || fit.base_ms + fit.factor <= 0.0 || fit.from_ms > fit.to_ms {
                return Err(format(format!(
                    "stage {}: wanted a line above 0 and a bound of 1 or more times it, found {fit:?}",
                    stage.name()
                )));
            }
            if fit.n < needed(percentile(stage)) {
                return Err(few(fit.n));
            }
        }
        Ok(document)
    }
}

impl Calibration {
    /// Why its numbers beside the stages' can't be, if they can't.
    fn shares(&self) -> Result<(), String> {
        for (name, share) in [("projected_share", self.projected_share), ("tiles_share", self.tiles_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name}: wanted a share of 0 to 1, found {share}"));
            }
        }
        let counts = [("steps", self.steps), ("step_bound_ms", self.step_bound_ms)];
        match counts.into_iter().find(|(_, count)| !(0.0..=MOST).contains(count)) {
            Some((name, found)) => Err(format!("{name}: wanted a number from 0 to {MOST:e}, found {found}")),
            None => Ok(()),
        }
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
            ("set of engines", self.engines.clone(), wanted.engines.clone()),
            ("profile's settings", self.settings.clone(), wanted.settings.clone()),
        ];
        match parts.into_iter().find(|(_, found, wanted)| found != wanted) {
            Some((what, found, wanted)) => Err(CalibrationError::Other { path: path.to_owned(), what, wanted, found }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(sizes: impl Iterator<Item = f64>, time: impl Fn(f64) -> f64) -> Vec<(Millis, Millis)> {
        sizes.map(|size| (Millis(size), Millis(time(size)))).collect()
    }

    #[test]
    fn the_line_goes_through_the_medians_and_the_bound_is_the_worst_groups() {
        let spread = |n: usize| (0..n).map(move |at| 10.0 + 10.0 * at as f64 / n as f64);
        let steady = pairs(spread(299), |size| 5.0 + 2.0 * size);
        // One in ten of the second group takes half as long again.
        let uneven: Vec<_> =
            steady.iter().enumerate().map(|(at, &(size, time))| (size, if at % 10 == 0 { time * 1.5 } else { time })).collect();
        let fit = Fit::new(&[steady.clone(), uneven.clone()], 0.99).unwrap();
        assert!((fit.base_ms - 5.0).abs() < 0.5 && (fit.factor - 2.0).abs() < 0.05 && (fit.bound_ratio - 1.5).abs() < 0.01, "{fit:?}");
        assert_eq!((fit.n, fit.from_ms), (299, 10.0));
        // Groups that are too small are held to their largest, and count.
        let fit = Fit::new(&[steady, uneven[..40].to_vec(), Vec::new()], 0.99).unwrap();
        assert!(fit.n == 40 && fit.bound_ratio > 1.45, "{fit:?}");
        assert!(Fit::new(&[], 0.99).is_none() && Fit::new(&[Vec::new()], 0.99).is_none());
    }

    #[test]
    fn beyond_what_was_measured_times_grow_in_proportion_and_never_fall() {
        let fit = Fit { base_ms: 4.0, factor: 2.0, bound_ratio: 1.5, n: 299, from_ms: 3.0, to_ms: 8.0 };
        let cases = [(3.0, 10.0), (8.0, 20.0), (16.0, 40.0), (1.0, 10.0)];
        for (nominal, p50) in cases {
            assert_eq!((fit.p50(Millis(nominal)), fit.bound(Millis(nominal))), (Millis(p50), Millis(p50 * 1.5)), "{nominal}");
        }
        assert_eq!([2.8, 8.7, 2.6, 9.0].map(|nominal| fit.has_seen(Millis(nominal))), [true, true, false, false]);
    }

    #[test]
    fn bounds_stand_on_enough() {
        assert_eq!((needed(0.99), needed(0.95)), (299, 59));
        let mut values: Vec<f64> = (1..=298).map(f64::from).collect();
        assert_eq!(upper_bound(&mut values, 0.99), None);
        values.push(0.5);
        assert_eq!(upper_bound(&mut values, 0.99), Some(298.0));
    }

    #[test]
    fn what_cannot_be_is_no_calibration() {
        let fit = Fit { base_ms: 1.0, factor: 2.0, bound_ratio: 1.5, n: 299, from_ms: 3.0, to_ms: 8.0 };
        let identity = Identity {
            profile: "p".into(),
            device: "d".into(),
            power_mode: None,
            model: "m".into(),
            engines: "e".into(),
            settings: "s".into(),
        };
        let good = Calibration {
            format: 1,
            identity: identity.clone(),
            stages: Stage::ALL.iter().map(|stage| (stage.name().to_owned(), fit)).collect(),
            kinds: BTreeSet::from(["a JPEG".to_owned()]),
            projected_share: 0.3,
            tiles_share: 0.5,
            steps: 4.0,
            step_bound_ms: 9.0,
        };
        let parse = |calibration: &Calibration| {
            let text = serde_json::json!({ "calibration": calibration }).to_string();
            Calibration::parse(Path::new("c.json"), &text, &identity).map_err(|error| error.to_string())
        };
        assert_eq!(parse(&good), Ok(good.clone()));
        let with = |fit: Fit| Calibration {
            stages: BTreeMap::from_iter(good.stages.clone().into_iter().chain([("merge".to_owned(), fit)])),
            ..good.clone()
        };
        let mut without = good.clone();
        without.stages.remove("generate");
        let cases = [
            (with(Fit { bound_ratio: 0.0, ..fit }), "a bound of 1 or more"),
            (with(Fit { base_ms: 0.0, factor: 0.0, ..fit }), "wanted a line above 0"),
            (with(Fit { from_ms: 9.0, ..fit }), "wanted a line above 0"),
            (with(Fit { base_ms: 1e308, ..fit }), "wanted numbers from 0 to 1e9"),
            (with(Fit { n: 298, ..fit }), "needs 299 measurements, found 298"),
            (without.clone(), "stage generate: a bound on its 99th percentile needs 299 measurements, found 0"),
            (Calibration { projected_share: 1.5, ..good.clone() }, "wanted a share of 0 to 1, found 1.5"),
            (Calibration { tiles_share: -0.1, ..good.clone() }, "tiles_share"),
            (Calibration { steps: -1.0, ..good.clone() }, "steps: wanted a number from 0 to 1e9"),
        ];
        let of_one_token = Calibration { steps: 0.0, ..without.clone() };
        assert!(parse(&of_one_token).is_ok());
        for (calibration, message) in cases {
            let said = parse(&calibration).unwrap_err();
            assert!(said.contains(message), "{said}");
        }
    }
}
