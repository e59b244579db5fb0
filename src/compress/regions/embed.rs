//! What the clustering methods cluster (Eq. 13): `u = [λ_f·f/‖f‖₂, λ_xy·x, λ_xy·y]` of a token with its centre in `[0,1]²`; a zero feature stays zero.

use crate::compress::CompressError;
use crate::compress::regions::ViewFeatures;

/// The weights of features and of place.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    pub lambda_feature: f32,
    pub lambda_position: f32,
}

impl Embedding {
    /// Writes u of `token` to `out` `[dim + 2]`.
    pub fn row(self, view: &ViewFeatures<'_>, token: u32, out: &mut [f32]) {
        let (feature, place) = out.split_at_mut(view.dim);
        view.rows.copy(token as usize, feature);
        let norm = feature.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { (f64::from(self.lambda_feature) / norm) as f32 } else { 0.0 };
        feature.iter_mut().for_each(|value| *value *= scale);
        let side = view.side;
        let centre = |at: usize| self.lambda_position * ((at as f32 + 0.5) / side as f32);
        place.copy_from_slice(&[centre(token as usize % side), centre(token as usize / side)]);
    }
}

/// Refuses a view whose rows, grid and labels don't agree.
pub fn check_view(view: &ViewFeatures<'_>, labels: &[u32]) -> Result<(), CompressError> {
    let wanted = labels.len() * view.dim;
    if view.rows.len() != wanted || view.side * view.side != labels.len() {
        return Err(CompressError::Length { what: "clustering features", wanted, found: view.rows.len() });
    }
    Ok(())
}
