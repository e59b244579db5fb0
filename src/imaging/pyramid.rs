//! All views of a frame, and the tiles cut from them.

use std::time::{Duration, Instant};

use crate::geometry::{Layout, ViewLayout, VisionShape};
use crate::imaging::ImagingError;
use crate::imaging::decode::{self, Rows};
use crate::imaging::pass::{Pass, Workshop};
use crate::imaging::source::{FrameSource, Limits};
use crate::kernels::{Isa, Pool};
use crate::units::{Bytes, Px};

/// The views of one frame at a time, `[R, R, 3]` each, and what making them needs; all for the largest frame there can be.
pub struct Pyramid {
    shape: VisionShape,
    views: Vec<Vec<u8>>,
    workshop: Workshop,
    /// A sample of a channel as the encoder wants it.
    normal: [Vec<f32>; 3],
    isa: Isa,
}

/// Where the time of an ingest went. Decoding overlaps with the rest on threads: `decode` is what the decoder took, `views` what was spent besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub decode: Duration,
    pub views: Duration,
    /// Rows at the end of the stored picture that the file lacks; they are padding.
    pub missing: Px,
}

impl Pyramid {
    /// For frames of at most `max_side` pixels a side.
    #[must_use]
    pub fn new(shape: &VisionShape, max_side: Px, isa: Isa) -> Self {
        Self {
            views: shape.views().iter().map(|view| vec![0; view.get() * view.get() * 3]).collect(),
            workshop: Workshop::new(shape, max_side),
            normal: [0, 1, 2].map(|channel| (0..=u8::MAX).map(|sample| shape.normalise(channel, sample)).collect()),
            shape: shape.clone(),
            isa,
        }
    }

    /// Bytes of the views, and of what making them needs, the filter's weights included.
    #[must_use]
    pub fn bytes(shape: &VisionShape, max_side: Px) -> (Bytes, Bytes) {
        let views = shape.views().iter().map(|view| Bytes((view.get() * view.get() * 3) as u64)).sum();
        (views, Workshop::bytes(shape, max_side))
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
        let begun = Instant::now();
        let finest = layout.finest().content;
        let pad = self.shape.pad();
        let mut rows = decode::open(source, limits, finest.width.max(finest.height), pad)?;
        for view in layout.present() {
            self.views[view.id.index()].as_chunks_mut::<3>().0.fill(pad);
        }
        let mut passes = passes(source, layout, &*rows);
        let height = rows.size().1;
        let mut decode = Duration::ZERO;
        let mut seen = 0;
        let views = &mut self.views;
        let mut put = |view: &ViewLayout, y: usize, row: &[u8]| put(&mut views[view.id.index()], view, source.orientation, y, row);
        let outcome = self.workshop.begin(&mut *rows, &mut decode);
        let mut outcome = outcome.map(|()| true);
        while let Ok(more) = outcome {
            if !more {
                break;
            }
            outcome = self.workshop.step(&mut *rows, &mut passes, height, &mut seen, &mut decode, self.isa, pool, &mut put);
            progress(seen as f64 / height as f64);
        }
        outcome.map_err(|fault| source.broken(seen, fault))?;
        let ended = Instant::now();
        rows.finish().map_err(|fault| source.broken(seen, fault))?;
        decode += ended.elapsed();
        // In rows of the picture, of a reduced one as well.
        let missing = (rows.missing() * source.stored.1.get()).div_ceil(height);
        Ok(Timing {
            decode,
            views: begun.elapsed().saturating_sub(decode),
            missing: Px(u32::try_from(missing).unwrap_or(source.stored.1.0)),
        })
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
        let [reds, greens, blues] = &self.normal;
        let (red, rest) = out.split_at_mut(tile * tile);
        let (green, blue) = rest.split_at_mut(tile * tile);
        let planes = red.chunks_exact_mut(tile).zip(green.chunks_exact_mut(tile)).zip(blue.chunks_exact_mut(tile));
        for (y, ((red, green), blue)) in planes.enumerate() {
            let start = ((tile_y * tile + y) * side + tile_x * tile) * 3;
            let pixels = picture[start..start + tile * 3].as_chunks::<3>().0;
            for (((&[r, g, b], red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
                (*red, *green, *blue) = (reds[usize::from(r)], greens[usize::from(g)], blues[usize::from(b)]);
            }
        }
    }
}

/// One pass a view that `layout` keeps, in the orientation that the rows come in.
fn passes<'a>(source: &FrameSource, layout: &'a Layout, rows: &dyn Rows) -> Vec<Pass<'a>> {
    let (width, height) = rows.size();
    let stored = (source.stored.0.get() as f64, source.stored.1.get() as f64);
    // How many rows and columns the picture fills of those that come: all, but for a reduced one whose last is not whole.
    let reduced = (width as f64 / stored.0).max(height as f64 / stored.1);
    let reduced = [1.0, 0.5, 0.25, 0.125].into_iter().find(|scale| reduced >= *scale).unwrap_or(1.0);
    let turned = source.orientation >= 5;
    let pass = |view: &'a ViewLayout| {
        let content = view.content;
        let (w, h) = if turned { (content.height, content.width) } else { (content.width, content.height) };
        Pass::new(view, (width, stored.0 * reduced, w), (height, stored.1 * reduced, h))
    };
    layout.present().map(pass).collect()
}

/// Writes row `y` of the stored picture where the orientation wants it (EXIF 2.32, tag 0x0112).
fn put(picture: &mut [u8], view: &ViewLayout, orientation: u8, y: usize, row: &[u8]) {
    let side = view.side.get();
    let content = view.content;
    if orientation <= 1 {
        picture[((content.top + y) * side + content.left) * 3..][..row.len()].copy_from_slice(row);
        return;
    }
    for (x, pixel) in row.chunks_exact(3).enumerate() {
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
        picture[place..place + 3].copy_from_slice(pixel);
    }
}
