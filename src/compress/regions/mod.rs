//! Partitions: ways to cut a view's tokens into regions, one folder a method.
//!
//! # Why
//! All give the same thing: a dense label for each unmasked token. Selection knows nothing of where labels came from.

pub mod birch;
mod centres;
mod embed;
pub mod kmeans;
pub mod labels;
pub mod superpixels;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::compress::CompressError;
use crate::config::{Compression, Policy};
use crate::geometry::{Coordinates, Grid, TokenOrder};
use crate::kernels::{Isa, Pool, scaled, widen};
use crate::units::Bytes;

pub use birch::Birch;
pub use centres::dense;
pub use embed::{Embedding, check_view, open_tokens};
pub use kmeans::KMeans;
pub use labels::{Labels, Voter};
pub use superpixels::Slic;

/// Rows of features, `[n, dim]`.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
}

impl Rows<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F16(rows) => rows.len(),
            Self::F32(rows) => rows.len(),
        }
    }

    /// Copies values from `start` on.
    fn copy_part(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F16(rows) => rows[range].convert_to_f32_slice(out),
            Self::F32(rows) => out.copy_from_slice(&rows[range]),
        }
    }

    /// As [`Self::copy_part`], in f16: values of f32 are rounded.
    pub fn copy_half(&self, start: usize, out: &mut [f16]) {
        let range = start..start + out.len();
        match self {
            Self::F16(rows) => out.copy_from_slice(&rows[range]),
            Self::F32(rows) => out.convert_from_f32_slice(&rows[range]),
        }
    }

    /// The first value of those from `start` on that is not finite as an f16.
    #[must_use]
    pub fn not_half(&self, start: usize, len: usize) -> Option<f32> {
        match self {
            Self::F16(_) => self.not_finite(start, len),
            Self::F32(rows) => rows[start..start + len].iter().find(|value| !f16::from_f32(**value).is_finite()).copied(),
        }
    }

    /// The first value of those from `start` on that is not finite. Looked for only where a pass without branches has seen one.
    #[must_use]
    pub fn not_finite(&self, start: usize, len: usize) -> Option<f32> {
        match self {
            Self::F16(rows) => {
                let row = &rows[start..start + len];
                let any = row.iter().fold(false, |any, value| any | (value.to_bits() & 0x7c00 == 0x7c00));
                row.iter().find(|value| any && !value.is_finite()).map(|value| value.to_f32())
            }
            Self::F32(rows) => {
                let row = &rows[start..start + len];
                let any = row.iter().fold(false, |any, value| any | !value.is_finite());
                row.iter().find(|value| any && !value.is_finite()).copied()
            }
        }
    }

    /// Values from `start` on, which are finite, times `scale`.
    fn copy_scaled(&self, isa: Isa, start: usize, scale: f32, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F16(rows) => widen(isa, &rows[range], scale, out),
            Self::F32(rows) => scaled(isa, &rows[range], scale, out),
        }
    }

    /// Copies row `index` of rows of `out.len()` values.
    pub fn copy(&self, index: usize, out: &mut [f32]) {
        self.copy_part(index * out.len(), out);
    }
}

/// One view to partition: its clustering features in the order of its grid.
#[derive(Clone, Copy, Debug)]
pub struct ViewFeatures<'a> {
    pub rows: Rows<'a>,
    pub dim: usize,
    pub grid: Grid,
    /// What a token's place is.
    pub coordinates: Coordinates,
    /// Tokens that start k-means, instead of k-means++; their number is k. Methods without starts don't look at it.
    pub starts: Option<&'a [u32]>,
}

impl<'a> ViewFeatures<'a> {
    /// Rows in raster order on a grid of `side` × `side` tokens, placed in the whole view.
    #[must_use]
    pub fn raster(rows: Rows<'a>, dim: usize, side: usize) -> Self {
        let grid = Grid { side, tile: side.max(1), order: TokenOrder::Raster };
        Self { rows, dim, grid, coordinates: Coordinates::View, starts: None }
    }
}

/// What a partition made, beside the labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partitioned {
    /// Labels are dense below this.
    pub regions: usize,
    pub iterations: u32,
    /// Eq. 13's J at the last assignment; 0 where there is none, or nobody computes it.
    pub objective: f64,
}

/// A way to make regions, with the memory it needs for the largest view.
pub trait Partition: Send {
    /// For receipts.
    fn id(&self) -> &str;
    /// Draws with `seed` from now on, where anything is drawn.
    fn reseed(&mut self, _seed: u64) {}
    /// Whether it makes as many regions as it is told, so that a view can be partitioned anew for a small budget.
    fn clusters(&self) -> bool {
        true
    }
    /// Labels the unmasked tokens of `view`, in at most `clusters` regions where the method clusters. In: `labels[i]` is [`crate::compress::MASKED`] for
    /// masked tokens; for the others a given label, or anything where the method clusters. Out: those others dense from 0.
    fn partition(
        &mut self,
        view: &ViewFeatures<'_>,
        clusters: usize,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError>;
}

/// The largest view that a partition is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub tokens: usize,
    pub dim: usize,
    pub clusters: usize,
}

impl Sizes {
    /// Refuses a view of more than these; clusters beyond its tokens are none.
    ///
    /// # Errors
    /// [`CompressError::Room`] of the first that is more.
    pub fn admit(self, tokens: usize, dim: usize, clusters: usize) -> Result<(), CompressError> {
        let pairs = [("tokens", tokens, self.tokens), ("features", dim, self.dim), ("clusters", clusters.min(tokens), self.clusters)];
        let over = pairs.into_iter().find(|(_, found, room)| found > room);
        over.map_or(Ok(()), |(what, found, room)| Err(CompressError::Room { what, found, room }))
    }

    /// Room for either.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), dim: self.dim.max(other.dim), clusters: self.clusters.max(other.clusters) }
    }
}

/// The methods there are, by the names of the command line: what a new one adds beside its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    Kmeans,
    Birch,
    /// A map of SLIC superpixels of the frame, made at ingest.
    Superpixels,
    /// A map that the package's segmenter makes at ingest.
    Segmenter,
    /// A map of the frame's own size, from a file.
    Labels(PathBuf),
}

/// A name that no method has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("partition {found:?}: wanted {wanted}")]
pub struct MethodError {
    found: String,
    wanted: &'static str,
}

impl Method {
    /// For messages.
    pub const NAMES: &'static str = "kmeans, birch, superpixels, segmenter or labels=FILE";

    /// What [`Self::make`] allocates.
    #[must_use]
    pub fn bytes(&self, settings: &Compression, sizes: Sizes) -> Bytes {
        match self {
            Self::Kmeans => {
                KMeans::bytes(&kmeans::Settings::new(settings, &Policy::paper(), Isa::detect()), sizes.tokens, sizes.dim, sizes.clusters)
            }
            Self::Superpixels | Self::Segmenter | Self::Labels(_) => Labels::bytes(sizes.tokens),
            Self::Birch => Birch::bytes(&settings.birch, sizes.tokens, sizes.dim, sizes.clusters),
        }
    }

    /// Regions come from a map of labels, not from features.
    #[must_use]
    pub fn maps(&self) -> bool {
        match self {
            Self::Kmeans | Self::Birch => false,
            Self::Superpixels | Self::Segmenter | Self::Labels(_) => true,
        }
    }

    /// Most regions of a view: each token of a map's background is one.
    #[must_use]
    pub fn regions(&self, sizes: Sizes) -> usize {
        match self {
            Self::Segmenter | Self::Labels(_) => sizes.tokens,
            Self::Kmeans | Self::Birch | Self::Superpixels => sizes.clusters.min(sizes.tokens),
        }
    }

    /// The method, with its memory for views of up to `sizes`.
    #[must_use]
    pub fn make(&self, settings: &Compression, policy: &Policy, isa: Isa, sizes: Sizes) -> Box<dyn Partition> {
        match self {
            Self::Kmeans => Box::new(KMeans::new(kmeans::Settings::new(settings, policy, isa), sizes.tokens, sizes.dim, sizes.clusters)),
            Self::Superpixels => Box::new(Labels::new("superpixels", sizes.tokens)),
            Self::Segmenter => Box::new(Labels::new("segmenter", sizes.tokens)),
            Self::Labels(_) => Box::new(Labels::new("labels", sizes.tokens)),
            Self::Birch => {
                let birch = birch::Settings { birch: settings.birch, embedding: Embedding::new(settings), isa };
                Box::new(Birch::new(birch, sizes.tokens, sizes.dim, sizes.clusters))
            }
        }
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        match (text, text.split_once('=')) {
            ("kmeans", _) => Ok(Self::Kmeans),
            ("birch", _) => Ok(Self::Birch),
            ("superpixels", _) => Ok(Self::Superpixels),
            ("segmenter", _) => Ok(Self::Segmenter),
            (_, Some(("labels", file))) if !file.is_empty() => Ok(Self::Labels(file.into())),
            _ => Err(MethodError { found: text.to_owned(), wanted: Self::NAMES }),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kmeans => f.write_str("kmeans"),
            Self::Birch => f.write_str("birch"),
            Self::Superpixels => f.write_str("superpixels"),
            Self::Segmenter => f.write_str("segmenter"),
            Self::Labels(file) => write!(f, "labels={}", file.display()),
        }
    }
}
