//! A board that follows a seeded trace: temperature, power mode and slowdown over time.
//!
//! # Why
//! What the ladder does in a hot cabin or in another power mode has to be tried where there is neither, in virtual time and the same way
//! twice. What is said for a moment is a pure function of the trace and the moment.
//!
//! ```toml
//! seed = 7
//! temperature-noise-c = 0.5     # by default
//! slowdown-noise = 0.02         # by default, of the slowdown
//!
//! [[segment]]
//! until-s = 60.0
//! temperature-c = 48.0
//! power-mode = "25W"            # optional
//! slowdown = 1.0
//!
//! [[segment]]                   # heats up for a minute, and is slower at once
//! until-s = 120.0
//! temperature-c = 91.0
//! power-mode = "15W"
//! slowdown = 1.6
//! ```
//! A segment's power mode and slowdown hold from its start: boards throttle in steps. Its temperature is reached at its end, in a straight
//! line from where the segment before ended: silicon heats and cools. The first segment's temperature holds, and so does all of the last's
//! after its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::Deserialize;

use crate::board::{Board, BoardError, PowerMode, sysfs};
use crate::units::{Celsius, Millis, Readings};

/// No board works ten times as fast as itself at its best.
const MIN_SLOWDOWN: f64 = 0.1;
/// And none that is a thousand times slower answers.
const MAX_SLOWDOWN: f64 = 1e3;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TraceFile {
    seed: u64,
    temperature_noise_c: Option<f64>,
    slowdown_noise: Option<f64>,
    #[serde(default, rename = "segment")]
    segments: Vec<SegmentFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SegmentFile {
    until_s: f64,
    temperature_c: f32,
    power_mode: Option<String>,
    slowdown: f64,
}

/// A validated trace: one segment at least, each of which ends after the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    seed: u64,
    /// Largest deviation, °C.
    temperature_noise: f64,
    /// Largest deviation as a share of the slowdown, below 1.
    slowdown_noise: f64,
    segments: Vec<Segment>,
}

/// From the end of the segment before, or from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub until: Millis,
    /// At its end. May be one that no sensor should tell: a trace can lie.
    pub temperature: Celsius,
    pub power_mode: Option<String>,
    /// Times that work takes against a board at its best.
    pub slowdown: f64,
}

impl Trace {
    /// Reads the text of a trace.
    ///
    /// # Errors
    /// What isn't TOML, holds a key that is unknown, or a value that can't be, with the value that is wanted.
    pub fn parse(text: &str) -> Result<Self, BoardError> {
        let file: TraceFile = toml::from_str(text).map_err(|source| BoardError::TraceSyntax { source: Box::new(source) })?;
        let check = |good: bool, key: String, found: String, wanted: &'static str| {
            if good { Ok(()) } else { Err(BoardError::Trace { key, found, wanted }) }
        };
        let temperature_noise = file.temperature_noise_c.unwrap_or(0.5);
        let good = (0.0..=100.0).contains(&temperature_noise);
        check(good, "temperature-noise-c".into(), temperature_noise.to_string(), "0 to 100")?;
        let slowdown_noise = file.slowdown_noise.unwrap_or(0.02);
        let good = (0.0..=0.5).contains(&slowdown_noise);
        check(good, "slowdown-noise".into(), slowdown_noise.to_string(), "0 to 0.5")?;
        check(!file.segments.is_empty(), "segment".into(), "none".into(), "one at least")?;
        let mut segments = Vec::with_capacity(file.segments.len());
        let mut start = 0.0;
        for (number, segment) in (1..).zip(file.segments) {
            let SegmentFile { until_s, temperature_c, power_mode, slowdown } = segment;
            let key = |key: &str| format!("segment {number}: {key}");
            let good = until_s > start && until_s.is_finite();
            check(good, key("until-s"), until_s.to_string(), "above 0 and above that of the segment before")?;
            check(temperature_c.is_finite(), key("temperature-c"), temperature_c.to_string(), "a finite number")?;
            let good = (MIN_SLOWDOWN..=MAX_SLOWDOWN).contains(&slowdown);
            check(good, key("slowdown"), slowdown.to_string(), "0.1 to 1000")?;
            check(power_mode.as_deref() != Some(""), key("power-mode"), "\"\"".into(), "a name, or no such key")?;
            start = until_s;
            segments.push(Segment { until: Millis(until_s * 1e3), temperature: Celsius(temperature_c), power_mode, slowdown });
        }
        Ok(Self { seed: file.seed, temperature_noise, slowdown_noise, segments })
    }

    /// Reads a trace's file, of 256 KiB at most.
    ///
    /// # Errors
    /// As [`Trace::parse`], and a file that can't be read or is longer.
    pub fn read(path: &Path) -> Result<Self, BoardError> {
        let found = |found: io::Error| BoardError::TraceFile { path: path.to_owned(), found };
        let text = sysfs::read(path, sysfs::LONG).map_err(found)?;
        Self::parse(&text.ok_or_else(|| BoardError::TraceText { path: path.to_owned(), allowed: sysfs::LONG })?)
    }

    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Two numbers in [-1, 1] that are this moment's own.
    fn noise(&self, now: Millis) -> [f64; 2] {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(now.0.to_bits());
        [(); 2].map(|()| f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0)
    }
}

/// Plays a [`Trace`] against a clock.
pub struct ScriptedBoard {
    trace: Trace,
    clock: Clock,
}

enum Clock {
    /// Microseconds since the trace began.
    Virtual(Arc<AtomicU64>),
    Real(Instant),
}

impl ScriptedBoard {
    /// By a virtual clock, in microseconds since the trace began, that somebody else moves.
    #[must_use]
    pub fn new(trace: Trace, clock: Arc<AtomicU64>) -> Self {
        Self { trace, clock: Clock::Virtual(clock) }
    }

    /// By the real clock, from now on.
    #[must_use]
    pub fn play(trace: Trace) -> Self {
        Self { trace, clock: Clock::Real(Instant::now()) }
    }

    /// What the board says `now` after the trace began, and how many times as long work takes: pure, the same for the same moment.
    #[must_use]
    pub fn at(&self, now: Millis) -> (Readings, f64) {
        let segments = &self.trace.segments;
        let place = segments.partition_point(|segment| segment.until <= now).min(segments.len() - 1);
        let segment = &segments[place];
        let (start, from) = match place.checked_sub(1) {
            Some(before) => (segments[before].until, segments[before].temperature),
            None => (Millis::ZERO, segment.temperature),
        };
        let share = ((now - start).0 / (segment.until - start).0).min(1.0);
        let (from, to) = (f64::from(from.0), f64::from(segment.temperature.0));
        let [warmer, slower] = self.trace.noise(now);
        let temperature = from + (to - from) * share + warmer * self.trace.temperature_noise;
        // Rounds to the nearest f32, which tells a hundred-thousandth of a degree.
        let temperature = Some(Celsius(temperature as f32));
        let readings = Readings { temperature, power_mode: segment.power_mode.clone(), ..Readings::default() };
        (readings, segment.slowdown * (1.0 + slower * self.trace.slowdown_noise))
    }

    fn now(&self) -> Millis {
        match &self.clock {
            Clock::Virtual(micros) => Duration::from_micros(micros.load(Ordering::Acquire)).into(),
            Clock::Real(began) => began.elapsed().into(),
        }
    }
}

impl Board for ScriptedBoard {
    fn id(&self) -> &str {
        "scripted"
    }

    fn read(&mut self) -> Readings {
        self.at(self.now()).0
    }

    /// The trace's, in the order in which they come, numbered from 0.
    fn power_modes(&mut self) -> Vec<PowerMode> {
        let mut modes: Vec<PowerMode> = Vec::new();
        for name in self.trace.segments.iter().filter_map(|segment| segment.power_mode.as_ref()) {
            if modes.iter().all(|mode| mode.name != *name) {
                let id = modes.last().map_or(0, |last| last.id + 1);
                modes.push(PowerMode { id, name: name.clone() });
            }
        }
        modes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: &str = r#"
        seed = 7
        temperature-noise-c = 0.0
        slowdown-noise = 0.0
        segment = [
            { until-s = 60.0, temperature-c = 50.0, power-mode = "25W", slowdown = 1.0 },
            { until-s = 160.0, temperature-c = 90.0, power-mode = "15W", slowdown = 1.5 },
            { until-s = 170, temperature-c = 40.0, slowdown = 0.1 },
            { until-s = 180.0, temperature-c = 40.0, power-mode = "25W", slowdown = 2.0 },
        ]
    "#;

    fn board(text: &str) -> ScriptedBoard {
        ScriptedBoard::new(Trace::parse(text).unwrap(), Arc::default())
    }

    #[test]
    fn temperatures_go_straight_and_the_rest_in_steps() {
        let board = board(HOT);
        let cases = [
            (0.0, 50.0, Some("25W"), 1.0),
            (59.999, 50.0, Some("25W"), 1.0),
            (60.0, 50.0, Some("15W"), 1.5),
            (85.0, 60.0, Some("15W"), 1.5),
            (160.0, 90.0, None, 0.1),
            (165.0, 65.0, None, 0.1),
            (170.0, 40.0, Some("25W"), 2.0),
            (180.0, 40.0, Some("25W"), 2.0),
            (1e9, 40.0, Some("25W"), 2.0),
        ];
        for (seconds, temperature, mode, slowdown) in cases {
            let wanted = Readings { temperature: Some(Celsius(temperature)), power_mode: mode.map(str::to_owned), ..Readings::default() };
            assert_eq!(board.at(Millis(seconds * 1e3)), (wanted, slowdown), "{seconds} s");
        }
    }

    #[test]
    fn noise_is_seeded_bounded_and_a_moments_own() {
        let text = |seed: u32| {
            HOT.replace("seed = 7", &format!("seed = {seed}")).replace("c = 0.0\n", "c = 3.0\n").replace("noise = 0.0", "noise = 0.1")
        };
        let (one, same, other) = (board(&text(1)), board(&text(1)), board(&text(2)));
        let (mut warmest, mut differ) = (0.0_f32, 0);
        for moment in 0..500 {
            let now = Millis(f64::from(moment) * 100.0);
            let (readings, slowdown) = one.at(now);
            assert_eq!((readings.clone(), slowdown), same.at(now));
            let off = (readings.temperature.unwrap().0 - 50.0).abs();
            warmest = warmest.max(off);
            assert!(off <= 3.001 && (slowdown - 1.0).abs() <= 0.101, "{now}: {off} {slowdown}");
            differ += u32::from(other.at(now) != one.at(now));
        }
        assert!(warmest > 2.5 && differ > 490, "{warmest} {differ}");
        assert_eq!(one.at(Millis(7_000.0)), same.at(Millis(7_000.0)), "whatever was asked before");
    }

    #[test]
    fn reads_by_the_clock_that_is_shared() {
        let clock = Arc::new(AtomicU64::new(0));
        let mut board = ScriptedBoard::new(Trace::parse(HOT).unwrap(), Arc::clone(&clock));
        for (micros, wanted) in [(0, 50.0), (85_000_000, 60.0), (170_000_000, 40.0), (u64::MAX, 40.0)] {
            clock.store(micros, Ordering::Release);
            assert_eq!(board.read().temperature, Some(Celsius(wanted)), "{micros} µs");
        }
        let modes: Vec<_> = board.power_modes().into_iter().map(|mode| (mode.id, mode.name)).collect();
        assert_eq!(modes, [(0, "25W".to_owned()), (1, "15W".to_owned())]);
    }

    #[test]
    fn a_trace_that_cant_be_is_refused_with_what_is_wanted() {
        let segment = |until: &str, temperature: &str, rest: &str| {
            format!("seed = 1\n[[segment]]\nuntil-s = {until}\ntemperature-c = {temperature}\n{rest}\n")
        };
        let good = segment("1.0", "20.0", "slowdown = 1.0");
        assert!(Trace::parse(&good).is_ok());
        let cases = [
            ("seed = 1".to_owned(), "trace: segment = none: wanted one at least"),
            (
                segment("0.0", "20.0", "slowdown = 1.0"),
                "trace: segment 1: until-s = 0: wanted above 0 and above that of the segment before",
            ),
            (segment("inf", "20.0", "slowdown = 1.0"), "trace: segment 1: until-s = inf: wanted above 0"),
            (segment("nan", "20.0", "slowdown = 1.0"), "trace: segment 1: until-s = NaN: wanted above 0"),
            (segment("1.0", "nan", "slowdown = 1.0"), "trace: segment 1: temperature-c = NaN: wanted a finite number"),
            (segment("1.0", "20.0", "slowdown = 0.09"), "trace: segment 1: slowdown = 0.09: wanted 0.1 to 1000"),
            (segment("1.0", "20.0", "slowdown = inf"), "trace: segment 1: slowdown = inf: wanted 0.1 to 1000"),
            (segment("1.0", "20.0", "slowdown = -1"), "trace: segment 1: slowdown = -1: wanted 0.1 to 1000"),
            (segment("1.0", "20.0", "slowdown = 1.0\npower-mode = \"\""), "trace: segment 1: power-mode = \"\": wanted a name"),
            (format!("{good}{}", good.replace("seed = 1\n", "")), "trace: segment 2: until-s = 1: wanted above 0 and above that of"),
            (format!("temperature-noise-c = -1.0\n{good}"), "trace: temperature-noise-c = -1: wanted 0 to 100"),
            (format!("slowdown-noise = 0.6\n{good}"), "trace: slowdown-noise = 0.6: wanted 0 to 0.5"),
            (format!("slowdown-noise = nan\n{good}"), "trace: slowdown-noise = NaN: wanted 0 to 0.5"),
            (format!("{good}volts = 1.0\n"), "unknown field `volts`"),
            (segment("1.0", "20.0", ""), "missing field `slowdown`"),
            (good.replace("seed = 1\n", ""), "missing field `seed`"),
            ("seed = 1\n[[segment".to_owned(), "trace: TOML parse error"),
        ];
        for (text, wanted) in cases {
            let said = Trace::parse(&text).unwrap_err().to_string();
            assert!(said.contains(wanted), "{text}\n{said}");
        }
    }
}
