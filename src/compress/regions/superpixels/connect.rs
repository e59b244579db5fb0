//! Each label keeps its largest connected part (four neighbours; of equal ones the first in raster order); all other pixels join what they touch.

use crate::units::Bytes;

const NONE: u32 = 0;

/// Memory for pictures of up to a fixed number of pixels and labels.
pub struct Connect {
    /// From 1.
    labels: Vec<u32>,
    /// The first pixel of a pixel's part.
    first: Vec<u32>,
    /// By label: pixels of its largest part, where that begins, and its number.
    largest: Vec<(u32, u32, u32)>,
}

impl Connect {
    pub fn new(max_pixels: usize, max_labels: usize) -> Self {
        Self { labels: vec![NONE; max_pixels], first: vec![0; max_pixels], largest: Vec::with_capacity(max_labels) }
    }

    /// What [`Self::new`] allocates.
    pub fn bytes(max_pixels: usize, max_labels: usize) -> Bytes {
        Bytes::of::<u32>(2 * max_pixels + 3 * max_labels)
    }

    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// `found`: labels below `count`, `[height][width]`.
    pub fn run(&mut self, found: &[u32], width: usize, count: usize) {
        let (labels, first) = (&mut self.labels[..found.len()], &mut self.first[..found.len()]);
        parts(found, width, first);
        // How many pixels each part has, at its first pixel.
        labels.fill(0);
        first.iter().for_each(|&first| labels[first as usize] += 1);
        self.largest.clear();
        self.largest.resize(count, (0, 0, NONE));
        for (at, (&len, &label)) in (0_u32..).zip(labels.iter().zip(found)) {
            let best = &mut self.largest[label as usize];
            if len > best.0 {
                *best = (len, at, NONE);
            }
        }
        self.largest.iter_mut().filter(|best| best.0 > 0).zip(1..).for_each(|(best, number)| best.2 = number);
        for ((label, &first), &found) in labels.iter_mut().zip(&*first).zip(found) {
            let (_, kept, number) = self.largest[found as usize];
            *label = if first == kept { number } else { NONE };
        }
        // Down from the left and from above, then up from the right and from below: a pixel that the first pass leaves has none to the left or above,
        // so the lower right corner has one, and the second pass reaches all.
        for at in 0..labels.len() {
            if labels[at] == NONE {
                let left = if at % width > 0 { labels[at - 1] } else { NONE };
                labels[at] = if left == NONE && at >= width { labels[at - width] } else { left };
            }
        }
        for at in (0..labels.len()).rev() {
            if labels[at] == NONE {
                let right = if (at + 1) % width > 0 { labels[at + 1] } else { NONE };
                labels[at] = if right == NONE && at + width < labels.len() { labels[at + width] } else { right };
            }
        }
    }
}

/// `first[i]`: the first pixel of the connected part that pixel i is in.
fn parts(found: &[u32], width: usize, first: &mut [u32]) {
    for (y, row) in found.chunks_exact(width).enumerate() {
        for x in 0..width {
            let at = y * width + x;
            let left = (x > 0 && row[x - 1] == row[x]).then(|| first[at - 1]);
            let above = (y > 0 && found[at - width] == row[x]).then(|| first[at - width]);
            first[at] = match (left, above) {
                (None, None) => at as u32,
                (Some(one), None) | (None, Some(one)) => one,
                (Some(left), Some(above)) if left == above => left,
                (Some(left), Some(above)) => {
                    let (a, b) = (root(first, left), root(first, above));
                    first[a.max(b) as usize] = a.min(b);
                    a.min(b)
                }
            };
        }
    }
    // A parent stands before its pixel, so it is a root by the time its pixel comes.
    for at in 0..first.len() {
        first[at] = first[first[at] as usize];
    }
}

fn root(first: &[u32], mut at: u32) -> u32 {
    while first[at as usize] != at {
        at = first[at as usize];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_part_stays_and_the_rest_joins_a_neighbour() {
        #[rustfmt::skip]
        let found = [
            0, 0, 1, 0,
            0, 1, 1, 1,
            3, 3, 1, 0,
        ];
        let mut connect = Connect::new(12, 4);
        connect.run(&found, 4, 4);
        #[rustfmt::skip]
        let wanted = [
            1, 1, 2, 2,
            1, 2, 2, 2,
            3, 3, 2, 2,
        ];
        assert_eq!(connect.labels(), wanted);
    }

    #[test]
    fn what_lies_before_all_kept_parts_is_reached() {
        // A pixel of 1 at the upper left, cut off from four at the lower right.
        let found = [1, 0, 0, 0, 0, 1, 1, 1, 1];
        let mut connect = Connect::new(9, 2);
        connect.run(&found, 3, 2);
        assert_eq!(connect.labels(), [1, 1, 1, 1, 1, 2, 2, 2, 2]);
    }
}
