//! Stacked bars: where the time of each ladder step goes, and what memory is planned for.

use maud::{Markup, html};

use super::axes::{ROW, below, notes_under, roomy, under};
use super::drawing::{At, Drawing, Picture, Sheet, Span, TEXT, bold_width, fit, left_out, width};
use super::scale::{Domain, Scale, Start, digits_apart, drawable, figure, figure_of};
use crate::units::{Bytes, Millis};

/// Parts with a colour of their own; the rest share one.
const COLOURS: usize = 9;
/// A limit is drawn where it is at most this many times the longest bar; past that it is named at the edge.
const LIMIT_REACH: f64 = 4.0;

/// One ladder step: its stages in the order they run.
#[derive(Clone, Debug, PartialEq)]
pub struct StageBar<'a> {
    pub label: &'a str,
    pub stages: Vec<(&'a str, Millis)>,
}

/// A horizontal bar a ladder step, a segment a stage, in ms. The legend has each stage with its least and greatest time.
#[must_use]
pub fn stages(bars: &[StageBar<'_>], limit: Option<Millis>) -> Drawing {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in bars.iter().flat_map(|bar| &bar.stages) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let mut skipped = 0;
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    let drawn: Vec<Bar> = bars
        .iter()
        .map(|bar| {
            let mut parts = Vec::new();
            for (name, time) in &bar.stages {
                match (names.iter().position(|other| other == name), drawable(time.0)) {
                    (Some(series), Some(value)) => {
                        values[series].push(value);
                        parts.push(Part { class: colour(series), value: value.max(0.0), name: (*name).to_owned() });
                    }
                    _ => skipped += 1,
                }
            }
            Bar::new(bar.label, parts)
        })
        .filter(|bar| !bar.parts.is_empty())
        .collect();
    let legend = names.iter().zip(&values).enumerate().filter(|(_, (_, values))| !values.is_empty());
    let legend =
        legend.map(|(series, (name, values))| Entry { class: colour(series), name: (*name).to_owned(), value: span(values) }).collect();
    let limit = limit.and_then(|limit| drawable(limit.0));
    Stacked { bars: drawn, legend, unit: "ms", axis: "time, ms", limit, digits: 3, notes: left_out(skipped).into_iter().collect() }
        .drawing("Stage times")
}

/// The planned lines of memory on one another, over the measured peak, with the limit; in MiB. Lines past the nine largest are drawn as one.
#[must_use]
pub fn memory(planned: &[(&str, Bytes)], peak: Option<Bytes>, limit: Option<Bytes>) -> Drawing {
    let mib = |bytes: Bytes| drawable(bytes.mib());
    let mut sizes: Vec<u64> = planned.iter().map(|(_, bytes)| bytes.0).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let (mut own, mut rest) = (Vec::new(), Vec::new());
    for line in planned {
        let large = sizes.iter().take(COLOURS).any(|&size| size == line.1.0);
        if large && own.len() < COLOURS { own.push(line) } else { rest.push(line) }
    }
    let mut parts: Vec<Part> = own
        .iter()
        .enumerate()
        .filter_map(|(series, (name, bytes))| Some(Part { class: colour(series), value: mib(*bytes)?, name: (*name).to_owned() }))
        .collect();
    let left = rest.iter().map(|(_, bytes)| *bytes).sum::<Bytes>();
    if let ([_, ..], Some(value)) = (rest.as_slice(), mib(left)) {
        let name = if let [(name, _)] = rest.as_slice() { (*name).to_owned() } else { format!("{} smaller lines", rest.len()) };
        parts.push(Part { class: colour(COLOURS), value, name });
    }
    let legend = parts
        .iter()
        .map(|part| Entry { class: part.class, name: part.name.clone(), value: format!("{} MiB", figure(part.value)) })
        .collect();
    let mut bars = Vec::new();
    if !parts.is_empty() {
        bars.push(Bar::new("planned", parts));
    }
    let mut notes = Vec::new();
    match peak.and_then(mib) {
        Some(value) => bars.push(Bar::new("measured peak", vec![Part { class: "peak", value, name: "measured peak".to_owned() }])),
        None if bars.is_empty() => {}
        None => notes.push("measured peak: not measured".to_owned()),
    }
    Stacked { bars, legend, unit: "MiB", axis: "memory, MiB", limit: limit.and_then(mib), digits: 3, notes }.drawing("Memory")
}

fn colour(series: usize) -> &'static str {
    ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"].get(series).copied().unwrap_or("rest")
}

/// "41.3 ms", or the least and greatest of several.
fn span(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    let [low, high] = [low, high].map(figure);
    if low == high { format!("{low} ms") } else { format!("{low} – {high} ms") }
}

struct Part {
    class: &'static str,
    value: f64,
    name: String,
}

struct Bar {
    label: String,
    parts: Vec<Part>,
    total: f64,
}

impl Bar {
    fn new(label: &str, parts: Vec<Part>) -> Self {
        Self { label: label.to_owned(), total: parts.iter().map(|part| part.value).sum(), parts }
    }
}

struct Entry {
    class: &'static str,
    name: String,
    value: String,
}

struct Stacked {
    bars: Vec<Bar>,
    legend: Vec<Entry>,
    unit: &'static str,
    axis: &'static str,
    limit: Option<f64>,
    /// Digits with which a total reads differently from a limit that it differs from.
    digits: i32,
    notes: Vec<String>,
}

impl Stacked {
    fn drawing(mut self, what: &str) -> Drawing {
        let longest = self.bars.iter().map(|bar| bar.total).fold(0.0, f64::max);
        let far = self.limit.filter(|&limit| longest > 0.0 && limit > longest * LIMIT_REACH);
        if let Some(limit) = far {
            self.limit = None;
            self.notes.insert(0, format!("limit {} {}: right of this axis", figure(limit), self.unit));
        }
        let Some(domain) = Domain::of(self.bars.iter().map(|bar| bar.total).chain(self.limit), Start::Zero, f64::INFINITY) else {
            return Drawing::not_measured(Span::Full);
        };
        if self.bars.is_empty() {
            return Drawing::not_measured(Span::Full);
        }
        if let Some(limit) = self.limit {
            self.digits = self.bars.iter().map(|bar| digits_apart([bar.total, limit])).max().unwrap_or(self.digits);
        }
        let label = std::iter::once(what.to_owned())
            .chain(self.bars.iter().map(|bar| format!("{} {} {}", bar.label, figure(bar.total), self.unit)))
            .collect::<Vec<_>>()
            .join(", ");
        Drawing::of(Span::Full, &label, |sheet| self.draw(sheet, domain))
    }

    fn draw(&self, sheet: &Sheet, domain: Domain) -> Picture {
        let labels = self.bars.iter().map(|bar| width(&bar.label)).fold(0.0, f64::max).min(200.0);
        let totals = self.bars.iter().map(|bar| bold_width(&self.total(bar))).fold(0.0, f64::max);
        // On a phone the label and the total stand above their bar, else beside it.
        let phone = sheet.is_phone();
        let (left, right) = if phone { (4.0, sheet.width - 14.0) } else { (labels + 14.0, sheet.width - totals - 16.0) };
        let scale = Scale { domain, from: left, to: right };
        let (top, pitch) = (if self.limit.is_some() { 24.0 } else { 6.0 }, if phone { 46.0 } else { 36.0 });
        let places: Vec<(f64, &Bar)> = (0u32..).map(|row| top + f64::from(row) * pitch).zip(&self.bars).collect();
        let bottom = places.last().map_or(top, |(y, _)| y + pitch);
        let ticks = roomy(&scale, sheet.width);
        let (legend, end) = legend(&self.legend, sheet, below(bottom, &self.notes) + 8.0);
        let body = html! {
            g.grid {
                @for tick in &ticks {
                    line x1=(At(scale.at(tick.value))) x2=(At(scale.at(tick.value))) y1=(At(top)) y2=(At(bottom)) {}
                }
            }
            (under(&scale, &ticks, [left, right, bottom, sheet.width], self.axis))
            @for &(y, bar) in &places {
                (self.bar(bar, &scale, y, labels, phone))
            }
            @if let Some(limit) = self.limit {
                @let at = scale.at(limit);
                g.limit {
                    // On a phone only across the bars: between them stand their labels.
                    @if phone {
                        @for &(y, _) in &places {
                            line.mark x1=(At(at)) x2=(At(at)) y1=(At(y + 17.0)) y2=(At(y + 41.0)) {}
                        }
                    } @else {
                        line.mark x1=(At(at)) x2=(At(at)) y1=(At(top - 4.0)) y2=(At(bottom)) {}
                    }
                    @let text = format!("limit {} {}", figure_of(limit, self.digits), self.unit);
                    @let half = bold_width(&text) / 2.0;
                    text x=(At(at.min(sheet.width - half).max(half))) y="12" text-anchor="middle" { (text) }
                }
            }
            @for &(y, bar) in &places {
                @let (x, y, anchor) = if phone { (right, y + 13.0, "end") } else { (self.total_at(bar, &scale), y + 22.0, "start") };
                text.halo.strong.over[self.is_above(bar)] x=(At(x)) y=(At(y)) text-anchor=(anchor) { (self.total(bar)) }
            }
            (notes_under(bottom, &self.notes))
            (legend)
        };
        Picture { height: end, body }
    }

    fn is_above(&self, bar: &Bar) -> bool {
        self.limit.is_some_and(|limit| bar.total > limit)
    }

    fn total(&self, bar: &Bar) -> String {
        format!("{} {}{}", figure_of(bar.total, self.digits), self.unit, if self.is_above(bar) { ", above" } else { "" })
    }

    /// Where a total begins: after its bar, or after the limit's line where that would cross it.
    fn total_at(&self, bar: &Bar, scale: &Scale) -> f64 {
        let end = scale.at(bar.total);
        let text = bold_width(&self.total(bar)) + 12.0;
        match self.limit.map(|limit| scale.at(limit)) {
            Some(limit) if limit > end - 1.0 && limit < end + text => limit + 7.0,
            _ => end + 7.0,
        }
    }

    fn bar(&self, bar: &Bar, scale: &Scale, y: f64, labels: f64, phone: bool) -> Markup {
        let (top, tall) = if phone { (y + 19.0, 20.0) } else { (y + 6.0, 24.0) };
        let mut sum = 0.0;
        let segments: Vec<(f64, f64, &Part)> = bar
            .parts
            .iter()
            .map(|part| {
                let from = scale.at(sum);
                sum += part.value;
                (from, scale.at(sum), part)
            })
            .collect();
        html! {
            @if phone {
                text x="4" y=(At(y + 13.0)) { (fit(&bar.label, 200.0)) title { (bar.label) } }
            } @else {
                text x=(At(labels + 4.0)) y=(At(y + 22.0)) text-anchor="end" { (fit(&bar.label, labels)) title { (bar.label) } }
            }
            @for (from, to, part) in segments {
                // The gap between segments is taken from the wide ones only: a sliver keeps what it has.
                @let gap = if to - from > 3.0 { 1.0 } else { 0.0 };
                rect class=(part.class) x=(At(from)) width=(At((to - from - gap).max(0.0))) y=(At(top)) height=(At(tall)) {
                    title { (part.name) ": " (figure(part.value)) " " (self.unit) }
                }
            }
        }
    }
}

/// Swatch, name and value of each entry in as many columns as fit, read downwards; and where it ends.
fn legend(entries: &[Entry], sheet: &Sheet, top: f64) -> (Markup, f64) {
    const GAP: f64 = 34.0;
    const ROOM: f64 = 34.0;
    if entries.is_empty() {
        return (html! {}, top);
    }
    let widest = |entries: &[Entry], text: fn(&Entry) -> f64| entries.iter().map(text).fold(0.0, f64::max);
    let values = |entries| widest(entries, |entry| bold_width(&entry.value));
    let names = |entries| widest(entries, |entry| width(&entry.name)).min(sheet.width - values(entries) - ROOM);
    let rows_of = |columns: usize| entries.len().div_ceil(columns);
    let wide =
        |columns: usize| entries.chunks(rows_of(columns)).map(|column| ROOM + names(column) + values(column) + GAP).sum::<f64>() - GAP;
    let rows = rows_of([4, 3, 2].into_iter().find(|&columns| wide(columns) <= sheet.width).unwrap_or(1));
    let mut left = 0.0;
    let columns: Vec<_> = entries
        .chunks(rows)
        .map(|column| {
            let from = left;
            let right = from + ROOM + names(column) + values(column);
            left = right + GAP;
            (from, right, column)
        })
        .collect();
    let pitch = ROW + 4.0;
    let markup = html! {
        g.legend {
            @for &(left, right, column) in &columns {
                @for (row, entry) in (0u32..).zip(column) {
                    @let y = top + f64::from(row) * pitch;
                    rect class=(entry.class) x=(At(left)) y=(At(y)) width="11" height="11" rx="2" {}
                    text x=(At(left + 18.0)) y=(At(y + 10.0)) { (fit(&entry.name, names(column))) }
                    text.strong x=(At(right)) y=(At(y + 10.0)) text-anchor="end" { (entry.value) }
                }
            }
        }
    };
    (markup, top + rows as f64 * pitch + TEXT * 0.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legend_has_every_stage_with_its_value() {
        let bars = [
            StageBar { label: "full", stages: vec![("encode", Millis(310.0)), ("select", Millis(0.004))] },
            StageBar { label: "half", stages: vec![("encode", Millis(150.0)), ("select", Millis(0.004)), ("merge", Millis(f64::NAN))] },
        ];
        let drawing = stages(&bars, Some(Millis(250.0)));
        for svg in [drawing.wide(), drawing.narrow()] {
            for text in [">encode<", ">150 – 310 ms<", ">select<", ">0.004 ms<", ">310 ms, above<", ">limit 250 ms<", "1 value left out"]
            {
                assert!(svg.contains(text), "{text} in {svg}");
            }
            assert!(!svg.contains(">merge<"), "a stage without a value has no entry");
        }
    }

    #[test]
    fn memory_lines_past_nine_are_one() {
        let mib = |mib: u64| Bytes(mib << 20);
        let names: Vec<String> = (0..13).map(|line| format!("line {line}")).collect();
        let lines: Vec<(&str, Bytes)> = names.iter().zip(1..).map(|(name, size)| (name.as_str(), mib(size))).collect();
        let drawing = memory(&lines, Some(mib(200)), Some(mib(100)));
        for text in ["4 smaller lines", ">10 MiB<", ">91 MiB<", ">200 MiB, above<", ">limit 100 MiB<", ">line 12<"] {
            assert!(drawing.wide().contains(text), "{text} in {}", drawing.wide());
        }
        assert!(!drawing.wide().contains(">line 3<"));
        assert!(memory(&lines, None, Some(mib(1 << 20))).wide().contains("measured peak: not measured"));
    }
}
