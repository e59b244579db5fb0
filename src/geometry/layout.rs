//! How one frame lies in the views of a shape.

use crate::geometry::{GeometryError, Grid, TokenOrder, VisionShape};
use crate::units::{Px, Tokens, ViewId};

/// A rectangle in frame pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Rect {
    /// Square pixels.
    #[must_use]
    pub fn area(self) -> f64 {
        self.w * self.h
    }

    /// The smallest rectangle around both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = (self.x + self.w).max(other.x + other.w);
        let low = (self.y + self.h).max(other.y + other.h);
        Self { x, y, w: right - x, h: low - y }
    }
}

/// The part of a view that is frame, in whole view pixels; the rest is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// Where a frame lacks pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Top,
    Right,
    Bottom,
}

/// The views of one frame, anchor first, the dropped ones included.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    pub width: Px,
    pub height: Px,
    views: Vec<ViewLayout>,
}

/// Across or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    X,
    Y,
}

/// One view of one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewLayout {
    pub id: ViewId,
    pub side: Px,
    pub content: Content,
    /// Of the content, what the file has: all, but for a picture that ends early.
    there: Content,
    /// The next smaller view already reaches the frame's longer side.
    pub dropped: bool,
    frame: (f64, f64),
    patch: usize,
    tile: usize,
    order: TokenOrder,
    padding_kept: bool,
}

impl Layout {
    /// Lays a frame of `width` × `height` pixels into the views of `shape`: the longer side fills the view, the shorter one is rounded
    /// to the nearest pixel (at least 1) and centred, an odd pixel of padding going to the right or below.
    pub fn new(shape: &VisionShape, width: Px, height: Px) -> Result<Self, GeometryError> {
        let longer = width.max(height);
        if width.0 == 0 || height.0 == 0 {
            return Err(GeometryError::EmptyFrame { width: width.0, height: height.0 });
        }
        let views = shape.views().iter().enumerate().map(|(index, &side)| {
            let scaled = |length: Px| {
                let (side, length, longer) = (side.0 as u64, u64::from(length.0), u64::from(longer.0));
                // Exact rounding half up: 2ab + c over 2c.
                (((2 * side * length + longer) / (2 * longer)).max(1)) as usize
            };
            let (w, h) = (scaled(width), scaled(height));
            let content = Content { left: (side.get() - w) / 2, top: (side.get() - h) / 2, width: w, height: h };
            ViewLayout {
                id: ViewId(index as u8),
                side,
                content,
                there: content,
                dropped: index > 0 && shape.views()[index - 1] >= longer,
                frame: (f64::from(width.0), f64::from(height.0)),
                patch: shape.patch().get(),
                tile: shape.tile().get(),
                order: TokenOrder::Raster,
                padding_kept: false,
            }
        });
        Ok(Self { width, height, views: views.collect() })
    }

    /// The same views with their tokens numbered in `order`, and with those of padding as ordinary tokens where `padding_kept` says so.
    #[must_use]
    pub fn numbered(mut self, order: TokenOrder, padding_kept: bool) -> Self {
        self.views.iter_mut().for_each(|view| (view.order, view.padding_kept) = (order, padding_kept));
        self
    }

    /// Without the frame's last `missing` pixels towards `side`: patches that show nothing else are masked like padding.
    #[must_use]
    pub fn without(mut self, side: Side, missing: Px) -> Self {
        let frame = if matches!(side, Side::Left | Side::Right) { self.width } else { self.height };
        let left = u64::from((frame - missing).0);
        for view in &mut self.views {
            let Content { width, height, .. } = view.content;
            let kept = |length: usize| usize::try_from((length as u64 * left).div_ceil(u64::from(frame.0)).max(1)).unwrap_or(length);
            let there = &mut view.there;
            match side {
                Side::Bottom => there.height = kept(height),
                Side::Right => there.width = kept(width),
                Side::Top => (there.top, there.height) = (there.top + height - kept(height), kept(height)),
                Side::Left => (there.left, there.width) = (there.left + width - kept(width), kept(width)),
            }
        }
        self
    }

    #[must_use]
    pub fn views(&self) -> &[ViewLayout] {
        &self.views
    }

    /// Views that are not dropped, coarsest first; at least the anchor.
    pub fn present(&self) -> impl DoubleEndedIterator<Item = &ViewLayout> {
        self.views.iter().filter(|view| !view.dropped)
    }

    /// The largest view left.
    #[must_use]
    pub fn finest(&self) -> &ViewLayout {
        self.present().next_back().unwrap_or(&self.views[0])
    }

    /// The frame is smaller than the view that shows it.
    #[must_use]
    pub fn upscaled(&self, view: &ViewLayout) -> bool {
        view.side > self.width.max(self.height)
    }
}

impl ViewLayout {
    /// Its tokens' places.
    #[must_use]
    pub fn grid(&self) -> Grid {
        Grid { side: self.side.get() / self.patch, tile: self.tile / self.patch, order: self.order }
    }

    /// Tokens a side, U_s.
    #[must_use]
    pub fn grid_side(&self) -> u32 {
        (self.side.get() / self.patch) as u32
    }

    /// Tokens, padding included: N_s.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        Tokens(self.grid_side().pow(2))
    }

    /// Tiles a side.
    #[must_use]
    pub fn tiles_side(&self) -> usize {
        self.side.get() / self.tile
    }

    /// Columns and rows of squares of `square` view pixels that hold any frame that is there, as x0..x1, y0..y1.
    fn covered(&self, square: usize) -> [std::ops::Range<usize>; 2] {
        let Content { left, top, width, height } = self.there;
        [left / square..(left + width).div_ceil(square), top / square..(top + height).div_ceil(square)]
    }

    /// Columns and rows of tokens that are not masked (x0..x1, y0..y1): a token is masked when its whole patch is padding, unless padding is kept.
    #[must_use]
    pub fn unmasked(&self) -> [std::ops::Range<usize>; 2] {
        let all = 0..self.side.get() / self.patch;
        if self.padding_kept { [all.clone(), all] } else { self.covered(self.patch) }
    }

    /// Tokens that are not masked.
    #[must_use]
    pub fn unmasked_tokens(&self) -> Tokens {
        let [columns, rows] = self.unmasked();
        Tokens::of(columns.len() * rows.len())
    }

    #[must_use]
    pub fn is_masked(&self, token: u32) -> bool {
        let (x, y) = self.place(token);
        let [columns, rows] = self.unmasked();
        !columns.contains(&x) || !rows.contains(&y)
    }

    /// Columns and rows of tiles that are not all padding.
    #[must_use]
    pub fn encoded_tiles(&self) -> [std::ops::Range<usize>; 2] {
        self.covered(self.tile)
    }

    /// Tiles that are not all padding.
    #[must_use]
    pub fn encoded_tile_count(&self) -> usize {
        let [columns, rows] = self.encoded_tiles();
        columns.len() * rows.len()
    }

    /// Number in the view of token `inner` (raster in its tile) of the tile in column `tile_x` and row `tile_y`.
    #[must_use]
    pub fn token_of_tile(&self, tile_x: usize, tile_y: usize, inner: usize) -> usize {
        let grid = self.grid();
        grid.token(tile_x * grid.tile + inner % grid.tile, tile_y * grid.tile + inner / grid.tile)
    }

    /// The tile that a token is in: its number in raster order.
    #[must_use]
    pub fn tile_of(&self, token: u32) -> usize {
        let (x, y) = self.place(token);
        let tile = self.tile / self.patch;
        y / tile * self.tiles_side() + x / tile
    }

    /// Column and row of a token.
    #[must_use]
    pub fn place(&self, token: u32) -> (usize, usize) {
        self.grid().place(token)
    }

    /// The pixels of the original frame behind a token: its patch without the padding. Empty (w or h 0) for a masked token.
    #[must_use]
    pub fn footprint(&self, token: u32) -> Rect {
        let (x, y) = self.place(token);
        let Content { left, top, width, height } = self.content;
        let axis = |at: usize, start: usize, length: usize, frame: f64| {
            let low = (at * self.patch).clamp(start, start + length) - start;
            let high = ((at + 1) * self.patch).clamp(start, start + length) - start;
            let scale = frame / length as f64;
            (low as f64 * scale, (high - low) as f64 * scale)
        };
        let ((x, w), (y, h)) = (axis(x, left, width, self.frame.0), axis(y, top, height, self.frame.1));
        Rect { x, y, w, h }
    }

    /// The token whose footprint holds the centre of pixel `x`, `y` of the frame. `None` outside the frame.
    #[must_use]
    pub fn token_at(&self, x: Px, y: Px) -> Option<u32> {
        let axis = |axis: Axis, at: Px, frame: f64| {
            let at = f64::from(at.0) + 0.5;
            (at < frame).then(|| self.token_along(axis, at, frame))
        };
        let (x, y) = (axis(Axis::X, x, self.frame.0)?, axis(Axis::Y, y, self.frame.1)?);
        u32::try_from(self.grid().token(x, y)).ok()
    }

    /// First view pixel of the frame along an axis, and how many there are.
    fn content_along(&self, axis: Axis) -> (usize, usize) {
        let Content { left, top, width, height } = self.content;
        match axis {
            Axis::X => (left, width),
            Axis::Y => (top, height),
        }
    }

    /// The column or row of tokens at `at` of `extent` of a picture of the frame.
    fn token_along(&self, axis: Axis, at: f64, extent: f64) -> usize {
        let (start, length) = self.content_along(axis);
        (start + ((at * length as f64 / extent) as usize).min(length - 1)) / self.patch
    }

    /// Where the columns or rows of tokens begin in a picture of the whole frame that is `pixels` long: `edges[u]` is the first pixel whose centre
    /// lies in token `u` or behind it, so that token `u` holds the pixels `edges[u]..edges[u + 1]`. `edges`: `[U + 1]`.
    pub fn edges(&self, axis: Axis, pixels: u32, edges: &mut [u32]) {
        let mut next = 0;
        for pixel in 0..pixels {
            let token = self.token_along(axis, f64::from(pixel) + 0.5, f64::from(pixels));
            while next <= token.min(edges.len() - 1) {
                edges[next] = pixel;
                next += 1;
            }
        }
        edges[next..].fill(pixels);
    }

    /// The pixel at the middle of token `at`'s footprint, along an axis of a picture of the whole frame that is `pixels` long.
    #[must_use]
    pub fn middle(&self, axis: Axis, at: usize, pixels: u32) -> u32 {
        let (start, length) = self.content_along(axis);
        let inside = |edge: usize| (edge * self.patch).clamp(start, start + length) - start;
        let middle = (inside(at) + inside(at + 1)) as f64 / 2.0 * f64::from(pixels) / length as f64;
        // Below 2³² by the line above.
        (middle as u32).min(pixels.saturating_sub(1))
    }

    /// A rectangle of the frame in view pixels.
    #[must_use]
    pub fn from_frame(&self, rect: Rect) -> Rect {
        let Content { left, top, width, height } = self.content;
        let (sx, sy) = (width as f64 / self.frame.0, height as f64 / self.frame.1);
        Rect { x: left as f64 + rect.x * sx, y: top as f64 + rect.y * sy, w: rect.w * sx, h: rect.h * sy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paper() -> VisionShape {
        VisionShape::new([672, 1344, 2688, 4032].map(Px).to_vec(), Px(336), Px(14), [0.5; 3], [0.25; 3]).unwrap()
    }

    #[test]
    fn tiles_and_drops_of_known_frames() {
        // Frame, tiles that are not all padding in each view, dropped views.
        let cases = [
            ((10_800, 5_400), [4, 8, 32, 72], 0),
            ((4_032, 4_032), [4, 16, 64, 144], 0),
            ((4_000, 3_000), [4, 16, 48, 120], 0),
            ((2_400, 2_400), [4, 16, 64, 144], 1),
            ((2_688, 100), [4, 8, 16, 24], 1),
            ((672, 672), [4, 16, 64, 144], 3),
            ((1, 1), [4, 16, 64, 144], 3),
            ((9_000, 300), [4, 8, 16, 24], 0),
        ];
        for ((w, h), tiles, dropped) in cases {
            let layout = Layout::new(&paper(), Px(w), Px(h)).unwrap();
            let found: Vec<_> = layout.views().iter().map(ViewLayout::encoded_tile_count).collect();
            assert_eq!(found, tiles, "{w} x {h}");
            assert_eq!(layout.views().iter().filter(|view| view.dropped).count(), dropped, "{w} x {h}");
        }
        assert!(Layout::new(&paper(), Px(0), Px(5)).is_err());
    }

    #[test]
    fn patches_of_missing_rows_are_masked() {
        let whole = Layout::new(&paper(), Px(4_000), Px(2_000)).unwrap();
        for side in [Side::Left, Side::Top, Side::Right, Side::Bottom] {
            let across = matches!(side, Side::Left | Side::Right);
            let cut = whole.clone().without(side, Px(if across { 1_000 } else { 500 }));
            for (view, all) in cut.present().zip(whole.present()) {
                let [columns, rows] = view.unmasked();
                let [all_columns, all_rows] = all.unmasked();
                let (found, wanted) = if across { (columns.len(), all_columns.len()) } else { (rows.len(), all_rows.len()) };
                assert!((found * 4).abs_diff(wanted * 3) <= 4, "{side:?}: {found} of {wanted}");
                assert_eq!(columns.start > all_columns.start, side == Side::Left);
                assert_eq!(rows.start > all_rows.start, side == Side::Top);
                // A token that is left shows the same pixels as before.
                let token = (rows.start * view.grid_side() as usize + columns.start) as u32;
                assert!(!view.is_masked(token) && view.footprint(token) == all.footprint(token));
            }
        }
        assert_eq!(whole.clone().without(Side::Bottom, Px(0)), whole);
    }

    proptest! {
        #[test]
        fn tokens_and_pixels_find_each_other(w in 1_u32..12_000, h in 1_u32..12_000, px in 0_u32..12_000, py in 0_u32..12_000) {
            let layout = Layout::new(&paper(), Px(w), Px(h)).unwrap();
            let (px, py) = (px % w, py % h);
            for view in layout.views() {
                let token = view.token_at(Px(px), Px(py)).unwrap();
                prop_assert!(!view.is_masked(token));
                let rect = view.footprint(token);
                let (cx, cy) = (f64::from(px) + 0.5, f64::from(py) + 0.5);
                let slack = 1e-6;
                prop_assert!(rect.x - slack <= cx && cx <= rect.x + rect.w + slack, "{rect:?} {cx}");
                prop_assert!(rect.y - slack <= cy && cy <= rect.y + rect.h + slack, "{rect:?} {cy}");
            }
            prop_assert_eq!(layout.views()[0].token_at(Px(w), Px(0)), None);
        }

        #[test]
        fn edges_are_where_token_at_changes(w in 1_u32..3_000, h in 1_u32..3_000) {
            let layout = Layout::new(&paper(), Px(w), Px(h)).unwrap();
            for view in layout.views() {
                let side = view.grid_side() as usize;
                for (axis, pixels) in [(Axis::X, w), (Axis::Y, h)] {
                    let mut edges = vec![0; side + 1];
                    view.edges(axis, pixels, &mut edges);
                    for pixel in 0..pixels {
                        let token = match axis {
                            Axis::X => view.place(view.token_at(Px(pixel), Px(0)).unwrap()).0,
                            Axis::Y => view.place(view.token_at(Px(0), Px(pixel)).unwrap()).1,
                        };
                        prop_assert!((edges[token]..edges[token + 1]).contains(&pixel), "{axis:?} {pixel}: {token}");
                    }
                    for token in (0..side).filter(|&token| edges[token] < edges[token + 1]) {
                        prop_assert!((edges[token]..edges[token + 1]).contains(&view.middle(axis, token, pixels)));
                    }
                }
            }
        }

        #[test]
        fn footprints_cover_the_frame_once(w in 1_u32..6_000, h in 1_u32..6_000) {
            let layout = Layout::new(&paper(), Px(w), Px(h)).unwrap();
            for view in &layout.views()[..2] {
                let area: f64 = (0..view.tokens().0).map(|token| view.footprint(token)).map(|rect| rect.w * rect.h).sum();
                let frame = f64::from(w) * f64::from(h);
                prop_assert!((area - frame).abs() < 1e-6 * frame);
                let open = (0..view.tokens().0).filter(|&token| !view.is_masked(token));
                prop_assert_eq!(Tokens::of(open.clone().count()), view.unmasked_tokens());
                prop_assert!(open.clone().all(|token| view.footprint(token).w > 0.0 && view.footprint(token).h > 0.0));
            }
        }

        #[test]
        fn tokens_of_tiles_are_each_token_once(view in 0_usize..3) {
            let layout = Layout::new(&paper(), Px(5_000), Px(5_000)).unwrap();
            let view = &layout.views()[view];
            let mut seen = vec![false; view.tokens().get()];
            for tile_y in 0..view.tiles_side() {
                for tile_x in 0..view.tiles_side() {
                    (0..576).for_each(|inner| seen[view.token_of_tile(tile_x, tile_y, inner)] = true);
                }
            }
            prop_assert!(seen.iter().all(|&seen| seen));
        }
    }
}
