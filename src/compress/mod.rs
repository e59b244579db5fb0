//! The rules of UHR-BAT: which tokens of a frame a question keeps, which are merged, and in what order they reach the decoder.
//!
//! Units: tokens by raster index in their view; scores are attention weights, finite. Invariants: the regions of a view are disjoint and
//! cover its unmasked tokens; no view gives more than its budget; the same inputs give the same bits on any thread count.
//!
//! # Why
//! Plan, then materialise: what is kept depends on scores and labels alone, so selection runs before the projector, and memory is
//! the budget's rows plus one chunk. Regions don't depend on the question and are made once a frame.

mod align;
mod merge;
pub mod regions;
mod residual;
mod select;

pub use align::align;
pub use merge::{MergeWork, merge};
pub use residual::{Positions, PositionsError};
pub use select::{Entry, SelectWork, Selection, Source, select};

use crate::units::Tokens;

/// The label of a masked token: in no region.
pub const MASKED: u32 = u32::MAX;

/// Inputs that no rule covers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CompressError {
    #[error("{what} of token {token}: wanted a finite number, found {found}")]
    NotFinite { what: &'static str, token: u32, found: f32 },
    #[error("{what}: wanted {wanted} values, found {found}")]
    Length { what: &'static str, wanted: usize, found: usize },
    #[error("{what} {found}: the workspace was made for {room}")]
    Room { what: &'static str, found: usize, room: usize },
    #[error("clusters: wanted 1 or more, found 0")]
    NoClusters,
    #[error("label {found} of token {token}: wanted one below {regions}")]
    Label { token: u32, found: u32, regions: usize },
}

/// The paper's only keep rule, order and cut, by name in receipts.
pub const POLICY: &str = "paper";
/// How the budget is given out, by name in receipts.
pub const MODE: &str = "paper";

/// Clusters of a view under `budget`: never more than its tokens allow (§3.3 wants `B_s ≥ R_s`).
#[must_use]
pub fn clusters(wanted: u32, budget: Tokens) -> usize {
    Tokens(wanted).min(budget).get()
}
