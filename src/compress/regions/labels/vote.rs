//! From labels of pixels to labels of tokens (Eq. 15): the label that most pixels of a token's footprint have; of equal ones the smallest.
//!
//! A pixel belongs to the token whose footprint holds its centre. A token that holds no pixel's centre, in a map coarser than the view, takes the pixel at
//! the middle of its footprint.
//!
//! # Why
//! A map goes by in rows. All views share one ring of the rows that the tallest token spans, and vote on a row of tokens as soon as its last pixels have come.

use crate::compress::{CompressError, MASKED};
use crate::geometry::{Axis, Layout, ViewLayout, VisionShape};
use crate::kernels::Pool;
use crate::units::{Bytes, Px, ViewId};

/// Votes for the tokens of all views of one map at a time, in memory for the largest map there can be.
pub struct Voter {
    /// The latest rows, `[band][width]`.
    ring: Vec<u32>,
    max_width: usize,
    band: usize,
    width: usize,
    height: usize,
    seen: usize,
    views: Vec<View>,
    /// A token's pixels, one buffer a thread.
    scratch: Vec<Vec<u32>>,
}

/// One view's tokens in the map's pixels.
struct View {
    /// The view's first token among those of all views.
    offset: usize,
    grid: usize,
    /// Takes part in this map.
    open: bool,
    columns: Cells,
    rows: Cells,
    /// Unmasked columns, and the rows that are still to come.
    across: std::ops::Range<usize>,
    down: std::ops::Range<usize>,
}

/// Pixels of each column or row of tokens, and the one at its middle.
struct Cells {
    edges: Vec<u32>,
    middles: Vec<u32>,
}

impl Cells {
    fn set(&mut self, view: &ViewLayout, axis: Axis, pixels: usize) {
        let pixels = u32::try_from(pixels).unwrap_or(u32::MAX);
        view.edges(axis, pixels, &mut self.edges);
        self.middles.iter_mut().enumerate().for_each(|(at, middle)| *middle = view.middle(axis, at, pixels));
    }

    fn range(&self, at: usize) -> std::ops::Range<usize> {
        self.edges[at] as usize..self.edges[at + 1] as usize
    }

    /// The last pixel that token `at` asks for.
    fn last(&self, at: usize) -> usize {
        let range = self.range(at);
        if range.is_empty() { self.middles[at] as usize } else { range.end - 1 }
    }

    fn longest(&self, tokens: std::ops::Range<usize>) -> usize {
        tokens.map(|at| self.range(at).len()).max().unwrap_or(0).max(1)
    }
}

/// Rows of a map, at most `max_side` a side, that a token of the coarsest view spans, whatever is rounded on the way.
fn band(shape: &VisionShape, max_side: Px) -> usize {
    ((shape.patch().get() + 1) * (max_side.get() + 1)).div_ceil(shape.views()[0].get()) + 2
}

impl Voter {
    /// For maps of at most `max_side` a side, on `threads` threads.
    #[must_use]
    pub fn new(shape: &VisionShape, max_side: Px, threads: usize) -> Self {
        let band = band(shape, max_side);
        let cells = |grid: usize| Cells { edges: vec![0; grid + 1], middles: vec![0; grid] };
        let mut offset = 0;
        let view = |at: usize| {
            let grid = shape.grid_side(at);
            let view = View { offset, grid, open: false, columns: cells(grid), rows: cells(grid), across: 0..0, down: 0..0 };
            offset += grid * grid;
            view
        };
        Self {
            ring: vec![0; band * max_side.get()],
            max_width: max_side.get(),
            band,
            width: 0,
            height: 0,
            seen: 0,
            views: (0..shape.views().len()).map(view).collect(),
            scratch: (0..threads.max(1)).map(|_| Vec::with_capacity(band * band)).collect(),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(shape: &VisionShape, max_side: Px, threads: usize) -> Bytes {
        let band = band(shape, max_side);
        let cells: usize = (0..shape.views().len()).map(|at| 2 * (2 * shape.grid_side(at) + 1)).sum();
        Bytes::of::<u32>(band * max_side.get() + cells + threads.max(1) * band * band)
    }

    /// Starts a map of `width` × `height` pixels of the whole frame of `layout`, for the views that `wanted` names: their labels, among those of the tokens of
    /// all views side by side, become [`MASKED`].
    ///
    /// # Errors
    /// A map larger than those this was made for.
    pub fn start(
        &mut self,
        layout: &Layout,
        wanted: &dyn Fn(ViewId) -> bool,
        (width, height): (Px, Px),
        labels: &mut [u32],
    ) -> Result<(), CompressError> {
        (self.width, self.height, self.seen) = (width.get(), height.get(), 0);
        let tokens = self.views.last().map_or(0, |view| view.offset + view.grid * view.grid);
        if labels.len() != tokens {
            return Err(CompressError::Length { what: "labels of all views", wanted: tokens, found: labels.len() });
        }
        let mut most = 0;
        for (view, cells) in layout.views().iter().zip(&mut self.views) {
            cells.open = wanted(view.id);
            let [across, down] = view.unmasked();
            (cells.across, cells.down) = (across, down);
            if cells.open {
                labels[cells.offset..][..cells.grid * cells.grid].fill(MASKED);
                cells.columns.set(view, Axis::X, self.width);
                cells.rows.set(view, Axis::Y, self.height);
                most = most.max(cells.columns.longest(cells.across.clone())).max(cells.rows.longest(cells.down.clone()));
            }
        }
        for (what, found, room) in [("label map's width", self.width, self.max_width), ("label map's pixels a token", most, self.band)] {
            if found > room {
                return Err(CompressError::Room { what, found, room });
            }
        }
        Ok(())
    }

    /// Takes the next row, `[width]`; fills in the labels of those tokens whose last pixels it brings.
    pub fn row(&mut self, row: &[u32], pool: &Pool, labels: &mut [u32]) {
        let place = self.seen % self.band;
        self.ring[place * self.width..][..self.width].copy_from_slice(&row[..self.width]);
        let Self { ring, views, scratch, band, width, seen, .. } = self;
        let line = |y: usize| &ring[y % *band * *width..][..*width];
        for view in views.iter_mut().filter(|view| view.open) {
            while !view.down.is_empty() && view.rows.last(view.down.start) == *seen {
                let v = view.down.start;
                view.down.start += 1;
                let out = &mut labels[view.offset + v * view.grid..][..view.grid][view.across.clone()];
                let per_thread = out.len().div_ceil(scratch.len());
                let (view, lines) = (&*view, view.rows.range(v));
                pool.pairs(scratch, 1, out, per_thread, &|number, scratch, out| {
                    for (label, u) in out.iter_mut().zip(view.across.start + number * per_thread..) {
                        let columns = view.columns.range(u);
                        *label = if columns.is_empty() || lines.is_empty() {
                            line(view.rows.middles[v] as usize)[view.columns.middles[u] as usize]
                        } else {
                            most_frequent(lines.clone().map(|y| &line(y)[columns.clone()]), &mut scratch[0])
                        };
                    }
                });
            }
        }
        *seen += 1;
    }
}

/// The label that stands most often in `parts`, of equal ones the smallest.
fn most_frequent<'a>(parts: impl Iterator<Item = &'a [u32]> + Clone, scratch: &mut Vec<u32>) -> u32 {
    let first = parts.clone().next().map_or(0, |part| part[0]);
    if parts.clone().all(|part| part.iter().all(|&label| label == first)) {
        return first;
    }
    scratch.clear();
    parts.for_each(|part| scratch.extend_from_slice(part));
    scratch.sort_unstable();
    let runs = scratch.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0]));
    runs.reduce(|best, next| if next.0 > best.0 { next } else { best }).map_or(0, |(_, label)| label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::regions::kmeans::tests::numbers;
    use proptest::prelude::*;

    fn shape() -> VisionShape {
        VisionShape::new([28, 56, 112].map(Px).to_vec(), Px(28), Px(14), [0.5; 3], [0.25; 3]).unwrap()
    }

    /// Pixel by pixel, by `token_at` in a frame of the map's own size; tokens without a pixel by their footprint's middle.
    fn plain(layout: &Layout, map: &[u32]) -> Vec<u32> {
        let (w, h) = (layout.width, layout.height);
        let mut out = Vec::new();
        for view in layout.views() {
            for token in 0..view.tokens().0 {
                let mut counts = std::collections::BTreeMap::new();
                for (at, &label) in map.iter().enumerate() {
                    let (x, y) = (at % w.get(), at / w.get());
                    if view.token_at(Px(x as u32), Px(y as u32)) == Some(token) {
                        *counts.entry(label).or_insert(0) += 1;
                    }
                }
                let most = counts.values().copied().max();
                out.push(match counts.into_iter().find(|(_, count)| Some(*count) == most) {
                    Some((label, _)) => label,
                    None if view.is_masked(token) => MASKED,
                    None => {
                        let rect = view.footprint(token);
                        let at = |low: f64, length: f64, most: Px| ((low + length / 2.0) as usize).min(most.get() - 1);
                        map[at(rect.y, rect.h, h) * w.get() + at(rect.x, rect.w, w)]
                    }
                });
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn votes_are_those_of_the_definition(w in 1_u32..90, h in 1_u32..90, kinds in 1_u32..40, seed in 0_u64..1_000) {
            let layout = Layout::new(&shape(), Px(w), Px(h)).unwrap();
            let map: Vec<u32> =
                numbers((w * h) as usize, seed).iter().map(|value| ((value + 1.0) / 2.0 * kinds as f32) as u32).collect();
            for threads in [1, 3] {
                let mut voter = Voter::new(&shape(), Px(90), threads);
                let mut labels = vec![7; shape().all_tokens().get()];
                voter.start(&layout, &|_| true, (Px(w), Px(h)), &mut labels).unwrap();
                let pool = Pool::new(threads);
                map.chunks_exact(w as usize).for_each(|row| voter.row(row, &pool, &mut labels));
                prop_assert_eq!(&labels, &plain(&layout, &map));
            }
        }

        #[test]
        fn a_reduced_map_labels_every_token(w in 1_u32..4_000, h in 1_u32..4_000, side in 1_u32..60) {
            let layout = Layout::new(&shape(), Px(w), Px(h)).unwrap();
            let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(w.max(h))).max(1) as u32;
            let (map_w, map_h) = (scaled(w), scaled(h));
            let mut voter = Voter::new(&shape(), Px(60), 1);
            let mut labels = vec![7; shape().all_tokens().get()];
            voter.start(&layout, &|view| view.index() != 1, (Px(map_w), Px(map_h)), &mut labels).unwrap();
            let pool = Pool::new(1);
            (0..map_h).for_each(|y| voter.row(&vec![y + 1; map_w as usize], &pool, &mut labels));
            let mut labels = labels.iter();
            for view in layout.views() {
                for token in 0..view.tokens().0 {
                    let label = *labels.next().unwrap();
                    let wanted = if view.id.index() == 1 { label == 7 } else { (label == MASKED) == view.is_masked(token) };
                    prop_assert!(wanted, "view {} token {token}: {label}", view.id.index());
                }
            }
        }
    }
}
