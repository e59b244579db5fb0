//! A view's frame resampled into a rectangle of another size, by the filter that made the view.

use crate::geometry::Content;
use crate::imaging::resample::bicubic;

/// The frame in a view `[side, side, 3]` → `width` × `height` pixels, each handed to `pixel` with its place, in raster order. One row is held.
pub fn fit(view: &[u8], side: usize, content: Content, (width, height): (usize, usize), pixel: &mut dyn FnMut(usize, usize, [u8; 3])) {
    let (columns, rows) = (bicubic(content.width, content.width as f64, width), bicubic(content.height, content.height as f64, height));
    let mut line = vec![0.0_f32; content.width * 3];
    for (y, (&start, weights)) in rows.starts.iter().zip(rows.weights.chunks_exact(rows.taps)).enumerate() {
        line.fill(0.0);
        for (at, &weight) in (start as usize..).zip(weights).filter(|(_, weight)| **weight != 0.0) {
            let from = &view[((content.top + at) * side + content.left) * 3..][..content.width * 3];
            line.iter_mut().zip(from).for_each(|(sum, &sample)| *sum += weight * f32::from(sample));
        }
        for (x, (&start, weights)) in columns.starts.iter().zip(columns.weights.chunks_exact(columns.taps)).enumerate() {
            let mut sums = [0.0; 3];
            for (at, &weight) in (start as usize..).zip(weights).filter(|(_, weight)| **weight != 0.0) {
                sums.iter_mut().zip(&line[at * 3..at * 3 + 3]).for_each(|(sum, value)| *sum += weight * value);
            }
            // To the nearest; a float becomes a byte by saturation.
            pixel(x, y, sums.map(|sum| (sum + 0.5) as u8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_is_the_same_picture_and_a_flat_one_stays_flat() {
        let content = Content { left: 1, top: 2, width: 5, height: 3 };
        let view: Vec<u8> = (0..8 * 8 * 3).map(|at| (at * 37 % 256) as u8).collect();
        let mut seen = 0;
        fit(&view, 8, content, (5, 3), &mut |x, y, found| {
            assert_eq!(found, view[((2 + y) * 8 + 1 + x) * 3..][..3]);
            seen += 1;
        });
        fit(&[77; 8 * 8 * 3], 8, content, (9, 2), &mut |_, _, found| {
            assert_eq!(found, [77; 3]);
            seen += 1;
        });
        assert_eq!(seen, 15 + 18);
    }
}
