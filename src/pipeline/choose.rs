//! Which tokens of a frame an answer gets, and their rows: the plan first, then the projector over what survives it.

use half::slice::HalfFloatSliceExt;

use crate::arena::TokenSpan;
use crate::compress::{CompressError, Mode, RowUse, Selector, Source, align, dense, evenly, merge, select, top_of_view};
use crate::config::Budget;
use crate::geometry::ViewLayout;
use crate::pipeline::{Frame, Pipeline, PipelineError, Spent};
use crate::planner::{Job, Stage};
use crate::units::Tokens;

/// What the last answer was made of, by frame and view, in buffers made at start.
pub(super) struct Chosen {
    /// `[frames · views]`.
    pub views: Vec<ViewChosen>,
    pub entries: Vec<Entry>,
    pub members: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct ViewChosen {
    /// What the view might give.
    pub budget: Tokens,
    pub start: usize,
    pub len: usize,
    pub merged: usize,
    pub regions: usize,
    pub starved: usize,
    /// Clustered anew for this question.
    pub reclustered: bool,
}

/// A selected token: kept, or merged from `members`.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub source: Source,
    pub score: f32,
    pub region: u32,
}

impl Chosen {
    /// For `views` views of all frames together, a budget and the tokens that may be merged.
    pub fn new(views: usize, budget: usize, tokens: usize) -> Self {
        Self { views: vec![ViewChosen::default(); views], entries: Vec::with_capacity(budget), members: Vec::with_capacity(tokens) }
    }

    /// Rows that went through the projector for a view.
    pub fn rows_behind(&self, place: usize) -> Tokens {
        let view = self.views[place];
        let rows = self.entries[view.start..view.start + view.len].iter().map(|entry| match entry.source {
            Source::Kept(_) => 1,
            Source::Merged { len, .. } => len,
        });
        Tokens(rows.sum())
    }

    pub fn clear(&mut self) {
        self.views.fill(ViewChosen::default());
        self.entries.clear();
        self.members.clear();
    }
}

impl Pipeline {
    /// Selects and makes the tokens of every view of frame `number`, side by side in `span` after those of the frames before.
    pub(super) fn choose(
        &mut self,
        number: usize,
        frame: &Frame,
        budget: &Budget,
        mode: Mode,
        span: TokenSpan,
        spent: &mut Spent,
    ) -> Result<(), PipelineError> {
        self.keep_importance(number);
        let views = self.manifest.vision.shape.views().len();
        if frame.selector == Selector::Topk {
            let begun = self.clock.now();
            self.rank(frame, budget)?;
            self.passed(spent, Stage::Select, begun, &Job::default());
        }
        for at in 0..views {
            let begun = self.clock.now();
            let layout = self.slots.get(frame.lease)?.layout()?;
            let view = layout.views()[at].clone();
            let start = self.chosen.entries.len();
            let place = number * views + at;
            let allowed = budget.per_view()[at];
            self.chosen.views[place] = ViewChosen { start, budget: allowed, ..ViewChosen::default() };
            // Of a view without any tile to look at, there are no regions.
            if view.dropped || allowed.0 == 0 || self.slots.get(frame.lease)?.regions[at] == 0 {
                continue;
            }
            let anew = self.cover_anew(frame, &view, mode, allowed)?;
            if anew.is_some() {
                let clustered = (view.unmasked_tokens().get() * allowed.get()) as u64;
                self.passed(spent, Stage::Regions, begun, &Job { clustered, ..Job::default() });
            }
            let begun = self.clock.now();
            self.select_view(place, frame, &view, mode, allowed, anew)?;
            let candidates = view.unmasked_tokens();
            self.passed(spent, Stage::Select, begun, &Job { candidates, ..Job::default() });
            let begun = self.clock.now();
            self.make_rows(place, frame, &view, span)?;
            let projected = self.chosen.rows_behind(place);
            self.passed(spent, Stage::Merge, begun, &Job { projected, ..Job::default() });
        }
        Ok(())
    }

    /// Ranks the tokens of all views of a frame together.
    fn rank(&mut self, frame: &Frame, budget: &Budget) -> Result<(), PipelineError> {
        self.ranked.clear();
        let slot = self.slots.get(frame.lease)?;
        let layout = slot.layout()?;
        for view in layout.present().filter(|view| budget.per_view()[view.id.index()].0 > 0) {
            let scores = &mut self.view_scores[..view.tokens().get()];
            align(&self.anchor_scores, layout.views()[0].grid_side() as usize, view.grid(), scores);
            self.ranked.add(view.id.0, scores, slot.view_labels(view.id.index()))?;
        }
        self.ranked.cut(budget.total());
        Ok(())
    }

    /// Coverage needs a token for every region: a view with more regions than budget is clustered again. How many regions that makes.
    fn cover_anew(&mut self, frame: &Frame, view: &ViewLayout, mode: Mode, allowed: Tokens) -> Result<Option<usize>, PipelineError> {
        let regions = self.slots.get(frame.lease)?.regions[view.id.index()];
        if mode == Mode::Paper || frame.selector != Selector::UhrBat || regions <= allowed.get() {
            return Ok(None);
        }
        if !self.partition.clusters() {
            return Err(CompressError::Coverage { regions, budget: allowed }.into());
        }
        self.recluster(frame.lease, view, allowed.get()).map(Some)
    }

    /// Plans one view into `chosen`.
    fn select_view(
        &mut self,
        place: usize,
        frame: &Frame,
        view: &ViewLayout,
        mode: Mode,
        allowed: Tokens,
        anew: Option<usize>,
    ) -> Result<(), PipelineError> {
        let at = view.id.index();
        let slot = self.slots.get(frame.lease)?;
        let anchor_side = slot.layout()?.views()[0].grid_side() as usize;
        let scores = &mut self.view_scores[..view.tokens().get()];
        align(&self.anchor_scores, anchor_side, view.grid(), scores);
        let (labels, regions) = match anew {
            Some(regions) => (&self.relabelled[..scores.len()], regions),
            None => (slot.view_labels(at), slot.regions[at]),
        };
        let work = &mut self.selecting;
        let selection = match frame.selector {
            Selector::UhrBat => select(scores, labels, regions, allowed, (self.manifest.policy.keep, mode), work)?,
            Selector::Topk => top_of_view(&self.ranked, view.id.0, work),
            Selector::Uniform | Selector::AnchorOnly => evenly(scores, labels, allowed, work),
            Selector::Dense => dense(scores, labels, work),
        };
        for entry in selection.entries {
            let source = match entry.source {
                Source::Kept(token) => Source::Kept(token),
                Source::Merged { .. } => {
                    let members = selection.sources(entry);
                    let first = self.chosen.members.len();
                    self.chosen.members.extend_from_slice(members);
                    Source::Merged { start: first as u32, len: members.len() as u32 }
                }
            };
            self.chosen.entries.push(Entry { source, score: entry.score, region: entry.region });
        }
        let chosen = &mut self.chosen.views[place];
        chosen.len = selection.entries.len();
        chosen.merged = selection.merged().get();
        (chosen.regions, chosen.starved, chosen.reclustered) = (selection.regions, selection.starved, anew.is_some());
        Ok(())
    }

    /// Projects and merges what was last selected, of one view, into its rows of `span`.
    fn make_rows(&mut self, place: usize, frame: &Frame, view: &ViewLayout, span: TokenSpan) -> Result<(), PipelineError> {
        let at = view.id.index();
        let hidden = self.engines.decoder.shape().hidden;
        let dim = self.manifest.vision.feature_dim;
        let coordinates = self.manifest.policy.coordinates;
        let features = self.slots.get(frame.lease)?.view_features(at);
        let out = &mut self.tokens.rows_mut(span)?[self.chosen.views[place].start * hidden..];
        let (projector, positions, gathered) = (&mut self.engines.projector, &self.engines.positions, &mut self.gathered);
        let selection = self.selecting.last();
        merge::<PipelineError>(
            &selection,
            &mut self.merging,
            &mut |tokens, rows| {
                for (&token, to) in tokens.iter().zip(gathered.chunks_exact_mut(dim)) {
                    to.copy_from_slice(&features[token as usize * dim..][..dim]);
                }
                projector.project(&gathered[..tokens.len() * dim], rows)?;
                if let Some(positions) = positions {
                    positions.add(RowUse::Selection, (at, view.grid()), coordinates, tokens.iter().copied(), rows);
                }
                Ok(())
            },
            &mut |place, row| out[place * hidden..(place + 1) * hidden].convert_from_f32_slice(row),
        )
    }

    /// The selected tokens' MLP over the first `count` rows of `span`, where the model has one.
    pub(super) fn refine(&mut self, span: TokenSpan, count: usize) -> Result<(), PipelineError> {
        let hidden = self.engines.decoder.shape().hidden;
        let Some(mlp) = &mut self.engines.selected_token_mlp else { return Ok(()) };
        let chunk = mlp.chunk().get() * hidden;
        for rows in self.tokens.rows_mut(span)?[..count * hidden].chunks_mut(chunk) {
            let refined = &mut self.refined[..rows.len()];
            mlp.project(rows, refined)?;
            rows.convert_from_f32_slice(refined);
        }
        Ok(())
    }
}
