//! Given labels: a map made elsewhere, one label a token. Label 0 is background, and each such token is a region of its own.

use crate::compress::regions::{ClusterWork, Partition, Partitioned, ViewFeatures};
use crate::compress::{CompressError, MASKED};
use crate::kernels::Pool;

/// Labels as given, one a token.
#[derive(Clone, Debug)]
pub struct Labels {
    given: Vec<u32>,
}

impl Labels {
    #[must_use]
    pub fn new(given: Vec<u32>) -> Self {
        Self { given }
    }
}

impl Partition for Labels {
    fn id(&self) -> &'static str {
        "labels"
    }

    /// Regions are numbered by first appearance in raster order, background tokens each at its own place.
    fn partition(
        &self,
        _view: &ViewFeatures<'_>,
        _work: &mut ClusterWork,
        _pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        if self.given.len() != labels.len() {
            return Err(CompressError::Length { what: "given labels", wanted: labels.len(), found: self.given.len() });
        }
        let mut numbers = std::collections::HashMap::new();
        let mut regions = 0_u32;
        for (out, &given) in labels.iter_mut().zip(&self.given).filter(|(out, _)| **out != MASKED) {
            let mut next = || {
                regions += 1;
                regions - 1
            };
            *out = if given == 0 { next() } else { *numbers.entry(given).or_insert_with(next) };
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
        let mut labels = [0, 0, MASKED, 0, 0, 0];
        let view = ViewFeatures { rows: Rows::F32(&[]), dim: 0, side: 0 };
        let mut work = ClusterWork::new(1, 1, 1);
        let partition = Labels::new(vec![7, 0, 9, 7, 0, 3]);
        let made = partition.partition(&view, &mut work, &Pool::new(1), &mut labels).unwrap();
        assert_eq!((labels, made.regions), ([0, 1, MASKED, 0, 2, 3], 4));
        let wrong = partition.partition(&view, &mut work, &Pool::new(1), &mut [0; 3]);
        assert_eq!(wrong.unwrap_err(), CompressError::Length { what: "given labels", wanted: 3, found: 6 });
    }
}
