//! Where an answer rests: connected groups of the best kept tokens of the finest view.
//!
//! # Why
//! A person checking an answer needs a place to look, not two thousand tokens.

use crate::geometry::ViewLayout;
use crate::pipeline::receipt::Evidence;
use crate::units::Tokens;

/// Most boxes of an answer.
pub const MAX_BOXES: usize = 5;

/// At most [`MAX_BOXES`] boxes in pixels of the original frame, best first: connected components (sides and corners) of the `kept` tokens
/// (number in `view`, score) whose score is above their 90th percentile.
#[must_use]
pub fn boxes(frame: u32, view: &ViewLayout, kept: &[(u32, f32)]) -> Vec<Evidence> {
    let mut scores: Vec<f32> = kept.iter().map(|&(_, score)| score).collect();
    scores.sort_unstable_by(f32::total_cmp);
    let Some(&threshold) = scores.get((scores.len() * 9).div_ceil(10).saturating_sub(1)) else { return Vec::new() };
    // By raster place, whatever order the tokens are numbered in.
    let (grid, side) = (view.grid(), view.grid_side() as usize);
    let raster = |token: u32| {
        let (x, y) = grid.place(token);
        y * side + x
    };
    let mut best: Vec<(usize, f32)> =
        kept.iter().filter(|&&(_, score)| score > threshold).map(|&(token, score)| (raster(token), score)).collect();
    best.sort_unstable_by_key(|&(place, _)| place);
    let footprint = |place: usize| view.footprint(Tokens::of(grid.token(place % side, place / side)).0);
    let mut seen = vec![false; best.len()];
    let mut found: Vec<Evidence> = Vec::new();
    for start in 0..best.len() {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let mut open = vec![start];
        let (mut rect, mut score) = (footprint(best[start].0), best[start].1);
        while let Some(at) = open.pop() {
            let (place, own) = best[at];
            rect = rect.union(footprint(place));
            score = score.max(own);
            let (x, y) = (place % side, place / side);
            for (ny, nx) in (y.saturating_sub(1)..=y + 1).flat_map(|ny| (x.saturating_sub(1)..=x + 1).map(move |nx| (ny, nx))) {
                if nx >= side {
                    continue;
                }
                if let Ok(other) = best.binary_search_by_key(&(ny * side + nx), |&(place, _)| place)
                    && !seen[other]
                {
                    seen[other] = true;
                    open.push(other);
                }
            }
        }
        found.push(Evidence::new(frame, rect, score));
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(MAX_BOXES);
    found
}
