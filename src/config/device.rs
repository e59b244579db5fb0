//! What a profile says of its device: rates, heat, and the ladder that questions go down on it.

use serde::Deserialize;

use crate::units::{Celsius, Millis, Tiles, Tokens};

/// Rates that the vendor gives, or that were measured; predictions start from them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Device {
    /// Dense f16 operations of the networks, in 10¹² a second.
    pub tflops: f64,
    /// To the memory that holds the weights, in 10⁹ bytes a second.
    pub bandwidth_gbps: f64,
    /// Where the figures are from.
    pub source: String,
}

/// How heat slows the device: times are multiplied by 1 at `slow_from` and below, by `slowdown` at `slowest_at` and above, by a line between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thermal {
    pub slow_from: Celsius,
    pub slowest_at: Celsius,
    pub slowdown: f64,
}

/// One rung below what a question asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LadderStep {
    /// A preset, a total or a list, as a question's own.
    pub budget: String,
    /// Most tiles of a frame that are encoded; absent: all.
    #[serde(default)]
    pub encode_tiles: Option<u32>,
    /// Absent: as many as asked.
    #[serde(default)]
    pub max_new_tokens: Option<u32>,
}

/// What `qualify` holds the device against, beside its memory. Absent: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Qualification {
    /// The bound on the 99th percentile of questions with the default budget, on a frame that is there.
    pub question: Option<Millis>,
    /// The bound on the 95th percentile of ingests.
    pub ingest: Option<Millis>,
    pub temperature: Option<Celsius>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct QualificationFile {
    question_p99_ms: Option<f64>,
    ingest_p95_ms: Option<f64>,
    max_temperature_c: Option<f32>,
}

impl QualificationFile {
    pub(super) fn check(&self) -> Result<Qualification, (&'static str, String, &'static str)> {
        for (key, value) in [
            ("qualification.question-p99-ms", self.question_p99_ms),
            ("qualification.ingest-p95-ms", self.ingest_p95_ms),
            ("qualification.max-temperature-c", self.max_temperature_c.map(f64::from)),
        ] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err((key, value.to_string(), "a number above 0"));
            }
        }
        let (question, ingest) = (self.question_p99_ms.map(Millis), self.ingest_p95_ms.map(Millis));
        Ok(Qualification { question, ingest, temperature: self.max_temperature_c.map(Celsius) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ThermalFile {
    slow_from_c: f32,
    slowest_at_c: f32,
    slowdown: f64,
}

impl Device {
    /// The key that can't be, with what it holds and what was wanted.
    pub(super) fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let wrong = |value: f64| !(value.is_finite() && value > 0.0 && value <= 1e6);
        match self {
            _ if wrong(self.tflops) => Err(("device.tflops", self.tflops.to_string(), "a number above 0")),
            _ if wrong(self.bandwidth_gbps) => Err(("device.bandwidth-gbps", self.bandwidth_gbps.to_string(), "a number above 0")),
            _ => Ok(()),
        }
    }
}

impl ThermalFile {
    pub(super) fn check(&self) -> Result<Thermal, (&'static str, String, &'static str)> {
        let Self { slow_from_c, slowest_at_c, slowdown } = *self;
        if !(-40.0..=150.0).contains(&slow_from_c) {
            return Err(("thermal.slow-from-c", slow_from_c.to_string(), "-40 to 150"));
        }
        if !(slowest_at_c > slow_from_c && slowest_at_c <= 150.0) {
            return Err(("thermal.slowest-at-c", slowest_at_c.to_string(), "more than slow-from-c, at most 150"));
        }
        if !(1.0..=100.0).contains(&slowdown) {
            return Err(("thermal.slowdown", slowdown.to_string(), "1 to 100"));
        }
        Ok(Thermal { slow_from: Celsius(slow_from_c), slowest_at: Celsius(slowest_at_c), slowdown })
    }
}

impl LadderStep {
    #[must_use]
    pub fn tiles(&self) -> Option<Tiles> {
        self.encode_tiles.map(Tiles)
    }

    #[must_use]
    pub fn max_new(&self) -> Option<Tokens> {
        self.max_new_tokens.map(Tokens)
    }
}
