//! Which tokens of a view are kept, which are merged, and in what order: Algorithm 1, its variant that covers every region, and plain rules to
//! compare with.
//!
//! # Why
//! Only scores and labels are needed, so this runs before any projection. One counting sort groups the tokens; only regions that the
//! budget reaches are looked into: O(N) and a sort of what is kept. Nothing is allocated: the workspace is made at start.

mod plain;

use std::cmp::Ordering;
use std::str::FromStr;

use serde::Serialize;

use crate::compress::{CompressError, MASKED};
use crate::config::Keep;
use crate::units::{Bytes, Tokens};

pub use plain::{Ranked, dense, evenly, top_of_view};

/// What chooses the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// Regions, preserve and merge.
    #[default]
    UhrBat,
    /// The best of all views together, by score.
    Topk,
    /// Evenly spaced ones of each view.
    Uniform,
    /// The anchor view alone: what downsampling the frame would give.
    AnchorOnly,
    /// All.
    Dense,
}

/// A name that is no selector's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector {0:?}: wanted uhr-bat, topk, uniform, anchor-only or dense")]
pub struct SelectorError(String);

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match text {
            "uhr-bat" => Ok(Self::UhrBat),
            "topk" => Ok(Self::Topk),
            "uniform" => Ok(Self::Uniform),
            "anchor-only" => Ok(Self::AnchorOnly),
            "dense" => Ok(Self::Dense),
            _ => Err(SelectorError(text.to_owned())),
        }
    }
}

/// A name that is no mode's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mode {0:?}: wanted paper or coverage")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "paper" => Ok(Self::Paper),
            "coverage" => Ok(Self::Coverage),
            _ => Err(ModeError(text.to_owned())),
        }
    }
}

/// How a view's budget is given to its regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Algorithm 1 to the letter: regions by falling mean until the budget is gone.
    #[default]
    Paper,
    /// One token a region first, what is left along Algorithm 1's order: every unmasked token is behind exactly one output.
    Coverage,
}

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

    /// What was selected last, without its regions' figures.
    #[must_use]
    pub fn last(&self) -> Selection<'_> {
        Selection { entries: &self.entries, members: &self.members, regions: 0, starved: 0 }
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
/// A score that is not finite, a label out of range, a view larger than the workspace; in [`Mode::Coverage`] a budget above 0 below the number of regions.
pub fn select<'w>(
    scores: &[f32],
    labels: &[u32],
    regions: usize,
    budget: Tokens,
    (keep, mode): (Keep, Mode),
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
    let mut spare = match mode {
        Mode::Paper => 0,
        Mode::Coverage if budget == 0 => 0,
        Mode::Coverage => budget.checked_sub(nonempty).ok_or(CompressError::Coverage { regions: nonempty, budget: Tokens::of(budget) })?,
    };
    let mut reached = 0;
    for place in 0..regions {
        let region = work.order[place] as usize;
        let tokens = work.starts[region] as usize..work.starts[region + 1] as usize;
        if work.entries.len() == budget || tokens.is_empty() {
            break;
        }
        reached += 1;
        let first = work.entries.len();
        let room = match mode {
            Mode::Paper => budget - first,
            Mode::Coverage => spare + 1,
        };
        if mode == Mode::Coverage && need(scores, region, tokens.clone(), keep, work) > room {
            take_best(scores, region, tokens, room, work);
        } else {
            take_region(scores, region, tokens, room, keep, work);
        }
        if mode == Mode::Coverage {
            spare = room - (work.entries.len() - first);
        }
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

fn keeps(rule: Keep, score: f32, mean: f64) -> bool {
    match rule {
        Keep::AtLeastMean => f64::from(score) >= mean,
        Keep::AboveMean => f64::from(score) > mean,
    }
}

/// Descending scores, equal ones by lower token. Adding 0 makes −0 a tie with 0.
fn best_first(a: (f32, u32), b: (f32, u32)) -> Ordering {
    (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1))
}

/// Tokens that a region gives where nothing cuts it.
fn need(scores: &[f32], region: usize, tokens: std::ops::Range<usize>, keep: Keep, work: &SelectWork) -> usize {
    let mean = work.regions[region].mean;
    let len = tokens.len();
    let kept = work.grouped[tokens].iter().filter(|&&token| keeps(keep, scores[token as usize], mean)).count();
    kept + usize::from(kept < len)
}

/// Appends the tokens of one region: those kept, then the merged one, at most `room`.
fn take_region(scores: &[f32], region: usize, tokens: std::ops::Range<usize>, room: usize, keep: Keep, work: &mut SelectWork) {
    let mean = work.regions[region].mean;
    let (first, first_member) = (work.entries.len(), work.members.len());
    for &token in &work.grouped[tokens] {
        let score = scores[token as usize];
        if keeps(keep, score, mean) {
            work.entries.push(Entry { source: Source::Kept(token), score, region: region as u32 });
        } else {
            work.members.push(token);
        }
    }
    sort_kept(&mut work.entries[first..]);
    if work.entries.len() - first < room && work.members.len() > first_member {
        push_merged(scores, region, first_member, work);
    } else {
        work.members.truncate(first_member);
        work.entries.truncate(first + room);
    }
}

/// Appends the `room − 1` best tokens of a region, and one token merged from all its others.
fn take_best(scores: &[f32], region: usize, tokens: std::ops::Range<usize>, room: usize, work: &mut SelectWork) {
    let (first, first_member) = (work.entries.len(), work.members.len());
    for &token in &work.grouped[tokens] {
        work.entries.push(Entry { source: Source::Kept(token), score: scores[token as usize], region: region as u32 });
    }
    sort_kept(&mut work.entries[first..]);
    for entry in work.entries.drain(first + room - 1..) {
        if let Source::Kept(token) = entry.source {
            work.members.push(token);
        }
    }
    work.members[first_member..].sort_unstable();
    push_merged(scores, region, first_member, work);
}

fn sort_kept(entries: &mut [Entry]) {
    let key = |entry: &Entry| (entry.score, if let Source::Kept(token) = entry.source { token } else { u32::MAX });
    entries.sort_unstable_by(|a, b| best_first(key(a), key(b)));
}

/// One token of all members from `first_member` on; its score is their mean.
fn push_merged(scores: &[f32], region: usize, first_member: usize, work: &mut SelectWork) {
    let members = &work.members[first_member..];
    let sum: f64 = members.iter().map(|&token| f64::from(scores[token as usize])).sum();
    let source = Source::Merged { start: first_member as u32, len: members.len() as u32 };
    work.entries.push(Entry { source, score: (sum / members.len() as f64) as f32, region: region as u32 });
}
