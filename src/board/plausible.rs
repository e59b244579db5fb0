//! Sensors lie, vanish and jump: what can't be believed is absent.
//!
//! # Why
//! The planner degrades on heat. A sensor that says 200 °C once would cost answers, and one that says 0 °C would hide a hot board; an absent
//! temperature is at least known to be absent. Silicon under a heat sink doesn't change by 25 °C between two readings, but a sensor that goes
//! on saying so is right: the second reading is believed.

use std::ops::RangeInclusive;

use crate::units::{Celsius, Milliwatts, PerMille, Readings};

/// Where silicon that runs can be, in °C.
const TEMPERATURES: RangeInclusive<f32> = -40.0..=150.0;
/// Largest step between two readings, in °C.
const STEP: f32 = 25.0;
/// No board or card draws more.
const MAX_POWER: Milliwatts = Milliwatts(1_000_000);
const WHOLE: PerMille = PerMille(1_000);

/// What earlier readings say about the next temperature.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trust {
    /// The last temperature that was believed.
    believed: Option<Celsius>,
    /// One after it that was too far from it, and waits to be confirmed.
    held: Option<Celsius>,
}

/// `readings` without what can't be believed, and what they say about the next.
///
/// Temperatures outside −40..150 °C, power above 1 kW and shares above 1,000 per mille are absent. So is a temperature more than 25 °C from
/// the last one believed, until the next is within 25 °C of it. A temperature that is absent neither confirms nor forgets.
#[must_use]
pub fn plausible(readings: Readings, trust: Trust) -> (Readings, Trust) {
    let (temperature, trust) = match readings.temperature.and_then(temperature) {
        None => (None, trust),
        Some(told) if near(told, trust.held) || trust.believed.is_none() || near(told, trust.believed) => {
            (Some(told), Trust { believed: Some(told), held: None })
        }
        Some(told) => (None, Trust { held: Some(told), ..trust }),
    };
    let share = |share: &PerMille| *share <= WHOLE;
    let sifted = Readings {
        temperature,
        power: readings.power.filter(|power| *power <= MAX_POWER),
        gpu_load: readings.gpu_load.filter(share),
        memory_clock: readings.memory_clock.filter(share),
        ..readings
    };
    (sifted, trust)
}

/// `told` where silicon can be as hot; none for NaN.
pub(super) fn temperature(told: Celsius) -> Option<Celsius> {
    TEMPERATURES.contains(&told.0).then_some(told)
}

fn near(told: Celsius, other: Option<Celsius>) -> bool {
    other.is_some_and(|other| (told.0 - other.0).abs() <= STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Bytes, Millis};

    #[test]
    fn temperatures_that_jump_wait_for_a_second_reading() {
        // What is told, and which of it is believed; None is a sensor that vanished.
        let cases: [(&str, &[Option<f32>], &[Option<f32>]); 12] = [
            ("the first is believed", &[Some(90.0)], &[Some(90.0)]),
            ("a step of 25 is none", &[Some(50.0), Some(75.0), Some(50.0)], &[Some(50.0), Some(75.0), Some(50.0)]),
            ("a jump that stays", &[Some(50.0), Some(76.0), Some(77.0)], &[Some(50.0), None, Some(77.0)]),
            ("a drop that stays", &[Some(90.0), Some(40.0), Some(40.0)], &[Some(90.0), None, Some(40.0)]),
            ("one spike", &[Some(50.0), Some(140.0), Some(51.0)], &[Some(50.0), None, Some(51.0)]),
            (
                "a second spike confirms no first one",
                &[Some(20.0), Some(149.0), Some(20.0), Some(149.0)],
                &[Some(20.0), None, Some(20.0), None],
            ),
            ("jumps that disagree", &[Some(20.0), Some(60.0), Some(100.0), Some(101.0)], &[Some(20.0), None, None, Some(101.0)]),
            ("a gap forgets nothing", &[Some(20.0), None, Some(60.0), None, Some(61.0)], &[Some(20.0), None, None, None, Some(61.0)]),
            ("below and above all silicon", &[Some(-41.0), Some(151.0), Some(-256.0)], &[None, None, None]),
            ("the ends are inside", &[Some(-40.0), Some(150.0), Some(150.0)], &[Some(-40.0), None, Some(150.0)]),
            ("what is outside isn't held", &[Some(140.0), Some(200.0), Some(160.0)], &[Some(140.0), None, None]),
            ("no number", &[Some(f32::NAN), Some(f32::INFINITY), Some(30.0)], &[None, None, Some(30.0)]),
        ];
        for (case, told, wanted) in cases {
            let mut trust = Trust::default();
            let believed: Vec<_> = told
                .iter()
                .map(|told| {
                    let readings = Readings { temperature: told.map(Celsius), ..Readings::default() };
                    let (sifted, next) = plausible(readings, trust);
                    trust = next;
                    sifted.temperature.map(|temperature| temperature.0)
                })
                .collect();
            assert_eq!(believed, wanted, "{case}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_absent_and_the_rest_is_kept() {
        let kept = Readings {
            temperature: Some(Celsius(50.0)),
            power: Some(MAX_POWER),
            power_mode: Some("15W".into()),
            gpu_load: Some(WHOLE),
            memory_clock: Some(PerMille(0)),
            available: Some(Bytes(u64::MAX)),
            device_memory: Some(Bytes(u64::MAX)),
            age: Millis(7.0),
            stale: true,
        };
        let cases = [
            (kept.clone(), kept.clone()),
            (Readings { power: Some(Milliwatts(1_000_001)), ..kept.clone() }, Readings { power: None, ..kept.clone() }),
            (Readings { gpu_load: Some(PerMille(1_001)), ..kept.clone() }, Readings { gpu_load: None, ..kept.clone() }),
            (Readings { memory_clock: Some(PerMille(u16::MAX)), ..kept.clone() }, Readings { memory_clock: None, ..kept.clone() }),
            (Readings { temperature: Some(Celsius(1e9)), ..kept.clone() }, Readings { temperature: None, ..kept }),
        ];
        for (told, wanted) in cases {
            assert_eq!(plausible(told.clone(), Trust::default()).0, wanted, "{told:?}");
        }
    }
}
