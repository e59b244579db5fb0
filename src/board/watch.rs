//! A board that is read on a thread of its own, so that nobody waits for it.
//!
//! # Why
//! A sensor behind a bus can hang its reader for seconds or for ever, and a question's deadline runs. Callers get the last reading with its
//! age at once; a reader that hangs costs fresh readings and nothing else.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::board::{Board, BoardError, Trust, plausible};
use crate::units::Readings;

/// Readings older than this many periods are stale.
const STALE_PERIODS: u32 = 3;

/// The last readings of a board, sifted by [`plausible()`].
///
/// Dropping it ends the thread and the board with it; a read that hangs is left behind and ends both when it returns.
pub struct Watch {
    id: String,
    period: Duration,
    started: Instant,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    /// With the moment when the read began.
    latest: Option<(Readings, Instant)>,
    stop: bool,
}

impl Watch {
    /// Reads `board` now and every `period` from then on, or as often as it can where a read takes longer.
    ///
    /// # Errors
    /// A period of zero; a thread that the system doesn't give.
    pub fn start(board: Box<dyn Board>, period: Duration) -> Result<Self, BoardError> {
        if period.is_zero() {
            return Err(BoardError::Period);
        }
        let shared = Arc::new(Shared { state: Mutex::default(), stopped: Condvar::new() });
        let watch = Self { id: board.id().to_owned(), period, started: Instant::now(), shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("board".into());
        thread.spawn(move || shared.keep_reading(board, period)).map_err(|found| BoardError::Thread { found })?;
        Ok(watch)
    }

    /// The board's.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The last readings and how old they are, at once: the board itself is never waited for.
    /// Stale once they are older than three periods, or while there are none.
    #[must_use]
    pub fn latest(&self) -> Readings {
        let latest = self.shared.state().latest.clone();
        aged(latest, self.started, Instant::now(), self.period)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.stopped.notify_all();
    }
}

impl Shared {
    /// A thread that panicked in a board's read held no lock; the state is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_reading(&self, mut board: Box<dyn Board>, period: Duration) {
        let mut trust = Trust::default();
        loop {
            let begun = Instant::now();
            let (readings, next) = plausible(board.read(), trust);
            trust = next;
            let mut state = self.state();
            state.latest = Some((readings, begun));
            let rest = period.saturating_sub(begun.elapsed());
            let woken = self.stopped.wait_timeout_while(state, rest, |state| !state.stop);
            let (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
        }
    }
}

/// What is said at `now` of the readings that were begun at some moment before, or of none since `started`.
fn aged(latest: Option<(Readings, Instant)>, started: Instant, now: Instant, period: Duration) -> Readings {
    let never = latest.is_none();
    let (readings, begun) = latest.unwrap_or_else(|| (Readings::default(), started));
    let age = now.saturating_duration_since(begun);
    Readings { age: age.into(), stale: never || age > period.saturating_mul(STALE_PERIODS), ..readings }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::board::PowerMode;
    use crate::units::{Celsius, Millis};

    /// Reads when it is told what, and then hangs until told again. Says when it is gone.
    struct Gated {
        told: Receiver<f32>,
        gone: Arc<AtomicBool>,
    }

    impl Board for Gated {
        fn id(&self) -> &str {
            "gated"
        }
        fn read(&mut self) -> Readings {
            Readings { temperature: self.told.recv().ok().map(Celsius), ..Readings::default() }
        }
        fn power_modes(&mut self) -> Vec<PowerMode> {
            Vec::new()
        }
    }

    impl Drop for Gated {
        fn drop(&mut self) {
            self.gone.store(true, Ordering::SeqCst);
        }
    }

    fn gated(period: Duration) -> (Watch, Sender<f32>, Arc<AtomicBool>) {
        let (tell, told) = channel();
        let gone = Arc::new(AtomicBool::new(false));
        let watch = Watch::start(Box::new(Gated { told, gone: Arc::clone(&gone) }), period).unwrap();
        (watch, tell, gone)
    }

    /// Within a time that no machine is too busy for.
    fn soon(what: &str, mut happens: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !happens() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not in 20 s");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn readings_age_and_go_stale_after_three_periods() {
        let started = Instant::now();
        let period = Duration::from_millis(100);
        let ms = Duration::from_millis;
        let read = Readings { temperature: Some(Celsius(50.0)), ..Readings::default() };
        // Begun and asked, in ms since the start; the age and whether it is stale.
        let cases = [
            (None, ms(0), 0.0, true),
            (None, ms(70), 70.0, true),
            (Some(ms(10)), ms(10), 0.0, false),
            (Some(ms(10)), ms(310), 300.0, false),
            (Some(ms(10)), ms(311), 301.0, true),
            (Some(ms(50)), ms(10), 0.0, false),
        ];
        for (begun, asked, age, stale) in cases {
            let latest = begun.map(|begun| (read.clone(), started + begun));
            let told = aged(latest.clone(), started, started + asked, period);
            let readings = latest.map_or_else(Readings::default, |(readings, _)| readings);
            assert_eq!(told, Readings { age: Millis(age), stale, ..readings }, "{begun:?} {asked:?}");
        }
        assert!(!aged(Some((read, started)), started, started, Duration::MAX).stale);
    }

    #[test]
    fn a_read_that_hangs_hangs_neither_the_caller_nor_the_end() {
        let (watch, tell, gone) = gated(Duration::from_millis(20));
        let begun = Instant::now();
        let before = watch.latest();
        assert!(before.stale && before.temperature.is_none());
        tell.send(50.0).unwrap();
        soon("a reading", || watch.latest().temperature == Some(Celsius(50.0)));
        soon("the next read hangs", || watch.latest().stale);
        let last = watch.latest();
        assert_eq!(last.temperature, Some(Celsius(50.0)));
        assert!(last.age > Millis(60.0));
        drop(watch);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(!gone.load(Ordering::SeqCst), "the read still hangs, with its board");
        drop(tell);
        soon("the board is let go when the read returns", || gone.load(Ordering::SeqCst));
    }

    #[test]
    fn the_end_doesnt_wait_for_the_period() {
        let (watch, tell, gone) = gated(Duration::from_secs(3_600));
        tell.send(50.0).unwrap();
        soon("a reading", || !watch.latest().stale);
        drop(watch);
        soon("the board is let go", || gone.load(Ordering::SeqCst));
    }

    #[test]
    fn readings_are_sifted() {
        let (watch, tell, _gone) = gated(Duration::from_millis(1));
        for (told, wanted) in [(50.0, Some(50.0)), (90.0, None), (91.0, Some(91.0)), (500.0, None)] {
            tell.send(told).unwrap();
            soon("sifted", || watch.latest().temperature == wanted.map(Celsius));
        }
    }

    #[test]
    fn a_period_of_zero_is_refused() {
        let board = Box::new(crate::board::HostBoard::new(std::path::Path::new("/")));
        assert!(matches!(Watch::start(board, Duration::ZERO), Err(BoardError::Period)));
    }
}
