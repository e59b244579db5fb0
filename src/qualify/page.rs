//! report.html: the verdict, then what it rests on.

use std::time::Duration;

use crate::qualify::document::{Outcome, Qualification, StepResult};
use crate::qualify::named;
use crate::report::plots::{self, CurvePoint, Marks, Prediction, Sample, StageBar};
use crate::report::{Block, Column, Page, Row, Verdict, render};
use crate::units::{Celsius, Millis};

/// The document for people.
#[must_use]
pub fn html(document: &Qualification) -> String {
    let identity = &document.calibration.identity;
    let mode = identity.power_mode.as_ref().map_or_else(String::new, |mode| format!(", power mode {mode}"));
    render(&Page {
        title: format!("Qualification of {} on {}", identity.model, identity.profile),
        subject: format!("{}{mode} · {} · uhr-edge {}", identity.device, document.date, document.version),
        verdict: verdict(document),
        blocks: [summary(document), questions(document), resources(document), predictions(document)].concat(),
    })
}

fn verdict(document: &Qualification) -> Verdict {
    use crate::report::Outcome::{Failed, NotShown, Ok};
    let of = |outcome: Outcome| {
        let names: Vec<&str> =
            document.verdicts.iter().filter(|verdict| verdict.outcome == outcome).map(|verdict| verdict.what.as_str()).collect();
        (names.len(), names.join(", "))
    };
    let (outcome, line) = match (of(Outcome::NotMet), of(Outcome::NotShown), of(Outcome::Met)) {
        ((1.., names), ..) => (Failed, format!("Not met: {names}.")),
        (_, (1.., names), _) => (NotShown, format!("Too little was measured to show: {names}.")),
        (.., (met, _)) => (Ok, format!("All {met} limits that are set are met.")),
    };
    Verdict { outcome, line }
}

fn summary(document: &Qualification) -> Vec<Block> {
    use crate::report::Outcome::{Failed, NotShown, Ok};
    let rows = document.verdicts.iter().map(|verdict| Row {
        cells: vec![verdict.what.clone(), verdict.limit.clone(), verdict.found.clone()],
        state: match verdict.outcome {
            Outcome::Met => Some(Ok),
            Outcome::NotMet => Some(Failed),
            Outcome::NotShown => Some(NotShown),
            Outcome::NoLimit => None,
        },
    });
    let asked: usize = document.steps.iter().map(|step| step.distribution.n).sum();
    let facts = [
        ("Questions", format!("{asked}, and {} fresh ones", document.fresh.n)),
        ("Ingests", format!("{} of {} frames", document.ingests, document.frames)),
        ("Took", format!("{:.0} s", document.seconds)),
        ("Seed", document.seed.to_string()),
        ("Engines", document.calibration.identity.engines.clone()),
    ];
    vec![
        Block::Table { head: vec![Column::text("What"), Column::text("Limit"), Column::text("Found")], rows: rows.collect() },
        Block::Facts(facts.map(|(name, value)| (name.to_owned(), value)).to_vec()),
    ]
}

fn ms(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn questions(document: &Qualification) -> Vec<Block> {
    let limit = |what: &str| {
        let verdict = document.verdicts.iter().find(|verdict| verdict.what.starts_with(what))?;
        verdict.limit.strip_suffix(" ms")?.parse().ok().map(Millis)
    };
    let head = ["n", "p50", "p95", "p99", "max", "bound"].map(Column::numbers);
    let row = |step: &StepResult| {
        let times = &step.distribution;
        let bound = times.bound_ms.map_or_else(|| format!("needs {}", times.needed), ms);
        let figures = [times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms].map(ms);
        Row { cells: [vec![named(&step.step), times.n.to_string()], figures.to_vec(), vec![bound]].concat(), state: None }
    };
    let mut blocks = vec![
        Block::Heading("Questions on a frame that is there".into()),
        Block::Table { head: [vec![Column::text("Step, ms")], head.into()].concat(), rows: document.steps.iter().map(row).collect() },
    ];
    let distribution = |times: &crate::qualify::Distribution, limit| {
        let all: Vec<Millis> = times.times_ms.iter().copied().map(Millis).collect();
        let some = |value| Some(Millis(value));
        let marks =
            Marks { p50: some(times.p50_ms), p95: some(times.p95_ms), p99: some(times.p99_ms), bound: times.bound_ms.map(Millis), limit };
        plots::distribution(&all, &marks)
    };
    if let Some(first) = document.steps.first() {
        blocks.push(Block::Figure {
            title: format!("Latency, {}", named(&first.step)),
            drawing: distribution(&first.distribution, limit("question")),
            caption: "The bound is above the 99th percentile with 95 % confidence, whatever the distribution.".into(),
        });
    }
    let names: Vec<String> = document.steps.iter().map(|step| named(&step.step)).collect();
    let bars = document.steps.iter().zip(&names);
    let bars = bars.map(|(step, label)| StageBar { label, stages: step.stages_p50.iter().map(|&(name, ms)| (name, Millis(ms))).collect() });
    blocks.push(Block::Figure {
        title: "Where the time goes".into(),
        drawing: plots::stages(&bars.collect::<Vec<_>>(), limit("question")),
        caption: "Median of each stage.".into(),
    });
    let point = |step: &StepResult| CurvePoint {
        tokens: step.step.budget.total(),
        p50: Millis(step.distribution.p50_ms),
        p99: Millis(step.distribution.p99_ms),
    };
    blocks.push(Block::Figure {
        title: "What a budget costs".into(),
        drawing: plots::curve(&document.steps.iter().map(point).collect::<Vec<_>>(), limit("question")),
        caption: "Median, and up to the 99th percentile. Steps with fewer tiles encode them for the question.".into(),
    });
    blocks.push(Block::Heading("Ingest".into()));
    blocks.push(Block::Figure {
        title: "From the file to regions".into(),
        drawing: distribution(&document.ingest, limit("ingest")),
        caption: "Frames of different sizes. The bound is above the 95th percentile with 95 % confidence.".into(),
    });
    blocks
}

fn resources(document: &Qualification) -> Vec<Block> {
    let memory = &document.memory;
    let lines: Vec<(&str, _)> = memory.lines.iter().map(|&(what, bytes)| (what, bytes)).collect();
    let mut blocks = vec![
        Block::Heading("Memory and heat".into()),
        Block::Figure {
            title: "Memory against the plan".into(),
            drawing: plots::memory(&lines, memory.peak, Some(memory.limit)),
            caption: "Planned by purpose, the largest resident set, and the profile's limit.".into(),
        },
    ];
    let at = |at: Millis| Duration::from_secs_f64((at.0 / 1e3).max(0.0));
    let temperatures: Vec<Sample<Celsius>> =
        document.board.iter().map(|sample| Sample { at: at(sample.at), value: sample.readings.temperature }).collect();
    let powers: Vec<_> = document.board.iter().map(|sample| Sample { at: at(sample.at), value: sample.readings.power }).collect();
    let limit = document.verdicts.iter().find(|verdict| verdict.what == "temperature");
    let limit = limit.and_then(|verdict| verdict.limit.strip_suffix(" °C")?.parse().ok().map(Celsius));
    blocks.push(Block::Figure {
        title: "Temperature".into(),
        drawing: plots::temperature(&temperatures, limit),
        caption: "The hottest zone.".into(),
    });
    if powers.iter().any(|sample| sample.value.is_some()) {
        blocks.push(Block::Figure { title: "Power".into(), drawing: plots::power(&powers, None), caption: "The whole board.".into() });
    }
    blocks
}

fn predictions(document: &Qualification) -> Vec<Block> {
    let head =
        [vec![Column::text("Stage")], ["n", "base ms", "factor", "bound over median", "from ms", "to ms"].map(Column::numbers).to_vec()]
            .concat();
    let rows = document.calibration.stages.iter().map(|(name, fit)| {
        let figures = [fit.base_ms, fit.factor, fit.bound_ratio, fit.from_ms, fit.to_ms].map(|value| format!("{value:.2}"));
        Row { cells: [vec![name.clone(), fit.n.to_string()], figures.to_vec()].concat(), state: None }
    });
    let pairs = document.fresh.pairs.iter();
    let pairs: Vec<Prediction> =
        pairs.map(|&[p50, _, measured]| Prediction { predicted: Millis(p50), measured: Millis(measured) }).collect();
    vec![
        Block::Heading("Predictions".into()),
        Block::Figure {
            title: "Fresh questions".into(),
            drawing: plots::predicted(&pairs),
            caption: "Predicted median and what was measured, questions that the calibration has not seen.".into(),
        },
        Block::Table { head, rows: rows.collect() },
        Block::Text("Time = (base + factor · nominal); nominal is the device's roofline for the work of the stage.".into()),
    ]
}
