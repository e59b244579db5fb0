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
use crate::config::Compression;
use crate::kernels::{Isa, Pool};
use crate::units::Bytes;

pub use birch::Birch;
pub use embed::Embedding;
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

    /// Copies row `index` of rows of `out.len()` values.
    fn copy(&self, index: usize, out: &mut [f32]) {
        let range = index * out.len()..(index + 1) * out.len();
        match self {
            Self::F16(rows) => rows[range].convert_to_f32_slice(out),
            Self::F32(rows) => out.copy_from_slice(&rows[range]),
        }
    }
}

/// One view to partition: its clustering features in raster order, on a grid of `side` × `side` tokens.
#[derive(Clone, Copy, Debug)]
pub struct ViewFeatures<'a> {
    pub rows: Rows<'a>,
    pub dim: usize,
    pub side: usize,
    /// Tokens that start k-means, instead of k-means++; their number is k. Methods without starts don't look at it.
    pub starts: Option<&'a [u32]>,
}

/// What a partition made, beside the labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partitioned {
    /// Labels are dense below this.
    pub regions: usize,
    pub iterations: u32,
    /// Eq. 13's J at the last assignment; 0 for methods without one.
    pub objective: f64,
}

/// A way to make regions, with the memory it needs for the largest view.
pub trait Partition: Send {
    /// For receipts.
    fn id(&self) -> &'static str;
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
            Self::Superpixels | Self::Segmenter | Self::Labels(_) => Labels::bytes(sizes.tokens),
            Self::Birch => Birch::bytes(&settings.birch, sizes.tokens, sizes.dim, sizes.clusters),
            Self::Kmeans => KMeans::bytes(sizes.tokens, sizes.dim, sizes.clusters),
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
    pub fn make(&self, settings: &Compression, isa: Isa, sizes: Sizes) -> Box<dyn Partition> {
        let embedding = Embedding { lambda_feature: settings.lambda_feature, lambda_position: settings.lambda_position };
        match self {
            Self::Kmeans => {
                let kmeans = kmeans::Settings { max_iterations: settings.max_iterations, seed: settings.seed, embedding, isa };
                Box::new(KMeans::new(kmeans, sizes.tokens, sizes.dim, sizes.clusters))
            }
            Self::Superpixels => Box::new(Labels::new("superpixels", sizes.tokens)),
            Self::Segmenter => Box::new(Labels::new("segmenter", sizes.tokens)),
            Self::Labels(_) => Box::new(Labels::new("labels", sizes.tokens)),
            Self::Birch => {
                let birch = birch::Settings { birch: settings.birch, embedding, isa };
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
