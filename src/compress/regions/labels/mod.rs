//! Given labels: a map made elsewhere, one label a token. Label 0 is background, and each such token is a region of its own.

mod vote;

use crate::compress::regions::{Partition, Partitioned, ViewFeatures};
use crate::compress::{CompressError, MASKED};
use crate::kernels::Pool;
use crate::units::Bytes;

pub use vote::Voter;

/// Makes given labels dense.
pub struct Labels {
    /// For receipts: what made the map.
    id: &'static str,
    /// `label << 32 | token`, to sort.
    pairs: Vec<u64>,
    max_tokens: usize,
}

impl Labels {
    /// For views of `max_tokens` tokens, labelled by `id`.
    #[must_use]
    pub fn new(id: &'static str, max_tokens: usize) -> Self {
        Self { id, pairs: Vec::with_capacity(max_tokens), max_tokens }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_tokens: usize) -> Bytes {
        Bytes::of::<u64>(max_tokens)
    }
}

impl Partition for Labels {
    fn id(&self) -> &'static str {
        self.id
    }

    fn clusters(&self) -> bool {
        false
    }

    /// Regions are numbered by first appearance in raster order, background tokens each at its own place.
    fn partition(
        &mut self,
        _view: &ViewFeatures<'_>,
        _clusters: usize,
        _pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        if labels.len() > self.max_tokens {
            return Err(CompressError::Room { what: "tokens", found: labels.len(), room: self.max_tokens });
        }
        self.pairs.clear();
        for (label, token) in labels.iter_mut().zip(0_u32..).filter(|(label, _)| **label != MASKED) {
            if *label != 0 {
                self.pairs.push(u64::from(*label) << 32 | u64::from(token));
            }
            *label = token;
        }
        self.pairs.sort_unstable();
        // A token's label becomes the first token of its region…
        for group in self.pairs.chunk_by(|a, b| a >> 32 == b >> 32) {
            let token = |pair: u64| pair as u32;
            group.iter().for_each(|&pair| labels[token(pair) as usize] = token(group[0]));
        }
        // … and then that one's number, which stands there by the time the others come.
        let mut regions = 0_u32;
        for token in 0..labels.len() {
            let first = labels[token] as usize;
            if labels[token] == MASKED {
                continue;
            }
            labels[token] = if first == token { regions } else { labels[first] };
            regions += u32::from(first == token);
        }
        Ok(Partitioned { regions: regions as usize, iterations: 0, objective: 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::regions::Rows;

    #[test]
    fn background_tokens_stand_alone_and_numbers_are_dense() {
        let mut labels = [7, 0, MASKED, 7, 0, 3];
        let view = ViewFeatures::raster(Rows::F32(&[]), 0, 0);
        let mut partition = Labels::new("labels", 6);
        let made = partition.partition(&view, 1, &Pool::new(1), &mut labels).unwrap();
        assert_eq!((labels, made.regions), ([0, 1, MASKED, 0, 2, 3], 4));
        let wrong = partition.partition(&view, 1, &Pool::new(1), &mut [0; 7]);
        assert_eq!(wrong.unwrap_err(), CompressError::Room { what: "tokens", found: 7, room: 6 });
    }
}
