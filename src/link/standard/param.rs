//! Parameters: PARAM_* and PARAM_EXT_*. Source: <https://mavlink.io/en/services/parameter.html> and …/parameter_ext.html.
//!
//! # Why
//! All numbers are REAL32. Of integers, ArduPilot's ground stations send the value and PX4's its bytes; a float is the same for both.

use crate::link::dialect::{MavMessage, PARAM_EXT_ACK_DATA, PARAM_EXT_SET_DATA, PARAM_EXT_VALUE_DATA, PARAM_SET_DATA, PARAM_VALUE_DATA};
use crate::link::frame::Source;
use crate::link::standard::text_of;
use crate::link::station::Station;

/// The parameter that takes a question in words.
pub const ASK: &str = "UHR_ASK";
const REAL32: u8 = 9;
const EXT_CUSTOM: u8 = 11;
const ACCEPTED: u8 = 0;
const UNSUPPORTED: u8 = 1;
const FAILED: u8 = 2;

/// Names, least and largest values. Only ever appended to.
pub const PARAMS: [(&str, f32, f32); COUNT] = [
    ("UHR_TOKBUD", 0.0, 1_048_576.0),
    ("UHR_DEADLN", 0.0, 3_600_000.0),
    ("UHR_MAXNEW", 0.0, 65_536.0),
    ("UHR_ENCTIL", 0.0, 65_536.0),
    ("UHR_PRESET", 1.0, 32.0),
];
const COUNT: usize = 5;

/// The settings of a link: whole numbers, 0 where the profile's own holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    values: [f32; COUNT],
}

impl Default for Params {
    fn default() -> Self {
        Self { values: [0.0, 0.0, 0.0, 0.0, 1.0] }
    }
}

/// Why a parameter isn't set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParamError {
    #[error("parameter: wanted one of UHR_TOKBUD, UHR_DEADLN, UHR_MAXNEW, UHR_ENCTIL, UHR_PRESET, found {found:?}")]
    Name { found: String },
    #[error("{name}: wanted a whole number from {least} to {most}, found {found}")]
    Value { name: &'static str, least: f32, most: f32, found: f32 },
}

impl Params {
    /// Tokens of a question in all; `None`: the profile's budget.
    #[must_use]
    pub fn budget(&self) -> Option<u32> {
        self.whole(0)
    }
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u32> {
        self.whole(1)
    }
    #[must_use]
    pub fn max_new(&self) -> Option<u32> {
        self.whole(2)
    }
    #[must_use]
    pub fn encode_tiles(&self) -> Option<u32> {
        self.whole(3)
    }
    /// The stored question that a command without a number asks, from 1.
    #[must_use]
    pub fn preset(&self) -> u32 {
        self.whole(4).unwrap_or(1)
    }

    fn whole(&self, at: usize) -> Option<u32> {
        // Checked when it was set: whole, and within u32.
        let value = self.values[at] as u32;
        (value > 0).then_some(value)
    }

    /// Names and values.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, f32)> + '_ {
        PARAMS.iter().zip(&self.values).map(|((name, ..), value)| (*name, *value))
    }

    /// Takes over what differs between `before` and `after`, and nothing else.
    pub fn follow(&mut self, before: &Self, after: &Self) {
        for (at, value) in self.values.iter_mut().enumerate() {
            if before.values[at] != after.values[at] {
                *value = after.values[at];
            }
        }
    }

    /// # Errors
    /// No such parameter, or a value out of its range; nothing changes then.
    pub fn set(&mut self, name: &str, value: f32) -> Result<(), ParamError> {
        let at =
            PARAMS.iter().position(|(own, ..)| *own == name).ok_or_else(|| ParamError::Name { found: name.chars().take(16).collect() })?;
        let (name, least, most) = PARAMS[at];
        if !(value.is_finite() && value.fract() == 0.0 && (least..=most).contains(&value)) {
            return Err(ParamError::Value { name, least, most, found: value });
        }
        self.values[at] = value;
        Ok(())
    }

    fn value(&self, at: usize) -> MavMessage {
        MavMessage::PARAM_VALUE(PARAM_VALUE_DATA {
            param_id: PARAMS[at].0.into(),
            param_value: self.values[at],
            param_type: REAL32,
            param_count: COUNT as u16,
            param_index: at as u16,
        })
    }

    fn ext_value(&self, at: usize) -> MavMessage {
        let (name, param_type) = if at < COUNT { (PARAMS[at].0, REAL32) } else { (ASK, EXT_CUSTOM) };
        let mut value = [0; 128];
        if at < COUNT {
            value[..4].copy_from_slice(&self.values[at].to_le_bytes());
        }
        MavMessage::PARAM_EXT_VALUE(PARAM_EXT_VALUE_DATA {
            param_id: name.into(),
            param_value: value.into(),
            param_type,
            param_count: COUNT as u16 + 1,
            param_index: at as u16,
        })
    }
}

/// What is still to be listed: a list goes out as the line allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    plain: Option<usize>,
    ext: Option<usize>,
}

impl Listing {
    pub fn begin(&mut self) {
        self.plain = Some(0);
    }
    pub fn begin_ext(&mut self) {
        self.ext = Some(0);
    }
    pub fn next(&mut self, params: &Params) -> Option<MavMessage> {
        if let Some(at) = self.plain.filter(|at| *at < COUNT) {
            self.plain = Some(at + 1);
            return Some(params.value(at));
        }
        self.plain = None;
        let at = self.ext.filter(|at| *at <= COUNT)?;
        self.ext = (at < COUNT).then_some(at + 1);
        Some(params.ext_value(at))
    }
}

/// Answers a request for one parameter; of another's or unknown ones nothing is said, as the protocol has it.
pub fn read(station: &mut Station, peer: Source, params: &Params, id: &str, index: i16, ext: bool) {
    let at = match usize::try_from(index) {
        Ok(at) => Some(at).filter(|at| *at < COUNT + usize::from(ext)),
        Err(_) if ext && id == ASK => Some(COUNT),
        Err(_) => PARAMS.iter().position(|(name, ..)| *name == id),
    };
    if let Some(at) = at {
        station.answer(peer, if ext { params.ext_value(at) } else { params.value(at) });
    }
}

/// PARAM_SET: whether something changed. The value in force is told in any case.
pub fn set(station: &mut Station, peer: Source, params: &mut Params, set: &PARAM_SET_DATA) -> bool {
    let name = text_of(&set.param_id);
    let before = *params;
    // An integer's bytes, from who doesn't heed the type that we declared: as a float they are next to nothing.
    let value = if (1..=6).contains(&set.param_type) && set.param_value.is_subnormal() {
        set.param_value.to_bits() as f32
    } else {
        set.param_value
    };
    let _ = params.set(name, value);
    if let Some(at) = PARAMS.iter().position(|(own, ..)| *own == name) {
        station.answer(peer, params.value(at));
    }
    before != *params
}

/// PARAM_EXT_SET of a number: whether something changed. [`ASK`] is the caller's.
pub fn set_ext(station: &mut Station, peer: Source, params: &mut Params, set: &PARAM_EXT_SET_DATA) -> bool {
    let bytes: &[u8; 128] = &set.param_value;
    let word = [bytes[0], bytes[1], bytes[2], bytes[3]];
    let value = match set.param_type {
        5 => u32::from_le_bytes(word) as f32,
        6 => i32::from_le_bytes(word) as f32,
        REAL32 => f32::from_le_bytes(word),
        _ => f32::NAN,
    };
    let before = *params;
    let result = if params.set(text_of(&set.param_id), value).is_ok() { ACCEPTED } else { UNSUPPORTED };
    ack_ext(station, peer, set, result);
    before != *params
}

fn ack_ext(station: &mut Station, peer: Source, set: &PARAM_EXT_SET_DATA, param_result: u8) {
    let (param_id, param_value, param_type) = (set.param_id, set.param_value, set.param_type);
    station.answer(peer, MavMessage::PARAM_EXT_ACK(PARAM_EXT_ACK_DATA { param_id, param_value, param_type, param_result }));
}

/// A part of a question in words, taken or not.
pub fn ack_ask(station: &mut Station, peer: Source, set: &PARAM_EXT_SET_DATA, taken: bool) {
    ack_ext(station, peer, set, if taken { ACCEPTED } else { FAILED });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_change_nothing() {
        let mut params = Params::default();
        for (name, value) in [("UHR_TOKBUD", -1.0), ("UHR_TOKBUD", 0.5), ("UHR_TOKBUD", f32::NAN), ("UHR_DEADLN", 4e6), ("UHR_PRESET", 0.0)]
        {
            assert!(matches!(params.set(name, value), Err(ParamError::Value { .. })), "{name} {value}");
        }
        assert!(matches!(params.set("ARMING_CHECK", 0.0), Err(ParamError::Name { .. })));
        assert_eq!(params, Params::default());
        params.set("UHR_TOKBUD", 600.0).unwrap();
        assert_eq!((params.budget(), params.deadline_ms(), params.preset()), (Some(600), None, 1));
    }

    #[test]
    fn a_list_has_each_once() {
        let (params, mut listing) = (Params::default(), Listing::default());
        assert!(listing.next(&params).is_none());
        listing.begin();
        listing.begin_ext();
        assert_eq!(std::iter::from_fn(|| listing.next(&params)).count(), COUNT + COUNT + 1);
        assert!(PARAMS.iter().all(|(name, ..)| name.len() <= 16));
    }
}
