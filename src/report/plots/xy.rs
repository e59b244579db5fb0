//! Points and lines over two axes: a budget curve, readings over time, predicted against measured times.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use maud::{Markup, html};

use super::axes::{Axes, HEAD};
use super::drawing::{At, Drawing, Picture, Sheet, Span, TEXT, bold_width, left_out, width};
use super::scale::{Domain, Start, Tick, drawable, figure};
use crate::units::{Celsius, Millis, Milliwatts, Tokens};

/// Past this ratio of largest to smallest an axis of times is logarithmic.
const LOG_FROM: f64 = 100.0;
/// Budgets are chosen by doubling, so their axis is logarithmic sooner.
const LOG_FROM_TOKENS: f64 = 16.0;

fn tall(sheet: &Sheet) -> f64 {
    if sheet.is_phone() { 190.0 } else { 230.0 }
}

/// What a budget costs: times of many answers at one number of visual tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    pub tokens: Tokens,
    pub p50: Millis,
    pub p99: Millis,
}

/// Time in ms over the budget in tokens: a line through the medians, the band up to p99, and the limit.
#[must_use]
pub fn curve(points: &[CurvePoint], limit: Option<Millis>) -> Drawing {
    let mut drawn: Vec<[f64; 3]> =
        points.iter().filter_map(|point| Some([f64::from(point.tokens.0), drawable(point.p50.0)?, drawable(point.p99.0)?])).collect();
    drawn.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let limit = limit.and_then(|limit| drawable(limit.0));
    let times = drawn.iter().flat_map(|&[_, p50, p99]| [p50, p99]);
    // A limit far above the curve would flatten it.
    let highest = times.clone().fold(0.0, f64::max);
    let far = limit.filter(|&limit| limit > highest * 4.0);
    let near = limit.filter(|_| far.is_none());
    let (Some(x), Some(mut y)) =
        (Domain::of(drawn.iter().map(|point| point[0]), Start::Data, LOG_FROM_TOKENS), Domain::of(times.clone(), Start::Data, LOG_FROM))
    else {
        return Drawing::not_measured(Span::Half);
    };
    // From zero, unless the times span so much that only their logarithm shows them.
    if let Some(domain) = Domain::of(times.chain(near.map(with_headroom)), if y.is_log() { Start::Data } else { Start::Zero }, LOG_FROM) {
        y = domain;
    }
    let mut notes: Vec<String> = far.map(|limit| format!("limit {} ms: above this axis", figure(limit))).into_iter().collect();
    notes.extend(left_out(points.len() - drawn.len()));
    let label = format!("Median and p99 of the time at {} budgets", drawn.len());
    Drawing::of(Span::Half, &label, |sheet| {
        let mut axes = Axes::new(sheet, [HEAD, tall(sheet), width("p99") + 12.0], x, y);
        axes.x_ticks_at(drawn.iter().map(|point| Tick { value: point[0], text: figure(point[0]) }).collect());
        let place = |series: usize| drawn.iter().map(move |point| (point[0], point[series])).collect::<Vec<_>>();
        let [p50, p99] = [1, 2].map(|series| place(series).iter().map(|&(x, y)| (axes.x.at(x), axes.y.at(y))).collect::<Vec<_>>());
        let band: Vec<(f64, f64)> = p99.iter().copied().chain(p50.iter().rev().copied()).collect();
        let body = html! {
            (axes.render(if x.is_log() { "budget, tokens (log)" } else { "budget, tokens" }, if y.is_log() { "time, ms (log)" } else { "time, ms" }))
            path.band d={ (line(&band)) "Z" } {}
            path.line.thin d=(line(&p99)) {}
            path.line d=(line(&p50)) {}
            (limit_line(near, "ms", &axes, &[p50.clone(), p99.clone()]))
            @for (point, (&middle, &high)) in drawn.iter().zip(p50.iter().zip(&p99)) {
                g {
                    title { (figure(point[0])) " tokens: p50 " (figure(point[1])) " ms, p99 " (figure(point[2])) " ms" }
                    circle.ring cx=(At(high.0)) cy=(At(high.1)) r="2.5" {}
                    circle.dot cx=(At(middle.0)) cy=(At(middle.1)) r="3.5" {}
                }
            }
            (ends(&p50, &p99, axes.area.bottom))
            (axes.notes(&notes))
        };
        Picture { height: axes.height(&notes), body }
    })
}

/// The names of the two lines at their right ends, kept a text's height apart and above the axis.
fn ends(p50: &[(f64, f64)], p99: &[(f64, f64)], bottom: f64) -> Markup {
    let (Some(&(x, low)), Some(&(_, high))) = (p50.last(), p99.last()) else {
        return html! {};
    };
    let short = (TEXT + 2.0 - (low - high).abs()).max(0.0) / 2.0;
    let [low, high] = if low >= high { [low + short, high - short] } else { [low - short, high + short] };
    let sunk = (low.max(high) + TEXT / 2.0 - bottom).max(0.0);
    let [low, high] = [low - sunk, high - sunk];
    html! {
        text.series.halo x=(At(x + 8.0)) y=(At(high + 4.0)) { "p99" }
        text.series.strong.halo x=(At(x + 8.0)) y=(At(low + 4.0)) { "p50" }
    }
}

/// One reading; what the board didn't tell is absent and makes a gap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<T> {
    /// Since the run began.
    pub at: Duration,
    pub value: Option<T>,
}

/// Temperature over a run, in °C.
#[must_use]
pub fn temperature(samples: &[Sample<Celsius>], limit: Option<Celsius>) -> Drawing {
    let value = |reading: Celsius| f64::from(reading.0);
    let readings: Vec<_> = samples.iter().map(|sample| (sample.at, sample.value.map(value))).collect();
    over_time(&readings, limit.map(value), "Temperature", "°C", Start::Data)
}

/// Power drawn over a run, in W.
#[must_use]
pub fn power(samples: &[Sample<Milliwatts>], limit: Option<Milliwatts>) -> Drawing {
    let value = |reading: Milliwatts| f64::from(reading.0) / 1e3;
    let readings: Vec<_> = samples.iter().map(|sample| (sample.at, sample.value.map(value))).collect();
    over_time(&readings, limit.map(value), "Power", "W", Start::Zero)
}

fn over_time(readings: &[(Duration, Option<f64>)], limit: Option<f64>, what: &str, unit: &str, start: Start) -> Drawing {
    let mut drawn: Vec<(f64, Option<f64>)> =
        readings.iter().filter_map(|(at, value)| Some((drawable(at.as_secs_f64())?, value.and_then(drawable)))).collect();
    drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
    let limit = limit.and_then(drawable);
    let known = drawn.iter().filter_map(|reading| reading.1);
    let longest = drawn.last().map_or(0.0, |reading| reading.0);
    let (seconds, name) = match longest {
        longest if longest >= 2.0 * 3600.0 => (3600.0, "h"),
        longest if longest >= 180.0 => (60.0, "min"),
        _ => (1.0, "s"),
    };
    if known.clone().next().is_none() {
        return Drawing::not_measured(Span::Half);
    }
    let (Some(x), Some(y)) = (
        Domain::of(drawn.iter().map(|reading| reading.0 / seconds), Start::Zero, f64::INFINITY),
        Domain::of(known.clone().chain(limit.map(with_headroom)), start, f64::INFINITY),
    ) else {
        return Drawing::not_measured(Span::Half);
    };
    let [low, high] = [f64::min, f64::max].map(|end| known.clone().reduce(end).map_or_else(String::new, figure));
    let mut notes = vec![format!("{low} to {high} {unit}")];
    match readings.len() - known.count() {
        0 => {}
        absent => notes.push(format!("{absent} of {} readings absent", readings.len())),
    }
    Drawing::of(Span::Half, &format!("{what} over time, {low} to {high} {unit}"), |sheet| {
        let axes = Axes::new(sheet, [HEAD, tall(sheet), 14.0], x, y);
        let runs = runs(drawn.iter().map(|&(at, value)| Some((axes.x.at(at / seconds), axes.y.at(value?)))));
        let body = html! {
            (axes.render(&format!("time, {name}"), &format!("{}, {unit}", what.to_lowercase())))
            @for run in &runs {
                @match run.as_slice() {
                    [(x, y)] => { circle.dot cx=(At(*x)) cy=(At(*y)) r="2" {} }
                    run => { path.line d=(line(run)) {} }
                }
            }
            (limit_line(limit, unit, &axes, &runs))
            (axes.notes(&notes))
        };
        Picture { height: axes.height(&notes), body }
    })
}

/// Lines between gaps; a gap narrower than a drawing unit isn't seen and makes none.
fn runs(places: impl Iterator<Item = Option<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut run: Vec<(f64, f64)> = Vec::new();
    let mut gap = false;
    for place in places {
        let Some(place) = place else {
            gap = true;
            continue;
        };
        if gap && run.last().is_some_and(|last| place.0 - last.0 >= 1.0) {
            runs.push(thinned(&std::mem::take(&mut run)));
        }
        gap = false;
        run.push(place);
    }
    if !run.is_empty() {
        runs.push(thinned(&run));
    }
    runs
}

/// Of the places within one drawing unit only the first, lowest, highest and last: no more would be seen.
fn thinned(run: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for column in run.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let ends = [0, column.len() - 1];
        let by_height = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let extremes = [(0..column.len()).min_by(by_height), (0..column.len()).max_by(by_height)];
        let indices: BTreeSet<usize> = ends.into_iter().chain(extremes.into_iter().flatten()).collect();
        kept.extend(indices.into_iter().map(|index| column[index]));
    }
    kept
}

/// What the cost model said and what happened, of one stage or one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    pub predicted: Millis,
    pub measured: Millis,
}

/// Measured over predicted times in ms, with the line where both are equal: above it things took longer than predicted.
#[must_use]
pub fn predicted(pairs: &[Prediction]) -> Drawing {
    let drawn: Vec<(f64, f64)> = pairs.iter().filter_map(|pair| Some((drawable(pair.predicted.0)?, drawable(pair.measured.0)?))).collect();
    let Some(domain) = Domain::of(drawn.iter().flat_map(|&(x, y)| [x, y]), Start::Data, LOG_FROM) else {
        return Drawing::not_measured(Span::Half);
    };
    let over = drawn.iter().filter(|&&(predicted, measured)| measured > predicted).count();
    let mut notes = vec![format!("{over} of {} took longer than predicted", drawn.len())];
    notes.extend(left_out(pairs.len() - drawn.len()));
    let title = |what: &str| format!("{what}, ms{}", if domain.is_log() { " (log)" } else { "" });
    Drawing::of(Span::Half, &format!("Measured against predicted times: {}", notes[0]), |sheet| {
        let axes = Axes::new(sheet, [HEAD, tall(sheet), 14.0], domain, domain);
        let mut seen = BTreeSet::new();
        let half = |place: f64| (place * 2.0).round() / 2.0;
        let spots: Vec<(f64, f64, bool)> = drawn
            .iter()
            .map(|&(predicted, measured)| (half(axes.x.at(predicted)), half(axes.y.at(measured)), measured > predicted))
            .filter(|spot| seen.insert((spot.0.to_bits(), spot.1.to_bits(), spot.2)))
            .collect();
        let area = axes.area;
        let body = html! {
            (axes.render(&title("predicted"), &title("measured")))
            line.diagonal x1=(At(area.left)) y1=(At(area.bottom)) x2=(At(area.right)) y2=(At(area.top)) {}
            @for (x, y, over) in spots {
                circle.point.slow[over] cx=(At(x)) cy=(At(y)) r="3" {}
            }
            text.muted.halo x=(At(area.left + 8.0)) y=(At(area.top + 14.0)) { "slower than predicted" }
            text.muted.halo x=(At(area.right - 8.0)) y=(At(area.bottom - 9.0)) text-anchor="end" { "faster" }
            (axes.notes(&notes))
        };
        Picture { height: axes.height(&notes), body }
    })
}

/// The height that leaves a limit's name room above its line.
fn with_headroom(limit: f64) -> f64 {
    limit + limit.abs() * 0.08
}

/// Across the plot at `limit`, named where none of `lines` passes: over or under it, at its left or right end.
fn limit_line(limit: Option<f64>, unit: &str, axes: &Axes, lines: &[Vec<(f64, f64)>]) -> Markup {
    let Some(limit) = limit else {
        return html! {};
    };
    let (area, y) = (axes.area, axes.y.at(limit));
    let name = format!("limit {} {unit}", figure(limit));
    let wide = bold_width(&name);
    // Steps along each segment, as a line of few points passes between them.
    let steps: Vec<(f64, f64)> = lines
        .iter()
        .flat_map(|line| line.iter().zip(line.iter().skip(1).chain(line.last())))
        .flat_map(|(a, b)| (0..8u32).map(move |step| f64::from(step) / 8.0).map(move |t| (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t)))
        .collect();
    let inside = |base: f64| base - TEXT >= area.top - 2.0 && base <= area.bottom - 3.0;
    let is_free = |&(x, base): &(f64, f64)| {
        inside(base)
            && !steps.iter().any(|step| step.0 >= x - 4.0 && step.0 <= x + wide + 4.0 && step.1 >= base - TEXT && step.1 <= base + 4.0)
    };
    let (left, right) = (area.left + 6.0, area.right - wide - 6.0);
    let (over, under) = (y - 5.0, y + TEXT + 2.0);
    let places = [(left, over), (right, over), (left, under), (right, under)];
    let (x, base) = places.into_iter().find(is_free).unwrap_or(if inside(over) { places[0] } else { places[2] });
    html! {
        g.limit {
            line.mark x1=(At(area.left)) x2=(At(area.right)) y1=(At(y)) y2=(At(y)) {}
            text.halo x=(At(x)) y=(At(base)) { (name) }
        }
    }
}

/// The path through `places`; of one place it is the place alone.
fn line(places: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, &(x, y)) in places.iter().enumerate() {
        // Writing to a string doesn't fail.
        let _ = write!(path, "{}{} {}", if index == 0 { "M" } else { "L" }, At(x), At(y));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_reading_breaks_the_line() {
        let at = |x: u32, y: Option<f64>| Some((f64::from(x) * 2.0, y?));
        let places = [at(0, Some(1.0)), at(1, Some(2.0)), at(2, None), at(3, None), at(4, Some(5.0)), at(5, None)];
        assert_eq!(runs(places.into_iter()), [vec![(0.0, 1.0), (2.0, 2.0)], vec![(8.0, 5.0)]]);
        assert!(runs(std::iter::empty()).is_empty());
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_extremes() {
        let run: Vec<(f64, f64)> =
            (0..100_000).map(|i| (f64::from(i) / 1000.0, if i == 50_321 { 9.0 } else { f64::from(i % 7) })).collect();
        let kept = thinned(&run);
        assert!(kept.len() <= 400, "{}", kept.len());
        assert!(kept.contains(&(50.321, 9.0)) && kept.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn gaps_show_in_the_drawing() {
        let sample = |second: u64, value: Option<f32>| Sample { at: Duration::from_secs(second), value: value.map(Celsius) };
        let samples = [sample(0, Some(50.0)), sample(1, Some(51.0)), sample(2, None), sample(3, Some(f32::NAN)), sample(4, Some(52.0))];
        let drawing = temperature(&samples, Some(Celsius(85.0)));
        assert_eq!(drawing.wide().matches("<path").count(), 1);
        for text in ["2 of 5 readings absent", "50 to 52 °C", ">limit 85 °C<", ">time, s<"] {
            assert!(drawing.wide().contains(text), "{text} in {}", drawing.wide());
        }
    }

    #[test]
    fn slower_than_predicted_is_counted() {
        let pair = |predicted, measured| Prediction { predicted: Millis(predicted), measured: Millis(measured) };
        let drawing = predicted(&[pair(10.0, 9.0), pair(10.0, 9.0), pair(20.0, 21.0), pair(f64::NAN, 1.0)]);
        for text in ["1 of 3 took longer than predicted", "1 value left out"] {
            assert!(drawing.wide().contains(text), "{text}");
        }
        assert_eq!(drawing.wide().matches("<circle").count(), 2, "points on one spot are drawn once");
    }
}
