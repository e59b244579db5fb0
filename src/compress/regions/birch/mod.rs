//! BIRCH (Table 8 of UHR-BAT): a tree of cluster features over Eq. 13's rows, Ward's agglomeration of its leaf entries to k centres, and
//! each token to its nearest centre, equal distances to the lowest number.
//!
//! # Why
//! One pass over the tokens in raster order on one thread fills the tree, so its entries don't depend on the number of threads; only the matrix of
//! pairs and the last assignment are shared out. Ward is the global step of the reference implementations; leaf entries are few, and weighted by their tokens.

mod tree;
mod ward;

use crate::compress::CompressError;
use crate::compress::regions::centres::{dense, pack};
use crate::compress::regions::embed::{Embedding, check_view, open_tokens};
use crate::compress::regions::{Partition, Partitioned, Sizes, ViewFeatures};
use crate::config;
use crate::kernels::{Isa, LANES, Pool, nearest};
use crate::units::Bytes;

use tree::Tree;
use ward::Ward;

/// Parts of the last assignment, whatever the number of threads.
const SHARDS: usize = 16;
/// Tokens of a shard taken at once.
const BLOCK: usize = 64;

/// Settings of the tree and its rows.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub birch: config::Birch,
    pub embedding: Embedding,
    pub isa: Isa,
}

/// BIRCH with its memory.
pub struct Birch {
    settings: Settings,
    max_tokens: usize,
    max_dim: usize,
    max_clusters: usize,
    tree: Tree,
    ward: Ward,
    /// Leaf entries: means `[n][dim]`, tokens, groups, and their order by group.
    points: Vec<f32>,
    counts: Vec<u32>,
    groups: Vec<u32>,
    order: Vec<u32>,
    sum: Vec<f64>,
    centres: Vec<f32>,
    packed: Vec<f32>,
    norms: Vec<f32>,
    numbers: Vec<u32>,
    /// Unmasked tokens, ascending, and their labels.
    open: Vec<u32>,
    labels: Vec<u32>,
    row: Vec<f32>,
    shards: Vec<Shard>,
}

struct Shard {
    block: Vec<f32>,
    objective: f64,
}

/// Sizes that both the allocation and its count start from.
struct Room {
    entries: usize,
    dim: usize,
    k: usize,
    groups: usize,
}

impl Room {
    fn new(settings: &config::Birch, max_tokens: usize, max_dim: usize, max_clusters: usize) -> Self {
        let k = max_clusters.min(max_tokens);
        Self { entries: settings.max_entries.max(2 * k).min(max_tokens).max(2), dim: max_dim + 2, k, groups: k.div_ceil(LANES) }
    }
}

impl Birch {
    /// For views of `max_tokens` tokens with `max_dim` features, in at most `max_clusters` clusters.
    #[must_use]
    pub fn new(settings: Settings, max_tokens: usize, max_dim: usize, max_clusters: usize) -> Self {
        let Room { entries, dim, k, groups } = Room::new(&settings.birch, max_tokens, max_dim, max_clusters);
        let shard = || Shard { block: vec![0.0; BLOCK * dim], objective: 0.0 };
        Self {
            settings,
            max_tokens,
            max_dim,
            max_clusters,
            tree: Tree::new(settings.isa, settings.birch.branching, entries, dim),
            ward: Ward::new(entries),
            points: Vec::with_capacity(entries * dim),
            counts: Vec::with_capacity(entries),
            groups: vec![0; entries],
            order: Vec::with_capacity(entries),
            sum: vec![0.0; dim],
            centres: Vec::with_capacity(k * dim),
            packed: vec![0.0; groups * dim * LANES],
            norms: vec![0.0; groups * LANES],
            numbers: vec![0; k],
            open: Vec::with_capacity(max_tokens),
            labels: vec![0; max_tokens],
            row: vec![0.0; dim],
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(settings: &config::Birch, max_tokens: usize, max_dim: usize, max_clusters: usize) -> Bytes {
        let Room { entries, dim, k, groups } = Room::new(settings, max_tokens, max_dim, max_clusters);
        Tree::bytes(settings.branching, entries, dim)
            + Ward::bytes(entries)
            + Bytes::of::<f32>(entries * (dim + 3) + k * (dim + 1) + groups * LANES * (dim + 1))
            + Bytes::of::<f32>(2 * max_tokens + dim + SHARDS * BLOCK * dim)
            + Bytes::of::<f64>(dim)
    }

    fn check(&self, tokens: usize, dim: usize, clusters: usize) -> Result<(), CompressError> {
        Sizes { tokens: self.max_tokens, dim: self.max_dim, clusters: self.max_clusters }.admit(tokens, dim, clusters)?;
        if clusters == 0 { Err(CompressError::NoClusters) } else { Ok(()) }
    }

    /// Leaf entries to at most `k` centres, the means of all their tokens.
    fn centres(&mut self, k: usize, dim: usize, pool: &Pool) {
        self.points.clear();
        self.counts.clear();
        for (count, mean) in self.tree.leaf_entries() {
            self.counts.push(count);
            self.points.extend_from_slice(mean);
        }
        let groups = &mut self.groups[..self.counts.len()];
        self.ward.group(self.settings.isa, &self.points, dim, &self.counts, k, pool, groups);
        self.order.clear();
        self.order.extend((0_u32..).take(groups.len()));
        self.order.sort_unstable_by_key(|&point| (groups[point as usize], point));
        self.centres.clear();
        for members in self.order.chunk_by(|&a, &b| groups[a as usize] == groups[b as usize]) {
            let sum = &mut self.sum[..dim];
            sum.fill(0.0);
            let mut total = 0.0;
            for &point in members {
                let weight = f64::from(self.counts[point as usize]);
                total += weight;
                let mean = &self.points[point as usize * dim..][..dim];
                sum.iter_mut().zip(mean).for_each(|(sum, value)| *sum += weight * f64::from(*value));
            }
            self.centres.extend(sum.iter().map(|sum| (sum / total) as f32));
        }
    }

    /// Each open token to its nearest centre; the sum of squared distances.
    fn assign(&mut self, view: &ViewFeatures<'_>, dim: usize, pool: &Pool) -> f64 {
        pack(&self.centres, dim, &mut self.packed, &mut self.norms);
        let groups = (self.centres.len() / dim).div_ceil(LANES);
        let (packed, norms) = (&self.packed[..groups * dim * LANES], &self.norms[..groups * LANES]);
        let (open, Settings { embedding, isa, .. }) = (&self.open, self.settings);
        let per_shard = open.len().div_ceil(SHARDS);
        pool.pairs(&mut self.shards, 1, &mut self.labels[..open.len()], per_shard, &|number, shard, labels| {
            let shard = &mut shard[0];
            shard.objective = 0.0;
            let tokens = &open[(number * per_shard).min(open.len())..][..labels.len()];
            for (tokens, labels) in tokens.chunks(BLOCK).zip(labels.chunks_mut(BLOCK)) {
                let rows = &mut shard.block[..tokens.len() * dim];
                rows.chunks_exact_mut(dim).zip(tokens).for_each(|(row, &token)| embedding.row(view, token, row));
                let mut values = [0.0; BLOCK];
                nearest(isa, rows, dim, packed, norms, labels, &mut values[..tokens.len()]);
                for (row, &value) in rows.chunks_exact(dim).zip(&values) {
                    let own: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
                    shard.objective += (own + f64::from(value)).max(0.0);
                }
            }
        });
        self.shards.iter().map(|shard| shard.objective).sum()
    }
}

impl Partition for Birch {
    fn id(&self) -> &'static str {
        "birch"
    }

    /// Fewer regions than `clusters` come of a tree with fewer leaf entries: a threshold too large for the features.
    fn partition(
        &mut self,
        view: &ViewFeatures<'_>,
        clusters: usize,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        check_view(view, labels)?;
        self.check(labels.len(), view.dim, clusters)?;
        open_tokens(labels, &mut self.open);
        if self.open.is_empty() {
            return Ok(Partitioned { regions: 0, iterations: 0, objective: 0.0 });
        }
        let dim = view.dim + 2;
        self.tree.start(dim, self.settings.birch.threshold);
        for &token in &self.open {
            let row = &mut self.row[..dim];
            self.settings.embedding.row(view, token, row);
            let own: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
            if !own.is_finite() {
                return Err(CompressError::NotFinite { what: "clustering feature", token, found: own as f32 });
            }
            self.tree.insert(row);
        }
        self.centres(clusters.min(self.open.len()), dim, pool);
        let objective = self.assign(view, dim, pool);
        let made = self.centres.len() / dim;
        let regions = dense(&mut self.labels[..self.open.len()], &mut self.numbers[..made]);
        for (&token, &label) in self.open.iter().zip(&self.labels) {
            labels[token as usize] = label;
        }
        Ok(Partitioned { regions, iterations: 1, objective })
    }
}

#[cfg(test)]
mod tests;
