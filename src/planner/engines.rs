//! What engines that are built for a profile and a model must take.

use crate::config::{Model, Profile};
use crate::engine::tensorrt::Limits;
use crate::planner::{BudgetError, budget, positions};
use crate::units::{Tiles, Tokens};

/// The most of each dimension that the pipeline hands over at once: tiles one by one.
///
/// # Errors
/// As [`budget`], of the profile's own.
pub fn engine_limits(profile: &Profile, model: &impl Model) -> Result<Limits, BudgetError> {
    let positions = positions(profile, model);
    let usual = budget(None, profile, model)?.total() + profile.tokens.max_text;
    Ok(Limits {
        positions,
        usual: usual.min(positions),
        chunk: profile.engines.projection_chunk.min(positions),
        visual: model.shape().tokens(0),
        tiles: Tiles(1),
        clusters: profile.compression.clusters,
        budget: profile.tokens.max_visual.max(Tokens(1)),
    })
}
