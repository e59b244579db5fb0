//! Eq. 5: where a token lies and in which view, added to its projected features, in the paper's form or in that of the authors' checkpoints.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::geometry::{Coordinates, Grid};
use crate::kernels::map_file;

/// A positions file that is in neither of the two forms of [`Positions`].
#[derive(Debug, thiserror::Error)]
pub enum PositionsError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("{path}: tensor {tensor}: wanted {wanted}, found {found}")]
    Tensor { path: PathBuf, tensor: String, wanted: String, found: String },
}

/// What a row is made for: the authors' code adds something else to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowUse {
    /// The pass that importance is read from.
    Importance,
    /// Regions, and the tokens that are kept.
    Selection,
}

/// What is added to a token's row, in one of two forms.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Eq. 5 as it is written: the base grid p `[G,G,d]`, bilinear over the whole view, and the scale table q `[S,d]`.
    View { grid: usize, dim: usize, base: Vec<f32>, scale: Vec<f32> },
    /// As the authors' code has it: rows by a token's place in its tile, `[P,d]` each or none, of the anchor in the pass for importance, and of each view elsewhere.
    Tile { dim: usize, anchor: Vec<f32>, views: Vec<Vec<f32>> },
}

impl Positions {
    /// Reads `path`, which must fit `views` views of tiles of `tile` tokens and rows of `dim` values: tensors `p` and `q`, or `anchor`, `view1`, `view2` …,
    /// of which any may be missing.
    pub fn load(path: &Path, views: usize, tile: usize, dim: usize) -> Result<Self, PositionsError> {
        let bytes = map_file(path).map_err(|source| PositionsError::Read { path: path.to_owned(), source })?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| PositionsError::Format { path: path.to_owned(), reason: error.to_string() })?;
        let tensor = |name: &str, wanted: String, fits: &dyn Fn(&[usize]) -> bool| {
            let refuse =
                |found: String| PositionsError::Tensor { path: path.to_owned(), tensor: name.into(), wanted: wanted.clone(), found };
            let view = file.tensor(name).map_err(|_| refuse("none".into()))?;
            if view.dtype() != Dtype::F32 || !fits(view.shape()) {
                return Err(refuse(format!("{:?} {:?}", view.dtype(), view.shape())));
            }
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect();
            if values.iter().any(|value| !value.is_finite()) {
                return Err(refuse("a value that is not finite".into()));
            }
            Ok((view.shape().to_vec(), values))
        };
        let names = file.names();
        let of_view = |name: &str| (1..=views).any(|number| name == format!("view{number}"));
        if !names.is_empty() && names.iter().all(|name| *name == "anchor" || of_view(name)) {
            let table = |name: &str| {
                let read = || tensor(name, format!("F32 [{tile}, {dim}]"), &|shape| shape == [tile, dim]);
                if names.contains(&name) { read().map(|(_, values)| values) } else { Ok(Vec::new()) }
            };
            let views = (1..=views).map(|number| table(&format!("view{number}"))).collect::<Result<_, _>>()?;
            return Ok(Self::Tile { dim, anchor: table("anchor")?, views });
        }
        if let Some(other) = names.iter().find(|name| !["p", "q"].contains(name)) {
            let wanted = format!("p and q, or some of anchor and view1 to view{views}");
            return Err(PositionsError::Tensor { path: path.to_owned(), tensor: other.to_string(), wanted, found: "another name".into() });
        }
        let (shape, base) = tensor("p", format!("F32 [G, G, {dim}]"), &|s| matches!(s, &[a, b, d] if a == b && a > 0 && d == dim))?;
        let (_, scale) = tensor("q", format!("F32 [{views}, {dim}]"), &|s| s == [views, dim])?;
        Ok(Self::View { grid: shape[0], dim, base, scale })
    }

    /// Adds what belongs to `tokens` of view number `view`, whose tokens lie in `grid`, to their `rows`, once. A token's place in the view is as `coordinates` has it.
    pub fn add(
        &self,
        to: RowUse,
        (view, grid): (usize, Grid),
        coordinates: Coordinates,
        tokens: impl IntoIterator<Item = u32>,
        rows: &mut [f32],
    ) {
        match self {
            Self::View { grid: side, dim, base, scale } => {
                for (token, row) in tokens.into_iter().zip(rows.chunks_exact_mut(*dim)) {
                    add_at((*side, base), &scale[view * dim..][..*dim], grid.centre(token, coordinates), row);
                }
            }
            Self::Tile { dim, anchor, views } => {
                let table = if to == RowUse::Importance { anchor } else { &views[view] };
                if table.is_empty() {
                    return;
                }
                for (token, row) in tokens.into_iter().zip(rows.chunks_exact_mut(*dim)) {
                    let (x, y) = grid.place(token);
                    let place = y % grid.tile * grid.tile + x % grid.tile;
                    row.iter_mut().zip(&table[place * dim..]).for_each(|(value, added)| *value += added);
                }
            }
        }
    }
}

/// Of the first form: p `[side, side, d]` at `centre` (in `[0,1]²`, bilinear, clamped at the grid's edge) and `scale`, q of the row's view.
fn add_at((side, base): (usize, &[f32]), scale: &[f32], centre: (f32, f32), row: &mut [f32]) {
    let axis = |at: f32| {
        let at = at * side as f32 - 0.5;
        let low = at.floor();
        let clamp = |index: f32| (index.max(0.0) as usize).min(side - 1);
        (clamp(low), clamp(low + 1.0), at - low)
    };
    let ((x0, x1, tx), (y0, y1, ty)) = (axis(centre.0), axis(centre.1));
    let corner = |x: usize, y: usize| &base[(y * side + x) * scale.len()..][..scale.len()];
    let corners = [
        (corner(x0, y0), (1.0 - tx) * (1.0 - ty)),
        (corner(x1, y0), tx * (1.0 - ty)),
        (corner(x0, y1), (1.0 - tx) * ty),
        (corner(x1, y1), tx * ty),
    ];
    for (j, (value, scale)) in row.iter_mut().zip(scale).enumerate() {
        *value += scale + corners.iter().map(|(corner, weight)| corner[j] * weight).sum::<f32>();
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::geometry::TokenOrder;

    fn file(tensors: &[(&str, &[usize], Vec<f32>)]) -> tempfile::NamedTempFile {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
        file
    }

    #[test]
    fn the_authors_tables_are_added_by_the_place_in_a_tile() {
        let table = |from: f32| (0..8).map(|at| from + at as f32).collect::<Vec<_>>();
        let file = file(&[("anchor", &[4, 2], table(10.0)), ("view2", &[4, 2], table(100.0))]);
        let positions = Positions::load(file.path(), 2, 4, 2).unwrap();
        let rows = |to, view, order, tokens: &[u32]| {
            let mut rows = vec![1.0; tokens.len() * 2];
            positions.add(to, (view, Grid { side: 4, tile: 2, order }), Coordinates::Tile, tokens.iter().copied(), &mut rows);
            rows
        };
        // Tile by tile, token 6 is the third of the second tile; row by row, tokens 0 and 2 are the first of two.
        assert_eq!(rows(RowUse::Importance, 0, TokenOrder::TileMajor, &[6, 3]), [15.0, 16.0, 17.0, 18.0]);
        assert_eq!(rows(RowUse::Selection, 1, TokenOrder::Raster, &[0, 2, 5]), [101.0, 102.0, 101.0, 102.0, 107.0, 108.0]);
        assert_eq!(rows(RowUse::Selection, 0, TokenOrder::Raster, &[5]), [1.0, 1.0]);
    }

    #[test]
    fn tables_that_do_not_fit_are_refused_by_name() {
        let cases: [(&[(&str, &[usize], Vec<f32>)], &str); 4] = [
            (&[("anchor", &[4, 3], vec![0.0; 12])], "anchor: wanted F32 [4, 2], found F32 [4, 3]"),
            (&[("view3", &[4, 2], vec![0.0; 8])], "view3: wanted p and q, or some of anchor and view1 to view2"),
            (&[("p", &[1, 1, 2], vec![0.0; 2]), ("anchor", &[4, 2], vec![0.0; 8])], "anchor: wanted p and q"),
            (&[("view1", &[4, 2], vec![f32::NAN; 8])], "view1: wanted F32 [4, 2], found a value that is not finite"),
        ];
        for (tensors, wanted) in cases {
            let found = Positions::load(file(tensors).path(), 2, 4, 2).unwrap_err().to_string();
            assert!(found.contains(wanted), "{found}");
        }
    }
}
