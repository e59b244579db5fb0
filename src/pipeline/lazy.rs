//! Fine tiles as a question wants them: where the encoder may not see all, it sees those that the question's own importance puts first.
//!
//! # Why
//! The finest view is two thirds of a first question's work. A question looks at exactly the tiles that its own importance chooses, whatever an earlier
//! one had encoded: what is in the slot saves time and changes no answer.

use crate::compress::{RankedTile, align, clusters};
use crate::config::Budget;
use crate::geometry::ViewLayout;
use crate::pipeline::{Frame, Pipeline, PipelineError, Spent};
use crate::planner::{self, Job, Stage};
use crate::units::{Millis, Tiles, Tokens};

impl Pipeline {
    /// Encodes what a question wants of a frame's fine views and isn't there, and makes their regions over what it looks at. `budget`: of the frame,
    /// on its views; `most`: tiles of the frame, the coarse views' included. The frame's importance stands in `anchor_scores`.
    pub(super) fn see_fine(&mut self, frame: &Frame, budget: &Budget, most: Option<Tiles>, spent: &mut Spent) -> Result<(), PipelineError> {
        let layout = self.slots.get(frame.lease)?.layout()?.clone();
        let views = layout.views().len();
        let fine: Vec<&ViewLayout> =
            layout.present().filter(|view| !planner::is_coarse(view.id, views) && budget.per_view()[view.id.index()].0 > 0).collect();
        let most = planner::lazy_tiles(&layout, budget, most)?.unwrap_or(Tiles(u32::MAX));
        self.tile_rank.clear();
        let anchor_side = layout.views()[0].grid_side() as usize;
        for view in &fine {
            let scores = &mut self.view_scores[..view.tokens().get()];
            align(&self.anchor_scores, anchor_side, view.grid(), scores);
            self.tile_rank.add(view, scores)?;
        }
        let best: Vec<RankedTile> = self.tile_rank.best(most).to_vec();
        let mut products = 0;
        let (mut encoding, mut new) = (Millis::ZERO, 0);
        let mut changed = Vec::with_capacity(fine.len());
        for view in &fine {
            let at = view.id.index();
            let of_view = || best.iter().filter(|tile| usize::from(tile.view) == at).map(|tile| tile.tile);
            let chosen: Vec<u32> = of_view().collect();
            let encoded = self.slots.get(frame.lease)?.view_tiles(at).0;
            let missing: Vec<u32> = chosen.iter().copied().filter(|&tile| !encoded[tile as usize]).collect();
            if !missing.is_empty() && self.pictured != Some(frame.lease) {
                let begun = self.clock.now();
                frame.source.unchanged()?;
                let job = Job { digested: u64::from(layout.width.0) * u64::from(layout.height.0), ..Job::default() };
                self.passed(spent, Stage::Decode, begun, &job);
                self.fill(frame.lease, &frame.source, &layout, spent, &mut |_| ())?;
            }
            let begun = self.clock.now();
            self.encode_tiles(frame.lease, view, &missing, &mut |_| ())?;
            encoding += self.clock.now() - begun;
            new += missing.len();
            // Regions stand from an earlier question only where that looked at the same tiles and had as large a budget.
            let most = clusters(self.manifest.policy.clusters, self.profile.compression.clusters, budget.per_view()[at]);
            let other = self.show(frame.lease, view, &|tile| chosen.contains(&tile))?;
            let clustered = &mut self.slots.get_mut(frame.lease)?.clustered[at];
            if other {
                *clustered = None;
            }
            changed.push((*view, *clustered != Some(most), most));
        }
        self.passed_in(spent, Stage::Encode, encoding, &Job { tiles: Tiles(Tokens::of(new).0), ..Job::default() });
        let begun = self.clock.now();
        for (view, _, most) in changed.into_iter().filter(|(_, changed, _)| *changed) {
            products += self.regions(frame.lease, view, frame.selector, most)?;
            self.slots.get_mut(frame.lease)?.clustered[view.id.index()] = Some(most);
        }
        self.passed(spent, Stage::Regions, begun, &Job { clustered: products, ..Job::default() });
        Ok(())
    }
}
