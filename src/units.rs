//! The numbers that cross a module, each with its unit.
//!
//! # Why
//! A budget in tokens, a side in pixels and a slab in bytes are all integers; handed over bare, two of them swap places once and nobody sees it.

use std::fmt;
use std::ops::{Add, AddAssign, Mul, Sub};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

macro_rules! count {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }
        impl Sub for $name {
            type Output = Self;
            /// Stops at zero: a count is never negative.
            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self(0), Add::add)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }
    };
}

count!(
    /// Visual or text tokens: rows of the decoder's input.
    Tokens, u32, " tokens"
);
count!(
    /// Picture elements along one side.
    Px, u32, " px"
);
count!(
    /// Memory or file size.
    Bytes, u64, " bytes"
);

count!(
    /// Electrical power.
    Milliwatts, u32, " mW"
);
count!(
    /// A share of one.
    PerMille, u16, " per mille"
);
count!(
    /// What a line may carry.
    BytesPerSecond, u32, " bytes/s"
);
count!(
    /// Tiles of the views, each a picture for the encoder.
    Tiles, u32, " tiles"
);

impl Tokens {
    /// As an index or a length. `u32` always fits: the crate builds for 64-bit targets only.
    #[must_use]
    pub fn get(self) -> usize {
        self.0 as usize
    }
    /// A length known to fit, or the largest count there is.
    #[must_use]
    pub fn of(len: usize) -> Self {
        Self(u32::try_from(len).unwrap_or(u32::MAX))
    }
}

impl Px {
    /// A length known to fit, or the largest there is.
    #[must_use]
    pub fn of(length: usize) -> Self {
        Self(u32::try_from(length).unwrap_or(u32::MAX))
    }
    #[must_use]
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl Bytes {
    /// Bytes of `len` values of type `T`.
    #[must_use]
    pub fn of<T>(len: usize) -> Self {
        Self((len as u64).saturating_mul(size_of::<T>() as u64))
    }
    /// Mebibytes, for people.
    #[must_use]
    pub fn mib(self) -> f64 {
        self.0 as f64 / (1024.0 * 1024.0)
    }
}

/// Which view of the pyramid, coarsest (the anchor) first, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ViewId(pub u8);

impl ViewId {
    pub const ANCHOR: Self = Self(0);
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from the coarsest", self.0)
    }
}

/// A frame by the first eight bytes of its file's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameId(pub [u8; 8]);

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame: wanted an id of 16 hexadecimal digits, found something else")]
pub struct NoFrameId;

impl FromStr for FrameId {
    type Err = NoFrameId;
    fn from_str(text: &str) -> Result<Self, NoFrameId> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoFrameId);
        }
        u64::from_str_radix(text, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| NoFrameId)
    }
}

impl serde::Serialize for FrameId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for FrameId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    /// A question by its place in the journal, from 1; never given twice.
    QuestionId
);
number!(
    /// A frame by its place in the journal, from 1, in the order of arrival; never given twice.
    FrameNumber
);

/// The wall clock, in milliseconds since 1970. It may step: for people and for records, never to measure a span or to order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// A time of the system; 0 where it is before 1970.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).ok().and_then(|span| i64::try_from(span.as_millis()).ok()).unwrap_or(0))
    }
}

/// A time span in milliseconds, never NaN and never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Millis(pub f64);

impl Millis {
    pub const ZERO: Self = Self(0.0);

    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}

impl Add for Millis {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Millis {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Millis {
    type Output = Self;
    /// Stops at zero: a clock that steps back makes no time.
    fn sub(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0.0))
    }
}

impl Mul<f64> for Millis {
    type Output = Self;
    fn mul(self, factor: f64) -> Self {
        Self(self.0 * factor)
    }
}

impl std::iter::Sum for Millis {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

impl From<Duration> for Millis {
    fn from(span: Duration) -> Self {
        Self(span.as_secs_f64() * 1e3)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0)
    }
}

/// Degrees Celsius.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Celsius(pub f32);

impl fmt::Display for Celsius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} °C", self.0)
    }
}

/// What a board tells of itself at one moment. What it doesn't tell is absent, never zero.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Readings {
    /// The hottest of its zones.
    pub temperature: Option<Celsius>,
    /// Drawn by the whole board.
    pub power: Option<Milliwatts>,
    /// By name.
    pub power_mode: Option<String>,
    /// Share of time that the GPU was busy.
    pub gpu_load: Option<PerMille>,
    /// The memory's clock as a share of its highest.
    pub memory_clock: Option<PerMille>,
    /// Memory that could be had without swapping.
    pub available: Option<Bytes>,
    /// Memory of a card of its own that is in use, by whatever.
    pub device_memory: Option<Bytes>,
    /// How long ago this was read.
    pub age: Millis,
    /// Older than the board's period allows: it is the last there is, not how things stand.
    pub stale: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_never_wrap() {
        assert_eq!(Tokens(3) - Tokens(5), Tokens(0));
        assert_eq!(Tokens(u32::MAX) + Tokens(1), Tokens(u32::MAX));
        assert_eq!(Bytes::of::<f32>(3), Bytes(12));
        assert_eq!(FrameId([0, 1, 2, 3, 4, 5, 6, 255]).to_string(), "00010203040506ff");
        assert_eq!("00010203040506ff".parse(), Ok(FrameId([0, 1, 2, 3, 4, 5, 6, 255])));
        for wrong in ["", "../../etc/passwd", "+0010203040506ff", "00010203040506f", "000102030405060 "] {
            assert_eq!(wrong.parse::<FrameId>(), Err(NoFrameId), "{wrong:?}");
        }
    }
}
