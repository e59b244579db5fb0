//! Partitions by a map of labels: where the map comes from, and its votes.

use std::path::PathBuf;

use crate::compress::regions::{Method, Voter};
use crate::config::{Manifest, Profile};
use crate::geometry::Layout;
use crate::imaging::{LabelMap, Limits};
use crate::kernels::Pool;
use crate::pipeline::PipelineError;
use crate::units::ViewId;

/// A method's map and the memory of the votes on it.
pub(super) struct Maps {
    voter: Voter,
    source: Source,
}

enum Source {
    /// One map, of the size of every frame it is used for.
    File(PathBuf),
}

impl Maps {
    /// `None` for methods that cluster features.
    pub fn new(profile: &Profile, manifest: &Manifest, method: &Method) -> Option<Self> {
        let voter = |side| Voter::new(&manifest.vision.shape, side, profile.engines.threads);
        match method {
            Method::Kmeans | Method::Birch => None,
            Method::Labels(path) => Some(Self { voter: voter(profile.frame.max_side), source: Source::File(path.clone()) }),
        }
    }

    /// Labels the unmasked tokens of the views that `wanted` names; all others become masked. `labels`: of all views, side by side.
    pub fn label(
        &mut self,
        layout: &Layout,
        wanted: &dyn Fn(ViewId) -> bool,
        limits: &Limits,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<(), PipelineError> {
        match &self.source {
            Source::File(path) => {
                let map = LabelMap::open(path, limits)?;
                map.fits(layout.width, layout.height)?;
                self.voter.start(layout, wanted, map.size(), labels)?;
                map.rows(limits, &mut |row| self.voter.row(row, pool, labels))?;
            }
        }
        Ok(())
    }
}
