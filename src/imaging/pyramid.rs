//! All views of a frame in one pass over its rows.
//!
//! A batch of rows is resampled across for every view, on all threads; a view's row is finished as soon as the last source row under its filter has
//! come. Samples are rounded to 8 bits between the passes, as the reference filter does.

use std::time::{Duration, Instant};

use crate::geometry::{Layout, ViewLayout, VisionShape};
use crate::imaging::resample::{bicubic, longest};
use crate::imaging::source::{FrameSource, Limits};
use crate::imaging::{ImagingError, decode};
use crate::kernels::{Isa, Pool, TAPS, Taps, across, down, round};
use crate::units::{Bytes, Px};

/// Source rows resampled together.
const BATCH: usize = 16;

/// The views of one frame at a time, `[R, R, 3]` each, and what making them needs; all for the largest frame there can be.
pub struct Pyramid {
    shape: VisionShape,
    views: Vec<Vec<u8>>,
    rings: Vec<Vec<u8>>,
    /// `[BATCH][width, 3]`.
    batch: Vec<u8>,
    /// `[BATCH][width + taps]`.
    planes: Vec<f32>,
    /// `[BATCH][Σ R, 3]`.
    resampled: Vec<u8>,
    sums: Vec<f32>,
    isa: Isa,
}

/// Where the time of an ingest went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub decode: Duration,
    pub views: Duration,
}

/// One view being made.
struct Pass<'a> {
    view: &'a ViewLayout,
    /// Content size in the stored orientation.
    width: usize,
    columns: Taps,
    rows: Taps,
    /// Rows the ring holds.
    ring: usize,
    /// The next row to finish.
    next: usize,
    /// First sample of this view in a row of `resampled`.
    offset: usize,
}

struct Sizes {
    rings: Vec<usize>,
    batch: usize,
    planes: usize,
    resampled: usize,
    sums: usize,
}

impl Sizes {
    fn new(shape: &VisionShape, max_side: Px) -> Self {
        let side = max_side.get();
        // A side that rounds down to one pixel is up to half as much again stretched.
        let most = |view: &Px| longest(side * 3 / 2, view.get());
        Self {
            // A view's content may be one pixel wide in one direction only; its rings are for the full scale.
            rings: shape.views().iter().map(|view| (most(view) + BATCH) * view.get() * 3).collect(),
            batch: BATCH * side * 3,
            planes: BATCH * (side + shape.views().iter().map(most).max().unwrap_or(0) + TAPS),
            resampled: BATCH * shape.views().iter().map(|view| view.get() * 3).sum::<usize>(),
            sums: shape.finest().get() * 3,
        }
    }
}

impl Pyramid {
    /// For frames of at most `max_side` pixels a side.
    #[must_use]
    pub fn new(shape: &VisionShape, max_side: Px, isa: Isa) -> Self {
        let sizes = Sizes::new(shape, max_side);
        Self {
            shape: shape.clone(),
            views: shape.views().iter().map(|view| vec![0; view.get() * view.get() * 3]).collect(),
            rings: sizes.rings.iter().map(|&len| vec![0; len]).collect(),
            batch: vec![0; sizes.batch],
            planes: vec![0.0; sizes.planes],
            resampled: vec![0; sizes.resampled],
            sums: vec![0.0; sizes.sums],
            isa,
        }
    }

    /// Bytes of the views, and of what making them needs, the filter's weights included.
    #[must_use]
    pub fn bytes(shape: &VisionShape, max_side: Px) -> (Bytes, Bytes) {
        let sizes = Sizes::new(shape, max_side);
        let views = shape.views().iter().map(|view| Bytes((view.get() * view.get() * 3) as u64)).sum();
        let weights: usize =
            shape.views().iter().map(|view| 2 * view.get() * (longest(max_side.get() * 3 / 2, view.get()) + TAPS + 1)).sum();
        let strips = Bytes::of::<u8>(sizes.rings.iter().sum::<usize>() + sizes.batch + sizes.resampled);
        (views, strips + Bytes::of::<f32>(sizes.planes + sizes.sums + weights))
    }

    /// Decodes `source` into the views that `layout` keeps. `progress` is told the share done.
    pub fn fill(
        &mut self,
        source: &FrameSource,
        layout: &Layout,
        limits: &Limits,
        pool: &Pool,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Timing, ImagingError> {
        let pad = self.shape.pad();
        let (width, height) = (source.stored.0.get(), source.stored.1.get());
        let mut offset = 0;
        let mut passes: Vec<Pass<'_>> = Vec::new();
        for view in layout.present() {
            self.views[view.id.index()].as_chunks_mut::<3>().0.fill(pad);
            let content = view.content;
            let turned = source.orientation >= 5;
            let (w, h) = if turned { (content.height, content.width) } else { (content.width, content.height) };
            let (columns, rows) = (bicubic(width, w, true), bicubic(height, h, false));
            let ring = rows.taps + BATCH;
            passes.push(Pass { view, width: w, columns, rows, ring, next: 0, offset });
            offset += w * 3;
        }
        let begun = Instant::now();
        let mut views = Duration::ZERO;
        let (mut held, mut seen) = (0, 0);
        let mut batch = std::mem::take(&mut self.batch);
        let outcome = decode::rows(source, limits, &mut |row| {
            batch[held * width * 3..][..width * 3].copy_from_slice(row);
            held += 1;
            if held == BATCH || seen + held == height {
                let start = Instant::now();
                self.take(&batch[..held * width * 3], width, seen, height, source.orientation, &mut passes, offset, pool);
                seen += held;
                held = 0;
                progress(seen as f64 / height as f64);
                views += start.elapsed();
            }
        });
        self.batch = batch;
        outcome?;
        Ok(Timing { decode: begun.elapsed().saturating_sub(views), views })
    }

    #[allow(clippy::too_many_arguments)]
    fn take(
        &mut self,
        batch: &[u8],
        width: usize,
        first: usize,
        height: usize,
        orientation: u8,
        passes: &mut [Pass<'_>],
        stride: usize,
        pool: &Pool,
    ) {
        let count = batch.len() / (width * 3);
        let plane = self.planes.len() / BATCH;
        let isa = self.isa;
        {
            let passes = &*passes;
            pool.pairs(&mut self.resampled[..count * stride], stride, &mut self.planes, plane, &|number, out, plane| {
                let row = &batch[number * width * 3..(number + 1) * width * 3];
                plane[width..].fill(0.0);
                for channel in 0..3 {
                    plane.iter_mut().zip(row.iter().skip(channel).step_by(3)).for_each(|(to, &from)| *to = f32::from(from));
                    for pass in passes {
                        across(isa, plane, &pass.columns, channel, &mut out[pass.offset..pass.offset + pass.width * 3]);
                    }
                }
            });
        }
        for pass in passes {
            let len = pass.width * 3;
            let ring = &mut self.rings[pass.view.id.index()];
            for number in 0..count {
                let place = (first + number) % pass.ring;
                ring[place * len..][..len].copy_from_slice(&self.resampled[number * stride + pass.offset..][..len]);
            }
            let seen = first + count;
            while pass.next < pass.rows.starts.len() {
                let start = pass.rows.starts[pass.next] as usize;
                let weights = &pass.rows.weights[pass.next * pass.rows.taps..][..pass.rows.taps];
                let end = (start + pass.rows.taps).min(height);
                if end > seen {
                    break;
                }
                let sums = &mut self.sums[..len];
                sums.fill(0.0);
                for (row, &weight) in (start..end).zip(weights).filter(|(_, weight)| **weight != 0.0) {
                    down(isa, &ring[row % pass.ring * len..][..len], weight, sums);
                }
                put(&mut self.views[pass.view.id.index()], pass.view, orientation, pass.next, sums);
                pass.next += 1;
            }
        }
    }

    /// A view's samples, `[R, R, 3]`.
    #[must_use]
    pub fn view(&self, view: usize) -> &[u8] {
        &self.views[view]
    }

    /// A tile of a view as the encoder wants it, `[3, T, T]`.
    pub fn tile(&self, view: &ViewLayout, tile_x: usize, tile_y: usize, out: &mut [f32]) {
        let (tile, side) = (self.shape.tile().get(), view.side.get());
        let picture = &self.views[view.id.index()];
        for (channel, plane) in out.chunks_exact_mut(tile * tile).enumerate() {
            for (y, row) in plane.chunks_exact_mut(tile).enumerate() {
                let start = ((tile_y * tile + y) * side + tile_x * tile) * 3;
                let samples = picture[start..start + tile * 3].iter().skip(channel).step_by(3);
                row.iter_mut().zip(samples).for_each(|(out, &sample)| *out = self.shape.normalise(channel, sample));
            }
        }
    }
}

/// Writes row `y` of the stored picture where the orientation wants it (EXIF 2.32, tag 0x0112).
fn put(picture: &mut [u8], view: &ViewLayout, orientation: u8, y: usize, sums: &[f32]) {
    let side = view.side.get();
    let content = view.content;
    for (x, sums) in sums.chunks_exact(3).enumerate() {
        let (right, low) = (content.width - 1, content.height - 1);
        let (to_x, to_y) = match orientation {
            2 => (right - x, y),
            3 => (right - x, low - y),
            4 => (x, low - y),
            5 => (y, x),
            6 => (right - y, x),
            7 => (right - y, low - x),
            8 => (y, low - x),
            _ => (x, y),
        };
        let place = ((content.top + to_y) * side + content.left + to_x) * 3;
        picture[place..place + 3].iter_mut().zip(sums).for_each(|(out, sum)| *out = round(*sum));
    }
}
