//! How long an answer from the other side may take before it counts as lost: RFC 6298, with 500 ms at least.

use std::time::Duration;

const LEAST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(20);
/// Before anything was measured: a radio over two hops has 2 s.
const FIRST: Duration = Duration::from_secs(3);

/// Round trips of one peer, smoothed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rto {
    smoothed: Option<(f64, f64)>,
}

impl Rto {
    /// A round trip that began with something sent once only (Karn's rule is the caller's).
    pub fn measured(&mut self, span: Duration) {
        let span = span.as_secs_f64();
        self.smoothed = Some(match self.smoothed {
            None => (span, span / 2.0),
            Some((mean, off)) => (mean + (span - mean) / 8.0, off + ((span - mean).abs() - off) / 4.0),
        });
    }

    #[must_use]
    pub fn get(self) -> Duration {
        self.smoothed.map_or(FIRST, |(mean, off)| Duration::from_secs_f64((mean + 4.0 * off).min(MOST.as_secs_f64())).clamp(LEAST, MOST))
    }

    /// The time-out after it passed in vain `times` times: doubled each time, up to 20 s.
    #[must_use]
    pub fn backed_off(self, times: u32) -> Duration {
        self.get().saturating_mul(1 << times.min(6)).min(MOST)
    }

    /// What a round trip takes at least, as far as is known.
    #[must_use]
    pub fn trip(self) -> Duration {
        self.smoothed.map_or(LEAST, |(mean, _)| Duration::from_secs_f64(mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_measured_and_keeps_to_its_limits() {
        let mut rto = Rto::default();
        assert_eq!(rto.get(), FIRST);
        for _ in 0..50 {
            rto.measured(Duration::from_millis(20));
        }
        assert_eq!(rto.get(), LEAST);
        for _ in 0..50 {
            rto.measured(Duration::from_secs(2));
        }
        assert!((Duration::from_secs(2)..Duration::from_millis(2_600)).contains(&rto.get()), "{:?}", rto.get());
        assert_eq!(rto.backed_off(60), MOST);
    }
}
