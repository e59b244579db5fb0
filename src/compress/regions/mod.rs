//! Partitions: ways to cut a view's tokens into regions, one folder a method.
//!
//! # Why
//! All give the same thing: a dense label for each unmasked token. Selection knows nothing of where labels came from.

pub mod kmeans;
pub mod labels;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::compress::CompressError;
use crate::kernels::Pool;

pub use kmeans::{ClusterWork, KMeans};
pub use labels::Labels;

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

/// A way to make regions.
pub trait Partition {
    /// For receipts.
    fn id(&self) -> &'static str;
    /// Labels the unmasked tokens of `view`. In: `labels[i]` is [`crate::compress::MASKED`] for masked tokens, anything else for the others. Out: those others
    /// dense from 0.
    fn partition(
        &self,
        view: &ViewFeatures<'_>,
        work: &mut ClusterWork,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError>;
}
