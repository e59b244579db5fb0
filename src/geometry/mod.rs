//! Where things are: views of a frame, the letterbox, tiles, tokens and the pixels of the original frame behind each. Pure maths.
//!
//! Units: view pixels count from the view's upper left corner, padding included; frame pixels from the frame's, after its orientation
//! is applied. Tokens of a view are numbered in raster order, `y · U + x`, unless a policy wants them tile by tile ([`TokenOrder`]).
//!
//! # Why
//! Every other room asks here and none computes a place of its own, so that an evidence box and a token's patch can't disagree.

mod grid;
mod layout;
mod shape;
mod wgs84;

pub use grid::{Coordinates, Grid, TokenOrder};
pub use layout::{Axis, Content, Layout, Rect, Side, ViewLayout};
pub use shape::VisionShape;
pub use wgs84::{Camera, Crs, Ground, LatLon, Raster, stored};

use crate::units::Px;

/// Sides that don't fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    #[error("views-px: wanted 1 to {max} sides, rising, each a whole number of tiles of {tile}; found {found:?}")]
    Views { max: usize, tile: Px, found: Vec<Px> },
    #[error("tile-px: wanted a whole number of patches of {patch}, at most {max}; found {found}")]
    Tile { patch: Px, max: Px, found: Px },
    #[error("mean and std: wanted a mean in 0 to 1 and a std above 0; found {found}")]
    Colour { found: String },
    #[error("frame: wanted at least 1 x 1 px, found {width} x {height} px")]
    EmptyFrame { width: u32, height: u32 },
}
