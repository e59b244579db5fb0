//! The clustering's workspace, made once for the largest view.

use crate::compress::CompressError;
use crate::kernels::LANES;
use crate::units::Bytes;

/// Tokens that k-means++ draws from.
pub const SAMPLE: usize = 8_192;
/// Parts a view is cut into, whatever the number of threads: more threads than this gain nothing.
pub const SHARDS: usize = 16;
/// Tokens normalised at once.
pub const BLOCK: usize = 64;

/// Buffers for views of up to a fixed number of tokens, features and clusters.
pub struct ClusterWork {
    max_tokens: usize,
    max_dim: usize,
    max_clusters: usize,
    /// Unmasked tokens, ascending, and their labels.
    pub open: Vec<u32>,
    pub labels: Vec<u32>,
    pub shuffled: Vec<u32>,
    pub sample: Vec<f32>,
    pub gaps: Vec<f32>,
    /// `[k][dim + 2]`.
    pub centres: Vec<f32>,
    /// `[groups][dim + 2][LANES]`.
    pub packed: Vec<f32>,
    pub norms: Vec<f32>,
    pub numbers: Vec<u32>,
    pub shards: Vec<Shard>,
}

/// What one part of a view adds up by itself.
pub struct Shard {
    pub sums: Vec<f32>,
    pub counts: Vec<u32>,
    pub block: Vec<f32>,
    pub objective: f64,
    /// A token whose features are not finite.
    pub bad: Option<(u32, f32)>,
}

impl ClusterWork {
    /// For views of `max_tokens` tokens with `max_dim` features, in at most `max_clusters` clusters.
    #[must_use]
    pub fn new(max_tokens: usize, max_dim: usize, max_clusters: usize) -> Self {
        let (k, dim, groups) = sizes(max_tokens, max_dim, max_clusters);
        let shard = || Shard { sums: vec![0.0; k * dim], counts: vec![0; k], block: vec![0.0; BLOCK * dim], objective: 0.0, bad: None };
        Self {
            max_tokens,
            max_dim,
            max_clusters,
            open: Vec::with_capacity(max_tokens),
            labels: vec![0; max_tokens],
            shuffled: Vec::with_capacity(max_tokens),
            sample: vec![0.0; SAMPLE.min(max_tokens) * dim],
            gaps: vec![0.0; SAMPLE.min(max_tokens)],
            centres: vec![0.0; k * dim],
            packed: vec![0.0; groups * dim * LANES],
            norms: vec![0.0; groups * LANES],
            numbers: vec![0; k],
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_tokens: usize, max_dim: usize, max_clusters: usize) -> Bytes {
        let (k, dim, groups) = sizes(max_tokens, max_dim, max_clusters);
        let sample = SAMPLE.min(max_tokens);
        let shared = 3 * max_tokens + sample * (dim + 1) + k * (dim + 1) + groups * LANES * (dim + 1);
        Bytes::of::<f32>(shared + SHARDS * (k * dim + k + BLOCK * dim))
    }

    pub(super) fn check(&self, tokens: usize, dim: usize, clusters: usize) -> Result<(), CompressError> {
        let clusters = clusters.min(tokens);
        for (what, found, room) in
            [("tokens", tokens, self.max_tokens), ("features", dim, self.max_dim), ("clusters", clusters, self.max_clusters)]
        {
            if found > room {
                return Err(CompressError::Room { what, found, room });
            }
        }
        Ok(())
    }
}

/// Clusters, row length and groups of the largest view.
fn sizes(max_tokens: usize, max_dim: usize, max_clusters: usize) -> (usize, usize, usize) {
    let k = max_clusters.min(max_tokens);
    (k, max_dim + 2, k.div_ceil(LANES))
}
