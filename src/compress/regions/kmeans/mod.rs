//! k-means over features and place (Eq. 13 and 14 of UHR-BAT): Lloyd's algorithm from k-means++.
//!
//! A token is `u = [λ_f·f/‖f‖₂, λ_xy·x, λ_xy·y]` with its centre in `[0,1]²`; a zero feature stays zero.
//!
//! # Why
//! The same features must give the same labels on any number of threads: tokens are cut into a fixed number of shards, each with its own sums,
//! added up in shard order. Tokens are normalised a block at a time into a shard's scratch, so no f32 copy of a view exists.

mod work;

use std::sync::atomic::{AtomicUsize, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::compress::regions::{Partition, Partitioned, ViewFeatures};
use crate::compress::{CompressError, MASKED};
use crate::kernels::{Isa, LANES, Pool, nearest, squared};

pub use work::ClusterWork;
use work::{BLOCK, SAMPLE, SHARDS, Shard};

/// Settings of the clustering.
#[derive(Clone, Debug)]
pub struct KMeans {
    pub clusters: usize,
    pub max_iterations: u32,
    pub seed: u64,
    pub lambda_feature: f32,
    pub lambda_position: f32,
    /// Tokens that start as centres, instead of k-means++; their number is k.
    pub init: Option<Vec<u32>>,
    pub isa: Isa,
}

impl Partition for KMeans {
    fn id(&self) -> &'static str {
        "kmeans"
    }

    fn partition(
        &self,
        view: &ViewFeatures<'_>,
        work: &mut ClusterWork,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        let wanted = labels.len() * view.dim;
        if view.rows.len() != wanted || view.side * view.side != labels.len() {
            return Err(CompressError::Length { what: "clustering features", wanted, found: view.rows.len() });
        }
        work.check(labels.len(), view.dim, self.init.as_ref().map_or(self.clusters, Vec::len))?;
        work.open.clear();
        work.open.extend(labels.iter().zip(0..).filter(|(label, _)| **label != MASKED).map(|(_, token)| token));
        if work.open.is_empty() {
            return Ok(Partitioned { regions: 0, iterations: 0, objective: 0.0 });
        }
        let k = self.init.as_ref().map_or(self.clusters, Vec::len).min(work.open.len());
        if k == 0 {
            return Err(CompressError::NoClusters);
        }
        let dim = view.dim + 2;
        match &self.init {
            Some(tokens) => self.start_from(tokens, view, work, labels)?,
            None => self.start_plus_plus(k, view, work),
        }
        work.labels[..work.open.len()].fill(MASKED);
        let mut made = Partitioned { regions: 0, iterations: 0, objective: 0.0 };
        for iteration in 1..=self.max_iterations {
            pack(&work.centres[..k * dim], dim, &mut work.packed, &mut work.norms);
            let changed = self.assign(k, view, work, pool)?;
            made.iterations = iteration;
            made.objective = work.shards.iter().map(|shard| shard.objective).sum();
            if changed == 0 || iteration == self.max_iterations {
                break;
            }
            update(k, dim, work);
        }
        made.regions = renumber(k, work);
        for (&token, &label) in work.open.iter().zip(&work.labels) {
            labels[token as usize] = label;
        }
        Ok(made)
    }
}

impl KMeans {
    /// Writes u of `token` to `out` `[dim + 2]`.
    fn row(&self, view: &ViewFeatures<'_>, token: u32, out: &mut [f32]) {
        let (feature, place) = out.split_at_mut(view.dim);
        view.rows.copy(token as usize, feature);
        let norm = feature.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { (f64::from(self.lambda_feature) / norm) as f32 } else { 0.0 };
        feature.iter_mut().for_each(|value| *value *= scale);
        let side = view.side;
        let centre = |at: usize| self.lambda_position * ((at as f32 + 0.5) / side as f32);
        place.copy_from_slice(&[centre(token as usize % side), centre(token as usize / side)]);
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

/// Drops empty clusters: labels become dense, in the order of cluster numbers. Returns how many are left.
fn renumber(k: usize, work: &mut ClusterWork) -> usize {
    let open = work.open.len();
    let numbers = &mut work.numbers[..k];
    numbers.fill(0);
    work.labels[..open].iter().for_each(|&label| numbers[label as usize] = 1);
    let mut next = 0;
    for number in numbers.iter_mut() {
        (next, *number) = (next + *number, next);
    }
    work.labels[..open].iter_mut().for_each(|label| *label = numbers[*label as usize]);
    next as usize
}

/// Centres `[k][dim]` → `[groups][dim][LANES]`, with `‖c‖²`; lanes without a centre are infinitely far.
fn pack(centres: &[f32], dim: usize, packed: &mut [f32], norms: &mut [f32]) {
    let k = centres.len() / dim;
    for (group, (block, norms)) in packed.chunks_exact_mut(dim * LANES).zip(norms.chunks_exact_mut(LANES)).enumerate() {
        block.fill(0.0);
        norms.fill(f32::INFINITY);
        for lane in 0..LANES.min(k.saturating_sub(group * LANES)) {
            let centre = &centres[(group * LANES + lane) * dim..][..dim];
            norms[lane] = centre.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() as f32;
            centre.iter().enumerate().for_each(|(j, value)| block[j * LANES + lane] = *value);
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
mod tests;
