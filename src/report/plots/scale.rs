//! From values to places: the range of an axis, its ticks, and numbers as text.

/// Past this a value is not a measurement of anything here, and sums of two still are exact enough to draw.
const MOST: f64 = 1e15;
/// Below this a value is drawn as zero.
const LEAST: f64 = 1e-9;

/// The value that can be drawn for `value`; none for what isn't finite or is past all measure.
pub(super) fn drawable(value: f64) -> Option<f64> {
    (value.is_finite() && value.abs() <= MOST).then_some(if value.abs() < LEAST { 0.0 } else { value })
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    /// The range reaches zero, as a bar's must.
    Zero,
    Data,
}

/// The range of an axis: `low < high`, and `low > 0` where it is logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Domain {
    low: f64,
    high: f64,
    log: bool,
    /// Of counts: a tick is a whole number.
    whole: bool,
}

impl Domain {
    /// Around drawable values, with round ends; logarithmic where all are positive and the largest is `log_from` times the smallest.
    /// None without a value.
    pub fn of(values: impl IntoIterator<Item = f64>, start: Start, log_from: f64) -> Option<Self> {
        let ends = values.into_iter().fold(None, |ends: Option<(f64, f64)>, value| {
            Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        });
        let (mut low, mut high) = ends?;
        if start == Start::Data && low > 0.0 && high / low >= log_from {
            let margin = (high / low).powf(0.04);
            return Some(Self { low: low / margin, high: high * margin, log: true, whole: false });
        }
        if start == Start::Zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let size = low.abs().max(high.abs());
        if high - low <= size * 1e-6 {
            let around = if size == 0.0 { 1.0 } else { size * 0.1 };
            (low, high) = (if start == Start::Zero { low } else { low - around }, high + around);
        }
        let step = nice((high - low) / 10.0);
        Some(Self { low: (low / step + 1e-9).floor() * step, high: (high / step - 1e-9).ceil() * step, log: false, whole: false })
    }

    /// From none to the largest of some counts.
    pub fn of_counts(largest: f64) -> Self {
        let largest = largest.max(1.0);
        let step = nice(largest / 10.0).max(1.0);
        Self { low: 0.0, high: (largest / step).ceil() * step, log: false, whole: true }
    }

    pub fn is_log(&self) -> bool {
        self.log
    }

    /// Where `value` lies, from 0 at the low end to 1; values outside are at an end.
    pub fn share(&self, value: f64) -> f64 {
        let share = if self.log {
            if value <= self.low { 0.0 } else { (value / self.low).ln() / (self.high / self.low).ln() }
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values in the range with their text, lowest first: about `wanted`, at least one, never more than 24.
    pub fn ticks(&self, wanted: f64) -> Vec<Tick> {
        let mut ticks = if self.log { self.log_ticks(wanted) } else { self.linear_ticks(wanted) };
        // No multiple of so wide a step lies in the range.
        if ticks.is_empty() {
            ticks = self.linear_ticks(5.0);
        }
        ticks.truncate(24);
        ticks
    }

    fn linear_ticks(&self, wanted: f64) -> Vec<Tick> {
        let step = nice((self.high - self.low) / wanted.max(1.0)).max(if self.whole { 1.0 } else { 0.0 });
        let decimals = decimals_of(step);
        let mut ticks = Vec::new();
        let mut index = (self.low / step - 1e-6).ceil();
        while index <= self.high / step + 1e-6 && ticks.len() < 24 {
            // `+ 0.0` makes a zero of minus zero.
            let value = index * step + 0.0;
            ticks.push(Tick { value, text: grouped(&format!("{value:.decimals$}")) });
            index += 1.0;
        }
        ticks
    }

    /// 1-2-5 in each decade where there is room, else decades, else every so many decades.
    fn log_ticks(&self, wanted: f64) -> Vec<Tick> {
        let (low, high) = (self.low.log10(), self.high.log10());
        let (mut decade, every, within): (f64, f64, &[f64]) = if (high - low) * 3.0 <= wanted * 1.3 {
            (low.floor(), 1.0, &[1.0, 2.0, 5.0])
        } else {
            (low.ceil(), ((high - low) / wanted.max(1.0)).ceil(), &[1.0])
        };
        let mut ticks = Vec::new();
        while decade <= high {
            for factor in within {
                let value = 10f64.powf(decade) * factor;
                if value >= self.low && value <= self.high {
                    ticks.push(Tick { value, text: figure(value) });
                }
            }
            decade += every;
        }
        ticks
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub text: String,
}

/// A domain laid over drawing units; `to` may lie before `from`, as upwards does.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub domain: Domain,
    pub from: f64,
    pub to: f64,
}

impl Scale {
    pub fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * self.domain.share(value)
    }
}

/// The step among 1, 2, 5 and their tens that is no smaller than `step`, which is positive.
fn nice(step: f64) -> f64 {
    let ten = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * ten).into_iter().find(|&nice| nice >= step * (1.0 - 1e-9)).unwrap_or(10.0 * ten)
}

/// Decimals that tell multiples of `step` apart.
fn decimals_of(step: f64) -> usize {
    let mut scaled = step;
    let mut decimals = 0;
    while scaled < 1.0 - 1e-6 && decimals < 12 {
        scaled *= 10.0;
        decimals += 1;
    }
    decimals
}

/// A number for people: three digits, or all before the point; thousands apart.
pub(super) fn figure(value: f64) -> String {
    figure_of(value, 3)
}

/// The same with more digits than three.
pub(super) fn figure_of(value: f64, digits: i32) -> String {
    let size = value.abs();
    if size >= 1e12 {
        return format!("{value:.2e}");
    }
    let enough = 10f64.powi(digits - 1) * 0.9995;
    let mut decimals = 0;
    let mut scaled = size;
    while size > 0.0 && scaled < enough && decimals < 9 {
        scaled *= 10.0;
        decimals += 1;
    }
    let text = format!("{value:.decimals$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    grouped(short)
}

/// The digits, three or more, with which values that differ read differently.
///
/// # Why
/// "p99 450" beside "limit 450" hides whether the limit was met.
pub(super) fn digits_apart(values: impl IntoIterator<Item = f64>) -> i32 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let differ = |digits: &i32| values.windows(2).all(|pair| figure_of(pair[0], *digits) != figure_of(pair[1], *digits));
    (3..9).find(differ).unwrap_or(9)
}

/// The whole part of a plain decimal number in groups of three.
fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("−", digits));
    let (whole, rest) = digits.find('.').map_or((digits, ""), |point| digits.split_at(point));
    let mut text = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unshare(domain: &Domain, share: f64) -> f64 {
        let Domain { low, high, log, .. } = *domain;
        if log { low * (high / low).powf(share) } else { low + (high - low) * share }
    }

    #[test]
    fn numbers_for_people() {
        let cases = [
            (0.0, "0"),
            (0.001, "0.001"),
            (0.0123456, "0.0123"),
            (4.1, "4.1"),
            (9.999, "10"),
            (41.26, "41.3"),
            (412.7, "413"),
            (50.0, "50"),
            (100.0, "100"),
            (1234.0, "1,234"),
            (1e7, "10,000,000"),
            (-1234.5, "−1,234"),
            (2e12, "2.00e12"),
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text, "{value}");
        }
    }

    #[test]
    fn values_that_differ_read_differently() {
        let texts = |values: [f64; 2]| values.map(|value| figure_of(value, digits_apart(values)));
        assert_eq!(texts([431.0, 450.0]), ["431", "450"]);
        assert_eq!(texts([449.6, 450.0]), ["449.6", "450"]);
        assert_eq!(texts([450.004, 450.0]), ["450.004", "450"]);
        assert_eq!(texts([450.0, 450.0]), ["450", "450"]);
    }

    #[test]
    fn ranges_hold_their_values_and_ticks() {
        let cases: [&[f64]; 12] = [
            &[0.0],
            &[5.0],
            &[-5.0, -5.0],
            &[1e-3, 1e7],
            &[1e-9, 1e15],
            &[-1e15, 1e15],
            &[1e15, 1e15],
            &[1e15, 1e15 - 0.25],
            &[999_999.0, 1_000_000.0],
            &[1e-9, 2e-9],
            &[0.0, 1e-9],
            &[387.0, 403.0, 461.0],
        ];
        for values in cases {
            for start in [Start::Zero, Start::Data] {
                let domain = Domain::of(values.iter().copied(), start, 100.0).unwrap();
                assert!(domain.low < domain.high && domain.low.is_finite() && domain.high.is_finite(), "{values:?}: {domain:?}");
                for &value in values {
                    let back = unshare(&domain, domain.share(value));
                    assert!((back - value).abs() <= 1e-8 * (domain.high - domain.low), "{value} came back as {back} from {domain:?}");
                }
                for wanted in [1.0, 4.0, 10.0] {
                    let ticks = domain.ticks(wanted);
                    assert!((1..=24).contains(&ticks.len()), "{domain:?}: {ticks:?}");
                    assert!(ticks.windows(2).all(|pair| pair[0].value < pair[1].value), "{ticks:?}");
                }
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        let texts = |values: [f64; 2], start, wanted| {
            Domain::of(values, start, 100.0).unwrap().ticks(wanted).into_iter().map(|tick| tick.text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts([0.0, 487.0], Start::Zero, 5.0), "0 100 200 300 400 500");
        assert_eq!(texts([0.21, 0.64], Start::Data, 5.0), "0.2 0.3 0.4 0.5 0.6");
        assert_eq!(texts([1.0, 500.0], Start::Data, 8.0), "1 2 5 10 20 50 100 200 500");
        assert_eq!(texts([1e-3, 1e7], Start::Data, 5.0), "0.001 1 1,000 1,000,000");
        assert_eq!(texts([-12.0, 31.0], Start::Data, 5.0), "−10 0 10 20 30");
    }

    #[test]
    fn what_cannot_be_drawn() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e16, -1e300] {
            assert_eq!(drawable(value), None);
        }
        assert_eq!(drawable(1e-310), Some(0.0));
        assert_eq!(drawable(-3.5), Some(-3.5));
    }
}
