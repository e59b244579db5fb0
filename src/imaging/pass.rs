//! The two passes of the filter over a batch of rows, beside the decoding of the next one.
//!
//! # Why
//! A step is one run of the pool: one task decodes the next batch, one a group of eight rows filters those of this batch across into rings, and one a finished
//! row of a view sums up rows that earlier steps left in the rings. No task waits for another of its step, so as many threads as there are stay busy,
//! and the decoder, the one part that can't be divided, never waits at all. Rows are rounded to 8 bits between the passes, as the reference filter does.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::geometry::{ViewLayout, VisionShape};
use crate::imaging::decode::{Batch, Fault, MOST_ROWS, Rows, Scratch};
use crate::imaging::resample::{bicubic, fixed, longest};
use crate::kernels::{GROUP, Isa, Pool, Taps, across, down, round_row};
use crate::units::{Bytes, Px};

/// Source pixels of a row that are packed at once, so that eight rows of them stay in the second cache.
const SEGMENT: usize = 1024;
/// Samples summed up at once, so that the sums stay in the first cache.
const BLOCK: usize = 2048;
/// Rows of views finished in one step.
const FINISHED: usize = 32;
/// Groups a ring holds beside those under the filter: the batch that is read, and the one that is written.
const SLACK: usize = 2 * MOST_ROWS / GROUP + 1;

/// One view being made.
pub struct Pass<'a> {
    view: &'a ViewLayout,
    /// Content width in the stored orientation.
    width: usize,
    columns: Taps<i16>,
    rows: Taps<f32>,
    /// The next row to finish.
    next: usize,
}

impl<'a> Pass<'a> {
    /// `across` and `down`: samples that come, how many of them are picture, samples of the view.
    #[must_use]
    pub fn new(view: &'a ViewLayout, across: (usize, f64, usize), down: (usize, f64, usize)) -> Self {
        let columns = fixed(&bicubic(across.0, across.1, across.2));
        Self { view, width: across.2, columns, rows: bicubic(down.0, down.1, down.2), next: 0 }
    }

    /// Source rows under the filter of row `next`.
    fn under(&self, height: usize) -> std::ops::Range<usize> {
        let start = self.rows.starts[self.next] as usize;
        start..(start + self.rows.taps).min(height)
    }
}

/// Rows of one view, filtered across, by groups: `[GROUP][stride]` each.
struct Ring {
    groups: Vec<RwLock<Vec<u8>>>,
    stride: usize,
}

/// A row of a view.
struct Finished {
    /// Which pass, and which of its rows.
    pass: usize,
    row: usize,
    bytes: Vec<u8>,
}

/// Everything a frame needs on its way into the views.
pub struct Workshop {
    batches: [Mutex<Batch>; 2],
    scratch: Vec<Mutex<Scratch>>,
    /// By view.
    rings: Vec<Ring>,
    finished: Vec<Mutex<Finished>>,
}

/// Sizes for frames of at most `side` pixels.
struct Sizes {
    side: usize,
    /// Pixels packed at once.
    packed: usize,
    /// Groups and row lengths of each ring.
    rings: Vec<(usize, usize)>,
    finest: usize,
}

impl Sizes {
    fn new(shape: &VisionShape, max_side: Px) -> Self {
        let side = max_side.get();
        // A side that rounds down to one pixel is up to half as much again stretched.
        let most = |view: &Px| longest(side * 3 / 2, view.get());
        Self {
            side,
            packed: SEGMENT + shape.views().iter().map(most).max().unwrap_or(0),
            rings: shape.views().iter().map(|view| (most(view).div_ceil(GROUP) + SLACK, view.get() * 3 + 1)).collect(),
            finest: shape.finest().get() * 3,
        }
    }
}

impl Workshop {
    #[must_use]
    pub fn new(shape: &VisionShape, max_side: Px) -> Self {
        let sizes = Sizes::new(shape, max_side);
        let ring = |&(groups, stride): &(usize, usize)| Ring {
            groups: (0..groups).map(|_| RwLock::new(vec![0; GROUP * stride])).collect(),
            stride,
        };
        let finished = || Finished { pass: 0, row: 0, bytes: vec![0; sizes.finest] };
        Self {
            batches: [Mutex::new(Batch::new(sizes.side)), Mutex::new(Batch::new(sizes.side))],
            scratch: (0..MOST_ROWS / GROUP).map(|_| Mutex::new(Scratch::new(sizes.side, sizes.packed))).collect(),
            rings: sizes.rings.iter().map(ring).collect(),
            finished: (0..FINISHED).map(|_| Mutex::new(finished())).collect(),
        }
    }

    /// What [`Self::new`] allocates, and the weights of the passes.
    #[must_use]
    pub fn bytes(shape: &VisionShape, max_side: Px) -> Bytes {
        let sizes = Sizes::new(shape, max_side);
        let scratch = Scratch::bytes(sizes.side, sizes.packed);
        let rings = sizes.rings.iter().map(|(groups, stride)| groups * GROUP * stride).sum::<usize>();
        let taps = |view: &Px| view.get() * (longest(max_side.get() * 3 / 2, view.get()) + 1);
        let weights = shape.views().iter().map(taps).sum::<usize>();
        Bytes::of::<u8>(2 * Batch::len(sizes.side) + rings + FINISHED * sizes.finest)
            + Bytes(scratch.0 * (MOST_ROWS / GROUP) as u64)
            + Bytes::of::<f32>(3 * weights)
    }

    /// Decodes the first batch.
    pub fn begin(&mut self, rows: &mut dyn Rows, decode: &mut Duration) -> Result<(), Fault> {
        let begun = Instant::now();
        let outcome = rows.next(exclusive(&mut self.batches[0]));
        *decode += begun.elapsed();
        outcome
    }

    /// Filters the batch at hand while the next one is decoded. `seen`: rows that were filtered before, and now are. Whether there are more.
    #[allow(clippy::too_many_arguments)]
    pub fn step(
        &mut self,
        rows: &mut dyn Rows,
        passes: &mut [Pass<'_>],
        height: usize,
        seen: &mut usize,
        decode: &mut Duration,
        isa: Isa,
        pool: &Pool,
        put: &mut dyn FnMut(&ViewLayout, usize, &[u8]),
    ) -> Result<bool, Fault> {
        let width = rows.size().0;
        let here = exclusive(&mut self.batches[0]).rows;
        let after = *seen + here;
        let (first, groups) = (*seen / GROUP, here.div_ceil(GROUP));
        let decoder = Mutex::new((rows, Ok(()), Duration::ZERO));
        let mut ready = self.ready(passes, *seen, height);
        {
            let (this, next) = (lock(&self.batches[0]), &self.batches[1]);
            let passes = &*passes;
            pool.run(1 + groups + ready, &|task| match task {
                0 if after < height => {
                    let begun = Instant::now();
                    let mut decoder = lock(&decoder);
                    decoder.1 = decoder.0.next(&mut lock(next));
                    decoder.2 = begun.elapsed();
                }
                0 => {}
                task if task <= groups => {
                    let group = task - 1;
                    let own = group * GROUP..here.min((group + 1) * GROUP);
                    self.filter_across(isa, &this, own, width, first + group, passes, &mut lock(&self.scratch[group]));
                }
                task => self.filter_down(isa, passes, height, &mut lock(&self.finished[task - 1 - groups])),
            });
        }
        let (_, outcome, took) = decoder.into_inner().unwrap_or_else(PoisonError::into_inner);
        *decode += took;
        // Rows of a frame that is stretched outnumber those of a step; all that can be finished are, before the rings turn on.
        let last = after >= height;
        loop {
            for finished in &mut self.finished[..ready] {
                let finished = exclusive(finished);
                let pass = &passes[finished.pass];
                put(pass.view, finished.row, &finished.bytes[..pass.width * 3]);
            }
            ready = self.ready(passes, if last { height } else { *seen }, height);
            if ready == 0 {
                break;
            }
            pool.run(ready, &|number| self.filter_down(isa, passes, height, &mut lock(&self.finished[number])));
        }
        outcome?;
        *seen = after;
        self.batches.swap(0, 1);
        Ok(!last)
    }

    /// Notes which rows can be finished with `seen` source rows in the rings; how many.
    fn ready(&mut self, passes: &mut [Pass<'_>], seen: usize, height: usize) -> usize {
        let mut slots = self.finished.iter_mut().map(exclusive);
        let mut count = 0;
        for (number, pass) in passes.iter_mut().enumerate() {
            while pass.next < pass.rows.starts.len() && pass.under(height).end <= seen {
                let Some(slot) = slots.next() else { return count };
                (slot.pass, slot.row) = (number, pass.next);
                pass.next += 1;
                count += 1;
            }
        }
        count
    }

    /// Rows `rows` of the batch, which are group `number` of the picture, into the rings.
    #[allow(clippy::too_many_arguments)]
    fn filter_across(
        &self,
        isa: Isa,
        batch: &Batch,
        rows: std::ops::Range<usize>,
        width: usize,
        number: usize,
        passes: &[Pass<'_>],
        scratch: &mut Scratch,
    ) {
        batch.prepare(isa, rows.clone(), scratch);
        for start in (0..width).step_by(SEGMENT) {
            let end = width.min(start + SEGMENT);
            // Outputs whose taps start in this segment; they reach beyond it.
            let own = |pass: &Pass<'_>| {
                let starts = &pass.columns.starts;
                starts.partition_point(|&at| (at as usize) < start)..starts.partition_point(|&at| (at as usize) < end)
            };
            let reach = passes.iter().map(|pass| pass.columns.taps).max().unwrap_or(0);
            let columns = start..width.min(end + reach);
            batch.pack(isa, rows.clone(), columns.clone(), scratch);
            let group = &scratch.group[..columns.len() * GROUP];
            for pass in passes {
                let ring = &self.rings[pass.view.id.index()];
                let place = &ring.groups[number % ring.groups.len()];
                let mut out = place.write().unwrap_or_else(PoisonError::into_inner);
                across(isa, group, start, &pass.columns, own(pass), &mut out, ring.stride);
            }
        }
    }

    /// Sums up one row of a view.
    fn filter_down(&self, isa: Isa, passes: &[Pass<'_>], height: usize, finished: &mut Finished) {
        let pass = &passes[finished.pass];
        let ring = &self.rings[pass.view.id.index()];
        let len = pass.width * 3;
        let start = pass.rows.starts[finished.row] as usize;
        let end = (start + pass.rows.taps).min(height);
        let weights = &pass.rows.weights[finished.row * pass.rows.taps..][..pass.rows.taps];
        let mut sums = [0.0_f32; BLOCK];
        for (block, out) in finished.bytes[..len].chunks_mut(BLOCK).enumerate() {
            let sums = &mut sums[..out.len()];
            sums.fill(0.0);
            for group in start / GROUP..end.div_ceil(GROUP) {
                let rows = ring.groups[group % ring.groups.len()].read().unwrap_or_else(PoisonError::into_inner);
                for row in (group * GROUP).max(start)..((group + 1) * GROUP).min(end) {
                    let weight = weights[row - start];
                    if weight != 0.0 {
                        down(isa, &rows[row % GROUP * ring.stride + block * BLOCK..][..out.len()], weight, sums);
                    }
                }
            }
            round_row(isa, sums, out);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exclusive<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}
