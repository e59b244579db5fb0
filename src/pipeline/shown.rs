//! What the last answer looked at, for pictures and receipts.

use crate::compress::Source;
use crate::geometry::{Layout, Rect, ViewLayout};
use crate::pipeline::receipt::Evidence;
use crate::pipeline::{Frame, Pipeline, PipelineError, evidence};
use crate::units::{Px, Tokens, ViewId};

/// A kept token's footprint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    pub view: ViewId,
    pub rect: Rect,
}

/// The footprints behind a merged token.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedRegion {
    pub region: u32,
    pub members: Vec<Rect>,
}

/// The selection of one answer, in frame pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub kept: Vec<Kept>,
    pub merged: Vec<MergedRegion>,
    pub evidence: Vec<Evidence>,
}

/// One view of the frame last ingested.
pub struct Picture<'a> {
    rgb: &'a [u8],
    view: &'a ViewLayout,
}

impl Picture<'_> {
    /// `[R, R, 3]`.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        self.rgb
    }
    #[must_use]
    pub fn side(&self) -> usize {
        self.view.side.get()
    }
    /// Left, top, width and height of the part that is frame.
    #[must_use]
    pub fn content(&self) -> (usize, usize, usize, usize) {
        let content = self.view.content;
        (content.left, content.top, content.width, content.height)
    }
    /// A rectangle of the frame in this picture: x, y, w, h.
    #[must_use]
    pub fn from_frame(&self, rect: Rect) -> (f64, f64, f64, f64) {
        let rect = self.view.from_frame(rect);
        (rect.x, rect.y, rect.w, rect.h)
    }
}

/// An overlay for people needs no more.
const PICTURE: Px = Px(2048);

impl Pipeline {
    /// The largest view of the frame last ingested that is at most 2048 px, or the anchor.
    pub fn picture(&self, frame: &Frame) -> Result<Picture<'_>, PipelineError> {
        let layout = self.layout(frame)?;
        let view = layout.present().rfind(|view| view.side <= PICTURE).unwrap_or(&layout.views()[0]);
        Ok(Picture { rgb: self.pyramid.view(view.id.index()), view })
    }

    /// What the last answer kept and merged of `frame`, number `number` of its frames.
    pub fn shown(&self, number: usize, frame: &Frame) -> Result<Shown, PipelineError> {
        let layout = self.layout(frame)?;
        let (mut kept, mut merged) = (Vec::new(), Vec::new());
        for view in layout.views() {
            let chosen = self.chosen.views[number * layout.views().len() + view.id.index()];
            for entry in &self.chosen.entries[chosen.start..chosen.start + chosen.len] {
                match entry.source {
                    Source::Kept(token) => kept.push(Kept { view: view.id, rect: view.footprint(token) }),
                    Source::Merged { start, len } => {
                        let members = &self.chosen.members[start as usize..(start + len) as usize];
                        merged.push(MergedRegion { region: entry.region, members: members.iter().map(|&m| view.footprint(m)).collect() });
                    }
                }
            }
        }
        Ok(Shown { kept, merged, evidence: self.evidence(number, layout) })
    }

    pub(super) fn evidence(&self, number: usize, layout: &Layout) -> Vec<Evidence> {
        let of = |view: &ViewLayout| self.chosen.views[number * layout.views().len() + view.id.index()];
        // The finest view that gave any token: a budget may leave the very finest out.
        let Some(view) = layout.present().rfind(|view| of(view).len > 0) else { return Vec::new() };
        let chosen = of(view);
        let entries = &self.chosen.entries[chosen.start..chosen.start + chosen.len];
        let kept: Vec<(u32, f32)> = entries
            .iter()
            .filter_map(|entry| match entry.source {
                // A policy that keeps padding has tokens that show nothing of the frame.
                Source::Kept(token) => Some((token, entry.score)).filter(|_| view.footprint(token).area() > 0.0),
                Source::Merged { .. } => None,
            })
            .collect();
        evidence::boxes(Tokens::of(number).0, view, &kept)
    }

    fn layout(&self, frame: &Frame) -> Result<&Layout, PipelineError> {
        Ok(self.slots.get(frame.lease)?.layout()?)
    }
}
