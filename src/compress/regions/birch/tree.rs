//! BIRCH's tree of cluster features (Zhang, Ramakrishnan and Livny, SIGMOD 1996), in memory made once.
//!
//! A cluster feature is a number of tokens, their mean, and the sum of their squared distances from it: the sums of the paper lose their digits
//! when a cluster is small and far from the origin, these don't. A leaf takes a token into its nearest entry when the radius after that is within the threshold;
//! else the token is an entry of its own, and a node with too many entries is split at its two that are farthest apart. When there is no room for one
//! more entry the tree is built again from its own entries under a larger threshold.
//!
//! # Why
//! Each part of a split gets at least a third of the entries, which the paper doesn't ask for: so the number of nodes, and the memory, is known beforehand.

use crate::kernels::{Isa, squared};
use crate::units::Bytes;

const NONE: u32 = u32::MAX;

/// Cluster features and nodes, by number.
pub struct Tree {
    dim: usize,
    branching: usize,
    max_entries: usize,
    isa: Isa,
    /// Squared.
    threshold: f64,
    /// `[slots][dim]`, and by slot: tokens, the sum of squared distances, the node below (of an inner entry).
    means: Vec<f32>,
    counts: Vec<u32>,
    spreads: Vec<f64>,
    below: Vec<u32>,
    free: Vec<u32>,
    /// Slots of a node's entries, `[nodes][branching + 1]`, how many there are, and whether it is a leaf.
    members: Vec<u32>,
    lens: Vec<usize>,
    leaves: Vec<bool>,
    nodes: usize,
    root: usize,
    entries: usize,
    /// From the root: nodes on the way down, and which of their entries was taken.
    path: Vec<(usize, usize)>,
    /// Buffers of splits and rebuilds.
    sides: Vec<(f64, u32)>,
    order: Vec<u32>,
    radii: Vec<f64>,
    stack: Vec<usize>,
}

/// Capacities of a tree.
struct Room {
    nodes: usize,
    slots: usize,
    depth: usize,
}

impl Room {
    fn new(branching: usize, max_entries: usize) -> Self {
        let (mut level, mut nodes, mut depth) = (max_entries, 0, 0);
        loop {
            level = (level / least(branching)).max(1);
            (nodes, depth) = (nodes + level, depth + 1);
            if level == 1 {
                break;
            }
        }
        // Splits of a whole path stand beside the nodes they split, and a token beside the entries, before they are counted.
        Self { nodes: nodes + depth + 1, slots: max_entries + nodes + depth + 2, depth: depth + 1 }
    }
}

/// Entries that each part of a split has at least.
fn least(branching: usize) -> usize {
    ((branching + 1) / 3).max(2)
}

impl Tree {
    /// For rows of up to `max_dim` values, with at most `max_entries` leaf entries.
    #[must_use]
    pub fn new(isa: Isa, branching: usize, max_entries: usize, max_dim: usize) -> Self {
        let room = Room::new(branching, max_entries);
        Self {
            dim: max_dim,
            branching,
            max_entries,
            isa,
            threshold: 0.0,
            means: vec![0.0; room.slots * max_dim],
            counts: vec![0; room.slots],
            spreads: vec![0.0; room.slots],
            below: vec![NONE; room.slots],
            free: Vec::with_capacity(room.slots),
            members: vec![0; room.nodes * (branching + 1)],
            lens: vec![0; room.nodes],
            leaves: vec![false; room.nodes],
            nodes: 0,
            root: 0,
            entries: 0,
            path: Vec::with_capacity(room.depth),
            sides: Vec::with_capacity(branching + 1),
            order: Vec::with_capacity(max_entries),
            radii: Vec::with_capacity(max_entries),
            stack: Vec::with_capacity(room.nodes),
        }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(branching: usize, max_entries: usize, max_dim: usize) -> Bytes {
        let room = Room::new(branching, max_entries);
        Bytes::of::<f32>(room.slots * (max_dim + 3) + room.nodes * (branching + 1) + max_entries)
            + Bytes::of::<f64>(room.slots + max_entries)
            + Bytes::of::<usize>(2 * room.nodes)
            + Bytes::of::<bool>(room.nodes)
            + Bytes::of::<(usize, usize)>(room.depth)
            + Bytes::of::<(f64, u32)>(branching + 1)
    }

    /// Empties the tree, for rows of `dim` values.
    pub fn start(&mut self, dim: usize, threshold: f32) {
        self.dim = dim;
        self.threshold = f64::from(threshold).powi(2);
        self.free.clear();
        self.free.extend((0..self.counts.len()).rev().filter_map(|slot| u32::try_from(slot).ok()));
        self.plant();
    }

    /// An empty leaf as the root.
    fn plant(&mut self) {
        (self.nodes, self.entries) = (0, 0);
        self.root = self.node(true);
    }

    /// Takes in one token.
    pub fn insert(&mut self, row: &[f32]) {
        let slot = self.slot();
        self.means[slot * self.dim..(slot + 1) * self.dim].copy_from_slice(row);
        (self.counts[slot], self.spreads[slot], self.below[slot]) = (1, 0.0, NONE);
        if !self.take(slot) {
            self.rebuild();
            // There is room now.
            self.take(slot);
        }
    }

    /// Leaf entries, in the order of the leaves, and their number of tokens and means.
    pub fn leaf_entries(&mut self) -> impl Iterator<Item = (u32, &[f32])> {
        self.list();
        self.order.iter().map(|&slot| (self.counts[slot as usize], mean(&self.means, self.dim, slot as usize)))
    }

    fn entries_of(&self, node: usize) -> &[u32] {
        &self.members[node * (self.branching + 1)..][..self.lens[node]]
    }

    fn node(&mut self, leaf: bool) -> usize {
        let node = self.nodes;
        self.nodes += 1;
        (self.lens[node], self.leaves[node]) = (0, leaf);
        node
    }

    fn slot(&mut self) -> usize {
        // `Room` has one for each leaf entry, each node below another, those of a path being split, and the token at hand.
        self.free.pop().expect("as many slots as Room counts") as usize
    }

    fn push(&mut self, node: usize, slot: usize) {
        self.members[node * (self.branching + 1) + self.lens[node]] = slot as u32;
        self.lens[node] += 1;
    }

    fn gap(&self, a: usize, b: usize) -> f64 {
        f64::from(squared(self.isa, mean(&self.means, self.dim, a), mean(&self.means, self.dim, b)))
    }

    /// The squared distances' sum of two entries taken together.
    fn joined(&self, a: usize, b: usize, gap: f64) -> f64 {
        let (m, n) = (f64::from(self.counts[a]), f64::from(self.counts[b]));
        self.spreads[a] + self.spreads[b] + gap * (m * n / (m + n))
    }

    /// Adds `from` to `to`.
    fn merge(&mut self, to: usize, from: usize, gap: f64) {
        self.spreads[to] = self.joined(to, from, gap);
        self.counts[to] += self.counts[from];
        let share = f64::from(self.counts[from]) / f64::from(self.counts[to]);
        let (low, high) = (to.min(from), to.max(from));
        let (front, back) = self.means.split_at_mut(high * self.dim);
        let (low, high) = (&mut front[low * self.dim..][..self.dim], &mut back[..self.dim]);
        let (to, from) = if to < from { (low, high) } else { (high, low) };
        to.iter_mut().zip(from).for_each(|(to, from)| *to += ((f64::from(*from) - f64::from(*to)) * share) as f32);
    }

    /// The entry of `node` with the nearest mean; equal ones → the first.
    fn nearest(&self, node: usize, slot: usize) -> Option<(usize, f64)> {
        let gaps = self.entries_of(node).iter().map(|&entry| self.gap(entry as usize, slot)).enumerate();
        gaps.reduce(|best, next| if next.1 < best.1 { next } else { best })
    }

    /// Takes in the cluster feature `slot`. `false`, and nothing done, when it needs an entry of its own and there is no room.
    fn take(&mut self, slot: usize) -> bool {
        self.path.clear();
        let mut node = self.root;
        while !self.leaves[node] {
            let (at, _) = self.nearest(node, slot).unwrap_or((0, 0.0));
            self.path.push((node, at));
            node = self.below[self.entries_of(node)[at] as usize] as usize;
        }
        if let Some((at, gap)) = self.nearest(node, slot) {
            let entry = self.entries_of(node)[at] as usize;
            let count = f64::from(self.counts[entry]) + f64::from(self.counts[slot]);
            if self.joined(entry, slot, gap) <= self.threshold * count {
                self.widen(slot);
                self.merge(entry, slot, gap);
                self.free.push(slot as u32);
                return true;
            }
        }
        if self.entries == self.max_entries {
            return false;
        }
        self.widen(slot);
        self.push(node, slot);
        self.entries += 1;
        while self.lens[node] > self.branching {
            node = self.split(node);
        }
        true
    }

    /// Adds `slot` to the entries on the path.
    fn widen(&mut self, slot: usize) {
        for place in 0..self.path.len() {
            let (node, at) = self.path[place];
            let entry = self.entries_of(node)[at] as usize;
            let gap = self.gap(entry, slot);
            self.merge(entry, slot, gap);
        }
    }

    /// Parts the entries of `node` between it and a new node beside it; returns the node above, which has one entry more.
    fn split(&mut self, node: usize) -> usize {
        let len = self.lens[node];
        let (mut far, mut ends) = (-1.0, (0, 1));
        for a in 0..len {
            for b in a + 1..len {
                let gap = self.gap(self.entries_of(node)[a] as usize, self.entries_of(node)[b] as usize);
                if gap > far {
                    (far, ends) = (gap, (a, b));
                }
            }
        }
        let ends = [ends.0, ends.1].map(|end| self.entries_of(node)[end] as usize);
        let mut sides = std::mem::take(&mut self.sides);
        sides.clear();
        sides.extend(self.entries_of(node).iter().map(|&slot| (self.gap(slot as usize, ends[0]) - self.gap(slot as usize, ends[1]), slot)));
        sides.sort_by(|a, b| a.0.total_cmp(&b.0));
        let least = least(self.branching);
        let cut = sides.iter().filter(|side| side.0 <= 0.0).count().clamp(least, len - least);
        let other = self.node(self.leaves[node]);
        self.lens[node] = 0;
        for (place, &(_, slot)) in sides.iter().enumerate() {
            self.push(if place < cut { node } else { other }, slot as usize);
        }
        self.sides = sides;
        let (above, at) = match self.path.pop() {
            Some(place) => place,
            None => {
                let root = self.node(false);
                let entry = self.inner_entry(node);
                self.push(root, entry);
                self.root = root;
                (root, 0)
            }
        };
        let entry = self.entries_of(above)[at] as usize;
        self.sum_up(entry, node);
        let entry = self.inner_entry(other);
        self.sum_up(entry, other);
        self.push(above, entry);
        above
    }

    fn inner_entry(&mut self, node: usize) -> usize {
        let slot = self.slot();
        self.below[slot] = node as u32;
        slot
    }

    /// Makes `slot` the sum of the entries of `node`.
    fn sum_up(&mut self, slot: usize, node: usize) {
        for place in 0..self.lens[node] {
            let entry = self.entries_of(node)[place] as usize;
            if place == 0 {
                self.means.copy_within(entry * self.dim..(entry + 1) * self.dim, slot * self.dim);
                (self.counts[slot], self.spreads[slot]) = (self.counts[entry], self.spreads[entry]);
            } else {
                let gap = self.gap(slot, entry);
                self.merge(slot, entry, gap);
            }
        }
    }

    /// Leaf entries from left to right into `order`; slots of the inner ones into `stack`'s place among the free.
    fn list(&mut self) {
        let (mut order, mut stack) = (std::mem::take(&mut self.order), std::mem::take(&mut self.stack));
        order.clear();
        stack.clear();
        stack.push(self.root);
        while let Some(node) = stack.pop() {
            if self.leaves[node] {
                order.extend_from_slice(self.entries_of(node));
            } else {
                stack.extend(self.entries_of(node).iter().rev().map(|&slot| self.below[slot as usize] as usize));
            }
        }
        (self.order, self.stack) = (order, stack);
    }

    /// Builds the tree again under a larger threshold, until an eighth of the entries is free: the next threshold is the one at which a quarter of
    /// them would go into their nearest neighbour of the same leaf. Small steps: each takes detail that the global step can't get back.
    fn rebuild(&mut self) {
        while self.entries > (self.max_entries * 7 / 8).max(1) {
            self.threshold = self.next_threshold();
            self.list();
            for node in (0..self.nodes).filter(|&node| !self.leaves[node]) {
                let start = node * (self.branching + 1);
                self.free.extend_from_slice(&self.members[start..start + self.lens[node]]);
            }
            self.plant();
            for place in 0..self.order.len() {
                self.take(self.order[place] as usize);
            }
        }
    }

    fn next_threshold(&mut self) -> f64 {
        let mut radii = std::mem::take(&mut self.radii);
        radii.clear();
        for node in (0..self.nodes).filter(|&node| self.leaves[node]) {
            let entries = self.entries_of(node);
            for &entry in entries {
                let others = entries.iter().filter(|&&other| other != entry).map(|&other| {
                    let (entry, other) = (entry as usize, other as usize);
                    let count = f64::from(self.counts[entry]) + f64::from(self.counts[other]);
                    self.joined(entry, other, self.gap(entry, other)) / count
                });
                radii.extend(others.reduce(f64::min));
            }
        }
        let quarter = radii.len() / 4;
        let found = if radii.is_empty() { 0.0 } else { *radii.select_nth_unstable_by(quarter, f64::total_cmp).1 };
        self.radii = radii;
        // Rises in any case: at last all tokens are one entry.
        found.max(self.threshold * 1.05).max(1e-12)
    }
}

fn mean(means: &[f32], dim: usize, slot: usize) -> &[f32] {
    &means[slot * dim..(slot + 1) * dim]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::regions::kmeans::tests::numbers;

    /// Every token is in one leaf entry, every inner entry is the sum of those below, and no node is too full or too empty.
    fn check(tree: &mut Tree, rows: &[f32], dim: usize) {
        let count = rows.len() / dim;
        let total: u32 = tree.leaf_entries().map(|(count, _)| count).sum();
        assert_eq!(total as usize, count);
        let mut sum = vec![0.0; dim];
        tree.leaf_entries().for_each(|(n, mean)| sum.iter_mut().zip(mean).for_each(|(sum, m)| *sum += f64::from(n) * f64::from(*m)));
        for (d, sum) in sum.iter().enumerate() {
            let wanted: f64 = rows.iter().skip(d).step_by(dim).map(|value| f64::from(*value)).sum();
            assert!((sum - wanted).abs() < 1e-3 * (1.0 + count as f64).sqrt(), "{sum} {wanted}");
        }
        for node in 0..tree.nodes {
            let least = if node == tree.root { 1 } else { least(tree.branching) };
            assert!((least..=tree.branching).contains(&tree.lens[node]), "{} entries", tree.lens[node]);
            if !tree.leaves[node] {
                for &slot in tree.entries_of(node) {
                    let below = tree.below[slot as usize] as usize;
                    let sum: u32 = tree.entries_of(below).iter().map(|&entry| tree.counts[entry as usize]).sum();
                    assert_eq!(sum, tree.counts[slot as usize]);
                }
            }
        }
    }

    #[test]
    fn a_tree_holds_every_token_within_its_room() {
        for (count, dim, branching, most) in [(9, 1, 4, 2), (500, 3, 4, 7), (2_000, 5, 10, 300), (3_000, 2, 50, 2_400), (700, 4, 5, 700)] {
            let rows = numbers(count * dim, 3);
            let mut tree = Tree::new(Isa::detect(), branching, most, dim);
            for threshold in [0.0, 0.05, 10.0] {
                tree.start(dim, threshold);
                rows.chunks_exact(dim).for_each(|row| tree.insert(row));
                assert!(tree.entries <= most);
                check(&mut tree, &rows, dim);
                let radius = tree.threshold.sqrt();
                tree.list();
                for &slot in &tree.order {
                    assert!((tree.spreads[slot as usize] / f64::from(tree.counts[slot as usize])).sqrt() <= radius + 1e-9);
                }
            }
        }
    }

    #[test]
    fn equal_tokens_are_one_entry() {
        let mut tree = Tree::new(Isa::detect(), 4, 3, 2);
        tree.start(2, 0.0);
        (0..1_000).for_each(|_| tree.insert(&[0.3, -0.1]));
        assert_eq!(tree.leaf_entries().map(|(count, _)| count).collect::<Vec<_>>(), [1_000]);
    }
}
