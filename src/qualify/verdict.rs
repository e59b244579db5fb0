//! What was measured, held against the profile's limits.

use std::collections::BTreeSet;

use crate::config::Qualification as Limits;
use crate::planner::Step;
use crate::qualify::document::{Distribution, Fresh, MemoryUse, Outcome, Sample, StepResult, Verdict};
use crate::units::{Celsius, Millis, Tiles};

/// Least share of fresh questions within their predicted bound, and largest median error of the predicted median.
const COVERAGE: f64 = 0.98;
const MEDIAN_ERROR: f64 = 0.15;
/// What the system and libraries add to a plan.
const SLACK: f64 = 1.10;

/// In words, for a table.
#[must_use]
pub fn named(step: &Step) -> String {
    let tiles = step.encode_tiles.map_or_else(String::new, |Tiles(tiles)| format!(", {tiles} tiles"));
    format!("{}: {}{tiles}", step.name, step.budget.total())
}

/// One verdict a limit.
#[must_use]
pub fn verdicts(
    limits: &Limits,
    steps: &[StepResult],
    ingest: &Distribution,
    fresh: &Fresh,
    memory: &MemoryUse,
    board: &[Sample],
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut add = |what: &str, limit: String, found: String, outcome| verdicts.push(Verdict { what: what.into(), limit, found, outcome });
    let met = |good: bool| if good { Outcome::Met } else { Outcome::NotMet };
    let asked: usize = steps.iter().map(|step| step.distribution.n).sum();
    let over: usize = steps.iter().map(|step| step.over_budget).sum();
    add("token budgets", "no view above its budget".into(), format!("{over} of {asked} questions above"), met(over == 0));
    let within = memory.peak.map(|peak| peak.0 as f64 <= memory.planned.0 as f64 * SLACK && memory.planned <= memory.limit);
    let peak = memory.peak.map_or_else(|| "the system doesn't tell".into(), |peak| format!("{:.0} MiB", peak.mib()));
    let (planned, limit) = (memory.planned.mib(), memory.limit.mib());
    let outcome = within.map_or(Outcome::NotShown, met);
    add("memory", format!("{planned:.0} MiB planned and 10 %, {limit:.0} MiB in all"), format!("peak {peak}"), outcome);
    if let Some(peak) = memory.device_peak {
        add("device memory", format!("{limit:.0} MiB"), format!("peak {:.0} MiB", peak.mib()), met(peak <= memory.limit));
    }
    if let Some(first) = steps.first() {
        let (limit, found, outcome) = held(&first.distribution, limits.question);
        add("question, 99th percentile", limit, found, outcome);
    }
    // What a question gives way to must keep the limit too.
    for step in steps.iter().skip(1) {
        let (limit, found, outcome) = held(&step.distribution, limits.question);
        add(&format!("step {}, 99th percentile", named(&step.step)), limit, found, outcome);
    }
    let (limit, found, outcome) = held(ingest, limits.ingest);
    add("ingest, 95th percentile", limit, found, outcome);
    let hottest = board.iter().filter_map(|sample| sample.readings.temperature).map(|now| now.0).reduce(f32::max).map(Celsius);
    let found = hottest.map_or_else(|| "not told".into(), |hottest| format!("{hottest} at most"));
    let outcome = match (limits.temperature, hottest) {
        (None, _) => Outcome::NoLimit,
        (Some(_), None) => Outcome::NotShown,
        (Some(limit), Some(hottest)) => met(hottest <= limit),
    };
    add("temperature", limits.temperature.map_or_else(|| "none set".into(), |limit| limit.to_string()), found, outcome);
    let modes: BTreeSet<&str> = board.iter().filter_map(|sample| sample.readings.power_mode.as_deref()).collect();
    if !modes.is_empty() {
        let found = modes.iter().copied().collect::<Vec<_>>().join(", ");
        add("power mode", "one all along".into(), found, met(modes.len() == 1));
    }
    let shown = fresh.n > 0;
    let judged = |good| if shown { met(good) } else { Outcome::NoLimit };
    let found = if shown {
        format!("{:.1} % of {} fresh questions, {} of them first ones", fresh.coverage * 100.0, fresh.n, fresh.firsts)
    } else {
        "not measured".into()
    };
    add("predicted bounds hold", "98 %".into(), found, judged(fresh.coverage >= COVERAGE));
    let found = if shown { format!("{:.1} %", fresh.median_error * 100.0) } else { "not measured".into() };
    add("median error of predictions", "15 %".into(), found, judged(fresh.median_error <= MEDIAN_ERROR));
    verdicts
}

/// Limit, finding and outcome of measured times. A limit is met when the bound is within it; it isn't when the bound, or without one the largest
/// time, is above it.
fn held(times: &Distribution, limit: Option<Millis>) -> (String, String, Outcome) {
    let Distribution { n, max_ms, bound_ms, needed, .. } = *times;
    let found = match bound_ms {
        Some(bound) => format!("at most {bound:.0} ms with 95 % confidence (n = {n})"),
        None => format!("n = {n}, a bound needs {needed}; the largest was {max_ms:.0} ms"),
    };
    let Some(limit) = limit else { return ("none set".into(), found, Outcome::NoLimit) };
    let outcome = match bound_ms {
        Some(bound) if bound <= limit.0 => Outcome::Met,
        Some(_) => Outcome::NotMet,
        None if max_ms > limit.0 => Outcome::NotMet,
        None => Outcome::NotShown,
    };
    (format!("{:.0} ms", limit.0), found, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_met_only_by_a_bound() {
        let times = |n: u32| Distribution::new(&(1..=n).map(|ms| Millis(f64::from(ms))).collect::<Vec<_>>(), 0.99).unwrap();
        // Measurements of 1 to n ms, limit, outcome. Of 299 the bound is the largest; of 500 the largest but one.
        let cases = [
            (299, Some(299.0), Outcome::Met),
            (299, Some(298.0), Outcome::NotMet),
            (298, Some(298.0), Outcome::NotShown),
            (298, Some(297.0), Outcome::NotMet),
            (298, None, Outcome::NoLimit),
            (500, Some(499.0), Outcome::Met),
            (500, Some(498.0), Outcome::NotMet),
        ];
        for (n, limit, wanted) in cases {
            assert_eq!(held(&times(n), limit.map(Millis)).2, wanted, "{n} {limit:?}");
        }
    }
}
