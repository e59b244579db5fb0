//! Algorithm 1: which tokens of a view are kept, which are merged, in what order, cut at the budget.
//!
//! # Why
//! Only scores and labels are needed, so this runs before any projection. One counting sort groups the tokens; only regions that the
//! budget reaches are looked into: O(N) and a sort of what is kept. Nothing is allocated: the workspace is made at start.

use crate::compress::{CompressError, MASKED};
use crate::units::{Bytes, Tokens};

/// Where an output token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The token itself.
    Kept(u32),
    /// The mean of `len` tokens from `start` in the selection's members.
    Merged { start: u32, len: u32 },
}

/// One output token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub source: Source,
    /// Its own score, or the mean of its members'.
    pub score: f32,
    pub region: u32,
}

/// Buffers for [`select`] on views of up to a fixed number of tokens.
pub struct SelectWork {
    /// Tokens by region, ascending inside each.
    grouped: Vec<u32>,
    /// Where a region starts in `grouped`, and one past the last.
    starts: Vec<u32>,
    regions: Vec<Region>,
    order: Vec<u32>,
    entries: Vec<Entry>,
    members: Vec<u32>,
    max_tokens: usize,
    max_regions: usize,
    max_budget: usize,
}

#[derive(Clone, Copy, Default)]
struct Region {
    sum: f64,
    mean: f64,
    max: f32,
}

/// The plan of one view, in the decoder's order.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'w> {
    pub entries: &'w [Entry],
    members: &'w [u32],
    /// Regions that had tokens.
    pub regions: usize,
    /// Regions that the cut left without any token.
    pub starved: usize,
}

impl<'w> Selection<'w> {
    /// The tokens behind an entry, ascending.
    #[must_use]
    pub fn sources(&self, entry: &'w Entry) -> &'w [u32] {
        match &entry.source {
            Source::Kept(token) => std::slice::from_ref(token),
            Source::Merged { start, len } => &self.members[*start as usize..(*start + *len) as usize],
        }
    }

    /// Output tokens.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        Tokens::of(self.entries.len())
    }

    /// Output tokens that are merged ones.
    #[must_use]
    pub fn merged(&self) -> Tokens {
        Tokens::of(self.entries.iter().filter(|entry| matches!(entry.source, Source::Merged { .. })).count())
    }
}

impl SelectWork {
    /// For views of at most `max_tokens` tokens in `max_regions` regions, and budgets of at most `max_budget`.
    #[must_use]
    pub fn new(max_tokens: usize, max_regions: usize, max_budget: usize) -> Self {
        Self {
            grouped: vec![0; max_tokens],
            starts: vec![0; max_regions + 1],
            regions: vec![Region::default(); max_regions],
            order: vec![0; max_regions],
            // While a region's kept tokens are sorted they all stand here, before the cut.
            entries: Vec::with_capacity(max_budget + max_tokens),
            members: Vec::with_capacity(max_tokens),
            max_tokens,
            max_regions,
            max_budget,
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_tokens: usize, max_regions: usize, max_budget: usize) -> Bytes {
        Bytes::of::<u32>(2 * max_tokens + 2 * max_regions + 1)
            + Bytes::of::<Region>(max_regions)
            + Bytes::of::<Entry>(max_budget + max_tokens)
    }
}

/// Algorithm 1 on one view. `scores`, `labels`: `[N]`; labels are dense below `regions`, or [`MASKED`].
///
/// The mean of a region is taken in f64 and held at or below its largest score, so that at least one token is kept (Lemma 1). Regions by
/// descending mean, equal means by lower number; inside a region its kept tokens by descending score, equal scores by lower index, then the merged token.
///
/// # Errors
/// A score that is not finite, a label out of range, or a view larger than the workspace.
pub fn select<'w>(
    scores: &[f32],
    labels: &[u32],
    regions: usize,
    budget: Tokens,
    work: &'w mut SelectWork,
) -> Result<Selection<'w>, CompressError> {
    let budget = budget.get().min(scores.len());
    if labels.len() != scores.len() {
        return Err(CompressError::Length { what: "labels", wanted: scores.len(), found: labels.len() });
    }
    for (what, found, room) in
        [("tokens", scores.len(), work.max_tokens), ("regions", regions, work.max_regions), ("budget", budget, work.max_budget)]
    {
        if found > room {
            return Err(CompressError::Room { what, found, room });
        }
    }
    group(scores, labels, regions, work)?;
    work.entries.clear();
    work.members.clear();
    let nonempty = (0..regions).filter(|&region| work.starts[region] < work.starts[region + 1]).count();
    let mut reached = 0;
    for place in 0..regions {
        let region = work.order[place] as usize;
        let (start, end) = (work.starts[region] as usize, work.starts[region + 1] as usize);
        if work.entries.len() == budget || start == end {
            break;
        }
        reached += 1;
        take_region(scores, region, start..end, budget, work);
    }
    Ok(Selection { entries: &work.entries, members: &work.members, regions: nonempty, starved: nonempty - reached })
}

/// Counts, sums and sorts the tokens by region; orders the regions, empty ones last.
fn group(scores: &[f32], labels: &[u32], regions: usize, work: &mut SelectWork) -> Result<(), CompressError> {
    work.starts[..=regions].fill(0);
    work.regions[..regions].fill(Region { sum: 0.0, mean: f64::NEG_INFINITY, max: f32::NEG_INFINITY });
    for (token, (&score, &label)) in scores.iter().zip(labels).enumerate() {
        if label == MASKED {
            continue;
        }
        let token = token as u32;
        if !score.is_finite() {
            return Err(CompressError::NotFinite { what: "score", token, found: score });
        }
        if label as usize >= regions {
            return Err(CompressError::Label { token, found: label, regions });
        }
        work.starts[label as usize + 1] += 1;
        let region = &mut work.regions[label as usize];
        region.sum += f64::from(score);
        region.max = region.max.max(score);
    }
    for region in 0..regions {
        let count = work.starts[region + 1];
        if count > 0 {
            let Region { sum, max, .. } = work.regions[region];
            work.regions[region].mean = (sum / f64::from(count)).min(f64::from(max));
        }
        work.starts[region + 1] += work.starts[region];
    }
    for (token, &label) in labels.iter().enumerate().filter(|&(_, &label)| label != MASKED) {
        let place = &mut work.starts[label as usize];
        work.grouped[*place as usize] = token as u32;
        *place += 1;
    }
    // Each start has moved to its region's end, which is the next one's start.
    work.starts.copy_within(0..regions, 1);
    work.starts[0] = 0;
    let (order, stats) = (&mut work.order[..regions], &work.regions);
    order.iter_mut().zip(0..).for_each(|(place, region)| *place = region);
    order.sort_unstable_by(|&a, &b| (stats[b as usize].mean + 0.0).total_cmp(&(stats[a as usize].mean + 0.0)).then(a.cmp(&b)));
    Ok(())
}

/// Appends the tokens of one region, as many as the budget has left.
fn take_region(scores: &[f32], region: usize, tokens: std::ops::Range<usize>, budget: usize, work: &mut SelectWork) {
    let mean = work.regions[region].mean;
    let first = work.entries.len();
    let first_member = work.members.len();
    let mut merged_sum = 0.0;
    for &token in &work.grouped[tokens] {
        let score = scores[token as usize];
        if f64::from(score) >= mean {
            work.entries.push(Entry { source: Source::Kept(token), score, region: region as u32 });
        } else {
            work.members.push(token);
            merged_sum += f64::from(score);
        }
    }
    let index = |entry: &Entry| if let Source::Kept(token) = entry.source { token } else { u32::MAX };
    // Adding 0 makes −0 a tie with 0.
    work.entries[first..].sort_unstable_by(|a, b| (b.score + 0.0).total_cmp(&(a.score + 0.0)).then(index(a).cmp(&index(b))));
    let len = work.members.len() - first_member;
    if work.entries.len() < budget && len > 0 {
        let source = Source::Merged { start: first_member as u32, len: len as u32 };
        work.entries.push(Entry { source, score: (merged_sum / len as f64) as f32, region: region as u32 });
    } else {
        work.members.truncate(first_member);
        work.entries.truncate(budget);
    }
}
