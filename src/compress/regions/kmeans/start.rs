//! The tokens that k-means starts from: given, drawn at random, or drawn by k-means++.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::Settings;
use super::work::{ClusterWork, SAMPLE};
use crate::compress::regions::ViewFeatures;
use crate::compress::{CompressError, MASKED};
use crate::kernels::{Pool, squared};

impl Settings {
    /// Centres are the given tokens.
    pub(super) fn start_from(
        &self,
        tokens: &[u32],
        view: &ViewFeatures<'_>,
        work: &mut ClusterWork,
        labels: &[u32],
    ) -> Result<(), CompressError> {
        for (&token, centre) in tokens.iter().zip(work.centres.rows.chunks_exact_mut(view.dim + 2)) {
            if labels.get(token as usize).is_none_or(|&label| label == MASKED) {
                return Err(CompressError::Label { token, found: token, regions: labels.len() });
            }
            self.embedding.row(view, token, centre);
        }
        Ok(())
    }

    /// Centres are `k` tokens, any choice as likely as any other.
    pub(super) fn start_random(&self, k: usize, view: &ViewFeatures<'_>, work: &mut ClusterWork) {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        shuffle(&mut random, k, work);
        for (&token, centre) in work.shuffled.iter().zip(work.centres.rows[..k * (view.dim + 2)].chunks_exact_mut(view.dim + 2)) {
            self.embedding.row(view, token, centre);
        }
    }

    /// k-means++ on a seeded sample: each next centre is drawn with a chance in proportion to its squared distance from those there are.
    pub(super) fn start_plus_plus(&self, k: usize, view: &ViewFeatures<'_>, work: &mut ClusterWork, pool: &Pool) {
        let dim = view.dim + 2;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let sampled = work.open.len().min(SAMPLE);
        shuffle(&mut random, sampled, work);
        let rows = &mut work.sample[..sampled * dim];
        let shuffled = &work.shuffled;
        pool.pieces(rows, dim, &|number, row| self.embedding.row(view, shuffled[number], row));
        let gaps = &mut work.gaps[..sampled];
        gaps.fill(f32::INFINITY);
        let piece = sampled.div_ceil(pool.threads());
        let mut chosen = below(&mut random, sampled);
        for (number, centre) in work.centres.rows[..k * dim].chunks_exact_mut(dim).enumerate() {
            if number > 0 {
                chosen = draw(&mut random, gaps).unwrap_or(number % sampled);
            }
            centre.copy_from_slice(&rows[chosen * dim..(chosen + 1) * dim]);
            let (rows, centre) = (&*rows, &*centre);
            pool.pieces(gaps, piece, &|number, gaps| {
                for (row, gap) in rows[number * piece * dim..].chunks_exact(dim).zip(gaps) {
                    *gap = gap.min(squared(self.isa, row, centre));
                }
            });
        }
    }
}

/// Draws `wanted` of the open tokens to the front of `shuffled`.
fn shuffle(random: &mut ChaCha8Rng, wanted: usize, work: &mut ClusterWork) {
    work.shuffled.clear();
    work.shuffled.extend_from_slice(&work.open);
    for place in 0..wanted {
        let other = place + below(random, work.shuffled.len() - place);
        work.shuffled.swap(place, other);
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
