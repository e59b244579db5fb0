//! Frame slots: what an ingested frame leaves behind for its questions.

use half::f16;

use crate::arena::Stale;
use crate::geometry::{Layout, VisionShape};
use crate::units::Bytes;

/// One frame's features, regions and projected anchor, for the largest frame there can be.
pub struct FrameSlot {
    epoch: u64,
    /// Of all slots the one with the least was used longest ago.
    used: u64,
    /// `[Σ N_s, d_v]` f16, view after view, raster order.
    pub features: Vec<f16>,
    /// Region of each token, as `features`.
    pub labels: Vec<u32>,
    /// Regions of each view.
    pub regions: Vec<usize>,
    /// Clusters that each fine view's labels were made with for the tiles it shows; `None`: they are of other tiles.
    pub clustered: Vec<Option<usize>>,
    /// h⁽¹⁾ of the anchor's unmasked tokens, `[n, d]` f16 in front.
    pub anchor: Vec<f16>,
    /// Where the frame lies in its views; `None` while the slot is empty.
    pub layout: Option<Layout>,
    /// Tiles of all views, raster order: whose features are here, and which of them the labels are over.
    encoded: Vec<bool>,
    shown: Vec<bool>,
    /// First token and first tile of each view.
    starts: Vec<usize>,
    tile_starts: Vec<usize>,
    dim: usize,
}

/// A frame in a slot, good until the slot is given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLease {
    slot: usize,
    epoch: u64,
}

/// All slots, made at start.
pub struct FrameSlots {
    slots: Vec<FrameSlot>,
    epoch: u64,
    uses: u64,
}

impl FrameSlot {
    fn new(shape: &VisionShape, feature_dim: usize, hidden: usize) -> Self {
        let all = shape.all_tokens().get();
        let sums = |of: &dyn Fn(usize) -> usize| (0..=shape.views().len()).map(|view| (0..view).map(of).sum()).collect::<Vec<usize>>();
        let (starts, tile_starts) = (sums(&|view| shape.tokens(view).get()), sums(&|view| shape.tiles(view)));
        let tiles = tile_starts[shape.views().len()];
        Self {
            epoch: 0,
            used: 0,
            features: vec![f16::ZERO; all * feature_dim],
            labels: vec![0; all],
            regions: vec![0; shape.views().len()],
            clustered: vec![None; shape.views().len()],
            anchor: vec![f16::ZERO; shape.tokens(0).get() * hidden],
            layout: None,
            encoded: vec![false; tiles],
            shown: vec![false; tiles],
            starts,
            tile_starts,
            dim: feature_dim,
        }
    }

    /// Where the frame lies in its views.
    ///
    /// # Errors
    /// [`Stale`] while its ingest is not done.
    pub fn layout(&self) -> Result<&Layout, Stale> {
        self.layout.as_ref().ok_or(Stale { what: "a frame not yet ingested", held: self.epoch, now: self.epoch })
    }

    /// Features of a view, `[N_s, d_v]`.
    #[must_use]
    pub fn view_features(&self, view: usize) -> &[f16] {
        &self.features[self.starts[view] * self.dim..self.starts[view + 1] * self.dim]
    }

    /// As [`Self::view_features`], to write.
    pub fn view_features_mut(&mut self, view: usize) -> &mut [f16] {
        &mut self.features[self.starts[view] * self.dim..self.starts[view + 1] * self.dim]
    }

    /// Labels of a view, `[N_s]`.
    #[must_use]
    pub fn view_labels(&self, view: usize) -> &[u32] {
        &self.labels[self.starts[view]..self.starts[view + 1]]
    }

    /// Tiles of a view: those whose features are here, and those that its labels are over.
    #[must_use]
    pub fn view_tiles(&self, view: usize) -> (&[bool], &[bool]) {
        let range = self.tile_starts[view]..self.tile_starts[view + 1];
        (&self.encoded[range.clone()], &self.shown[range])
    }

    /// As [`Self::view_tiles`], to write.
    pub fn view_tiles_mut(&mut self, view: usize) -> (&mut [bool], &mut [bool]) {
        let range = self.tile_starts[view]..self.tile_starts[view + 1];
        (&mut self.encoded[range.clone()], &mut self.shown[range])
    }

    /// Features and, to write, labels of a view, with the tiles that they may be over.
    pub fn view_parts(&mut self, view: usize) -> (&[f16], &mut [u32], &[bool]) {
        let (start, end) = (self.starts[view], self.starts[view + 1]);
        let tiles = self.tile_starts[view]..self.tile_starts[view + 1];
        (&self.features[start * self.dim..end * self.dim], &mut self.labels[start..end], &self.shown[tiles])
    }
}

impl FrameSlots {
    /// `count` slots for frames of `shape`, features of `feature_dim` and projected rows of `hidden` values.
    #[must_use]
    pub fn new(count: usize, shape: &VisionShape, feature_dim: usize, hidden: usize) -> Self {
        Self { slots: (0..count).map(|_| FrameSlot::new(shape, feature_dim, hidden)).collect(), epoch: 0, uses: 0 }
    }

    /// What one slot of [`Self::new`] allocates.
    #[must_use]
    pub fn slot_bytes(shape: &VisionShape, feature_dim: usize, hidden: usize) -> Bytes {
        let all = shape.all_tokens().get();
        let tiles = shape.all_tiles().0 as usize;
        Bytes::of::<f16>(all * feature_dim + shape.tokens(0).get() * hidden) + Bytes::of::<u32>(all) + Bytes::of::<bool>(2 * tiles)
    }

    /// Gives the slot that was taken or touched longest ago to a new frame; leases of its old frame end.
    pub fn take(&mut self) -> FrameLease {
        (self.epoch, self.uses) = (self.epoch + 1, self.uses + 1);
        let oldest = (0..self.slots.len()).min_by_key(|&slot| self.slots[slot].used).unwrap_or(0);
        let slot = &mut self.slots[oldest];
        (slot.epoch, slot.used) = (self.epoch, self.uses);
        slot.layout = None;
        slot.clustered.fill(None);
        slot.encoded.fill(false);
        slot.shown.fill(false);
        FrameLease { slot: oldest, epoch: self.epoch }
    }

    /// The frame is in use: others give way before it.
    ///
    /// # Errors
    /// [`Stale`] when the slot holds another frame by now.
    pub fn touch(&mut self, lease: FrameLease) -> Result<(), Stale> {
        self.uses += 1;
        self.get_mut(lease)?;
        self.slots[lease.slot].used = self.uses;
        Ok(())
    }

    /// The frame is needed no more: its slot is the next to be given away. Of a slot that holds another frame by now, nothing.
    pub fn release(&mut self, lease: FrameLease) {
        if self.get(lease).is_ok() {
            let slot = &mut self.slots[lease.slot];
            (slot.used, slot.layout) = (0, None);
        }
    }

    /// # Errors
    /// [`Stale`] when the slot holds another frame by now.
    pub fn get(&self, lease: FrameLease) -> Result<&FrameSlot, Stale> {
        let slot = &self.slots[lease.slot];
        if slot.epoch == lease.epoch { Ok(slot) } else { Err(Stale { what: "frame", held: lease.epoch, now: slot.epoch }) }
    }

    /// As [`Self::get`], to write.
    pub fn get_mut(&mut self, lease: FrameLease) -> Result<&mut FrameSlot, Stale> {
        self.get(lease)?;
        Ok(&mut self.slots[lease.slot])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Px;

    #[test]
    fn the_oldest_slot_goes_first_and_its_lease_ends() {
        let shape = VisionShape::new(vec![Px(28)], Px(28), Px(14), [0.5; 3], [0.5; 3]).unwrap();
        let mut slots = FrameSlots::new(2, &shape, 3, 2);
        let (a, b) = (slots.take(), slots.take());
        assert!(slots.get(a).is_ok() && slots.get(b).is_ok());
        let c = slots.take();
        assert_eq!(slots.get(a).err(), Some(Stale { what: "frame", held: 1, now: 3 }));
        assert!(slots.touch(a).is_err() && slots.touch(b).is_ok());
        let d = slots.take();
        assert!(slots.get(b).is_ok() && slots.get(c).is_err() && slots.get(d).is_ok());
        let c = slots.take();
        assert!(slots.get(b).is_err() && slots.get(d).is_ok());
        let b = slots.take();
        assert!(slots.get(b).is_ok() && slots.get(c).is_ok());
        // Given back, it goes before the one used longest ago.
        slots.release(b);
        slots.take();
        assert!(slots.get(b).is_err() && slots.get(c).is_ok());
        let b = slots.take();
        assert!(slots.get(c).is_err());
        assert_eq!(slots.get(b).unwrap().view_features(0).len(), 12);
    }
}
