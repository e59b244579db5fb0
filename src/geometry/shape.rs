//! The sides a vision encoder was made for.

use crate::geometry::GeometryError;
use crate::units::{Px, Tiles, Tokens};

const MAX_VIEWS: usize = 8;
const MAX_TILE: Px = Px(2048);
const MAX_VIEW: Px = Px(32_768);

/// Views, tile and patch of a model, and how it wants its pixels. Any value of this type fits together.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionShape {
    views: Vec<Px>,
    tile: Px,
    patch: Px,
    mean: [f32; 3],
    std: [f32; 3],
}

impl VisionShape {
    /// `views`: sides, anchor first, rising, each a whole number of tiles; `tile` a whole number of patches; `mean` and `std` of pixels in 0..1.
    pub fn new(views: Vec<Px>, tile: Px, patch: Px, mean: [f32; 3], std: [f32; 3]) -> Result<Self, GeometryError> {
        if patch.0 == 0 || tile.0 == 0 || tile > MAX_TILE || !tile.0.is_multiple_of(patch.0) {
            return Err(GeometryError::Tile { patch, max: MAX_TILE, found: tile });
        }
        let whole = |side: &Px| side.0 > 0 && *side <= MAX_VIEW && side.0.is_multiple_of(tile.0);
        if views.is_empty() || views.len() > MAX_VIEWS || !views.is_sorted_by(|a, b| a < b) || !views.iter().all(whole) {
            return Err(GeometryError::Views { max: MAX_VIEWS, tile, found: views });
        }
        if !mean.iter().all(|mean| (0.0..=1.0).contains(mean)) || !std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(GeometryError::Colour { found: format!("{mean:?} and {std:?}") });
        }
        Ok(Self { views, tile, patch, mean, std })
    }

    #[must_use]
    pub fn views(&self) -> &[Px] {
        &self.views
    }

    #[must_use]
    pub fn tile(&self) -> Px {
        self.tile
    }

    #[must_use]
    pub fn patch(&self) -> Px {
        self.patch
    }

    /// Largest side of all.
    #[must_use]
    pub fn finest(&self) -> Px {
        *self.views.last().expect("a shape has at least one view")
    }

    /// Tokens a side, U_s.
    #[must_use]
    pub fn grid_side(&self, view: usize) -> usize {
        self.views[view].get() / self.patch.get()
    }

    /// Tokens of a view, padding included: N_s.
    #[must_use]
    pub fn tokens(&self, view: usize) -> Tokens {
        Tokens::of(self.grid_side(view).pow(2))
    }

    /// Tokens of all views.
    #[must_use]
    pub fn all_tokens(&self) -> Tokens {
        (0..self.views.len()).map(|view| self.tokens(view)).sum()
    }

    /// Tiles of a view, padding included.
    #[must_use]
    pub fn tiles(&self, view: usize) -> usize {
        (self.views[view].get() / self.tile.get()).pow(2)
    }

    /// Tiles of all views.
    #[must_use]
    pub fn all_tiles(&self) -> Tiles {
        Tiles(Tokens::of((0..self.views.len()).map(|view| self.tiles(view)).sum()).0)
    }

    /// Tokens a side of a tile.
    #[must_use]
    pub fn tile_grid(&self) -> usize {
        self.tile.get() / self.patch.get()
    }

    /// The padding's colour: the mean, in 0..=255.
    #[must_use]
    pub fn pad(&self) -> [u8; 3] {
        self.mean.map(|mean| (mean * 255.0).round() as u8)
    }

    /// A pixel's value as the encoder wants it.
    #[must_use]
    pub fn normalise(&self, channel: usize, value: u8) -> f32 {
        (f32::from(value) / 255.0 - self.mean[channel]) / self.std[channel]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(views: &[u32], tile: u32, patch: u32) -> Result<VisionShape, GeometryError> {
        VisionShape::new(views.iter().copied().map(Px).collect(), Px(tile), Px(patch), [0.5; 3], [0.25; 3])
    }

    #[test]
    fn the_papers_shape() {
        let shape = shape(&[672, 1344, 2688, 4032], 336, 14).unwrap();
        assert_eq!((0..4).map(|view| shape.tokens(view).0).collect::<Vec<_>>(), [2304, 9216, 36864, 82944]);
        assert_eq!(shape.all_tokens(), Tokens(131_328));
        assert_eq!(shape.pad(), [128; 3]);
    }

    #[test]
    fn sides_that_do_not_fit_are_refused() {
        let cases: [(&[u32], u32, u32); 9] = [
            (&[], 336, 14),
            (&[672, 672], 336, 14),
            (&[1344, 672], 336, 14),
            (&[670], 336, 14),
            (&[0], 336, 14),
            (&[672], 335, 14),
            (&[672], 336, 0),
            (&[672], 0, 14),
            (&[336 * 200], 336, 14),
        ];
        for (views, tile, patch) in cases {
            assert!(shape(views, tile, patch).is_err(), "{views:?} {tile} {patch}");
        }
        let odd = VisionShape::new(vec![Px(336)], Px(336), Px(14), [f32::NAN; 3], [1.0; 3]);
        assert!(matches!(odd, Err(GeometryError::Colour { .. })));
    }
}
