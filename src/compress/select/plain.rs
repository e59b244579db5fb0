//! Plain choices to compare UHR-BAT with: the best tokens of all views, evenly spaced ones, all. None of them merges.

use crate::compress::select::{Entry, SelectWork, Selection, Source, best_first};
use crate::compress::{CompressError, MASKED};
use crate::units::{Bytes, Tokens};

/// The unmasked tokens of all views by score, for a choice of the best over the whole pyramid.
pub struct Ranked {
    /// View, token, score.
    tokens: Vec<(u8, u32, f32)>,
    wanted: usize,
}

impl Ranked {
    /// For at most `all` tokens.
    #[must_use]
    pub fn new(all: Tokens) -> Self {
        Self { tokens: Vec::with_capacity(all.get()), wanted: 0 }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(all: Tokens) -> Bytes {
        Bytes::of::<(u8, u32, f32)>(all.get())
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
    }

    /// Adds a view's unmasked tokens.
    ///
    /// # Errors
    /// A score that is not finite, or more tokens than there is room for.
    pub fn add(&mut self, view: u8, scores: &[f32], labels: &[u32]) -> Result<(), CompressError> {
        let found = self.tokens.len() + scores.len();
        if found > self.tokens.capacity() {
            return Err(CompressError::Room { what: "tokens", found, room: self.tokens.capacity() });
        }
        for (token, (&score, _)) in (0..).zip(scores.iter().zip(labels)).filter(|(_, (_, label))| **label != MASKED) {
            if !score.is_finite() {
                return Err(CompressError::NotFinite { what: "score", token, found: score });
            }
            self.tokens.push((view, token, score));
        }
        Ok(())
    }

    /// Leaves the best `budget` of all, equal scores by coarser view, then by lower token.
    pub fn cut(&mut self, budget: Tokens) {
        self.wanted = budget.get().min(self.tokens.len());
        let order = |a: &(u8, u32, f32), b: &(u8, u32, f32)| best_first((a.2, 0), (b.2, 0)).then((a.0, a.1).cmp(&(b.0, b.1)));
        if self.wanted < self.tokens.len() {
            self.tokens.select_nth_unstable_by(self.wanted, order);
        }
        self.tokens[..self.wanted].sort_unstable_by(order);
    }
}

/// Those of the best that are in `view`, by falling score.
pub fn top_of_view<'w>(ranked: &Ranked, view: u8, work: &'w mut SelectWork) -> Selection<'w> {
    let chosen = ranked.tokens[..ranked.wanted].iter().filter(|(at, _, _)| *at == view);
    keep(chosen.map(|&(_, token, score)| (token, score)), work)
}

/// `budget` tokens at equal distances along the raster of the unmasked ones, or all of them where there are no more.
pub fn evenly<'w>(scores: &[f32], labels: &[u32], budget: Tokens, work: &'w mut SelectWork) -> Selection<'w> {
    let open = labels.iter().filter(|&&label| label != MASKED).count();
    let wanted = budget.get().min(open);
    let mut next = 0;
    let unmasked = (0..).zip(labels).filter(|(_, label)| **label != MASKED).map(|(token, _)| token).enumerate();
    // The n-th of `wanted` stands at (n + ½)·open/wanted.
    let chosen = unmasked.filter(|(place, _)| {
        let hit = next < wanted && *place == (2 * next + 1) * open / (2 * wanted);
        next += usize::from(hit);
        hit
    });
    keep(chosen.map(|(_, token): (usize, u32)| (token, scores[token as usize])), work)
}

/// All unmasked tokens, in raster order.
pub fn dense<'w>(scores: &[f32], labels: &[u32], work: &'w mut SelectWork) -> Selection<'w> {
    evenly(scores, labels, Tokens(u32::MAX), work)
}

fn keep(tokens: impl Iterator<Item = (u32, f32)>, work: &mut SelectWork) -> Selection<'_> {
    work.entries.clear();
    work.members.clear();
    work.entries.extend(tokens.map(|(token, score)| Entry { source: Source::Kept(token), score, region: 0 }));
    Selection { entries: &work.entries, members: &work.members, regions: 0, starved: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(selection: &Selection<'_>) -> Vec<u32> {
        selection.entries.iter().flat_map(|entry| selection.sources(entry)).copied().collect()
    }

    #[test]
    fn even_spacing_skips_padding_and_never_exceeds() {
        let mut work = SelectWork::new(9, 1, 9);
        let labels = [0, 0, MASKED, 0, 0, 0, MASKED, 0, 0];
        let cases: [(u32, &[u32]); 5] = [(0, &[]), (1, &[4]), (2, &[1, 7]), (3, &[1, 4, 7]), (99, &[0, 1, 3, 4, 5, 7, 8])];
        for (budget, wanted) in cases {
            assert_eq!(tokens(&evenly(&[0.5; 9], &labels, Tokens(budget), &mut work)), wanted, "{budget}");
        }
        assert_eq!(tokens(&dense(&[0.5; 9], &labels, &mut work)).len(), 7);
    }

    #[test]
    fn the_best_of_all_views() {
        let mut work = SelectWork::new(4, 1, 4);
        let mut ranked = Ranked::new(Tokens(6));
        ranked.add(0, &[0.5, 0.1], &[0, 0]).unwrap();
        ranked.add(1, &[0.5, 0.7, 0.9, 0.1], &[0, 0, MASKED, 0]).unwrap();
        for (budget, coarse, fine) in
            [(1, vec![], vec![1]), (2, vec![0], vec![1]), (3, vec![0], vec![1, 0]), (9, vec![0, 1], vec![1, 0, 3])]
        {
            ranked.cut(Tokens(budget));
            assert_eq!(tokens(&top_of_view(&ranked, 0, &mut work)), coarse, "{budget}");
            assert_eq!(tokens(&top_of_view(&ranked, 1, &mut work)), fine, "{budget}");
        }
        let bad = Ranked::new(Tokens(1)).add(0, &[f32::NAN], &[0]);
        assert!(matches!(bad, Err(CompressError::NotFinite { token: 0, .. })));
    }
}
