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
mod tiles;

pub use align::align;
pub use merge::{MergeWork, merge};
pub use residual::{Positions, PositionsError, RowUse};
pub use select::{Entry, Mode, Ranked, SelectWork, Selection, Selector, Source, dense, evenly, select, top_of_view};
pub use tiles::{RankedTile, TileRank};

use crate::config::ClusterRule;
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
    #[error("coverage: wanted a budget of at least one token for each of {regions} regions, found {budget}")]
    Coverage { regions: usize, budget: Tokens },
    #[error("clusters: wanted 1 or more, found 0")]
    NoClusters,
    #[error("label {found} of token {token}: wanted one below {regions}")]
    Label { token: u32, found: u32, regions: usize },
    /// `lost`: it answers no more.
    #[error("{engine}: {reason}")]
    Device { engine: &'static str, reason: String, lost: bool },
}

/// Clusters of a view under `budget`.
#[must_use]
pub fn clusters(rule: ClusterRule, wanted: u32, budget: Tokens) -> usize {
    match rule {
        ClusterRule::WithinBudget => Tokens(wanted).min(budget).get(),
        ClusterRule::AsSet => Tokens(wanted).get(),
    }
}
