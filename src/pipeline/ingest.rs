//! Once a frame: views, features, regions, the projected anchor.

use std::time::Instant;

use half::slice::HalfFloatSliceExt;

use crate::arena::FrameLease;
use crate::compress::regions::{KMeans, Partition, Rows, ViewFeatures};
use crate::compress::{MASKED, clusters};
use crate::config::Budget;
use crate::geometry::Layout;
use crate::imaging::FrameSource;
use crate::pipeline::{Pipeline, PipelineError};
use crate::planner;
use crate::units::ViewId;

/// A frame in its slot, and what its receipt says of it.
#[derive(Clone, Debug)]
pub struct Frame {
    pub lease: FrameLease,
    pub source: FrameSource,
    /// The budget in force at ingest, placed on this frame's views.
    pub budget: Budget,
    /// Of a dropped view: where its budget went.
    pub moved: Vec<Option<usize>>,
    /// Tiles the encoder saw, a view.
    pub tiles_encoded: Vec<u32>,
}

/// Milliseconds of each stage of an ingest.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestTimes {
    pub decode: f64,
    pub views: f64,
    pub encode: f64,
    pub regions: f64,
}

pub(super) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Pipeline {
    /// Takes a frame into a slot, for questions of at most `budget`. A view that `budget` gives nothing is not encoded, but for the anchor, which
    /// importance is read from. `progress`: the stage and its share done.
    pub fn ingest(
        &mut self,
        mut source: FrameSource,
        budget: &Budget,
        progress: &mut dyn FnMut(&'static str, f64),
    ) -> Result<(Frame, IngestTimes), PipelineError> {
        let (width, height) = source.size();
        let layout = Layout::new(&self.manifest.vision.shape, width, height)?;
        let (placed, moved) = planner::place(budget, &layout);
        let limits = self.limits();
        let timing = self.pyramid.fill(&source, &layout, &limits, &self.engines.pool, &mut |done| progress("views", done))?;
        let layout = layout.without(source.last_rows(), timing.missing);
        if timing.missing.0 > 0 {
            source
                .dropped
                .push(format!("the file ends early: {} of {} rows are missing and were masked", timing.missing.0, source.stored.1.0));
        }
        let lease = self.slots.take();
        let wanted = |view: ViewId| view == ViewId::ANCHOR || placed.per_view()[view.index()].0 > 0;
        let begun = Instant::now();
        let mut tiles_encoded = vec![0; layout.views().len()];
        let all: usize = layout.present().filter(|view| wanted(view.id)).map(|view| view.encoded_tile_count()).sum();
        let mut done = 0;
        for view in layout.present().filter(|view| wanted(view.id)) {
            self.encode_view(lease, view, &mut |tiles| {
                done += tiles;
                progress("encode", done as f64 / all as f64);
            })?;
            tiles_encoded[view.id.index()] = u32::try_from(view.encoded_tile_count()).unwrap_or(u32::MAX);
        }
        self.project_anchor(lease, &layout)?;
        let encode = ms(begun);
        let begun = Instant::now();
        for view in layout.present().filter(|view| placed.per_view()[view.id.index()].0 > 0) {
            let at = view.id.index();
            progress("regions", at as f64 / layout.views().len() as f64);
            let settings = self.profile.compression;
            let kmeans = KMeans {
                clusters: clusters(settings.clusters, placed.per_view()[at]),
                max_iterations: settings.max_iterations,
                seed: settings.seed,
                lambda_feature: settings.lambda_feature,
                lambda_position: settings.lambda_position,
                init: None,
                isa: self.isa,
            };
            let slot = self.slots.get_mut(lease)?;
            let (features, labels) = slot.view_parts(at);
            for (token, label) in (0..).zip(labels.iter_mut()) {
                *label = if view.is_masked(token) { MASKED } else { 0 };
            }
            let rows = ViewFeatures { rows: Rows::F16(features), dim: self.manifest.vision.feature_dim, side: view.grid_side() as usize };
            let made = kmeans.partition(&rows, &mut self.clustering, &self.engines.pool, labels)?;
            slot.regions[at] = made.regions;
        }
        let regions = ms(begun);
        self.slots.get_mut(lease)?.layout = Some(layout);
        let times = IngestTimes { decode: timing.decode.as_secs_f64() * 1e3, views: timing.views.as_secs_f64() * 1e3, encode, regions };
        Ok((Frame { lease, source, budget: placed, moved, tiles_encoded }, times))
    }

    /// Tiles that are not all padding, as many at once as there are threads.
    fn encode_view(
        &mut self,
        lease: FrameLease,
        view: &crate::geometry::ViewLayout,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), PipelineError> {
        let shape = &self.manifest.vision.shape;
        let (tile_values, tokens, dim) = (3 * shape.tile().get().pow(2), shape.tile_grid().pow(2), self.manifest.vision.feature_dim);
        let at_once = self.tiles.len() / tile_values;
        let [columns, rows] = view.encoded_tiles();
        let (left, top, wide) = (columns.start, rows.start, columns.len());
        let count = view.encoded_tile_count();
        for first in (0..count).step_by(at_once) {
            let batch = at_once.min(count - first);
            let place = |number: usize| (left + (first + number) % wide, top + (first + number) / wide);
            let pyramid = &self.pyramid;
            self.engines.pool.pieces(&mut self.tiles[..batch * tile_values], tile_values, &|number, out| {
                let (x, y) = place(number);
                pyramid.tile(view, x, y, out);
            });
            let made = &mut self.tile_features[..batch * tokens * dim];
            self.engines.encoder.encode(&self.tiles[..batch * tile_values], made, &self.engines.pool)?;
            let slot = self.slots.get_mut(lease)?.view_features_mut(view.id.index());
            for (number, features) in made.chunks_exact(tokens * dim).enumerate() {
                let (x, y) = place(number);
                for (inner, row) in features.chunks_exact(dim).enumerate() {
                    let token = view.token_of_tile(x, y, inner);
                    slot[token * dim..(token + 1) * dim].copy_from_slice(row);
                }
            }
            progress(batch);
        }
        Ok(())
    }

    /// h⁽¹⁾ of Eq. 5 of the anchor's unmasked tokens, side by side.
    fn project_anchor(&mut self, lease: FrameLease, layout: &Layout) -> Result<(), PipelineError> {
        let view = &layout.views()[0];
        let (dim, hidden) = (self.manifest.vision.feature_dim, self.engines.decoder.shape().hidden);
        let chunk = self.engines.projector.chunk().get();
        let tokens: Vec<u32> = (0..view.tokens().0).filter(|&token| !view.is_masked(token)).collect();
        let mut rows = vec![0.0; chunk * hidden];
        let slot = self.slots.get_mut(lease)?;
        for (number, tokens) in tokens.chunks(chunk).enumerate() {
            let rows = &mut rows[..tokens.len() * hidden];
            for (&token, out) in tokens.iter().zip(self.gathered.chunks_exact_mut(dim)) {
                out.copy_from_slice(&slot.view_features(0)[token as usize * dim..][..dim]);
            }
            self.engines.projector.project(&self.gathered[..tokens.len() * dim], rows)?;
            if let Some(positions) = &self.engines.positions {
                tokens.iter().zip(rows.chunks_exact_mut(hidden)).for_each(|(&token, row)| positions.add(0, view.centre(token), row));
            }
            slot.anchor[number * chunk * hidden..][..rows.len()].convert_from_f32_slice(rows);
        }
        Ok(())
    }
}
