//! Inner loops shared by clustering and the decoder: the thread pool, and products chosen at run time by what the processor has.
//!
//! # Why
//! The only place with `unsafe` outside bindings, so that one folder holds everything a reviewer must prove.

mod attention;
mod bytes;
mod claim;
mod colour;
mod distance;
mod mapped;
mod matmul;
mod pool;
mod resample;
mod screen;

pub use attention::{Head, attention, attention_scratch, attention_weights};
pub use bytes::{Quantised, byte_products, pack_bytes, quantise, row_bytes};
pub use claim::{Claim, claim};
pub use colour::{Packed, pack_grey, pack_rgb, pack_ycc, upsample_h2v1, upsample_h2v2};
pub use distance::{Isa, LANES, nearest, squared};
pub use mapped::map_file;
pub use matmul::{Format, Matrix, matmul, matmul_scratch};
pub use pool::Pool;
pub use resample::{GROUP, Taps, WEIGHT_BITS, across, down, round_row};
pub use screen::{Bounds, Screen, accumulate, chain_error, dot, dot_error, float_products, judge, near, scaled, squares, widen};
