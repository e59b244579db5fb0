//! Questions and answers over MAVLink, on radios that lose packets, for any ground station.
//!
//! Everything but [`transport`] and [`serve`] is sans I/O: state machines that take bytes and a time and give bytes and events, with fixed memory and no
//! allocation a packet. `clock`, `frame`, `key`, `sign`, `pace` and `station` are one end of a link; `wire`, `transfer`, `served` and `ground` our own client's
//! protocol; `standard` what any ground station can do; `node` puts the board's end together.
//!
//! # Why
//! A radio loses one packet in five, stops for a minute, and is heard by anybody. What was accepted must still end in one answer, and nobody without the key
//! may ask. docs/link.md has the wire, the settings and what is and isn't guaranteed.

pub mod clock;
pub mod dialect;
pub mod frame;
pub mod geotag;
pub mod ground;
pub mod key;
pub mod metadata;
pub mod node;
pub mod pace;
pub mod picture;
mod rto;
mod serve;
pub mod served;
pub mod sign;
pub mod standard;
pub mod station;
pub mod transfer;
pub mod transport;
pub mod wire;

pub use key::{Key, KeyError};
pub use serve::{LinkError, LinkSettings, Running, Say, link_bytes, serve};
