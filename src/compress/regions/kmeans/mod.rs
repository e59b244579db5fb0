//! k-means over features and place (Eq. 13 and 14 of UHR-BAT): Lloyd's algorithm from k-means++.
//!
//! # Why
//! The same features must give the same labels on any number of threads: tokens are cut into a fixed number of shards, each with its own sums,
//! added up in shard order. Tokens are normalised a block at a time into a shard's scratch, so no f32 copy of a view exists.

mod work;

use std::sync::atomic::{AtomicUsize, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::compress::regions::centres::{dense, pack};
use crate::compress::regions::embed::{Embedding, check_view};
use crate::compress::regions::{Partition, Partitioned, ViewFeatures};
use crate::compress::{CompressError, MASKED};
use crate::kernels::{Isa, LANES, Pool, nearest, squared};
use crate::units::Bytes;

use work::{BLOCK, ClusterWork, SAMPLE, SHARDS, Shard};

/// Settings of the clustering.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub max_iterations: u32,
    pub seed: u64,
    pub embedding: Embedding,
    pub isa: Isa,
}

/// Lloyd's algorithm with its workspace.
pub struct KMeans {
    settings: Settings,
    work: ClusterWork,
}

impl KMeans {
    /// For views of `max_tokens` tokens with `max_dim` features, in at most `max_clusters` clusters.
    #[must_use]
    pub fn new(settings: Settings, max_tokens: usize, max_dim: usize, max_clusters: usize) -> Self {
        Self { settings, work: ClusterWork::new(max_tokens, max_dim, max_clusters) }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_tokens: usize, max_dim: usize, max_clusters: usize) -> Bytes {
        ClusterWork::bytes(max_tokens, max_dim, max_clusters)
    }
}

impl Partition for KMeans {
    fn id(&self) -> &'static str {
        "kmeans"
    }

    fn partition(
        &mut self,
        view: &ViewFeatures<'_>,
        clusters: usize,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        let Self { settings, work } = self;
        check_view(view, labels)?;
        let clusters = view.starts.map_or(clusters, <[u32]>::len);
        if clusters == 0 {
            return Err(CompressError::NoClusters);
        }
        work.check(labels.len(), view.dim, clusters)?;
        work.open.clear();
        work.open.extend(labels.iter().zip(0..).filter(|(label, _)| **label != MASKED).map(|(_, token)| token));
        if work.open.is_empty() {
            return Ok(Partitioned { regions: 0, iterations: 0, objective: 0.0 });
        }
        let k = clusters.min(work.open.len());
        let dim = view.dim + 2;
        match view.starts {
            Some(tokens) => settings.start_from(&tokens[..k], view, work, labels)?,
            None => settings.start_plus_plus(k, view, work),
        }
        work.labels[..work.open.len()].fill(MASKED);
        let mut made = Partitioned { regions: 0, iterations: 0, objective: 0.0 };
        for iteration in 1..=settings.max_iterations {
            pack(&work.centres[..k * dim], dim, &mut work.packed, &mut work.norms);
            let changed = settings.assign(k, view, work, pool)?;
            made.iterations = iteration;
            made.objective = work.shards.iter().map(|shard| shard.objective).sum();
            if changed == 0 || iteration == settings.max_iterations {
                break;
            }
            update(k, dim, work);
        }
        made.regions = dense(&mut work.labels[..work.open.len()], &mut work.numbers[..k]);
        for (&token, &label) in work.open.iter().zip(&work.labels) {
            labels[token as usize] = label;
        }
        Ok(made)
    }
}

impl Settings {
    /// Writes u of `token` to `out` `[dim + 2]`.
    fn row(&self, view: &ViewFeatures<'_>, token: u32, out: &mut [f32]) {
        self.embedding.row(view, token, out);
    }

    fn start_from(&self, tokens: &[u32], view: &ViewFeatures<'_>, work: &mut ClusterWork, labels: &[u32]) -> Result<(), CompressError> {
        for (&token, centre) in tokens.iter().zip(work.centres.chunks_exact_mut(view.dim + 2)) {
            if labels.get(token as usize).is_none_or(|&label| label == MASKED) {
                return Err(CompressError::Label { token, found: token, regions: labels.len() });
            }
            self.row(view, token, centre);
        }
        Ok(())
    }

    /// k-means++ on a seeded sample: each next centre is drawn with a chance in proportion to its squared distance from those there are.
    fn start_plus_plus(&self, k: usize, view: &ViewFeatures<'_>, work: &mut ClusterWork) {
        let dim = view.dim + 2;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let sampled = work.open.len().min(SAMPLE);
        work.shuffled.clear();
        work.shuffled.extend_from_slice(&work.open);
        for place in 0..sampled {
            let other = place + below(&mut random, work.shuffled.len() - place);
            work.shuffled.swap(place, other);
        }
        let rows = &mut work.sample[..sampled * dim];
        for (row, &token) in rows.chunks_exact_mut(dim).zip(&work.shuffled) {
            self.row(view, token, row);
        }
        let gaps = &mut work.gaps[..sampled];
        gaps.fill(f32::INFINITY);
        let mut chosen = below(&mut random, sampled);
        for (number, centre) in work.centres[..k * dim].chunks_exact_mut(dim).enumerate() {
            if number > 0 {
                chosen = draw(&mut random, gaps).unwrap_or(number % sampled);
            }
            centre.copy_from_slice(&rows[chosen * dim..(chosen + 1) * dim]);
            for (row, gap) in rows.chunks_exact(dim).zip(gaps.iter_mut()) {
                *gap = gap.min(squared(self.isa, row, centre));
            }
        }
    }

    /// Gives each token its nearest centre and sums tokens by centre; returns how many labels changed.
    fn assign(&self, k: usize, view: &ViewFeatures<'_>, work: &mut ClusterWork, pool: &Pool) -> Result<usize, CompressError> {
        let dim = view.dim + 2;
        let groups = k.div_ceil(LANES);
        let (packed, norms) = (&work.packed[..groups * dim * LANES], &work.norms[..groups * LANES]);
        let open = &work.open;
        let per_shard = open.len().div_ceil(SHARDS);
        let changed = AtomicUsize::new(0);
        let labels = &mut work.labels[..open.len()];
        pool.pairs(&mut work.shards, 1, labels, per_shard, &|number, shard, labels| {
            let start = (number * per_shard).min(open.len());
            let tokens = &open[start..start + labels.len()];
            changed.fetch_add(self.assign_shard(k, view, tokens, (packed, norms), &mut shard[0], labels), Ordering::Relaxed);
        });
        match work.shards.iter().find_map(|shard| shard.bad) {
            Some((token, found)) => Err(CompressError::NotFinite { what: "clustering feature", token, found }),
            None => Ok(changed.into_inner()),
        }
    }

    fn assign_shard(
        &self,
        k: usize,
        view: &ViewFeatures<'_>,
        tokens: &[u32],
        (packed, norms): (&[f32], &[f32]),
        shard: &mut Shard,
        labels: &mut [u32],
    ) -> usize {
        let dim = view.dim + 2;
        shard.sums[..k * dim].fill(0.0);
        shard.counts[..k].fill(0);
        shard.objective = 0.0;
        shard.bad = None;
        let mut changed = 0;
        for (tokens, labels) in tokens.chunks(BLOCK).zip(labels.chunks_mut(BLOCK)) {
            let rows = &mut shard.block[..tokens.len() * dim];
            for (row, &token) in rows.chunks_exact_mut(dim).zip(tokens) {
                self.row(view, token, row);
            }
            let (mut found, mut values) = ([0; BLOCK], [0.0; BLOCK]);
            nearest(self.isa, rows, dim, packed, norms, &mut found[..tokens.len()], &mut values[..tokens.len()]);
            for (((row, label), &new), (&value, &token)) in rows.chunks_exact(dim).zip(labels).zip(&found).zip(values.iter().zip(tokens)) {
                let own: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
                if !own.is_finite() || new as usize >= k {
                    shard.bad.get_or_insert((token, own as f32));
                    continue;
                }
                shard.objective += (own + f64::from(value)).max(0.0);
                changed += usize::from(*label != new);
                *label = new;
                shard.counts[new as usize] += 1;
                let sum = &mut shard.sums[new as usize * dim..(new as usize + 1) * dim];
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        }
        changed
    }
}

/// Moves each centre to the mean of its tokens; one without tokens stays.
fn update(k: usize, dim: usize, work: &mut ClusterWork) {
    for (cluster, centre) in work.centres[..k * dim].chunks_exact_mut(dim).enumerate() {
        let count: u32 = work.shards.iter().map(|shard| shard.counts[cluster]).sum();
        if count == 0 {
            continue;
        }
        for (j, value) in centre.iter_mut().enumerate() {
            let sum: f64 = work.shards.iter().map(|shard| f64::from(shard.sums[cluster * dim + j])).sum();
            *value = (sum / f64::from(count)) as f32;
        }
    }
}

/// A number below `bound`, each as likely within 2⁻³² of another.
fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}

/// A place with a chance in proportion to its weight; `None` when all weigh nothing.
fn draw(random: &mut ChaCha8Rng, weights: &[f32]) -> Option<usize> {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let unit = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    if total <= 0.0 {
        return None;
    }
    let mut left = unit * total;
    let mut last = None;
    for (place, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = Some(place);
        left -= f64::from(*weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
pub(in crate::compress::regions) mod tests;
