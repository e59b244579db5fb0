//! Eq. 5: where a token lies and in which view, added to its projected features.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// A positions file that isn't `p` `[G,G,d]` and `q` `[S,d]` in f32.
#[derive(Debug, thiserror::Error)]
pub enum PositionsError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("{path}: tensor {tensor}: wanted {wanted}, found {found}")]
    Tensor { path: PathBuf, tensor: &'static str, wanted: String, found: String },
}

/// The base grid p `[G,G,d]` and the scale table q `[S,d]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    grid: usize,
    dim: usize,
    base: Vec<f32>,
    scale: Vec<f32>,
}

impl Positions {
    /// Reads `path`, which must fit `views` views and rows of `dim` values.
    pub fn load(path: &Path, views: usize, dim: usize) -> Result<Self, PositionsError> {
        let bytes = std::fs::read(path).map_err(|source| PositionsError::Read { path: path.to_owned(), source })?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| PositionsError::Format { path: path.to_owned(), reason: error.to_string() })?;
        let tensor = |name: &'static str, wanted: String, fits: &dyn Fn(&[usize]) -> bool| {
            let refuse = |found: String| PositionsError::Tensor { path: path.to_owned(), tensor: name, wanted: wanted.clone(), found };
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
        let (shape, base) = tensor("p", format!("F32 [G, G, {dim}]"), &|s| matches!(s, &[a, b, d] if a == b && a > 0 && d == dim))?;
        let (_, scale) = tensor("q", format!("F32 [{views}, {dim}]"), &|s| s == [views, dim])?;
        Ok(Self { grid: shape[0], dim, base, scale })
    }

    /// Values held, to reckon memory with.
    #[must_use]
    pub fn values(&self) -> usize {
        self.base.len() + self.scale.len()
    }

    /// Adds p at `centre` (in `[0,1]²` of the whole view, bilinear, clamped at the grid's edge) and q of `view` to `row`, once.
    pub fn add(&self, view: usize, centre: (f32, f32), row: &mut [f32]) {
        let axis = |at: f32| {
            let at = at * self.grid as f32 - 0.5;
            let low = at.floor();
            let clamp = |index: f32| (index.max(0.0) as usize).min(self.grid - 1);
            (clamp(low), clamp(low + 1.0), at - low)
        };
        let ((x0, x1, tx), (y0, y1, ty)) = (axis(centre.0), axis(centre.1));
        let corner = |x: usize, y: usize| &self.base[(y * self.grid + x) * self.dim..][..self.dim];
        let corners = [
            (corner(x0, y0), (1.0 - tx) * (1.0 - ty)),
            (corner(x1, y0), tx * (1.0 - ty)),
            (corner(x0, y1), (1.0 - tx) * ty),
            (corner(x1, y1), tx * ty),
        ];
        for (j, (value, scale)) in row.iter_mut().zip(&self.scale[view * self.dim..][..self.dim]).enumerate() {
            *value += scale + corners.iter().map(|(corner, weight)| corner[j] * weight).sum::<f32>();
        }
    }
}
