//! Frames that stay in their slots from question to question, and settings that may change between two of them.

use crate::config::{LadderStep, Thermal};
use crate::pipeline::{Frame, Pipeline};
use crate::planner::MAX_FRAMES;

/// How a question saw a frame as a whole: importance over the anchor's grid, the highest of it 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Importance {
    pub side: usize,
    /// `[side, side]`, raster order.
    pub scores: Vec<u8>,
}

impl Pipeline {
    /// Whether `frame` is still in its slot.
    #[must_use]
    pub fn holds(&self, frame: &Frame) -> bool {
        self.slots.get(frame.lease).is_ok_and(|slot| slot.layout().is_ok())
    }

    /// `frame` is in use: others give way before it. Whether it is there at all.
    pub fn touch(&mut self, frame: &Frame) -> bool {
        self.holds(frame) && self.slots.touch(frame.lease).is_ok()
    }

    /// `frame` is needed no more: its slot is the next to be taken.
    pub fn release(&mut self, frame: &Frame) {
        self.slots.release(frame.lease);
    }

    /// Clusters with `seed` from now on. Frames that are in their slots keep the regions they have.
    pub fn set_seed(&mut self, seed: u64) {
        self.profile.compression.seed = seed;
        self.partition.reseed(seed);
    }

    /// Takes over what needs no memory: the ladder, heat, and the budget of questions that name none.
    pub fn set_limits(&mut self, ladder: Vec<LadderStep>, thermal: Option<Thermal>, budget: String) {
        (self.profile.ladder, self.profile.thermal, self.profile.tokens.default_budget) = (ladder, thermal, budget);
    }

    /// Importance as the last question saw frame `number` of its frames.
    #[must_use]
    pub fn importance(&self, number: usize) -> Importance {
        let anchor = self.anchor_scores.len();
        let side = anchor.isqrt();
        Importance { side, scores: self.seen_importance[number.min(MAX_FRAMES - 1) * anchor..][..anchor].to_vec() }
    }

    /// Keeps the importance of frame `number` before the next frame's takes its place.
    pub(super) fn keep_importance(&mut self, number: usize) {
        let anchor = self.anchor_scores.len();
        let highest = self.anchor_scores.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let kept = &mut self.seen_importance[number.min(MAX_FRAMES - 1) * anchor..][..anchor];
        for (kept, score) in kept.iter_mut().zip(&self.anchor_scores) {
            // Within 0 to 255 by the clamp.
            *kept = (score / highest * 255.0).clamp(0.0, 255.0) as u8;
        }
    }
}
