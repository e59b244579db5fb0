//! The rules of compression that differ between the paper and a checkpoint: one knob a difference, two presets.

use serde::Deserialize;

use crate::geometry::{Coordinates, TokenOrder};

/// Whose rows of attention make a token's importance (Eq. 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportanceRows {
    /// The mean over all text tokens after the image.
    AllText,
    /// The prompt's last token.
    LastToken,
}

/// Which tokens of a region stand for themselves (Eq. 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Score ≥ the region's mean: at least one (Lemma 1).
    AtLeastMean,
    /// Score > the region's mean: none of a region of equal scores, which becomes one merged token.
    AboveMean,
}

/// What is clustered (Eq. 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterOn {
    /// The encoder's features.
    Features,
    /// Projected tokens, with Eq. 5 where the model has it.
    Projected,
}

/// Tokens that k-means starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// k-means++ on a seeded sample.
    PlusPlus,
    /// A seeded choice, each token as likely.
    Random,
}

/// When k-means ends, apart from its most iterations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// No label changes.
    Labels,
    /// Every coordinate of every centre moved by at most 1e-8 + 1e-5 of its value.
    Centres,
}

/// Clusters of a view with a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterRule {
    /// The profile's number, or the budget where that is less (§3.3 wants `B_s ≥ R_s`).
    WithinBudget,
    /// The profile's number, whatever the budget.
    AsSet,
}

/// Tokens whose whole patch is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// In no region, no mean and no budget.
    Masked,
    /// Ordinary tokens.
    Kept,
}

/// The rules in force, by name in receipts.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: String,
    pub importance: ImportanceRows,
    pub keep: Keep,
    pub order: TokenOrder,
    /// Of Eq. 13, and of Eq. 5's base grid.
    pub coordinates: Coordinates,
    pub cluster_on: ClusterOn,
    pub start: Start,
    pub stop: Stop,
    pub clusters: ClusterRule,
    pub padding: Padding,
}

/// The names of the presets.
pub const POLICIES: [&str; 2] = ["paper", "released"];

impl Policy {
    /// UHR-BAT as its paper has it.
    #[must_use]
    pub fn paper() -> Self {
        Self {
            name: POLICIES[0].into(),
            importance: ImportanceRows::AllText,
            keep: Keep::AtLeastMean,
            order: TokenOrder::Raster,
            coordinates: Coordinates::View,
            cluster_on: ClusterOn::Features,
            start: Start::PlusPlus,
            stop: Stop::Labels,
            clusters: ClusterRule::WithinBudget,
            padding: Padding::Masked,
        }
    }

    /// As the authors' released checkpoint was run (UHR-BAT at commit e40a792).
    #[must_use]
    pub fn released() -> Self {
        Self {
            name: POLICIES[1].into(),
            importance: ImportanceRows::LastToken,
            keep: Keep::AboveMean,
            order: TokenOrder::TileMajor,
            coordinates: Coordinates::Tile,
            cluster_on: ClusterOn::Projected,
            start: Start::Random,
            stop: Stop::Centres,
            clusters: ClusterRule::AsSet,
            padding: Padding::Kept,
        }
    }

    /// A preset. `None` for a name that isn't one of [`POLICIES`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "paper" => Some(Self::paper()),
            "released" => Some(Self::released()),
            _ => None,
        }
    }
}

/// `compression.policy` of a manifest: a preset's name, or a preset and the knobs that differ from it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum PolicyFile {
    Name(String),
    Knobs(KnobsFile),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct KnobsFile {
    preset: String,
    importance: Option<ImportanceRows>,
    keep: Option<Keep>,
    order: Option<TokenOrder>,
    coordinates: Option<Coordinates>,
    cluster_on: Option<ClusterOn>,
    start: Option<Start>,
    stop: Option<Stop>,
    clusters: Option<ClusterRule>,
    padding: Option<Padding>,
}

impl PolicyFile {
    /// The policy, or the name that is no preset's.
    pub fn policy(&self) -> Result<Policy, String> {
        let knobs = match self {
            Self::Name(name) => return Policy::named(name).ok_or_else(|| name.clone()),
            Self::Knobs(knobs) => knobs,
        };
        let base = Policy::named(&knobs.preset).ok_or_else(|| knobs.preset.clone())?;
        Ok(Policy {
            importance: knobs.importance.unwrap_or(base.importance),
            keep: knobs.keep.unwrap_or(base.keep),
            order: knobs.order.unwrap_or(base.order),
            coordinates: knobs.coordinates.unwrap_or(base.coordinates),
            cluster_on: knobs.cluster_on.unwrap_or(base.cluster_on),
            start: knobs.start.unwrap_or(base.start),
            stop: knobs.stop.unwrap_or(base.stop),
            clusters: knobs.clusters.unwrap_or(base.clusters),
            padding: knobs.padding.unwrap_or(base.padding),
            name: format!("{} with knobs", base.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        policy: PolicyFile,
    }

    fn policy(text: &str) -> Result<Policy, String> {
        toml::from_str::<File>(text).map_err(|error| error.to_string())?.policy.policy()
    }

    #[test]
    fn presets_and_knobs() {
        assert_eq!(policy("policy = \"released\""), Ok(Policy::released()));
        assert_eq!(policy("policy = \"other\""), Err("other".into()));
        let mixed = policy("policy = { preset = \"paper\", keep = \"above-mean\" }").unwrap();
        assert_eq!((mixed.keep, mixed.order, &mixed.name[..]), (Keep::AboveMean, TokenOrder::Raster, "paper with knobs"));
        assert!(policy("policy = { preset = \"paper\", kept = \"above-mean\" }").is_err());
    }
}
