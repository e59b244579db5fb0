//! All storage that requests use, allocated once at start: slabs for kept tokens, frame slots, the KV cache.
//!
//! # Why
//! A device in flight can't find out that memory is short. What a request needs is lent to it here, and a failed call changes nothing.

mod frames;
mod heap;
mod kv;
mod tokens;

pub use frames::{FrameLease, FrameSlot, FrameSlots};
pub use heap::keep_heap;
pub use kv::KvCache;
pub use tokens::{TokenArena, TokenSpan};

use crate::units::Tokens;

/// A slab can't hold what was asked for; nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} full: wanted {wanted}, free {free}")]
pub struct Full {
    pub what: &'static str,
    pub wanted: Tokens,
    pub free: Tokens,
}

/// A handle outlived what it stood for: its epoch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: a handle of epoch {held} used in epoch {now}")]
pub struct Stale {
    pub what: &'static str,
    pub held: u64,
    pub now: u64,
}
