//! Where an answer rests: connected groups of the best kept tokens of the finest view.
//!
//! # Why
//! A person checking an answer needs a place to look, not two thousand tokens.

use crate::geometry::ViewLayout;
use crate::pipeline::receipt::Evidence;

/// Most boxes of an answer.
pub const MAX_BOXES: usize = 5;

/// At most [`MAX_BOXES`] boxes in pixels of the original frame, best first: connected components (sides and corners) of the `kept` tokens
/// (raster index in `view`, score) whose score is above their 90th percentile.
#[must_use]
pub fn boxes(view: &ViewLayout, kept: &[(u32, f32)]) -> Vec<Evidence> {
    let mut scores: Vec<f32> = kept.iter().map(|&(_, score)| score).collect();
    scores.sort_unstable_by(f32::total_cmp);
    let Some(&threshold) = scores.get((scores.len() * 9).div_ceil(10).saturating_sub(1)) else { return Vec::new() };
    let mut best: Vec<(u32, f32)> = kept.iter().copied().filter(|&(_, score)| score > threshold).collect();
    best.sort_unstable_by_key(|&(token, _)| token);
    let side = view.grid_side();
    let mut seen = vec![false; best.len()];
    let mut found: Vec<Evidence> = Vec::new();
    for start in 0..best.len() {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let mut open = vec![start];
        let (mut rect, mut score) = (view.footprint(best[start].0), best[start].1);
        while let Some(at) = open.pop() {
            let (token, own) = best[at];
            rect = rect.union(view.footprint(token));
            score = score.max(own);
            let (x, y) = (token % side, token / side);
            for (ny, nx) in (y.saturating_sub(1)..=y + 1).flat_map(|ny| (x.saturating_sub(1)..=x + 1).map(move |nx| (ny, nx))) {
                if nx >= side {
                    continue;
                }
                if let Ok(other) = best.binary_search_by_key(&(ny * side + nx), |&(token, _)| token)
                    && !seen[other]
                {
                    seen[other] = true;
                    open.push(other);
                }
            }
        }
        found.push(Evidence::new(rect, score));
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(MAX_BOXES);
    found
}
