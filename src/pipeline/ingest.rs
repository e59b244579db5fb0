//! Once a frame: views, features, regions, the projected anchor.

use std::ops::AddAssign;
use std::time::Instant;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::arena::FrameLease;
use crate::compress::regions::{Rows, ViewFeatures};
use crate::compress::{MASKED, Selector, clusters};
use crate::config::{Budget, ClusterOn, Padding};
use crate::geometry::{Coordinates, Layout, TokenOrder, ViewLayout};
use crate::imaging::FrameSource;
use crate::pipeline::maps::Framed;
use crate::pipeline::{Pipeline, PipelineError};
use crate::planner;
use crate::units::{Tokens, ViewId};

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
    pub selector: Selector,
}

/// What the questions on a frame will want of it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// In force at ingest: a view that it gives nothing is not encoded, but for the anchor, which importance is read from.
    pub budget: Budget,
    pub selector: Selector,
}

/// Milliseconds of each stage of an ingest.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestTimes {
    pub decode: f64,
    pub views: f64,
    pub encode: f64,
    pub regions: f64,
}

/// Tokens of padding masked, the others without a label.
fn mask(view: &ViewLayout, labels: &mut [u32]) {
    (0..).zip(labels).for_each(|(token, label)| *label = if view.is_masked(token) { MASKED } else { 0 });
}

/// A view's rows of width `dim`, which stand first in `rows`, as a partition takes them.
fn clustered<'a>(view: &ViewLayout, rows: &'a [f16], dim: usize, coordinates: Coordinates) -> ViewFeatures<'a> {
    let grid = view.grid();
    ViewFeatures { rows: Rows::F16(&rows[..grid.tokens() * dim]), dim, grid, coordinates, starts: None }
}

impl AddAssign for IngestTimes {
    fn add_assign(&mut self, other: Self) {
        self.decode += other.decode;
        self.views += other.views;
        self.encode += other.encode;
        self.regions += other.regions;
    }
}

pub(super) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Pipeline {
    /// Takes a frame into a slot. `progress`: the stage and its share done.
    pub fn ingest(
        &mut self,
        mut source: FrameSource,
        wanted: &Wanted,
        progress: &mut dyn FnMut(&'static str, f64),
    ) -> Result<(Frame, IngestTimes), PipelineError> {
        let (layout, placed, moved) = self.lay_out(&source, wanted)?;
        let selector = wanted.selector;
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
        if let Some(maps) = &mut self.maps {
            progress("regions", 0.0);
            let (rule, most) = (self.manifest.policy.clusters, self.profile.compression.clusters);
            let count = |view: ViewId| match (layout.views()[view.index()].dropped, placed.per_view()[view.index()]) {
                (true, _) | (_, Tokens(0)) => 0,
                (false, budget) => clusters(rule, most, budget),
            };
            let framed = Framed { layout: &layout, pyramid: &self.pyramid, shape: &self.manifest.vision.shape, clusters: &count };
            maps.label(&framed, &limits, &mut self.engines, &mut self.slots.get_mut(lease)?.labels)?;
        }
        for view in layout.present().filter(|view| placed.per_view()[view.id.index()].0 > 0) {
            let at = view.id.index();
            progress("regions", at as f64 / layout.views().len() as f64);
            let most = clusters(self.manifest.policy.clusters, self.profile.compression.clusters, placed.per_view()[at]);
            self.regions(lease, view, selector, most)?;
        }
        let regions = ms(begun);
        self.slots.get_mut(lease)?.layout = Some(layout);
        let times = IngestTimes { decode: timing.decode.as_secs_f64() * 1e3, views: timing.views.as_secs_f64() * 1e3, encode, regions };
        Ok((Frame { lease, source, budget: placed, moved, tiles_encoded, selector }, times))
    }

    /// Most visual tokens that a frame will give.
    ///
    /// # Errors
    /// More than the profile allows.
    pub fn visual(&self, source: &FrameSource, wanted: &Wanted) -> Result<Tokens, PipelineError> {
        self.lay_out(source, wanted).map(|(_, budget, _)| budget.total())
    }

    /// Where a frame lies in the views, what each view may give, and where the budget of dropped ones went.
    fn lay_out(&self, source: &FrameSource, wanted: &Wanted) -> Result<(Layout, Budget, Vec<Option<usize>>), PipelineError> {
        let (width, height) = source.size();
        let policy = &self.manifest.policy;
        let layout = Layout::new(&self.manifest.vision.shape, width, height)?.numbered(policy.order, policy.padding == Padding::Kept);
        let (placed, moved) = planner::place(&wanted.budget, &layout);
        let placed = planner::allowed(wanted.selector, placed, &layout, &self.profile)?;
        Ok((layout, placed, moved))
    }

    /// Labels of one view's tokens: regions, or one where the selector looks at none.
    fn regions(&mut self, lease: FrameLease, view: &ViewLayout, selector: Selector, most: usize) -> Result<(), PipelineError> {
        let at = view.id.index();
        let slot = self.slots.get_mut(lease)?;
        let labels = slot.view_parts(at).1;
        if self.maps.is_none() {
            mask(view, labels);
        } else if view.grid().order != TokenOrder::Raster {
            // A label map has voted on all tokens by now, row by row.
            let raster = &mut self.relabelled[..labels.len()];
            raster.copy_from_slice(labels);
            view.grid().renumber(raster, labels);
        }
        slot.regions[at] = 1;
        if selector != Selector::UhrBat {
            return Ok(());
        }
        let projected = self.project_view(lease, view)?;
        let dim = self.cluster_dim(projected);
        let slot = self.slots.get_mut(lease)?;
        let (features, labels) = slot.view_parts(at);
        let rows = if projected { &self.projected } else { features };
        let view = clustered(view, rows, dim, self.manifest.policy.coordinates);
        slot.regions[at] = self.partition.partition(&view, most, &self.engines.pool, labels)?.regions;
        Ok(())
    }

    /// A view clustered again with `most` clusters, into `relabelled`: how many regions that makes.
    pub(super) fn recluster(&mut self, lease: FrameLease, view: &ViewLayout, most: usize) -> Result<usize, PipelineError> {
        let projected = self.project_view(lease, view)?;
        let dim = self.cluster_dim(projected);
        let labels = &mut self.relabelled[..view.tokens().get()];
        mask(view, labels);
        let rows = if projected { &self.projected } else { self.slots.get(lease)?.view_features(view.id.index()) };
        let view = clustered(view, rows, dim, self.manifest.policy.coordinates);
        Ok(self.partition.partition(&view, most, &self.engines.pool, labels)?.regions)
    }

    /// Width of the rows that are clustered.
    fn cluster_dim(&self, projected: bool) -> usize {
        if projected { self.engines.decoder.shape().hidden } else { self.manifest.vision.feature_dim }
    }

    /// h of all tokens of a view into `projected`, where the policy clusters that; whether it does.
    fn project_view(&mut self, lease: FrameLease, view: &ViewLayout) -> Result<bool, PipelineError> {
        if self.manifest.policy.cluster_on == ClusterOn::Features {
            return Ok(false);
        }
        let (dim, hidden) = (self.manifest.vision.feature_dim, self.engines.decoder.shape().hidden);
        let features = self.slots.get(lease)?.view_features(view.id.index());
        let chunk = self.engines.projector.chunk().get();
        let engines = &mut self.engines;
        let tokens = (0..view.tokens().0).step_by(chunk);
        for ((first, features), out) in tokens.zip(features.chunks(chunk * dim)).zip(self.projected.chunks_mut(chunk * hidden)) {
            let rows = &mut self.refined[..features.len() / dim * hidden];
            engines.projector.project(features, rows)?;
            if let Some(positions) = &engines.positions {
                let coordinates = self.manifest.policy.coordinates;
                let places = (first..).map(|token| view.grid().centre(token, coordinates));
                places.zip(rows.chunks_exact_mut(hidden)).for_each(|(place, row)| positions.add(view.id.index(), place, row));
            }
            out[..rows.len()].convert_from_f32_slice(rows);
        }
        Ok(true)
    }

    /// Tiles that are not all padding, as many at once as there are threads.
    fn encode_view(&mut self, lease: FrameLease, view: &ViewLayout, progress: &mut dyn FnMut(usize)) -> Result<(), PipelineError> {
        self.lay_padding(lease, view)?;
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

    /// Features of the tiles that are all padding, for a policy that keeps their tokens.
    fn lay_padding(&mut self, lease: FrameLease, view: &ViewLayout) -> Result<(), PipelineError> {
        if self.padding.is_empty() {
            return Ok(());
        }
        let dim = self.manifest.vision.feature_dim;
        let [columns, rows] = view.encoded_tiles();
        let slot = self.slots.get_mut(lease)?.view_features_mut(view.id.index());
        let side = view.tiles_side();
        for (x, y) in (0..side * side).map(|tile| (tile % side, tile / side)).filter(|(x, y)| !columns.contains(x) || !rows.contains(y)) {
            for (inner, row) in self.padding.chunks_exact(dim).enumerate() {
                slot[view.token_of_tile(x, y, inner) * dim..][..dim].copy_from_slice(row);
            }
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
                let coordinates = self.manifest.policy.coordinates;
                let places = tokens.iter().map(|&token| view.grid().centre(token, coordinates));
                places.zip(rows.chunks_exact_mut(hidden)).for_each(|(place, row)| positions.add(0, place, row));
            }
            slot.anchor[number * chunk * hidden..][..rows.len()].convert_from_f32_slice(rows);
        }
        Ok(())
    }
}
