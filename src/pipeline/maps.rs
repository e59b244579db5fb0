//! Partitions by a map of labels: where the map comes from, and its votes.

use std::path::PathBuf;

use crate::compress::MASKED;
use crate::compress::regions::superpixels::Patch;
use crate::compress::regions::{Method, Slic, Voter};
use crate::config::{Manifest, Profile};
use crate::geometry::{Content, Layout, ViewLayout};
use crate::imaging::{LabelMap, Limits, Pyramid};
use crate::kernels::{Isa, Pool};
use crate::pipeline::PipelineError;
use crate::planner;
use crate::units::{Px, ViewId};

/// A method's map and the memory of the votes on it.
pub(super) struct Maps {
    voter: Voter,
    source: Source,
}

enum Source {
    /// One map, of the size of every frame it is used for.
    File(PathBuf),
    /// Superpixels of the largest present view up to this one.
    Superpixels { slic: Box<Slic>, view: usize },
}

/// One frame in its views.
pub(super) struct Framed<'a> {
    pub layout: &'a Layout,
    pub pyramid: &'a Pyramid,
    /// Most regions of a view; 0 for one that needs no labels.
    pub clusters: &'a dyn Fn(ViewId) -> usize,
}

impl Maps {
    /// `None` for methods that cluster features.
    pub fn new(profile: &Profile, manifest: &Manifest, method: &Method) -> Option<Self> {
        let shape = &manifest.vision.shape;
        let voter = |side| Voter::new(shape, side, profile.engines.threads);
        match method {
            Method::Kmeans | Method::Birch => None,
            Method::Labels(path) => Some(Self { voter: voter(profile.frame.max_side), source: Source::File(path.clone()) }),
            Method::Superpixels => {
                let view = planner::reduced(shape);
                let side = shape.views()[view];
                let slic = Box::new(Slic::new(Isa::detect(), side.get(), profile.compression.clusters as usize));
                Some(Self { voter: voter(side), source: Source::Superpixels { slic, view } })
            }
        }
    }

    /// Labels the unmasked tokens of the views that need it; all others become masked. `labels`: of all views, side by side.
    pub fn label(&mut self, frame: &Framed<'_>, limits: &Limits, pool: &Pool, labels: &mut [u32]) -> Result<(), PipelineError> {
        labels.fill(MASKED);
        let Self { voter, source } = self;
        let Framed { layout, clusters, .. } = *frame;
        match source {
            Source::File(path) => {
                let map = LabelMap::open(path, limits)?;
                map.fits(layout.width, layout.height)?;
                voter.start(layout, &|view| clusters(view) > 0, map.size(), labels)?;
                map.rows(limits, &mut |row| voter.row(row, pool, labels))?;
            }
            Source::Superpixels { slic, view } => {
                let view = layout.present().rfind(|present| present.id.index() <= *view).unwrap_or(&layout.views()[0]);
                let Content { left, top, width, height } = view.content;
                let rgb = frame.pyramid.view(view.id.index());
                slic.look(&Patch { rgb, stride: view.side.get(), left, top, width, height }, pool)?;
                // One map for each number of regions, and the views that want that many.
                let mut counts: Vec<usize> = layout.views().iter().map(|view| clusters(view.id)).filter(|&count| count > 0).collect();
                counts.sort_unstable();
                counts.dedup();
                for count in counts {
                    let map = slic.segment(count, pool)?;
                    voter.start(layout, &|view| clusters(view) == count, content_size(view), labels)?;
                    map.chunks_exact(width).for_each(|row| voter.row(row, pool, labels));
                }
            }
        }
        Ok(())
    }
}

/// A view's frame without its padding.
fn content_size(view: &ViewLayout) -> (Px, Px) {
    // A view's side is a u32.
    let px = |length: usize| Px(u32::try_from(length).unwrap_or(u32::MAX));
    (px(view.content.width), px(view.content.height))
}
