//! Anchor scores at the tokens of a finer view (Eq. 16).

use crate::geometry::Grid;

/// Bilinear: `x = (u + ½)·U_1/U_s − ½`, likewise y, with the four indices clamped to the anchor's grid (the paper's upper ones run over its edge).
/// `anchor`: `[U_1²]`, raster; `out`: `[U_s²]`, in the order of `grid`.
pub fn align(anchor: &[f32], anchor_side: usize, grid: Grid, out: &mut [f32]) {
    let side = grid.side;
    assert_eq!((anchor.len(), out.len()), (anchor_side * anchor_side, side * side), "grids of the wrong size");
    if anchor_side == side {
        // x is u and every weight 0 or 1, but for rounding.
        return grid.renumber(anchor, out);
    }
    let axis = |u: usize| {
        let x = (u as f32 + 0.5) * (anchor_side as f32 / side as f32) - 0.5;
        let low = x.floor();
        let clamp = |index: f32| (index.max(0.0) as usize).min(anchor_side - 1);
        (clamp(low), clamp(low + 1.0), x - low)
    };
    // One term times (1 − t) plus the other times t would move a constant map by an ulp; a step from the first doesn't.
    let between = |a: f32, b: f32, t: f32| (b - a).mul_add(t, a);
    for v in 0..side {
        let (y0, y1, ty) = axis(v);
        let (upper, lower) = (&anchor[y0 * anchor_side..][..anchor_side], &anchor[y1 * anchor_side..][..anchor_side]);
        for u in 0..side {
            let (x0, x1, tx) = axis(u);
            out[grid.token(u, v)] = between(between(upper[x0], upper[x1], tx), between(lower[x0], lower[x1], tx), ty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::TokenOrder;

    fn raster(side: usize) -> Grid {
        Grid { side, tile: 1, order: TokenOrder::Raster }
    }

    #[test]
    fn a_constant_stays_and_the_anchor_maps_onto_itself() {
        let mut out = vec![0.0; 288 * 288];
        align(&[0.1; 48 * 48], 48, raster(288), &mut out);
        assert!(out.iter().all(|&value| (value - 0.1).abs() <= f32::EPSILON * 0.1));
        let anchor: Vec<f32> = (0..9).map(|value| value as f32 / 7.0).collect();
        let mut out = vec![0.0; 9];
        align(&anchor, 3, raster(3), &mut out);
        assert_eq!(out, anchor);
    }

    #[test]
    fn doubling_a_ramp_by_hand() {
        // x = (u + ½)/2 − ½ = −¼, ¼, ¾, 1¼ over [0, 1], clamped at both edges.
        let mut out = [0.0; 16];
        align(&[0.0, 1.0, 0.0, 1.0], 2, raster(4), &mut out);
        assert_eq!(out[..4], [0.0, 0.25, 0.75, 1.0]);
        assert_eq!(out[12..], [0.0, 0.25, 0.75, 1.0]);
        // Tile by tile: the same values at other numbers.
        align(&[0.0, 1.0, 0.0, 1.0], 2, Grid { side: 4, tile: 2, order: TokenOrder::TileMajor }, &mut out);
        assert_eq!(out[..8], [0.0, 0.25, 0.0, 0.25, 0.75, 1.0, 0.75, 1.0]);
    }
}
