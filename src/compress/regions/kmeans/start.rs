//! The tokens that k-means starts from: given, drawn at random, or drawn by k-means++.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::Settings;
use crate::compress::regions::ViewFeatures;
use crate::compress::{CompressError, MASKED};
use crate::config::Start;
use crate::kernels::{Pool, squared};
use crate::units::Bytes;

/// Tokens that k-means++ draws from.
const SAMPLE: usize = 8_192;

/// What starts are drawn with.
pub struct Starts {
    pub(super) shuffled: Vec<u32>,
    /// `[SAMPLE][dim + 2]`.
    pub(super) sample: Vec<f32>,
    pub(super) gaps: Vec<f32>,
}

impl Starts {
    /// For views of up to `tokens` tokens of up to `dim` features.
    #[must_use]
    pub fn new(tokens: usize, dim: usize) -> Self {
        let sampled = SAMPLE.min(tokens);
        Self { shuffled: Vec::with_capacity(tokens), sample: vec![0.0; sampled * (dim + 2)], gaps: vec![0.0; sampled] }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(tokens: usize, dim: usize) -> Bytes {
        Bytes::of::<f32>(tokens + SAMPLE.min(tokens) * (dim + 3))
    }

    /// Draws `wanted` of the tokens in `open` to the front of `shuffled`.
    fn shuffle(&mut self, random: &mut ChaCha8Rng, wanted: usize, open: &[u32]) {
        self.shuffled.clear();
        self.shuffled.extend_from_slice(open);
        for place in 0..wanted {
            let other = place + below(random, self.shuffled.len() - place);
            self.shuffled.swap(place, other);
        }
    }
}

impl Settings {
    /// Writes the `centres` `[k, dim + 2]` that k-means starts from: the view's own starts, or those that the policy draws of its unmasked tokens, `open`, which
    /// are k at least.
    ///
    /// # Errors
    /// A given start that is no token, or a masked one.
    pub fn start(
        &self,
        view: &ViewFeatures<'_>,
        (open, labels): (&[u32], &[u32]),
        starts: &mut Starts,
        pool: &Pool,
        centres: &mut [f32],
    ) -> Result<(), CompressError> {
        match (view.starts, self.start) {
            (Some(tokens), _) => return self.start_from(tokens, view, labels, centres),
            (None, Start::PlusPlus) => self.start_plus_plus(view, open, starts, pool, centres),
            (None, Start::Random) => self.start_random(view, open, starts, centres),
        }
        Ok(())
    }

    /// Centres are the given tokens.
    fn start_from(&self, tokens: &[u32], view: &ViewFeatures<'_>, labels: &[u32], centres: &mut [f32]) -> Result<(), CompressError> {
        for (&token, centre) in tokens.iter().zip(centres.chunks_exact_mut(view.dim + 2)) {
            if labels.get(token as usize).is_none_or(|&label| label == MASKED) {
                return Err(CompressError::Label { token, found: token, regions: labels.len() });
            }
            self.embedding.row(view, token, centre);
        }
        Ok(())
    }

    /// Centres are tokens, any choice as likely as any other.
    fn start_random(&self, view: &ViewFeatures<'_>, open: &[u32], starts: &mut Starts, centres: &mut [f32]) {
        let dim = view.dim + 2;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        starts.shuffle(&mut random, centres.len() / dim, open);
        for (&token, centre) in starts.shuffled.iter().zip(centres.chunks_exact_mut(dim)) {
            self.embedding.row(view, token, centre);
        }
    }

    /// k-means++ on a seeded sample: each next centre is drawn with a chance in proportion to its squared distance from those there are.
    fn start_plus_plus(&self, view: &ViewFeatures<'_>, open: &[u32], starts: &mut Starts, pool: &Pool, centres: &mut [f32]) {
        let dim = view.dim + 2;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let sampled = open.len().min(SAMPLE);
        starts.shuffle(&mut random, sampled, open);
        let rows = &mut starts.sample[..sampled * dim];
        let shuffled = &starts.shuffled;
        pool.pieces(rows, dim, &|number, row| self.embedding.row(view, shuffled[number], row));
        let gaps = &mut starts.gaps[..sampled];
        gaps.fill(f32::INFINITY);
        let piece = sampled.div_ceil(pool.threads());
        let mut chosen = below(&mut random, sampled);
        for (number, centre) in centres.chunks_exact_mut(dim).enumerate() {
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
