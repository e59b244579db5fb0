//! Sides, tiles and numbers of a frame's levels.

/// Side of a tile in pixels.
pub const TILE: usize = 256;

/// The levels of a frame of `width` × `height` pixels as seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoomShape {
    pub width: usize,
    pub height: usize,
}

impl ZoomShape {
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        Self { width: width.max(1), height: height.max(1) }
    }

    /// How many there are; the last is the frame itself.
    #[must_use]
    pub fn levels(&self) -> usize {
        let tiles = self.width.max(self.height).div_ceil(TILE);
        1 + tiles.next_power_of_two().trailing_zeros() as usize
    }

    /// Width and height of a level.
    #[must_use]
    pub fn size(&self, level: usize) -> (usize, usize) {
        let halved = self.levels() - 1 - level.min(self.levels() - 1);
        (self.width.div_ceil(1 << halved), self.height.div_ceil(1 << halved))
    }

    /// Columns and rows of tiles of a level.
    #[must_use]
    pub fn grid(&self, level: usize) -> (usize, usize) {
        let (width, height) = self.size(level);
        (width.div_ceil(TILE), height.div_ceil(TILE))
    }

    /// Tiles of all levels.
    #[must_use]
    pub fn tiles(&self) -> usize {
        (0..self.levels()).map(|level| self.grid(level).0 * self.grid(level).1).sum()
    }

    /// Which of all tiles one is, the coarsest level first. `None`: there is no such tile.
    #[must_use]
    pub fn number(&self, level: usize, x: usize, y: usize) -> Option<usize> {
        if level >= self.levels() {
            return None;
        }
        let (columns, rows) = self.grid(level);
        let before: usize = (0..level).map(|level| self.grid(level).0 * self.grid(level).1).sum();
        (x < columns && y < rows).then_some(before + y * columns + x)
    }
}
