//! k-means over features and place (Eq. 13 and 14 of UHR-BAT): Lloyd's algorithm from k-means++.
//!
//! # Why
//! The same features must give the same labels on any number of threads and any processor: what decides is computed in one fixed order of rounding, and
//! centres are means of whole numbers, whose order doesn't matter. Tokens are normalised a block at a time into a shard's scratch, so no f32 copy of a
//! view exists. Most of the work of plain Lloyd is bounded away ([`assign`]); its labels are not.

mod assign;
mod sketch;
mod start;
mod work;

use crate::compress::regions::centres::dense;
use crate::compress::regions::embed::{Embedding, check_view, open_tokens};
use crate::compress::regions::{Partition, Partitioned, Rows, ViewFeatures};
use crate::compress::{CompressError, MASKED};
use crate::config::{Compression, Policy, Start, Stop};
use crate::kernels::{Isa, Pool, Screen};
use crate::units::Bytes;

use sketch::Sketch;
use work::ClusterWork;

pub use start::Starts;

/// Settings of the clustering.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub max_iterations: u32,
    pub seed: u64,
    pub embedding: Embedding,
    pub start: Start,
    pub stop: Stop,
    /// Coordinates that features are projected to at random first; `None`: as they are.
    pub cluster_dim: Option<usize>,
    pub isa: Isa,
}

/// Lloyd's algorithm with its workspace.
pub struct KMeans {
    settings: Settings,
    screen: Screen,
    sketch: Option<Sketch>,
    work: ClusterWork,
}

impl KMeans {
    /// For views of `max_tokens` tokens with `max_dim` features, in at most `max_clusters` clusters.
    #[must_use]
    pub fn new(settings: Settings, max_tokens: usize, max_dim: usize, max_clusters: usize) -> Self {
        let screen = Screen::detect(settings.isa);
        let sketch = settings.sketched(max_dim).map(|dim| Sketch::new(max_tokens, max_dim, dim, settings.seed));
        let dim = settings.sketched(max_dim).unwrap_or(max_dim);
        Self { settings, screen, sketch, work: ClusterWork::new(max_tokens, dim, max_clusters, screen == Screen::Bytes) }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(settings: &Settings, max_tokens: usize, max_dim: usize, max_clusters: usize) -> Bytes {
        let screen = Screen::detect(settings.isa) == Screen::Bytes;
        match settings.sketched(max_dim) {
            Some(dim) => Sketch::bytes(max_tokens, max_dim, dim) + ClusterWork::bytes(max_tokens, dim, max_clusters, screen),
            None => ClusterWork::bytes(max_tokens, max_dim, max_clusters, screen),
        }
    }
}

impl Settings {
    #[must_use]
    pub fn new(settings: &Compression, policy: &Policy, isa: Isa) -> Self {
        Self {
            max_iterations: settings.max_iterations,
            seed: settings.seed,
            embedding: Embedding::new(settings),
            start: policy.start,
            stop: policy.stop,
            cluster_dim: settings.cluster_dim.map(|dim| dim as usize),
            isa,
        }
    }

    /// The width that features of width `dim` are projected to, where that is fewer.
    #[must_use]
    pub fn sketched(&self, dim: usize) -> Option<usize> {
        self.cluster_dim.filter(|&to| to < dim)
    }
}

impl Partition for KMeans {
    fn id(&self) -> &'static str {
        "kmeans"
    }

    fn reseed(&mut self, seed: u64) {
        self.settings.seed = seed;
        if let Some(sketch) = &mut self.sketch {
            sketch.reseed(seed);
        }
    }

    fn partition(
        &mut self,
        view: &ViewFeatures<'_>,
        clusters: usize,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        let Self { settings, screen, sketch, work } = self;
        check_view(view, labels)?;
        let mut view = *view;
        if let Some(sketch) = sketch
            && let Some(dim) = settings.sketched(view.dim)
        {
            sketch.project(settings.isa, &view, labels, pool)?;
            view = ViewFeatures { rows: Rows::F32(&sketch.rows[..labels.len() * dim]), dim, ..view };
        }
        let view = &view;
        let clusters = view.starts.map_or(clusters, <[u32]>::len);
        if clusters == 0 {
            return Err(CompressError::NoClusters);
        }
        work.check(labels.len(), view.dim, clusters)?;
        open_tokens(labels, &mut work.open);
        if work.open.is_empty() {
            return Ok(Partitioned { regions: 0, iterations: 0, objective: 0.0 });
        }
        let k = clusters.min(work.open.len());
        let dim = view.dim + 2;
        settings.measure(view, work, pool)?;
        settings.start(view, (&work.open, labels), &mut work.starts, pool, &mut work.centres.rows[..k * dim])?;
        work.labels[..work.open.len()].fill(MASKED);
        work.centres.moves[..k].fill(0.0);
        let mut made = Partitioned { regions: 0, iterations: 0, objective: 0.0 };
        for iteration in 1..=settings.max_iterations {
            settings.load_centres(k, dim, *screen, &mut work.centres);
            let changed = settings.assign(k, *screen, iteration == 1, view, work, pool);
            made.iterations = iteration;
            if iteration == settings.max_iterations || (changed == 0 && settings.stop == Stop::Labels) {
                break;
            }
            if settings.update(k, iteration == 1, view, work, pool) && settings.stop == Stop::Centres {
                break;
            }
        }
        made.objective = settings.objective(view, work, pool);
        made.regions = dense(&mut work.labels[..work.open.len()], &mut work.numbers[..k]);
        for (&token, &label) in work.open.iter().zip(&work.labels) {
            labels[token as usize] = label;
        }
        Ok(made)
    }
}

#[cfg(test)]
pub(in crate::compress::regions) mod tests;
