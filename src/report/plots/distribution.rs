//! How often each time was measured, with the percentiles and what they are held against.

use maud::html;

use super::axes::{Area, Axes, Flag, HEAD, ROW};
use super::drawing::{At, Drawing, Picture, Sheet, Span, left_out};
use super::scale::{Domain, Start, digits_apart, drawable, figure, figure_of};
use crate::units::Millis;

/// What a distribution is judged by; what is absent isn't drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Marks {
    pub p50: Option<Millis>,
    pub p95: Option<Millis>,
    pub p99: Option<Millis>,
    /// Upper confidence bound of p99.
    pub bound: Option<Millis>,
    /// What the bound must not pass; times above it are drawn as failed.
    pub limit: Option<Millis>,
}

const LIMIT: &str = "limit";
/// Past this ratio of the largest to the smallest time the axis is logarithmic.
const LOG_FROM: f64 = 100.0;
/// A limit is on the axis only where it leaves the times at least this share of it.
const SHARE_OF_TIMES: f64 = 0.2;
/// Numbers of bins to choose from, fewest first.
const BINS: [u32; 7] = [5, 8, 12, 18, 26, 36, 50];

/// Histogram of times in ms. A limit far beyond the times is named at the edge.
#[must_use]
pub fn distribution(times: &[Millis], marks: &Marks) -> Drawing {
    let mut sorted: Vec<f64> = times.iter().filter_map(|time| drawable(time.0)).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else {
        return Drawing::not_measured(Span::Full);
    };
    let named = [
        ("p50", "p50", marks.p50),
        ("p95", "p95", marks.p95),
        ("p99", "p99", marks.p99),
        ("bound", "bound", marks.bound),
        (LIMIT, "limit", marks.limit),
    ];
    let named: Vec<_> = named.into_iter().filter_map(|(class, name, value)| Some((class, name, drawable(value?.0)?))).collect();
    // Four at least: what the tables and the verdict say of the same times.
    let digits = digits_apart(named.iter().map(|&(.., value)| value)).max(4);
    let flag =
        |&(class, name, value): &(&'static str, &str, f64)| Flag { value, text: format!("{name} {}", figure_of(value, digits)), class };
    let mut flags: Vec<Flag> = named.iter().map(flag).collect();
    let limit = marks.limit.and_then(|limit| drawable(limit.0));

    let over = |flags: &[Flag]| {
        let values = flags.iter().map(|flag| flag.value).chain([least, most]);
        // The first value exists, so there is a domain; the fall-back is never drawn on.
        Domain::of(values, Start::Data, LOG_FROM)
    };
    let Some(mut domain) = over(&flags) else {
        return Drawing::not_measured(Span::Full);
    };
    let mut notes = vec![count(sorted.len(), limit.map(|limit| sorted.iter().filter(|&&time| time > limit).count()))];
    if let Some(limit) = limit
        && limit > most
        && (domain.share(most) - domain.share(least)) < SHARE_OF_TIMES
    {
        flags.retain(|flag| flag.class != LIMIT);
        let without = over(&flags).unwrap_or(domain);
        if without.share(most) - without.share(least) > domain.share(most) - domain.share(least) {
            domain = without;
            notes.push(format!("limit {} ms: right of this axis", figure(limit)));
        }
    }
    notes.extend(left_out(times.len() - sorted.len()));

    let label = std::iter::once(format!("Histogram of {} times in ms", sorted.len()))
        .chain(flags.iter().map(|flag| flag.text.clone()))
        .collect::<Vec<_>>()
        .join(", ");
    Drawing::of(Span::Full, &label, |sheet| draw(sheet, &sorted, &flags, domain, limit, &notes))
}

fn count(times: usize, over: Option<usize>) -> String {
    match over {
        Some(over) => format!("n = {times}, {over} above the limit"),
        None => format!("n = {times}"),
    }
}

/// One bar: its places from left to right, how many times it holds and how many of them are above the limit.
struct Bin {
    ends: [f64; 2],
    count: usize,
    over: usize,
    what: String,
}

fn draw(sheet: &Sheet, sorted: &[f64], flags: &[Flag], domain: Domain, limit: Option<f64>, notes: &[String]) -> Picture {
    let tall = if sheet.is_phone() { 170.0 } else { 220.0 };
    let most_bins = if sheet.is_phone() { 26 } else { 50 };
    let bins = bins(sorted, domain, limit, most_bins);
    let highest = bins.iter().map(|bin| bin.count as f64).fold(1.0, f64::max);
    let counts = Domain::of_counts(highest);
    let right = Flag::room(flags, &domain, sheet.width, Axes::left(tall, &counts));
    // The rows decide the head and the head moves nothing sideways, so a first layout finds them.
    let rows = Flag::rows(flags, &Axes::new(sheet, [HEAD, tall, right], domain, counts).x);
    let head = HEAD + rows.iter().map(|&row| f64::from(row + 1) * ROW).fold(0.0, f64::max) + 4.0;
    let axes = Axes::new(sheet, [head, tall, right], domain, counts);
    let title = if domain.is_log() { "time, ms (log)" } else { "time, ms" };
    let body = html! {
        (axes.render(title, "count"))
        @for bin in &bins {
            (bar(bin, &axes))
        }
        (Flag::render(flags, &rows, &axes.x, &axes.area))
        (axes.notes(notes))
    };
    Picture { height: axes.height(notes), body }
}

fn bar(bin: &Bin, axes: &Axes) -> maud::Markup {
    let Area { left, right, bottom, .. } = axes.area;
    let place = |share: f64| left + (right - left) * share;
    let (mut from, mut to) = (place(bin.ends[0]), place(bin.ends[1]));
    if to - from < 3.0 {
        let middle = f64::midpoint(from, to);
        (from, to) = (middle - 8.0, middle + 8.0);
    }
    // A lone time among hundreds is still seen.
    let high = |count: usize| if count == 0 { 0.0 } else { (bottom - axes.y.at(count as f64)).max(1.5) };
    let (all, over) = (high(bin.count), high(bin.over));
    html! {
        g {
            title { (bin.what) }
            @if bin.count > bin.over {
                rect.bar x=(At(from + 0.5)) width=(At(to - from - 1.0)) y=(At(bottom - all)) height=(At(all - over)) {}
            }
            @if bin.over > 0 {
                rect.bar.over x=(At(from + 0.5)) width=(At(to - from - 1.0)) y=(At(bottom - over)) height=(At(over)) {}
            }
        }
    }
}

/// Bins of even width on the axis from the smallest to the largest of `sorted`, which holds at least one; empty ones are left out.
fn bins(sorted: &[f64], domain: Domain, limit: Option<f64>, most: u32) -> Vec<Bin> {
    let shares: Vec<f64> = sorted.iter().map(|&time| domain.share(time)).collect();
    let quarter = |quarters: usize| shares[(shares.len() - 1) * quarters / 4];
    let (low, high) = (quarter(0), quarter(4));
    // Freedman and Diaconis: twice the middle half's width over the cube root of n.
    let wanted = (high - low) / (2.0 * (quarter(3) - quarter(1)) / (shares.len() as f64).cbrt());
    let number = BINS.into_iter().filter(|&bins| bins <= most).fold(None, |best: Option<u32>, bins| match best {
        Some(best) if f64::from(best) >= wanted => Some(best),
        _ => Some(bins),
    });
    let number = if high - low < 1e-9 { 1 } else { number.unwrap_or(1) };
    let edge = |index: u32| low + (high - low) * f64::from(index) / f64::from(number);
    let mut first = 0;
    let mut bins = Vec::new();
    for index in 0..number {
        let last = index + 1 == number;
        let end = if last { shares.len() } else { shares.partition_point(|&share| share < edge(index + 1)) };
        let held = &sorted[first..end.max(first)];
        if let (Some(&least), Some(&greatest)) = (held.first(), held.last()) {
            let over = limit.map_or(0, |limit| held.len() - held.partition_point(|&time| time <= limit));
            let what = format!("{} of {}: {} to {} ms", held.len(), sorted.len(), figure(least), figure(greatest));
            bins.push(Bin { ends: [edge(index), edge(index + 1)], count: held.len(), over, what });
        }
        first = end.max(first);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plots::scale::Scale;

    fn flag(value: f64, text: &str) -> Flag {
        Flag { value, text: text.to_owned(), class: "p50" }
    }

    #[test]
    fn bins_hold_every_time_once() {
        let cases: [Vec<f64>; 5] = [
            vec![3.0],
            vec![7.0; 40],
            (0..500).map(|i| 400.0 + f64::from(i % 37)).collect(),
            vec![1e-3, 1.0, 1e7],
            (0..100).map(|i| if i == 0 { 1e6 } else { 1e5 }).collect(),
        ];
        for mut times in cases {
            times.sort_by(f64::total_cmp);
            let domain = Domain::of(times.iter().copied(), Start::Data, LOG_FROM).unwrap();
            for limit in [None, Some(0.0), Some(410.0), Some(1e9)] {
                let bins = bins(&times, domain, limit, 50);
                assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), times.len());
                let over = limit.map_or(0, |limit| times.iter().filter(|&&time| time > limit).count());
                assert_eq!(bins.iter().map(|bin| bin.over).sum::<usize>(), over);
            }
        }
    }

    #[test]
    fn labels_never_lie_on_another_or_under_a_mark() {
        let domain = Domain::of([0.0, 100.0], Start::Data, LOG_FROM).unwrap();
        let x = Scale { domain, from: 0.0, to: 900.0 };
        for values in [[10.0, 30.0, 50.0, 70.0, 90.0], [40.0, 41.0, 42.0, 43.0, 44.0], [5.0; 5], [44.0, 10.0, 43.0, 41.0, 90.0]] {
            let flags: Vec<Flag> = values.iter().map(|&value| flag(value, "bound 123")).collect();
            let rows = Flag::rows(&flags, &x);
            for (a, b) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                let [left, right] = [a, b].map(|index| x.at(values[index]));
                // b's mark stands inside a's label: a must be above it.
                if left < right && right < left + flags[a].width() {
                    assert!(rows[a] > rows[b], "{values:?}: {rows:?}");
                }
                assert!(left != right || rows[a] != rows[b], "{values:?}: {rows:?}");
            }
            if values[1] == 30.0 {
                assert_eq!(rows, [0; 5], "labels that don't meet share the row next to the data");
            }
        }
    }

    #[test]
    fn a_far_limit_is_named_at_the_edge_and_a_near_one_drawn() {
        let times: Vec<Millis> = (0..100).map(|i| Millis(400.0 + f64::from(i % 20))).collect();
        let drawn = |limit| distribution(&times, &Marks { limit: Some(Millis(limit)), ..Marks::default() });
        assert!(drawn(450.0).wide().contains(">limit 450<"));
        assert!(drawn(9e6).wide().contains("limit 9,000,000 ms: right of this axis"));
        assert!(drawn(410.0).wide().contains("n = 100, 45 above the limit"));
    }
}
