//! Inner loops shared by clustering and the decoder: the thread pool, and products chosen at run time by what the processor has.
//!
//! # Why
//! The only place with `unsafe` outside bindings, so that one folder holds everything a reviewer must prove.

mod distance;
mod pool;

pub use distance::{Isa, LANES, nearest, squared};
pub use pool::Pool;
