//! Partitions by a map of labels: where the map comes from, and its votes.

use std::path::PathBuf;

use crate::compress::MASKED;
use crate::compress::regions::superpixels::Patch;
use crate::compress::regions::{Method, Slic, Voter};
use crate::config::{Digest, Manifest, Profile};
use crate::geometry::{Content, Layout, ViewLayout, VisionShape};
use crate::imaging::{LabelMap, Limits, Pyramid, fit};
use crate::kernels::Isa;
use crate::pipeline::{Engines, PipelineError};
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
    /// The segmenter's picture `[3,H,W]` and its labels `[H,W]`.
    Segmenter { size: (Px, Px), picture: Vec<f32>, labels: Vec<u32> },
}

/// One frame in its views.
pub(super) struct Framed<'a> {
    pub layout: &'a Layout,
    pub pyramid: &'a Pyramid,
    pub shape: &'a VisionShape,
    /// Most regions of a view; 0 for one that needs no labels.
    pub clusters: &'a dyn Fn(ViewId) -> usize,
}

impl Maps {
    /// `None` for methods that cluster features. `segmenter`: width and height of its picture.
    pub fn new(profile: &Profile, manifest: &Manifest, method: &Method, segmenter: Option<(Px, Px)>) -> Option<Self> {
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
            Method::Segmenter => {
                let size = segmenter.unwrap_or_default();
                let pixels = size.0.get() * size.1.get();
                let source = Source::Segmenter { size, picture: vec![0.0; 3 * pixels], labels: vec![0; pixels] };
                Some(Self { voter: voter(size.0.max(size.1)), source })
            }
        }
    }

    /// Labels the unmasked tokens of the views that need it; all others become masked. `labels`: of all views, side by side. The digest of a map that is a
    /// file.
    pub fn label(
        &mut self,
        frame: &Framed<'_>,
        limits: &Limits,
        engines: &mut Engines,
        labels: &mut [u32],
    ) -> Result<Option<Digest>, PipelineError> {
        let pool = &*engines.pool;
        labels.fill(MASKED);
        let Self { voter, source } = self;
        let Framed { layout, clusters, .. } = *frame;
        match source {
            Source::File(path) => {
                let map = LabelMap::open(path, limits)?;
                map.fits(layout.width, layout.height)?;
                voter.start(layout, &|view| clusters(view) > 0, map.size(), labels)?;
                map.rows(limits, &mut |row| voter.row(row, pool, labels))?;
                return Ok(Some(map.digest()?));
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
                    voter.start(layout, &|view| clusters(view) == count, (Px::of(width), Px::of(height)), labels)?;
                    map.chunks_exact(width).for_each(|row| voter.row(row, pool, labels));
                }
            }
            Source::Segmenter { size, picture, labels: map } => {
                let Some(segmenter) = &mut engines.segmenter else { return Ok(None) };
                let content = letterbox(frame, *size, picture);
                segmenter.segment(picture, map)?;
                voter.start(layout, &|view| clusters(view) > 0, (Px::of(content.width), Px::of(content.height)), labels)?;
                let rows = map.chunks_exact(size.0.get()).skip(content.top).take(content.height);
                rows.for_each(|row| voter.row(&row[content.left..][..content.width], pool, labels));
            }
        }
        Ok(None)
    }
}

/// Puts the frame into a rectangle, scaled to fit, in the middle, on the padding's colour, normalised; where it lies. It is taken from the smallest present
/// view that shows at least as much.
fn letterbox(frame: &Framed<'_>, (width, height): (Px, Px), picture: &mut [f32]) -> Content {
    let (shape, layout) = (frame.shape, frame.layout);
    let (w, h) = (f64::from(layout.width.0), f64::from(layout.height.0));
    let scale = (f64::from(width.0) / w).min(f64::from(height.0) / h);
    let fitted = |length: f64, room: usize| ((length * scale).round() as usize).clamp(1, room);
    let (width, height) = (width.get(), height.get());
    let size = (fitted(w, width), fitted(h, height));
    let content = Content { left: (width - size.0) / 2, top: (height - size.1) / 2, width: size.0, height: size.1 };
    let enough = |view: &&ViewLayout| view.content.width >= size.0 && view.content.height >= size.1;
    let view = layout.present().find(enough).unwrap_or(layout.finest());
    let pad = shape.pad();
    for (channel, plane) in picture.chunks_exact_mut(width * height).enumerate() {
        plane.fill(shape.normalise(channel, pad[channel]));
    }
    fit(frame.pyramid.view(view.id.index()), view.side.get(), view.content, size, &mut |x, y, pixel| {
        for (channel, &sample) in pixel.iter().enumerate() {
            picture[(channel * height + content.top + y) * width + content.left + x] = shape.normalise(channel, sample);
        }
    });
    content
}
