//! Times of a first and a second question, stage by stage: floors, or what a calibration says.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::geometry::Layout;
use crate::planner::{Costs, Outlook, Predicted, Stage, StageTimes};
use crate::units::Millis;

/// A stage's, or a question's, half-time and bound.
fn figures(predicted: &Predicted, of: impl Fn(&StageTimes) -> Millis) -> Value {
    json!({"p50_ms": of(&predicted.p50), "bound_ms": predicted.bound.as_ref().map(&of)})
}

pub(super) fn document(outlook: &Outlook, layout: &Layout) -> Value {
    let question = |predicted: &Predicted| {
        let stage = |stage: Stage| (stage.name().to_owned(), figures(predicted, |times| times.get(stage)));
        let stages: serde_json::Map<String, Value> = Stage::ALL.into_iter().map(stage).collect();
        json!({"stages": stages, "total": figures(predicted, |times| times.total())})
    };
    let tflop: serde_json::Map<String, Value> =
        Stage::ALL.into_iter().map(|stage| (stage.name().to_owned(), json!(outlook.flop(stage) / 1e12))).collect();
    json!({
        "frame_px": [layout.width, layout.height],
        "text_tokens": outlook.text,
        "new_tokens": outlook.new,
        "floors": outlook.first.bound.is_none(),
        "first": question(&outlook.first),
        "second": question(&outlook.second),
        "unmeasured": outlook.unmeasured,
        "tflop": tflop,
    })
}

pub(super) fn print(text: &mut String, outlook: &Outlook, layout: &Layout, costs: &Costs) {
    let (device, Outlook { text: words, new, .. }) = (&costs.model.device, outlook);
    let _ =
        writeln!(text, "a frame of {} x {}, a question of {words} with its template, an answer of {new}:", layout.width.0, layout.height);
    match &costs.calibration {
        Some(calibration) => {
            let of = &calibration.identity;
            let mode = of.power_mode.as_deref().map(|mode| format!(", {mode}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "calibrated on {}{mode}: half of the times are below p50; the bound is on the 95th percentile of",
                of.device
            );
            let _ = writeln!(text, "decode to regions, on the 99th of the others");
        }
        None => {
            let _ = writeln!(
                text,
                "floors, nothing was measured: the networks by the roofline of {} TFLOPS and {} GB/s",
                device.tflops, device.bandwidth_gbps
            );
            let _ = writeln!(text, "({}); decode, views, regions and select as two cores of an x86-64 need", device.source);
        }
    }
    if !outlook.unmeasured.is_empty() {
        let names: Vec<&str> = outlook.unmeasured.iter().map(|stage| stage.name()).collect();
        let _ = writeln!(text, "of a size that was not measured, and in proportion to the nearest that was: {}", names.join(", "));
    }
    let ms = |time: Millis| if time == Millis::ZERO { "-".to_owned() } else { format!("{:.1}", time.0) };
    let columns = |predicted: &Predicted, of: &dyn Fn(&StageTimes) -> Millis| match &predicted.bound {
        Some(bound) => format!("{:>12}{:>12}", ms(of(&predicted.p50)), ms(of(bound))),
        None => format!("{:>12}", ms(of(&predicted.p50))),
    };
    let heads = if outlook.first.bound.is_some() { ["first p50", "bound", "second p50", "bound"].as_slice() } else { &["first", "second"] };
    let heads: String = heads.iter().map(|head| format!("{head:>12}")).collect();
    let _ = writeln!(text, "{:>10}{heads}{:>12}", "ms", "TFLOP");
    for stage in Stage::ALL {
        let of = |times: &StageTimes| times.get(stage);
        let tflop = tflop(outlook.flop(stage));
        let _ = writeln!(text, "{:>10}{}{}{tflop:>12}", stage.name(), columns(&outlook.first, &of), columns(&outlook.second, &of));
    }
    let total = |times: &StageTimes| times.total();
    let all = tflop(Stage::ALL.into_iter().map(|stage| outlook.flop(stage)).sum());
    let _ = writeln!(text, "{:>10}{}{}{all:>12}", "in all", columns(&outlook.first, &total), columns(&outlook.second, &total));
}

/// Operations in 10¹²; small networks have thousandths.
fn tflop(flop: f64) -> String {
    match flop / 1e12 {
        0.0 => "-".into(),
        tflop if tflop < 0.1 => format!("{tflop:.6}"),
        tflop => format!("{tflop:.3}"),
    }
}
