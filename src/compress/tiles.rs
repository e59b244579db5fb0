//! Which tiles of the fine views a question wants to see, when it may not have all of them encoded.

use crate::compress::CompressError;
use crate::geometry::ViewLayout;
use crate::units::{Bytes, Tiles, Tokens};

/// Tiles of several views by the importance that the question gives them.
pub struct TileRank {
    found: Vec<RankedTile>,
}

/// One tile: its view, its number there in raster order, and the mean importance of its unmasked tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankedTile {
    pub view: u8,
    pub tile: u32,
    pub score: f32,
}

impl TileRank {
    /// For at most `all` tiles.
    #[must_use]
    pub fn new(all: Tiles) -> Self {
        Self { found: Vec::with_capacity(all.0 as usize) }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(all: Tiles) -> Bytes {
        Bytes::of::<RankedTile>(all.0 as usize)
    }

    pub fn clear(&mut self) {
        self.found.clear();
    }

    /// Adds the tiles of `view` that are not all padding. `scores`: aligned importance of its tokens, `[N_s]`, in their order.
    ///
    /// # Errors
    /// A score that is not finite, or more tiles than there is room for.
    pub fn add(&mut self, view: &ViewLayout, scores: &[f32]) -> Result<(), CompressError> {
        let found = self.found.len() + view.encoded_tile_count();
        if found > self.found.capacity() {
            return Err(CompressError::Room { what: "tiles", found, room: self.found.capacity() });
        }
        let [columns, rows] = view.encoded_tiles();
        let grid = view.grid();
        for (x, y) in rows.flat_map(|y| columns.clone().map(move |x| (x, y))) {
            let (mut sum, mut count) = (0.0_f64, 0_u32);
            for inner in 0..grid.tile * grid.tile {
                let token = Tokens::of(view.token_of_tile(x, y, inner)).0;
                if view.is_masked(token) {
                    continue;
                }
                let score = scores[token as usize];
                if !score.is_finite() {
                    return Err(CompressError::NotFinite { what: "score", token, found: score });
                }
                sum += f64::from(score);
                count += 1;
            }
            let tile = Tokens::of(y * view.tiles_side() + x).0;
            self.found.push(RankedTile { view: view.id.0, tile, score: (sum / f64::from(count.max(1))) as f32 });
        }
        Ok(())
    }

    /// The best `most` of them; equal scores by coarser view, then by lower tile.
    pub fn best(&mut self, most: Tiles) -> &[RankedTile] {
        let order = |a: &RankedTile, b: &RankedTile| b.score.total_cmp(&a.score).then((a.view, a.tile).cmp(&(b.view, b.tile)));
        self.found.sort_unstable_by(order);
        self.found.truncate(most.0 as usize);
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Layout, VisionShape};
    use crate::units::Px;

    #[test]
    fn the_tiles_that_matter_most_come_first() {
        // Two views of 1 and 2 x 2 tiles of 2 x 2 tokens; the frame is twice as wide as tall, so that half of each is padding.
        let shape = VisionShape::new(vec![Px(28), Px(56)], Px(28), Px(14), [0.5; 3], [0.5; 3]).unwrap();
        let layout = Layout::new(&shape, Px(100), Px(50)).unwrap();
        let mut rank = TileRank::new(Tiles(5));
        let fine = &layout.views()[1];
        // Rows 1 and 2 of four are frame. Right of the middle it is twice as important; the padding's scores count for nothing.
        let scores: Vec<f32> = (0..16).map(|token| if !(4..12).contains(&token) { 9.0 } else { 1.0 + f32::from(token % 4 >= 2) }).collect();
        rank.add(&layout.views()[0], &[1.5; 4]).unwrap();
        rank.add(fine, &scores).unwrap();
        let tile = |view, tile, score| RankedTile { view, tile, score };
        assert_eq!(rank.best(Tiles(3)), [tile(1, 1, 2.0), tile(1, 3, 2.0), tile(0, 0, 1.5)]);
        rank.clear();
        assert_eq!(rank.best(Tiles(3)), []);
        let error = rank.add(fine, &[f32::NAN; 16]).unwrap_err();
        assert!(matches!(error, CompressError::NotFinite { token: 4, .. }), "{error}");
    }
}
