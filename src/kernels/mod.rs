//! Inner loops shared by clustering and the decoder: the thread pool, and products chosen at run time by what the processor has.
//!
//! # Why
//! The only place with `unsafe` outside bindings, so that one folder holds everything a reviewer must prove.

mod attention;
mod claim;
mod distance;
mod mapped;
mod matmul;
mod pool;
mod resample;

pub use attention::{Head, attention, attention_scratch, attention_weights};
pub use claim::{Claim, claim};
pub use distance::{Isa, LANES, nearest, squared};
pub use mapped::map_file;
pub use matmul::{Format, Matrix, matmul, matmul_scratch};
pub use pool::Pool;
pub use resample::{TAPS, Taps, across, down, round};
