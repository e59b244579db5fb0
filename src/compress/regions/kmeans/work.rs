//! The clustering's workspace, made once for the largest view.

use super::start::Starts;
use crate::compress::{CompressError, regions};
use crate::kernels::{LANES, row_bytes};
use crate::units::Bytes;

/// Parts a view is cut into, whatever the number of threads: more threads than this gain nothing.
pub const SHARDS: usize = 16;
/// Tokens screened at once.
pub const BLOCK: usize = 64;
/// Coordinates of a centre that are summed up side by side.
pub const SLICE: usize = 64;

/// Buffers for views of up to a fixed number of tokens, features and clusters.
pub struct ClusterWork {
    max_tokens: usize,
    max_dim: usize,
    max_clusters: usize,
    /// Unmasked tokens, ascending; by their place there: what is known of each.
    pub open: Vec<u32>,
    pub labels: Vec<u32>,
    /// Labels before the assignment at hand.
    pub before: Vec<u32>,
    /// λ_f/‖f‖.
    pub scales: Vec<f32>,
    /// ‖u‖².
    pub squares: Vec<f32>,
    pub reach: Vec<Reach>,
    pub starts: Starts,
    pub centres: Centres,
    /// Tokens of each cluster.
    pub counts: Vec<u32>,
    /// Sums of each cluster's tokens in fixed point, `[slices][k][SLICE]`: whole numbers, so that their order doesn't matter.
    pub sums: Vec<i64>,
    pub numbers: Vec<u32>,
    pub shards: Vec<Shard>,
}

/// How near a token is to its own centre at most, and to any other at least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    pub own: f32,
    pub others: f32,
}

/// The centres, plain and as the screen wants them.
pub struct Centres {
    /// `[k][dim]`.
    pub rows: Vec<f32>,
    /// ‖c‖² as decisions use it.
    pub values: Vec<f32>,
    /// The centre in each lane of what follows: those that moved first.
    pub order: Vec<u32>,
    pub moved: usize,
    /// ‖c‖²; +∞ in lanes without a centre.
    pub squares: Vec<f32>,
    /// How far each moved in the last update, rounded up.
    pub moves: Vec<f32>,
    /// `[groups][dim][LANES]`, where the screen is in f32.
    pub floats: Vec<f32>,
    /// `[groups][steps][LANES][4]`, where it is in bytes.
    pub bytes: Vec<i8>,
    pub offsets: Vec<i32>,
    pub steps: Vec<f32>,
    pub slopes: Vec<f32>,
    pub rests: Vec<f32>,
    pub scratch: Vec<u8>,
}

/// What one part of a view is judged with.
pub struct Shard {
    /// `[2][BLOCK][dim]`: of tokens compared with all centres, and with those that moved.
    pub rows: Vec<f32>,
    /// `[dim]`: of the token at hand.
    pub row: Vec<f32>,
    pub bytes: Vec<u8>,
    /// `[BLOCK][groups · LANES]`, whole numbers or floats.
    pub products: Vec<i32>,
    pub floats: Vec<f32>,
    pub lower: Vec<f32>,
    pub near: Vec<u32>,
    pub changed: usize,
    pub objective: f64,
    /// A token whose features are not finite.
    pub bad: Option<(u32, f32)>,
}

/// What the workspace is made of, in values.
struct Sizes {
    tokens: usize,
    k: usize,
    dim: usize,
    /// Lanes of all groups.
    wide: usize,
    /// Of a row as bytes.
    bytes: usize,
    /// Of f32 and of byte centres: one of them is 0.
    floats: usize,
    packed: usize,
}

impl Sizes {
    fn new(tokens: usize, dim: usize, clusters: usize, screen_bytes: bool) -> Self {
        let (k, dim) = (clusters.min(tokens), dim + 2);
        let (wide, bytes) = (k.next_multiple_of(LANES), row_bytes(dim));
        let (floats, packed) = if screen_bytes { (0, wide * bytes) } else { (wide * dim, 0) };
        Self { tokens, k, dim, wide, bytes, floats, packed }
    }
}

impl ClusterWork {
    /// For views of `max_tokens` tokens with `max_dim` features, in at most `max_clusters` clusters; `screen_bytes`: centres are screened as bytes.
    #[must_use]
    pub fn new(max_tokens: usize, max_dim: usize, max_clusters: usize, screen_bytes: bool) -> Self {
        let Sizes { tokens, k, dim, wide, bytes, floats, packed } = Sizes::new(max_tokens, max_dim, max_clusters, screen_bytes);
        let row_bytes = if screen_bytes { bytes } else { 0 };
        let shard = || Shard {
            rows: vec![0.0; 2 * BLOCK * dim],
            row: vec![0.0; dim],
            bytes: vec![0; BLOCK * row_bytes],
            products: vec![0; if screen_bytes { BLOCK * wide } else { 0 }],
            floats: vec![0.0; BLOCK * wide],
            lower: vec![0.0; wide],
            near: vec![0; wide],
            changed: 0,
            objective: 0.0,
            bad: None,
        };
        Self {
            max_tokens,
            max_dim,
            max_clusters,
            open: Vec::with_capacity(tokens),
            labels: vec![0; tokens],
            before: vec![0; tokens],
            scales: vec![0.0; tokens],
            squares: vec![0.0; tokens],
            reach: vec![Reach::default(); tokens],
            starts: Starts::new(tokens, max_dim),
            centres: Centres {
                rows: vec![0.0; k * dim],
                values: vec![0.0; k],
                order: vec![0; wide],
                moved: 0,
                squares: vec![0.0; wide],
                moves: vec![0.0; k],
                floats: vec![0.0; floats],
                bytes: vec![0; packed],
                offsets: vec![0; wide],
                steps: vec![0.0; wide],
                slopes: vec![0.0; wide],
                rests: vec![0.0; wide],
                scratch: vec![0; bytes],
            },
            counts: vec![0; k],
            sums: vec![0; k * dim.next_multiple_of(SLICE)],
            numbers: vec![0; k],
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_tokens: usize, max_dim: usize, max_clusters: usize, screen_bytes: bool) -> Bytes {
        let Sizes { tokens, k, dim, wide, bytes, floats, packed } = Sizes::new(max_tokens, max_dim, max_clusters, screen_bytes);
        let words = 5 * tokens + k * (dim + 4) + 6 * wide + floats;
        let screened = if screen_bytes { BLOCK * (bytes + 4 * wide) } else { 0 };
        let shard = Bytes::of::<f32>(BLOCK * (2 * dim + wide) + dim + 2 * wide) + Bytes::of::<u8>(screened);
        Starts::bytes(max_tokens, max_dim)
            + Bytes::of::<f32>(words)
            + Bytes::of::<Reach>(tokens)
            + Bytes::of::<u8>(packed + bytes)
            + Bytes::of::<i64>(k * dim.next_multiple_of(SLICE))
            + Bytes(shard.0 * SHARDS as u64)
    }

    pub(super) fn check(&self, tokens: usize, dim: usize, clusters: usize) -> Result<(), CompressError> {
        regions::Sizes { tokens: self.max_tokens, dim: self.max_dim, clusters: self.max_clusters }.admit(tokens, dim, clusters)
    }
}
