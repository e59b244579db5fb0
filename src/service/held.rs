//! Frames in their slots, used last first.

use crate::pipeline::{Frame, Pipeline};
use crate::units::FrameId;

/// A frame in its slot, with the seed that its regions were drawn with.
#[derive(Clone, Debug)]
pub struct HeldFrame {
    pub id: FrameId,
    pub seed: u64,
    /// Taken in for anything that may be asked; else for one question, whose plan may have left views out.
    pub whole: bool,
    pub frame: Frame,
}

/// What the slots hold. As long as there are slots.
#[derive(Default)]
pub struct Held(Vec<HeldFrame>);

impl Held {
    /// The frame, which counts as used now.
    pub fn get(&mut self, pipeline: &mut Pipeline, id: FrameId, seed: u64) -> Option<&HeldFrame> {
        let at = self.0.iter().position(|held| (held.id, held.seed) == (id, seed))?;
        let held = self.0.remove(at);
        if !pipeline.touch(&held.frame) {
            return None;
        }
        self.0.insert(0, held);
        self.0.first()
    }

    /// Whether it is there, without using it.
    #[must_use]
    pub fn has(&self, id: FrameId, seed: u64) -> bool {
        self.0.iter().any(|held| (held.id, held.seed) == (id, seed))
    }

    /// A frame was taken in: what gave way for it is forgotten.
    pub fn put(&mut self, pipeline: &Pipeline, held: HeldFrame) {
        self.forget(held.id, held.seed);
        self.0.insert(0, held);
        self.sweep(pipeline);
    }

    /// Its slot is as good as empty.
    pub fn forget(&mut self, id: FrameId, seed: u64) {
        self.0.retain(|held| (held.id, held.seed) != (id, seed));
    }

    /// Forgets frames that were taken in for one question.
    pub fn forget_partial(&mut self) -> Vec<FrameId> {
        let partial = self.0.iter().filter(|held| !held.whole).map(|held| held.id).collect();
        self.0.retain(|held| held.whole);
        partial
    }

    /// Forgets what is no longer in its slot.
    pub fn sweep(&mut self, pipeline: &Pipeline) {
        self.0.retain(|held| pipeline.holds(&held.frame));
    }

    pub fn ids(&self) -> impl Iterator<Item = FrameId> + '_ {
        self.0.iter().map(|held| held.id)
    }
}
