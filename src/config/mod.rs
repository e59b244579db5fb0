//! What is set beforehand: the device profile, the model's manifest and token budgets, each parsed once into a type that can't be invalid.
//!
//! # Why
//! `XFile` is the text as written (kebab-case, unknown keys refused); `X` is what the rest of the house gets, and needs no second look.

mod budget;
mod device;
mod link;
mod manifest;
mod policy;
mod profile;
mod serve;
mod spec;

use std::path::PathBuf;

pub use budget::{Budget, PRESETS};
pub use device::{Device, LadderStep, Qualification, Thermal};
pub use link::{Link, LinkAddress, LinkLine};
pub use manifest::{BUILT_FOLDER, DecoderGraphs, Digest, GraphFile, Graphs, Language, Manifest, Prompt, SelfTest, Vision, package_files};
pub use policy::{ClusterOn, ClusterRule, ImportanceRows, Keep, POLICIES, Padding, Policy, Start, Stop};
pub use profile::{Bands, Birch, Compression, EngineKind, Engines, FrameLimits, Profile, Shim, TokenLimits};
pub use serve::{JournalSettings, LogLevel, Serve};
pub use spec::{FOUR_BITS, Model, Networks, Spec};

use crate::units::Tokens;

/// The user's folder for what uhr-edge keeps: below `$xdg`, else below `~/usual` (XDG Base Directory Specification). `None`: no home either.
#[must_use]
pub fn user_folder(xdg: &str, usual: &str) -> Option<PathBuf> {
    let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    home(xdg).or_else(|| home("HOME").map(|home| home.join(usual))).map(|base| base.join("uhr-edge"))
}

/// What is wrong with a setting, with what was wanted and what was there.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {key} = {found}: wanted {wanted}")]
    Value { path: PathBuf, key: &'static str, found: String, wanted: String },
    #[error("profile {name:?}: wanted one of {known}, or a file ending in .toml")]
    NoProfile { name: String, known: String },
    #[error("{path}: the manifest lists no {file:?} under [files]; every file of a package has its sha256 there")]
    Unlisted { path: PathBuf, file: String },
    #[error("{path}: sha256 wanted {wanted}, found {found}")]
    Digest { path: PathBuf, wanted: String, found: String },
    #[error("{path}: wanted a package with its files, found a spec: it has a model's sizes and no weights, and only `plan` takes it")]
    NoWeights { path: PathBuf },
    #[error("budget {found:?}: wanted {wanted}")]
    Budget { found: String, wanted: String },
    #[error("budget {wanted}, the {limit} allows {allowed}")]
    OverBudget { wanted: Tokens, allowed: Tokens, limit: &'static str },
    #[error("budget of 0 tokens: wanted at least 1 in all")]
    ZeroBudget,
}

/// Reads the TOML file at `path` as `T`.
fn parse<T: serde::de::DeserializeOwned>(path: &std::path::Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}
