//! Makes the rows that a selection planned: kept tokens as they are, merged ones as the mean of their members.
//!
//! # Why
//! The projector isn't linear, so every member of a merged region is projected, in chunks of fixed size; sums are kept in f32 in ascending
//! order of members, which makes them the same on every machine.

use crate::compress::select::Selection;
use crate::units::{Bytes, Tokens};

/// One chunk of projected rows, and the running sum of a merged token.
pub struct MergeWork {
    tokens: Vec<u32>,
    rows: Vec<f32>,
    sum: Vec<f32>,
    chunk: usize,
    dim: usize,
}

impl MergeWork {
    /// For chunks of `chunk` rows of `dim` values.
    #[must_use]
    pub fn new(chunk: Tokens, dim: usize) -> Self {
        let chunk = chunk.get().max(1);
        Self { tokens: Vec::with_capacity(chunk), rows: vec![0.0; chunk * dim], sum: vec![0.0; dim], chunk, dim }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(chunk: Tokens, dim: usize) -> Bytes {
        let chunk = chunk.get().max(1);
        Bytes::of::<u32>(chunk) + Bytes::of::<f32>(chunk * dim + dim)
    }
}

/// Calls `emit(place, row)` once for each entry of `selection`, in order. `project(tokens, rows)` fills `rows` `[tokens, dim]` with h of Eq. 5.
pub fn merge<E>(
    selection: &Selection<'_>,
    work: &mut MergeWork,
    project: &mut dyn FnMut(&[u32], &mut [f32]) -> Result<(), E>,
    emit: &mut dyn FnMut(usize, &[f32]),
) -> Result<(), E> {
    let MergeWork { tokens, rows, sum, chunk, dim } = work;
    let mut wanted = selection.entries.iter().flat_map(|entry| selection.sources(entry).iter().copied());
    // The entry being made, and how many of its tokens are in `sum`.
    let (mut place, mut summed) = (0, 0);
    loop {
        tokens.clear();
        tokens.extend(wanted.by_ref().take(*chunk));
        if tokens.is_empty() {
            return Ok(());
        }
        let rows = &mut rows[..tokens.len() * *dim];
        project(tokens, rows)?;
        for row in rows.chunks_exact(*dim) {
            let members = selection.sources(&selection.entries[place]).len();
            if members == 1 {
                emit(place, row);
                place += 1;
                continue;
            }
            if summed == 0 {
                sum.fill(0.0);
            }
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            summed += 1;
            if summed == members {
                sum.iter_mut().for_each(|sum| *sum /= members as f32);
                emit(place, sum);
                (place, summed) = (place + 1, 0);
            }
        }
    }
}
