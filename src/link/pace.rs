//! How fast is sent: a token bucket, that the radio's own reports slow down.

use std::time::Duration;

use crate::link::clock::At;
use crate::units::{Bytes, BytesPerSecond};

/// The longest packet.
const PACKET: f64 = 280.0;
/// What else may go out at once: what comes together between two looks at the line.
const LOOK: f64 = 0.05;
/// Over any span of so many seconds no more goes out than the rate says.
const STRICT_SPAN: f64 = 10.0;
/// Reports slow the sender to this share of its rate and no further: they are unsigned, and nobody may silence the link with them.
const FLOOR: f64 = 1.0 / 16.0;
/// Without a report of a full buffer for so long, what the last one said wears off: twice as fast each time.
const FORGET: Duration = Duration::from_secs(5);

/// The least rate that a link can be given: a packet of the longest kind every two seconds.
pub const MIN_RATE: BytesPerSecond = BytesPerSecond(200);

/// The last second in as many parts, and the one at hand.
const PARTS: usize = 20;

/// A token bucket. In any second, and in any 10 s, it lets through at most as much as its rate says; a packet that is longer than a second's worth goes alone.
pub struct Pace {
    rate: f64,
    /// Bytes of any second.
    second: u32,
    /// Bytes by parts of a second, and the number of the last part.
    parts: [u32; PARTS + 1],
    part: u128,
    /// Most tokens.
    burst: f64,
    share: f64,
    tokens: f64,
    filled: At,
    reported: At,
    /// All bytes that were let through.
    pub sent: Bytes,
}

impl Pace {
    #[must_use]
    pub fn new(rate: BytesPerSecond) -> Self {
        let second = rate.max(MIN_RATE).0;
        let rate = f64::from(second);
        let burst = PACKET + rate * LOOK;
        Self {
            rate: rate - burst / STRICT_SPAN,
            second,
            parts: [0; PARTS + 1],
            part: 0,
            burst,
            share: 1.0,
            tokens: 0.0,
            filled: At::default(),
            reported: At::default(),
            sent: Bytes(0),
        }
    }

    fn fill(&mut self, at: At) {
        while self.share < 1.0 && at.since(self.reported) >= FORGET {
            self.share = (self.share * 2.0).min(1.0);
            self.reported = self.reported.after(FORGET);
        }
        self.tokens = (self.tokens + at.since(self.filled).as_secs_f64() * self.rate * self.share).min(self.burst);
        self.filled = self.filled.max(at);
        let part = at.0.as_millis() / (1_000 / PARTS as u128);
        let passed = part.saturating_sub(self.part);
        for step in 1..=passed.min(PARTS as u128 + 1) {
            self.parts[((self.part + step) % (PARTS as u128 + 1)) as usize] = 0;
        }
        self.part = self.part.max(part);
    }

    /// Whether a packet, however long, may go out now; [`Self::spend`] what it took.
    pub fn is_open(&mut self, at: At) -> bool {
        self.fill(at);
        let sent: u32 = self.parts.iter().sum();
        self.tokens >= PACKET && (sent == 0 || sent.saturating_add(PACKET as u32) <= self.second)
    }

    /// A packet of `len` bytes went out.
    pub fn spend(&mut self, len: usize) {
        self.tokens -= len as f64;
        let part = &mut self.parts[(self.part % (PARTS as u128 + 1)) as usize];
        *part = part.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        self.sent += Bytes::of::<u8>(len);
    }

    /// When the next packet may go out.
    #[must_use]
    pub fn ready(&self, at: At) -> At {
        let missing = (PACKET - self.tokens).max(0.0) / (self.rate * self.share);
        at.after(Duration::from_secs_f64(missing))
    }

    /// A radio says how much room its buffer has, in per cent (`txbuf` of RADIO_STATUS). Anybody can say that, so that it only ever slows: that there is
    /// room again is for time to show.
    pub fn radio(&mut self, free_percent: u8, at: At) {
        self.fill(at);
        self.share = match free_percent {
            0..20 => FLOOR,
            20..50 => (self.share / 2.0).max(FLOOR),
            _ => return,
        };
        self.reported = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(pace: &mut Pace, from_ms: u64, to_ms: u64, len: usize) -> usize {
        let mut packets = 0;
        for ms in from_ms..to_ms {
            if pace.is_open(At(Duration::from_millis(ms))) {
                pace.spend(len);
                packets += 1;
            }
        }
        packets * len
    }

    #[test]
    fn no_second_and_no_ten_carry_more_than_the_rate() {
        for (rate, len) in [(1_000, 158), (1_152, 158), (1_000, 280), (5_760, 21), (100_000, 252), (300, 280)] {
            let mut pace = Pace::new(BytesPerSecond(rate));
            let mut log = Vec::new();
            // Idle at first: the bucket is full when it begins.
            for ms in 60_000..75_000_u64 {
                while pace.is_open(At(Duration::from_millis(ms))) {
                    pace.spend(len);
                    log.push(ms);
                }
            }
            let most = |span: u64| log.iter().map(|from| log.iter().filter(|at| (*from..from + span).contains(at)).count() * len).max();
            let (one, ten) = (most(1_000).unwrap(), most(10_000).unwrap());
            assert!(one <= (rate as usize).max(len) && ten <= 10 * rate as usize, "{one} and {ten} at {rate}");
            assert!(ten >= 7 * rate as usize, "{ten} at {rate}");
        }
    }

    #[test]
    fn reports_slow_it_to_a_floor_and_wear_off() {
        let mut pace = Pace::new(BytesPerSecond(1_600));
        sent(&mut pace, 59_900, 60_000, 50);
        for ms in 60_000..60_100 {
            pace.radio(0, At(Duration::from_millis(ms)));
        }
        let slow = sent(&mut pace, 60_100, 64_100, 50);
        assert!((300..=450).contains(&slow), "{slow} of about 390");
        let after = sent(&mut pace, 100_000, 110_000, 50);
        assert!(after > 12_000, "{after}");
        pace.radio(40, At(Duration::from_secs(110)));
        let half = sent(&mut pace, 110_100, 114_100, 50);
        assert!((2_800..=3_300).contains(&half), "{half}");
    }

    #[test]
    fn a_report_of_room_undoes_no_other() {
        let mut pace = Pace::new(BytesPerSecond(1_600));
        sent(&mut pace, 59_900, 60_000, 50);
        pace.radio(0, At(Duration::from_secs(60)));
        let mut bytes = 0;
        for ms in (60_000..64_000).step_by(10) {
            pace.radio(100, At(Duration::from_millis(ms)));
            bytes += sent(&mut pace, ms, ms + 10, 50);
        }
        assert!((300..=450).contains(&bytes), "{bytes} of about 390");
        // Nor does it keep the slow rate: time restores it in 20 s.
        for ms in (64_000..90_000).step_by(1_000) {
            pace.radio(100, At(Duration::from_millis(ms)));
            sent(&mut pace, ms, ms + 1_000, 50);
        }
        let after = sent(&mut pace, 90_000, 94_000, 50);
        assert!(after > 4_800, "{after}");
    }
}
