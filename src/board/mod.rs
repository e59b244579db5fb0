//! Readings of the machine.

mod host;

pub use host::{peak_memory, resident_memory};
