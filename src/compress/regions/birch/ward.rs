//! Ward's agglomeration of weighted points: of all pairs the one whose union adds least to the sum of squared distances, again and again.
//!
//! # Why
//! Nearest-neighbour chains find the same unions in O(n²) from one matrix of pairs; ties and roundings only decide by number, never by thread.

use crate::kernels::{Isa, Pool, squared};
use crate::units::Bytes;

/// Room for up to a fixed number of points.
pub struct Ward {
    /// What a union of two would add, `[n][n]`.
    costs: Vec<f32>,
    weights: Vec<f64>,
    alive: Vec<bool>,
    chain: Vec<usize>,
    unions: Vec<(f32, u32, u32)>,
    parents: Vec<u32>,
}

impl Ward {
    #[must_use]
    pub fn new(max_points: usize) -> Self {
        Self {
            costs: vec![0.0; max_points * max_points],
            weights: Vec::with_capacity(max_points),
            alive: Vec::with_capacity(max_points),
            chain: Vec::with_capacity(max_points),
            unions: Vec::with_capacity(max_points),
            parents: Vec::with_capacity(max_points),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(max_points: usize) -> Bytes {
        Bytes::of::<f32>(max_points.saturating_mul(max_points))
            + Bytes::of::<u64>(2 * max_points)
            + Bytes::of::<(f32, u32, u32)>(max_points)
            + Bytes::of::<u32>(max_points)
            + Bytes::of::<bool>(max_points)
    }

    /// Parts `points` `[n][dim]` of `counts` tokens each into `k` groups: `groups[i]` is the number of the first point of i's group.
    pub fn group(&mut self, isa: Isa, points: &[f32], dim: usize, counts: &[u32], k: usize, pool: &Pool, groups: &mut [u32]) {
        let n = counts.len();
        self.weights.clear();
        self.weights.extend(counts.iter().map(|&count| f64::from(count)));
        self.alive.clear();
        self.alive.resize(n, true);
        let weights = &self.weights;
        let costs = &mut self.costs[..n * n];
        let row = |at: usize| &points[at * dim..(at + 1) * dim];
        pool.pieces(costs, n.max(1), &|a, costs| {
            for (b, cost) in costs[..a].iter_mut().enumerate() {
                let share = weights[a] * weights[b] / (weights[a] + weights[b]);
                *cost = (f64::from(squared(isa, row(a), row(b))) * share) as f32;
            }
        });
        for a in 0..n {
            for b in 0..a {
                costs[b * n + a] = costs[a * n + b];
            }
        }
        self.chain_up(n);
        // The dearest k − 1 unions are left out.
        self.unions.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.parents.clear();
        self.parents.extend((0_u32..).take(n));
        for &(_, a, b) in self.unions.iter().take(n.saturating_sub(k)) {
            let (a, b) = (first(&mut self.parents, a), first(&mut self.parents, b));
            self.parents[a.max(b) as usize] = a.min(b);
        }
        groups.iter_mut().zip(0..).for_each(|(group, point)| *group = first(&mut self.parents, point));
    }

    /// All n − 1 unions, each with its cost; a union lives on in the place of its lower number.
    fn chain_up(&mut self, n: usize) {
        self.unions.clear();
        self.chain.clear();
        let mut first = 0;
        while self.unions.len() + 1 < n {
            if self.chain.is_empty() {
                while !self.alive[first] {
                    first += 1;
                }
                self.chain.push(first);
            }
            let top = self.chain[self.chain.len() - 1];
            let before = self.chain.len().checked_sub(2).map(|at| self.chain[at]);
            // The one before wins ties, so that costs along the chain fall and it ends.
            let (mut best, mut least) = before.map_or((usize::MAX, f32::INFINITY), |at| (at, self.costs[top * n + at]));
            let costs = &self.costs[top * n..(top + 1) * n];
            for (at, (&cost, &alive)) in costs.iter().zip(&self.alive).enumerate() {
                if alive && at != top && (cost < least || best == usize::MAX) {
                    (best, least) = (at, cost);
                }
            }
            if Some(best) == before {
                self.unite(top.min(best), top.max(best), n, least);
            } else {
                self.chain.push(best);
            }
        }
    }

    fn unite(&mut self, low: usize, high: usize, n: usize, cost: f32) {
        self.unions.push((cost, low as u32, high as u32));
        let (a, b) = (self.weights[low], self.weights[high]);
        self.alive[high] = false;
        for other in (0..n).filter(|&other| other != low && self.alive[other]) {
            let c = self.weights[other];
            let (to_low, to_high) = (f64::from(self.costs[other * n + low]), f64::from(self.costs[other * n + high]));
            // Lance and Williams.
            let joined = ((c + a) * to_low + (c + b) * to_high - c * f64::from(cost)) / (a + b + c);
            let joined = joined.max(0.0) as f32;
            (self.costs[other * n + low], self.costs[low * n + other]) = (joined, joined);
        }
        self.weights[low] = a + b;
        // Both leave the chain, and what came after either of them in it, should rounding have put it there twice.
        let keep = self.chain.iter().position(|&at| at == low || at == high).unwrap_or(0);
        self.chain.truncate(keep);
    }
}

/// The number of the first point of a point's group.
fn first(parents: &mut [u32], mut point: u32) -> u32 {
    while parents[point as usize] != point {
        let above = parents[parents[point as usize] as usize];
        parents[point as usize] = above;
        point = above;
    }
    point
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::regions::kmeans::tests::numbers;

    /// Straight from the definition, in f64.
    fn plain(points: &[f32], dim: usize, counts: &[u32], k: usize) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = (0..counts.len()).map(|point| vec![point]).collect();
        let weight = |group: &[usize]| group.iter().map(|&point| f64::from(counts[point])).sum::<f64>();
        let mean = |group: &[usize], d: usize| {
            group.iter().map(|&point| f64::from(counts[point]) * f64::from(points[point * dim + d])).sum::<f64>() / weight(group)
        };
        while groups.len() > k {
            let mut best = (f64::INFINITY, 0, 0);
            for a in 0..groups.len() {
                for b in a + 1..groups.len() {
                    let gap: f64 = (0..dim).map(|d| (mean(&groups[a], d) - mean(&groups[b], d)).powi(2)).sum();
                    let (m, n) = (weight(&groups[a]), weight(&groups[b]));
                    let cost = gap * m * n / (m + n);
                    if cost < best.0 {
                        best = (cost, a, b);
                    }
                }
            }
            let gone = groups.remove(best.2);
            groups[best.1].extend(gone);
        }
        groups
    }

    #[test]
    fn chains_find_the_unions_of_the_definition() {
        for (n, dim, k, seed) in [(1, 1, 1, 1), (2, 3, 1, 2), (12, 2, 3, 3), (30, 4, 7, 4), (40, 1, 39, 5), (25, 3, 25, 6)] {
            let points = numbers(n * dim, seed);
            let counts: Vec<u32> = (0..n).map(|at| 1 + (at as u32 * 7) % 5).collect();
            let mut groups = vec![0; n];
            Ward::new(n).group(Isa::detect(), &points, dim, &counts, k, &Pool::new(2), &mut groups);
            for group in plain(&points, dim, &counts, k) {
                let first = *group.iter().min().unwrap() as u32;
                assert!(group.iter().all(|&point| groups[point] == first), "{n} points in {k}: {groups:?}");
            }
        }
    }

    #[test]
    fn equal_points_end() {
        let mut groups = vec![9; 50];
        Ward::new(50).group(Isa::detect(), &[0.5; 100], 2, &[1; 50], 4, &Pool::new(1), &mut groups);
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), 4);
    }
}
