//! Every plot over inputs that break plots.

use std::time::Duration;

use super::*;
use crate::units::{Bytes, Celsius, Millis, Milliwatts, Tokens};

const SVG: &str = "http://www.w3.org/2000/svg";

/// Named inputs, most of them degenerate.
fn inputs() -> Vec<(&'static str, Vec<f64>)> {
    vec![
        ("none", vec![]),
        ("one", vec![412.0]),
        ("zero", vec![0.0]),
        ("zeros", vec![0.0; 12]),
        ("equal", vec![37.5; 40]),
        ("nearly equal", vec![1e6, 1e6 + 1e-4]),
        ("not a number", vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
        ("one of them a number", vec![f64::NAN, 3.0, f64::INFINITY]),
        ("far apart", vec![1e-3, 0.1, 1.0, 250.0, 1e7]),
        ("far apart with zero", vec![0.0, 1e-3, 1e7]),
        ("at the ends of the type", vec![f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324]),
        ("negative", vec![-4.0, 2.0]),
        ("many", (0..20_000).map(|i| 380.0 + f64::from(i * 7919 % 1000) / 10.0).collect()),
    ]
}

/// Every plot of `values`, each with `mark` as all its limits.
fn all(values: &[f64], mark: Option<f64>) -> Vec<(&'static str, Drawing)> {
    let ms = mark.map(Millis);
    let times: Vec<Millis> = values.iter().copied().map(Millis).collect();
    let marks = Marks { p50: ms, p95: ms, p99: ms, bound: ms, limit: ms };
    let bars: Vec<StageBar> = times
        .chunks(9)
        .take(40)
        .map(|times| StageBar { label: "a & b", stages: times.iter().map(|&time| ("<stage>", time)).collect() })
        .collect();
    // Saturates, as a count of bytes that is no number is never made.
    let bytes = |value: f64| Bytes((value * 1048576.0) as u64);
    let lines: Vec<(&str, Bytes)> = values.iter().map(|&value| ("\"line\"", bytes(value))).collect();
    let points: Vec<CurvePoint> =
        (1..200).zip(&times).map(|(index, &time)| CurvePoint { tokens: Tokens(index * 64), p50: time, p99: time * 1.5 }).collect();
    let at = |index: usize| Duration::from_millis(index as u64 * 500);
    let heat: Vec<_> =
        values.iter().enumerate().map(|(i, &value)| Sample { at: at(i), value: (i % 5 != 3).then_some(Celsius(value as f32)) }).collect();
    let watts: Vec<_> = values.iter().enumerate().map(|(i, &value)| Sample { at: at(i), value: Some(Milliwatts(value as u32)) }).collect();
    let pairs: Vec<Prediction> = times.iter().map(|&time| Prediction { predicted: time, measured: time * 1.1 }).collect();
    vec![
        ("distribution", distribution(&times, &marks)),
        ("stages", stages(&bars, ms)),
        ("memory", memory(&lines, mark.map(bytes), mark.map(bytes))),
        ("curve", curve(&points, ms)),
        ("temperature", temperature(&heat, mark.map(|value| Celsius(value as f32)))),
        ("power", power(&watts, mark.map(|value| Milliwatts(value as u32)))),
        ("predicted", predicted(&pairs)),
    ]
}

/// Left, right and base line of every text.
fn texts<'a>(document: &'a roxmltree::Document<'_>) -> Vec<(f64, f64, f64, &'a str)> {
    let number = |node: roxmltree::Node<'_, '_>, name| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text") || node.has_tag_name((SVG, "text")));
    texts
        .map(|node| {
            let text = node.text().unwrap_or_default();
            let (x, width) = (number(node, "x"), super::drawing::width(text));
            let left = match node.attribute("text-anchor") {
                Some("end") => x - width,
                Some("middle") => x - width / 2.0,
                _ => x,
            };
            (left, left + width, number(node, "y"), text)
        })
        .collect()
}

/// No text leaves its drawing or lies on another.
fn check_texts(what: &str, svg: &str) {
    let document = roxmltree::Document::parse(svg).unwrap();
    let right = document.root_element().attribute("viewBox").unwrap().split(' ').nth(2).unwrap().parse::<f64>().unwrap();
    let texts = texts(&document);
    for (index, a) in texts.iter().enumerate() {
        assert!(a.0 >= -1.0 && a.1 <= right + 1.0, "{what}: {a:?} leaves 0..{right}");
        for b in &texts[index + 1..] {
            let apart = a.1 <= b.0 || b.1 <= a.0 || (a.2 - b.2).abs() >= 10.5;
            assert!(apart, "{what}: {a:?} lies on {b:?}");
        }
    }
}

/// The SVG parses, every number in it is one, and everything is drawn inside its box.
fn check(what: &str, svg: &str) {
    let document = roxmltree::Document::parse(svg).unwrap_or_else(|error| panic!("{what}: {error}: {svg}"));
    let view = document.root_element().attribute("viewBox").unwrap();
    let view: Vec<f64> = view.split(' ').map(|number| number.parse().unwrap()).collect();
    for node in document.descendants().filter(|node| node.is_element()) {
        for name in ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"] {
            let Some(text) = node.attribute(name) else { continue };
            let value: f64 = text.parse().unwrap_or_else(|_| panic!("{what}: {name}={text}"));
            let most = if name.contains('x') || name == "width" { view[2] } else { view[3] };
            assert!((-0.5..=most + 0.5).contains(&value), "{what}: {name}={value} of {most} in {node:?}");
        }
        for number in node.attribute("d").unwrap_or_default().split(['M', 'L', 'Z', ' ']).filter(|number| !number.is_empty()) {
            assert!(number.parse::<f64>().is_ok_and(f64::is_finite), "{what}: {number}");
        }
    }
    assert!(svg.len() < 200_000, "{what}: {} bytes", svg.len());
    assert!(!svg.contains("NaN") && !svg.contains("inf "), "{what}: {svg}");
}

#[test]
fn every_plot_copes_with_every_input() {
    for (name, values) in inputs() {
        for mark in [None, Some(0.0), Some(400.0), Some(1e-3), Some(1e7), Some(f64::NAN), Some(f64::MAX)] {
            for (plot, drawing) in all(&values, mark) {
                for svg in [drawing.wide(), drawing.narrow()] {
                    let what = format!("{plot} of {name} with {mark:?}");
                    check(&what, svg);
                    check_texts(&what, svg);
                }
            }
        }
    }
}

#[test]
fn nothing_to_show_is_said() {
    for (plot, drawing) in all(&[], None) {
        assert!(drawing.wide().contains("not measured") && drawing.narrow().contains("not measured"), "{plot}");
    }
    for (plot, drawing) in all(&[f64::NAN], Some(400.0)) {
        if !["memory", "power"].contains(&plot) {
            assert!(drawing.wide().contains("not measured"), "{plot}: a limit alone is no measurement");
        }
    }
}

#[test]
fn one_value_is_drawn() {
    for (plot, drawing) in all(&[412.0], None) {
        let shapes = ["<rect", "<circle"].map(|shape| drawing.wide().matches(shape).count());
        assert!(shapes.iter().sum::<usize>() >= 1, "{plot}: {}", drawing.wide());
    }
}

#[test]
fn equal_inputs_give_equal_drawings() {
    let values = [381.0, 402.5, 399.0, 460.0];
    assert!(all(&values, Some(450.0)) == all(&values, Some(450.0)));
}
