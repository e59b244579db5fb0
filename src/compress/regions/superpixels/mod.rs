//! Superpixels: SLIC (Achanta et al., IEEE TPAMI 2012) on a reduced picture of the frame. Its map is a label map without background, labels from 1.
//!
//! k-means of colour (CIELAB) and place from a regular grid of centres, each looked for within its own step; then every superpixel keeps its largest connected
//! part, and what is left over joins a neighbour. There are never more than k.
//!
//! # Why
//! A partition that follows edges as a segmentation model's would, for a few milliseconds and no model. A row of pixels is one pass over the centres near it,
//! rows are cut into a fixed number of bands with their own sums, and nothing is fused or reordered: the same bits on any machine and number of threads.

mod connect;
mod lab;

use crate::compress::CompressError;
use crate::kernels::{Claim, Isa, Pool, claim};
use crate::units::Bytes;

use connect::Connect;
use lab::Lab;

/// Bands of rows, whatever the number of threads.
const BANDS: usize = 16;
const ITERATIONS: usize = 10;
/// Where superpixels are tall enough, all iterations but the last two look at every fourth row, at others each time: a superpixel's mean
/// is known as well from a quarter of its pixels.
const STRIDE: usize = 4;
const TALL: f32 = 16.0;
/// What a step of the grid weighs against colour: the paper's m.
const COMPACTNESS: f32 = 10.0;

/// Memory for pictures of up to a fixed side and number of superpixels.
pub struct Slic {
    max_side: usize,
    max_clusters: usize,
    table: Lab,
    /// L, a and b, `[height][3][width]`.
    colours: Vec<f32>,
    labels: Vec<u32>,
    centres: Vec<Centre>,
    bands: Vec<Band>,
    connect: Connect,
    isa: Isa,
    size: (usize, usize),
}

#[derive(Clone, Copy, Default)]
struct Centre {
    colour: [f32; 3],
    x: f32,
    y: f32,
}

/// Sums of a band: colour, place and number of pixels by centre; and the least distances of a row.
struct Band {
    sums: Vec<[f64; 6]>,
    row: Vec<f32>,
}

/// A picture inside a larger one: `rgb` `[rows][stride, 3]`.
#[derive(Clone, Copy)]
pub struct Patch<'a> {
    pub rgb: &'a [u8],
    pub stride: usize,
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

impl Slic {
    #[must_use]
    pub fn new(isa: Isa, max_side: usize, max_clusters: usize) -> Self {
        let band = || Band { sums: vec![[0.0; 6]; max_clusters], row: vec![0.0; max_side] };
        Self {
            max_side,
            max_clusters,
            table: Lab::new(),
            colours: vec![0.0; 3 * max_side * max_side],
            labels: vec![0; max_side * max_side],
            centres: Vec::with_capacity(max_clusters),
            bands: (0..BANDS).map(|_| band()).collect(),
            connect: Connect::new(max_side * max_side, max_clusters),
            isa,
            size: (0, 0),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_side: usize, max_clusters: usize) -> Bytes {
        Bytes::of::<f32>(Lab::VALUES + 4 * max_side * max_side + BANDS * max_side)
            + Bytes::of::<Centre>(max_clusters)
            + Bytes::of::<[f64; 6]>(BANDS * max_clusters)
            + Connect::bytes(max_side * max_side, max_clusters)
    }

    /// Takes a picture; as many [`Self::segment`] as wanted may follow.
    ///
    /// # Errors
    /// A picture larger than those this was made for.
    pub fn look(&mut self, picture: &Patch<'_>, pool: &Pool) -> Result<(), CompressError> {
        let Patch { rgb, stride, left, top, width, height } = *picture;
        let side = width.max(height);
        if side > self.max_side {
            return Err(CompressError::Room { what: "picture side", found: side, room: self.max_side });
        }
        self.size = (width, height);
        let table = &self.table;
        pool.pieces(&mut self.colours[..3 * width * height], 3 * width.max(1), &|y, planes| {
            let row = rgb[((top + y) * stride + left) * 3..][..width * 3].as_chunks::<3>().0;
            for (x, &pixel) in row.iter().enumerate() {
                let [l, a, b] = table.of(pixel);
                (planes[x], planes[width + x], planes[2 * width + x]) = (l, a, b);
            }
        });
        Ok(())
    }

    /// Parts the picture into at most `k` superpixels: `[height][width]`, from 1, without gaps where none came out empty.
    ///
    /// # Errors
    /// A k of 0, or larger than this was made for.
    pub fn segment(&mut self, k: usize, pool: &Pool) -> Result<&[u32], CompressError> {
        let (width, height) = self.size;
        if k == 0 {
            return Err(CompressError::NoClusters);
        }
        let k = k.min(width * height);
        if k > self.max_clusters {
            return Err(CompressError::Room { what: "clusters", found: k, room: self.max_clusters });
        }
        let step = ((width * height) as f32 / k as f32).sqrt();
        let down = ((height as f32 / step).round() as usize).clamp(1, k.min(height));
        let across = (k / down).clamp(1, width);
        self.plant(across, down);
        let (reach_x, reach_y) = (width as f32 / across as f32, height as f32 / down as f32);
        let reach = reach_x.max(reach_y).max(1.0);
        let pull = (COMPACTNESS / reach).powi(2);
        let stride = if reach >= TALL { STRIDE } else { 1 };
        for iteration in 0..ITERATIONS {
            let every = if iteration + 2 < ITERATIONS { stride } else { 1 };
            self.assign(reach, pull, (iteration % every, every), pool);
            self.update();
        }
        self.connect.run(&self.labels[..width * height], width, self.centres.len());
        Ok(&self.connect.labels()[..width * height])
    }

    /// Centres on a grid, each at the pixel of least gradient around it; labels by cell.
    fn plant(&mut self, across: usize, down: usize) {
        let (width, height) = self.size;
        self.centres.clear();
        for row in 0..down {
            for column in 0..across {
                let (x, y) = ((2 * column + 1) * width / (2 * across), (2 * row + 1) * height / (2 * down));
                let around = (-1..=1).flat_map(|v| (-1..=1).map(move |u| (x.saturating_add_signed(u), y.saturating_add_signed(v))));
                let inside = around.filter(|&(x, y)| x < width && y < height).map(|(x, y)| (self.gradient(x, y), x, y));
                // The middle first, so that it stays where all are equal.
                let best = inside.fold((self.gradient(x, y), x, y), |best, next| if next.0 < best.0 { next } else { best });
                let (_, x, y) = best;
                self.centres.push(Centre { colour: self.colour(x, y), x: x as f32, y: y as f32 });
            }
        }
        for (y, row) in self.labels[..width * height].chunks_exact_mut(width.max(1)).enumerate() {
            let first = (y * down / height) * across;
            row.iter_mut().enumerate().for_each(|(x, label)| *label = (first + x * across / width) as u32);
        }
    }

    fn colour(&self, x: usize, y: usize) -> [f32; 3] {
        let width = self.size.0;
        std::array::from_fn(|plane| self.colours[(3 * y + plane) * width + x])
    }

    /// The squared change of colour across and down; at the edge against the pixel itself.
    fn gradient(&self, x: usize, y: usize) -> f32 {
        let (width, height) = self.size;
        let gap = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        gap(self.colour(x.saturating_sub(1), y), self.colour((x + 1).min(width - 1), y))
            + gap(self.colour(x, y.saturating_sub(1)), self.colour(x, (y + 1).min(height - 1)))
    }

    /// Each pixel to the nearest of the centres within reach, equal ones to the lowest; a pixel out of every reach stays where it was.
    /// `first`, `every`: the rows that are looked at.
    fn assign(&mut self, reach: f32, pull: f32, (first, every): (usize, usize), pool: &Pool) {
        let (width, height) = self.size;
        let isa = self.isa;
        let (colours, centres) = (&self.colours, &self.centres);
        let rows = height.div_ceil(BANDS);
        pool.pairs(&mut self.bands, 1, &mut self.labels[..width * height], rows * width, &|number, band, labels| {
            let Band { sums, row: least } = &mut band[0];
            let sums = &mut sums[..centres.len()];
            sums.fill([0.0; 6]);
            let least = &mut least[..width];
            for (at, labels) in labels.chunks_exact_mut(width).enumerate() {
                let y = number * rows + at;
                if y % every != first {
                    continue;
                }
                let planes = &colours[3 * y * width..3 * (y + 1) * width];
                least.fill(f32::INFINITY);
                for (label, centre) in (0_u32..).zip(centres).filter(|(_, centre)| (centre.y - y as f32).abs() <= reach) {
                    let (low, high) = ((centre.x - reach).max(0.0) as usize, ((centre.x + reach) as usize + 1).min(width));
                    let plane = |number: usize| &planes[number * width..][low..high];
                    let down = (y as f32 - centre.y) * (y as f32 - centre.y) * pull;
                    let claimed = Claim { colour: centre.colour, label, x: low as f32 - centre.x, pull, down };
                    claim(isa, &claimed, [plane(0), plane(1), plane(2)], &mut least[low..high], &mut labels[low..high]);
                }
                let mut x = 0;
                for run in labels.chunk_by(|a, b| a == b) {
                    let sum = &mut sums[run[0] as usize];
                    let count = run.len() as f64;
                    for plane in 0..3 {
                        sum[plane] += planes[plane * width + x..][..run.len()].iter().map(|value| f64::from(*value)).sum::<f64>();
                    }
                    sum[3] += count * (x as f64 + (count - 1.0) / 2.0);
                    (sum[4], sum[5]) = (sum[4] + count * y as f64, sum[5] + count);
                    x += run.len();
                }
            }
        });
    }

    /// Moves each centre to the mean of its pixels; one without pixels stays.
    fn update(&mut self) {
        for (number, centre) in self.centres.iter_mut().enumerate() {
            let mut sum = [0.0; 6];
            for band in &self.bands {
                sum.iter_mut().zip(&band.sums[number]).for_each(|(sum, part)| *sum += part);
            }
            if sum[5] > 0.0 {
                let mean = sum.map(|value| (value / sum[5]) as f32);
                *centre = Centre { colour: [mean[0], mean[1], mean[2]], x: mean[3], y: mean[4] };
            }
        }
    }
}

#[cfg(test)]
mod tests;
