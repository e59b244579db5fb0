//! What the clustering methods cluster (Eq. 13): `u = [λ_f·f/‖f‖₂, λ_xy·x, λ_xy·y]` of a token with its centre in `[0,1]²`; a zero feature stays zero.

use std::ops::Range;

use crate::compress::regions::ViewFeatures;
use crate::compress::{CompressError, MASKED};
use crate::config::Compression;
use crate::kernels::{Isa, squares};

/// The weights of features and of place.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    pub lambda_feature: f32,
    pub lambda_position: f32,
}

impl Embedding {
    #[must_use]
    pub fn new(settings: &Compression) -> Self {
        Self { lambda_feature: settings.lambda_feature, lambda_position: settings.lambda_position }
    }

    /// Writes u of `token` to `out` `[dim + 2]`; a feature that is not finite stays so.
    pub fn row(self, view: &ViewFeatures<'_>, token: u32, out: &mut [f32]) {
        let feature = &mut out[..view.dim];
        view.rows.copy(token as usize, feature);
        let norm = squares(Isa::detect(), feature).sqrt();
        if norm.is_finite() {
            self.scaled(view, token, self.scale(norm), out);
        } else {
            // As it is: whoever asked looks for what is not finite.
            out[view.dim..].copy_from_slice(&self.place(view, token));
        }
    }

    /// λ_f/‖f‖ for a feature of norm `norm`.
    pub fn scale(self, norm: f64) -> f32 {
        if norm > 0.0 { (f64::from(self.lambda_feature) / norm) as f32 } else { 0.0 }
    }

    /// As [`Self::row`], with the feature's scale known.
    pub fn scaled(self, view: &ViewFeatures<'_>, token: u32, scale: f32, out: &mut [f32]) {
        let (feature, place) = out.split_at_mut(view.dim);
        view.rows.copy_scaled(Isa::detect(), token as usize * view.dim, scale, feature);
        place.copy_from_slice(&self.place(view, token));
    }

    /// Coordinates `columns` of u alone.
    pub fn part(self, view: &ViewFeatures<'_>, token: u32, scale: f32, columns: Range<usize>, out: &mut [f32]) {
        let features = columns.start.min(view.dim)..columns.end.min(view.dim);
        let (feature, rest) = out.split_at_mut(features.len());
        view.rows.copy_scaled(Isa::detect(), token as usize * view.dim + features.start, scale, feature);
        let place = self.place(view, token);
        rest.copy_from_slice(&place[columns.start.max(view.dim) - view.dim..][..rest.len()]);
    }

    /// λ_xy·x and λ_xy·y of `token`.
    #[must_use]
    pub fn place(self, view: &ViewFeatures<'_>, token: u32) -> [f32; 2] {
        let (x, y) = view.grid.coordinate(token, view.coordinates);
        [self.lambda_position * x, self.lambda_position * y]
    }

    /// No ‖u‖ is above this.
    pub fn norm(self) -> f32 {
        self.lambda_position.hypot(self.lambda_position).hypot(self.lambda_feature) * 1.000_1
    }

    /// No coordinate of any u is above this, and it isn't 0.
    pub fn largest(self) -> f32 {
        let largest = self.lambda_feature.max(self.lambda_position);
        if largest > 0.0 { largest } else { 1.0 }
    }
}

/// The unmasked tokens, ascending, into `open`, which has room for them.
pub fn open_tokens(labels: &[u32], open: &mut Vec<u32>) {
    open.clear();
    open.extend(labels.iter().zip(0..).filter(|(label, _)| **label != MASKED).map(|(_, token)| token));
}

/// Refuses a view whose rows, grid and labels don't agree.
///
/// # Errors
/// [`CompressError::Length`].
pub fn check_view(view: &ViewFeatures<'_>, labels: &[u32]) -> Result<(), CompressError> {
    let wanted = labels.len() * view.dim;
    if view.rows.len() != wanted || view.grid.tokens() != labels.len() {
        return Err(CompressError::Length { what: "clustering features", wanted, found: view.rows.len() });
    }
    Ok(())
}
