//! Numbers of tokens and their places.

use serde::Deserialize;

/// How the tokens of a view are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenOrder {
    /// Row by row over the whole view.
    Raster,
    /// Tile by tile, both tiles and the tokens inside one row by row: as an encoder gives them.
    TileMajor,
}

/// What a clustering takes for a token's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coordinates {
    /// Its centre in the whole view, in `[0,1]²`.
    View,
    /// Its index in its own tile over the last index, in `[0,1]²`.
    Tile,
}

/// The tokens of one view: a square of tiles, each a square of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Tokens a side of the view.
    pub side: usize,
    /// Tokens a side of a tile.
    pub tile: usize,
    pub order: TokenOrder,
}

impl Grid {
    /// Tokens of the view.
    #[must_use]
    pub fn tokens(self) -> usize {
        self.side * self.side
    }

    /// Column and row of a token in the view.
    #[must_use]
    pub fn place(self, token: u32) -> (usize, usize) {
        let token = token as usize;
        match self.order {
            TokenOrder::Raster => (token % self.side, token / self.side),
            TokenOrder::TileMajor => {
                let (tile, inner) = (token / (self.tile * self.tile), token % (self.tile * self.tile));
                let across = self.side / self.tile;
                (tile % across * self.tile + inner % self.tile, tile / across * self.tile + inner / self.tile)
            }
        }
    }

    /// The token in column `x` and row `y`.
    #[must_use]
    pub fn token(self, x: usize, y: usize) -> usize {
        match self.order {
            TokenOrder::Raster => y * self.side + x,
            TokenOrder::TileMajor => {
                let tile = y / self.tile * (self.side / self.tile) + x / self.tile;
                (tile * self.tile + y % self.tile) * self.tile + x % self.tile
            }
        }
    }

    /// Values in raster order → in this grid's.
    pub fn renumber<T: Copy>(self, raster: &[T], out: &mut [T]) {
        for (token, out) in (0..).zip(out) {
            let (x, y) = self.place(token);
            *out = raster[y * self.side + x];
        }
    }

    /// A token's centre in `[0,1]²` of the view or of its tile (Eq. 5).
    #[must_use]
    pub fn centre(self, token: u32, coordinates: Coordinates) -> (f32, f32) {
        let (x, y) = self.place(token);
        let (x, y, side) = match coordinates {
            Coordinates::View => (x, y, self.side),
            Coordinates::Tile => (x % self.tile, y % self.tile, self.tile),
        };
        ((x as f32 + 0.5) / side as f32, (y as f32 + 0.5) / side as f32)
    }

    /// A token's place as a clustering has it (Eq. 13).
    #[must_use]
    pub fn coordinate(self, token: u32, coordinates: Coordinates) -> (f32, f32) {
        match coordinates {
            Coordinates::View => self.centre(token, coordinates),
            Coordinates::Tile => {
                let (x, y) = self.place(token);
                let last = (self.tile - 1).max(1) as f32;
                ((x % self.tile) as f32 / last, (y % self.tile) as f32 / last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_places_find_each_other_in_both_orders() {
        for order in [TokenOrder::Raster, TokenOrder::TileMajor] {
            let grid = Grid { side: 6, tile: 3, order };
            for token in 0..36 {
                let (x, y) = grid.place(token);
                assert_eq!(grid.token(x, y), token as usize, "{order:?}");
            }
        }
        let grid = Grid { side: 6, tile: 3, order: TokenOrder::TileMajor };
        assert_eq!([0, 3, 9, 18, 35].map(|token| grid.place(token)), [(0, 0), (0, 1), (3, 0), (0, 3), (5, 5)]);
        let raster: Vec<usize> = (0..36).collect();
        let mut out = vec![0; 36];
        grid.renumber(&raster, &mut out);
        assert_eq!(out[..4], [0, 1, 2, 6]);
        assert_eq!(grid.coordinate(17, Coordinates::Tile), (1.0, 1.0));
        assert_eq!(grid.coordinate(0, Coordinates::View), (0.5 / 6.0, 0.5 / 6.0));
    }
}
