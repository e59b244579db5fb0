//! Once a frame: views, features, regions, the projected anchor.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::arena::FrameLease;
use crate::compress::regions::{Rows, ViewFeatures};
use crate::compress::{MASKED, RowUse, Selector, clusters};
use crate::config::{ClusterOn, Digest, Padding};
use crate::geometry::{Coordinates, Layout, TokenOrder, ViewLayout};
use crate::imaging::FrameSource;
use crate::pipeline::maps::Framed;
use crate::pipeline::{Pipeline, PipelineError, Spent};
use crate::planner::{self, Boundary, Cached, Job, Plan, Stage};
use crate::units::{Px, Tiles, Tokens, ViewId};

/// A frame in its slot, and what its receipt says of it.
#[derive(Clone, Debug)]
pub struct Frame {
    pub lease: FrameLease,
    pub source: FrameSource,
    /// Of a dropped view: where its budget went.
    pub moved: Vec<Option<usize>>,
    /// Tiles encoded at ingest, a view.
    pub tiles_encoded: Vec<u32>,
    /// Fine tiles are encoded as questions want them.
    pub lazy: bool,
    pub selector: Selector,
    /// Most clusters of each view when its regions were made; 0 of a view without them.
    pub clusters: Vec<usize>,
    /// Of the map of labels that its regions are from, where that is a file.
    pub label_map: Option<Digest>,
}

/// Tokens of padding and of tiles that aren't `shown` masked, the others without a label. How many those are.
fn mask(view: &ViewLayout, shown: &[bool], labels: &mut [u32]) -> usize {
    let mut open = 0;
    for (token, label) in (0..).zip(labels) {
        let masked = view.is_masked(token) || !shown[view.tile_of(token)];
        *label = if masked { MASKED } else { 0 };
        open += usize::from(!masked);
    }
    open
}

/// A view's rows of width `dim`, which stand first in `rows`, as a partition takes them.
fn clustered<'a>(view: &ViewLayout, rows: &'a [f16], dim: usize, coordinates: Coordinates) -> ViewFeatures<'a> {
    let grid = view.grid();
    ViewFeatures { rows: Rows::F16(&rows[..grid.tokens() * dim]), dim, grid, coordinates, starts: None }
}

impl Pipeline {
    /// Takes frame `number` of a question into a slot, as `plan` has it; between stages the plan may step down. `progress`: the stage and its share done.
    ///
    /// # Errors
    /// A picture that is broken, an engine's failure; the slot is free again.
    pub fn ingest(
        &mut self,
        number: usize,
        mut source: FrameSource,
        plan: &mut Plan,
        progress: &mut dyn FnMut(&'static str, f64),
    ) -> Result<(Frame, Spent), PipelineError> {
        let mut spent = Spent::default();
        let layout = self.lay_out(&source)?;
        self.step_down(plan, Boundary::Ingest(number, Stage::Decode));
        let (_, moved) = planner::place(&plan.rung().frames[number].budget, &layout);
        let lease = self.slots.take();
        let missing = self.fill(lease, &source, &layout, &mut spent, &mut |done| progress("views", done))?;
        let layout = layout.without(source.last_rows(), missing);
        if missing.0 > 0 {
            source.dropped.push(format!("the file ends early: {} of {} rows are missing and were masked", missing.0, source.stored.1.0));
        }
        self.step_down(plan, Boundary::Ingest(number, Stage::Encode));
        let rung = plan.rung();
        let placed = rung.frames[number].budget.clone();
        let lazy = planner::lazy_tiles(&layout, &placed, rung.step.encode_tiles)?.is_some();
        plan.takes_in(number, if lazy { Cached::Coarse } else { Cached::Whole });
        let views = layout.views().len();
        let wanted = |view: ViewId| view == ViewId::ANCHOR || placed.per_view()[view.index()].0 > 0;
        let now = |view: ViewId| wanted(view) && (!lazy || planner::is_coarse(view, views));
        let begun = self.clock.now();
        let mut tiles_encoded = vec![0; views];
        let all: usize = layout.present().filter(|view| now(view.id)).map(ViewLayout::encoded_tile_count).sum();
        let mut done = 0;
        for view in layout.present().filter(|view| wanted(view.id)) {
            self.lay_padding(lease, view)?;
            let whole = now(view.id);
            self.show(lease, view, &|_| whole)?;
            if whole {
                let [columns, rows] = view.encoded_tiles();
                let side = view.tiles_side();
                let tiles: Vec<u32> = rows.flat_map(|y| columns.clone().map(move |x| Tokens::of(y * side + x).0)).collect();
                self.encode_tiles(lease, view, &tiles, &mut |tiles| {
                    done += tiles;
                    progress("encode", done as f64 / all as f64);
                })?;
                tiles_encoded[view.id.index()] = Tokens::of(tiles.len()).0;
            }
        }
        self.project_anchor(lease, &layout)?;
        self.passed(&mut spent, Stage::Encode, begun, &Job { tiles: Tiles(Tokens::of(all).0), ..Job::default() });
        self.step_down(plan, Boundary::Ingest(number, Stage::Regions));
        let placed = plan.rung().frames[number].budget.clone();
        let selector = plan.selector;
        let (rule, most) = (self.manifest.policy.clusters, self.profile.compression.clusters);
        let begun = self.clock.now();
        let limits = self.limits();
        let mut label_map = None;
        if let Some(maps) = &mut self.maps {
            progress("regions", 0.0);
            let count = |view: ViewId| match (layout.views()[view.index()].dropped, placed.per_view()[view.index()]) {
                (true, _) | (_, Tokens(0)) => 0,
                (false, budget) => clusters(rule, most, budget),
            };
            let framed = Framed { layout: &layout, pyramid: &self.pyramid, shape: &self.manifest.vision.shape, clusters: &count };
            label_map = maps.label(&framed, &limits, &mut self.engines, &mut self.slots.get_mut(lease)?.labels)?;
        }
        let (mut products, mut made) = (0, vec![0; views]);
        for view in layout.present().filter(|view| placed.per_view()[view.id.index()].0 > 0 && now(view.id)) {
            let at = view.id.index();
            progress("regions", at as f64 / views as f64);
            made[at] = clusters(rule, most, placed.per_view()[at]);
            products += self.regions(lease, view, selector, made[at])?;
        }
        self.passed(&mut spent, Stage::Regions, begun, &Job { clustered: products, ..Job::default() });
        self.slots.get_mut(lease)?.layout = Some(layout);
        Ok((Frame { lease, source, moved, tiles_encoded, lazy, selector, clusters: made, label_map }, spent))
    }

    /// Where a frame lies in the views.
    ///
    /// # Errors
    /// A frame without pixels.
    pub(super) fn lay_out(&self, source: &FrameSource) -> Result<Layout, PipelineError> {
        let (width, height) = source.size();
        let policy = &self.manifest.policy;
        Ok(Layout::new(&self.manifest.vision.shape, width, height)?.numbered(policy.order, policy.padding == Padding::Kept))
    }

    /// Labels of one view's tokens: regions, or one where the selector looks at none. Tokens times clusters.
    pub(super) fn regions(&mut self, lease: FrameLease, view: &ViewLayout, selector: Selector, most: usize) -> Result<u64, PipelineError> {
        let at = view.id.index();
        let slot = self.slots.get_mut(lease)?;
        let (_, labels, shown) = slot.view_parts(at);
        let mut open = view.unmasked_tokens().get();
        if self.maps.is_none() {
            open = mask(view, shown, labels);
        } else if view.grid().order != TokenOrder::Raster {
            // A label map has voted on all tokens by now, row by row.
            let raster = &mut self.relabelled[..labels.len()];
            raster.copy_from_slice(labels);
            view.grid().renumber(raster, labels);
        }
        slot.regions[at] = usize::from(open > 0);
        if selector != Selector::UhrBat || open == 0 {
            return Ok(0);
        }
        let projected = self.project_view(lease, view)?;
        let dim = self.cluster_dim(projected);
        let slot = self.slots.get_mut(lease)?;
        let (features, labels, _) = slot.view_parts(at);
        let rows = if projected { &self.projected } else { features };
        let view = clustered(view, rows, dim, self.manifest.policy.coordinates);
        slot.regions[at] = self.partition.partition(&view, most, &self.engines.pool, labels)?.regions;
        Ok((open * most) as u64)
    }

    /// A view clustered again with `most` clusters, into `relabelled`: how many regions that makes.
    pub(super) fn recluster(&mut self, lease: FrameLease, view: &ViewLayout, most: usize) -> Result<usize, PipelineError> {
        let projected = self.project_view(lease, view)?;
        let dim = self.cluster_dim(projected);
        let labels = &mut self.relabelled[..view.tokens().get()];
        mask(view, self.slots.get(lease)?.view_tiles(view.id.index()).1, labels);
        let rows = if projected { &self.projected } else { self.slots.get(lease)?.view_features(view.id.index()) };
        let view = clustered(view, rows, dim, self.manifest.policy.coordinates);
        Ok(self.partition.partition(&view, most, &self.engines.pool, labels)?.regions)
    }

    /// Width of the rows that are clustered.
    fn cluster_dim(&self, projected: bool) -> usize {
        if projected { self.engines.decoder.shape().hidden } else { self.manifest.vision.feature_dim }
    }

    /// Shows the tiles of a view that `chosen` takes, and those of padding, which need no encoder. Whether that changes anything.
    pub(super) fn show(&mut self, lease: FrameLease, view: &ViewLayout, chosen: &dyn Fn(u32) -> bool) -> Result<bool, PipelineError> {
        let [columns, rows] = view.encoded_tiles();
        let side = view.tiles_side();
        let (_, shown) = self.slots.get_mut(lease)?.view_tiles_mut(view.id.index());
        let mut changed = false;
        for (tile, shown) in (0..).zip(shown) {
            let (x, y) = (tile % side, tile / side);
            let now = !columns.contains(&x) || !rows.contains(&y) || chosen(Tokens::of(tile).0);
            changed |= *shown != now;
            *shown = now;
        }
        Ok(changed)
    }

    /// The views of a frame, into the pyramid. Rows of the file that are missing.
    pub(super) fn fill(
        &mut self,
        lease: FrameLease,
        source: &FrameSource,
        layout: &Layout,
        spent: &mut Spent,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Px, PipelineError> {
        let limits = self.limits();
        self.pictured = None;
        let timing = self.pyramid.fill(source, layout, &limits, &self.engines.pool, progress)?;
        self.pictured = Some(lease);
        let (width, height) = source.size();
        let job = Job { pixels: u64::from(width.0) * u64::from(height.0), ..Job::default() };
        self.passed_in(spent, Stage::Decode, timing.decode.into(), &job);
        self.passed_in(spent, Stage::Views, timing.views.into(), &job);
        Ok(timing.missing)
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
                positions.add(RowUse::Selection, (view.id.index(), view.grid()), self.manifest.policy.coordinates, first.., rows);
            }
            out[..rows.len()].convert_from_f32_slice(rows);
        }
        Ok(true)
    }

    /// Encodes `tiles` of a view, by their numbers in raster order, as many at once as there are threads.
    pub(super) fn encode_tiles(
        &mut self,
        lease: FrameLease,
        view: &ViewLayout,
        tiles: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), PipelineError> {
        let shape = &self.manifest.vision.shape;
        let (tile_values, tokens, dim) = (3 * shape.tile().get().pow(2), shape.tile_grid().pow(2), self.manifest.vision.feature_dim);
        let side = view.tiles_side();
        let place = |tile: u32| (tile as usize % side, tile as usize / side);
        for batch in tiles.chunks(self.tiles.len() / tile_values) {
            let pyramid = &self.pyramid;
            self.engines.pool.pieces(&mut self.tiles[..batch.len() * tile_values], tile_values, &|number, out| {
                let (x, y) = place(batch[number]);
                pyramid.tile(view, x, y, out);
            });
            let made = &mut self.tile_features[..batch.len() * tokens * dim];
            self.engines.encoder.encode(&self.tiles[..batch.len() * tile_values], made, &self.engines.pool)?;
            let slot = self.slots.get_mut(lease)?;
            let to = slot.view_features_mut(view.id.index());
            for (&tile, features) in batch.iter().zip(made.chunks_exact(tokens * dim)) {
                let (x, y) = place(tile);
                for (inner, row) in features.chunks_exact(dim).enumerate() {
                    let token = view.token_of_tile(x, y, inner);
                    to[token * dim..(token + 1) * dim].copy_from_slice(row);
                }
            }
            let (encoded, _) = slot.view_tiles_mut(view.id.index());
            batch.iter().for_each(|&tile| encoded[tile as usize] = true);
            progress(batch.len());
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
                positions.add(RowUse::Importance, (0, view.grid()), coordinates, tokens.iter().copied(), rows);
            }
            slot.anchor[number * chunk * hidden..][..rows.len()].convert_from_f32_slice(rows);
        }
        Ok(())
    }
}
