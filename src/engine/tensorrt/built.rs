//! A folder of engines that were built from a package on one device, and the record of what they were built from, for and by.
//!
//! ```text
//! PLANS/PACKAGE/10.3.0.30-sm87/engines.toml, encoder.plan, projector.plan, …
//! ```
//! The record is written anew, whole, when a plan has its place; each plan is sealed (`plan.rs`).
//!
//! # Why
//! Engines are of one TensorRT and one GPU, a package is of none, so they stand apart: what is carried from machine to machine is the package. A plan
//! holds code for the GPU, and the record is no signature: the folder is trusted as the program itself is.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::config::{Manifest, user_folder};
use crate::engine::tensorrt::Identity;
use crate::engine::tensorrt::graphs::{Form, Graph, Limits};
use crate::engine::tensorrt::plan::{Plan, PlanError, SEAL, Whole, sealed_by};
use crate::kernels::map_file;
use crate::units::Bytes;

/// The record's name.
pub const RECORD: &str = "engines.toml";
const FORMAT: u32 = 1;
/// The longest record that is read.
const MAX_RECORD: Bytes = Bytes(1 << 20);
/// What to do about engines that aren't as wanted.
const HOW: &str = "`uhr-edge --profile P --model DIR model build-engines` on the device builds them";

/// What of the engines is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum BuiltError {
    #[error("engines: wanted engines.plans in the profile, or a home, found neither")]
    NoPlace,
    #[error("package {package}: wanted graphs under [tensorrt], found none: tools/export writes them")]
    NoGraphs { package: String },
    #[error("{path}: wanted engines of the package {package} for {wanted}, found no {RECORD}: {HOW}")]
    Missing { path: PathBuf, package: String, wanted: Identity },
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}: {HOW}")]
    Record { path: PathBuf, reason: String },
    #[error("{path}: wanted engines of the package {wanted}, found those of {found}: {HOW}")]
    Package { path: PathBuf, wanted: String, found: String },
    #[error("{path}: wanted engines for {wanted}, found those for {found}: {HOW}")]
    Device { path: PathBuf, wanted: Identity, found: Identity },
    #[error("{path}: wanted engines for {wanted} {what}, found those for {found}: {HOW} with a profile that needs as many")]
    Limits { path: PathBuf, what: &'static str, wanted: u32, found: u32 },
    #[error("{path}: wanted an engine of {graph}, found none: {HOW}")]
    NoEngine { path: PathBuf, graph: Graph },
    #[error("{path}: wanted the engine of a graph with sha256 {wanted}, found that of {found}: {HOW}")]
    Source { path: PathBuf, wanted: String, found: String },
    #[error("{path}: wanted a plan of {wanted}, found a file of {found}: {HOW}")]
    Length { path: PathBuf, wanted: Bytes, found: Bytes },
    #[error("{path}: wanted the plan with sha256 {wanted}, found that with {found}: {HOW}")]
    Other { path: PathBuf, wanted: String, found: String },
    #[error("{path}: {source}: {HOW}")]
    Plan { path: PathBuf, source: PlanError },
}

impl BuiltError {
    /// What is there is not what was built.
    #[must_use]
    pub fn damaged(&self) -> bool {
        matches!(self, Self::Record { .. } | Self::Length { .. } | Self::Other { .. } | Self::Plan { .. })
    }
}

/// `engines.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    pub format: u32,
    pub package: String,
    /// SHA-256 of the package's manifest.
    pub manifest: String,
    /// Major, minor, patch, build.
    pub tensorrt: [u32; 4],
    pub compute: [u32; 2],
    /// In the shim's words.
    pub gpu: String,
    pub builder: String,
    /// In the builder's own words.
    pub builder_version: String,
    pub limits: Limits,
    #[serde(default)]
    pub graphs: BTreeMap<String, Entry>,
}

/// An engine of the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Entry {
    /// In the record's folder.
    pub file: String,
    /// SHA-256 of the graph.
    pub source: String,
    /// SHA-256 of the file of weights that it refers to.
    pub weights: Option<String>,
    /// What its dimensions were bound to.
    pub shapes: String,
    /// SHA-256 of the plan, without its seal.
    pub plan: String,
    /// The same of its length.
    pub bytes: Bytes,
    /// That the builder took.
    pub seconds: f64,
}

impl Record {
    /// Of nothing built yet.
    #[must_use]
    pub fn new(manifest: &Manifest, identity: &Identity, limits: Limits) -> Self {
        Self {
            format: FORMAT,
            package: manifest.name.clone(),
            manifest: manifest.digest.to_string(),
            tensorrt: identity.tensorrt,
            compute: identity.compute,
            gpu: String::new(),
            builder: String::new(),
            builder_version: String::new(),
            limits,
            graphs: BTreeMap::new(),
        }
    }

    /// The record of `folder`; `None` where there is none.
    ///
    /// # Errors
    /// One that can't be read, or isn't one.
    pub fn read(folder: &Path) -> Result<Option<Self>, BuiltError> {
        let path = folder.join(RECORD);
        let failed = |source| BuiltError::Read { path: path.clone(), source };
        let refused = |reason: String| BuiltError::Record { path: path.clone(), reason };
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_file() => return Err(refused("wanted a file, found something else".into())),
            Ok(found) if Bytes(found.len()) > MAX_RECORD => {
                return Err(refused(format!("wanted at most {MAX_RECORD}, found {}", Bytes(found.len()))));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let mut text = String::new();
        std::fs::File::open(&path).and_then(|file| file.take(MAX_RECORD.0).read_to_string(&mut text)).map_err(failed)?;
        let record: Self = toml::from_str(&text).map_err(|error| refused(error.to_string()))?;
        if record.format != FORMAT {
            return Err(refused(format!("format = {}: wanted {FORMAT}", record.format)));
        }
        for (name, entry) in &record.graphs {
            let wanted = format!("{name}.plan");
            if Graph::named(name).is_none() || entry.file != wanted {
                return Err(refused(format!("graphs.{name}.file = {:?}: wanted {wanted:?} of a graph that packages have", entry.file)));
            }
        }
        Ok(Some(record))
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { tensorrt: self.tensorrt, compute: self.compute }
    }
}

/// Where engines of all packages stand: what the profile names, else `$XDG_DATA_HOME/uhr-edge/engines` or `~/.local/share/uhr-edge/engines`. `None`: no home
/// either.
///
/// # Why
/// A plan is code for the GPU. Only what was built here is run: never what came with a package.
#[must_use]
pub fn plans_folder(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| user_folder("XDG_DATA_HOME", ".local/share").map(|own| own.join("engines")))
}

/// Where in `plans` the engines of a package for `identity` stand.
#[must_use]
pub fn built_in(plans: &Path, package: &str, identity: &Identity) -> PathBuf {
    let [major, minor, patch, build] = identity.tensorrt;
    let [sm, minor_sm] = identity.compute;
    of_package(plans, package).join(format!("{major}.{minor}.{patch}.{build}-sm{sm}{minor_sm}"))
}

/// Where in `plans` the engines of a package stand, a folder a device. What its name has beside letters, digits, - and _ becomes _.
#[must_use]
pub fn of_package(plans: &Path, package: &str) -> PathBuf {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_".contains(letter) { letter } else { '_' };
    plans.join(package.chars().map(plain).collect::<String>())
}

/// Engines of a package for one device, none of them loaded.
#[derive(Clone, Debug)]
pub struct Built {
    folder: PathBuf,
    identity: Identity,
    form: Form,
    record: Record,
}

/// A plan that was held to its seal and to its record, mapped.
pub struct WholePlan(Mmap);

impl<'a> From<&'a WholePlan> for Plan<'a> {
    fn from(plan: &'a WholePlan) -> Self {
        Self::Whole(Whole::of(&plan.0))
    }
}

impl Built {
    /// The engines in `folder`, of the package `manifest` and for `identity`. Plans are looked at for their length only: [`Self::plan`] reads one.
    ///
    /// # Errors
    /// Engines of another package, device or graph, one that is missing, or has another length, each with what to do.
    pub fn open(folder: &Path, manifest: &Manifest, identity: &Identity) -> Result<Self, BuiltError> {
        let Some(graphs) = &manifest.tensorrt else { return Err(BuiltError::NoGraphs { package: manifest.name.clone() }) };
        let path = folder.join(RECORD);
        let missing = || BuiltError::Missing { path: folder.to_owned(), package: manifest.name.clone(), wanted: *identity };
        let record = Record::read(folder)?.ok_or_else(missing)?;
        let id = |name: &str, digest: &str| format!("{name}@{digest}");
        let (wanted, found) = (id(&manifest.name, &manifest.digest.to_string()), id(&record.package, &record.manifest));
        if wanted != found {
            return Err(BuiltError::Package { path, wanted, found });
        }
        if record.identity() != *identity {
            return Err(BuiltError::Device { path, wanted: *identity, found: record.identity() });
        }
        let form = Form::of(identity, graphs);
        let built = Self { folder: folder.to_owned(), identity: *identity, form, record };
        for graph in Graph::ALL {
            let Some(source) = graph.file(graphs, form) else { continue };
            let Some(entry) = built.record.graphs.get(graph.name()) else {
                if graph.needed() {
                    return Err(BuiltError::NoEngine { path, graph });
                }
                continue;
            };
            let told =
                |source: String, weights: Option<String>| weights.map_or(source.clone(), |weights| format!("{source} and {weights}"));
            let wanted = told(source.digest.to_string(), graph.weights(graphs).map(|weights| weights.digest.to_string()));
            let found = told(entry.source.clone(), entry.weights.clone());
            let path = built.folder.join(&entry.file);
            if wanted != found {
                return Err(BuiltError::Source { path, wanted, found });
            }
            let found = std::fs::metadata(&path).map_err(|source| BuiltError::Read { path: path.clone(), source })?.len();
            let wanted = Bytes(entry.bytes.0.saturating_add(SEAL as u64));
            if found != wanted.0 {
                return Err(BuiltError::Length { path, wanted, found: Bytes(found) });
            }
        }
        Ok(built)
    }

    /// Whether the engines do for `wanted`.
    ///
    /// # Errors
    /// The first limit that is less; other positions than those of caches that are written in place.
    pub fn serves(&self, wanted: &Limits) -> Result<(), BuiltError> {
        let path = || self.folder.join(RECORD);
        let found = self.record.limits.positions;
        let other = self.form == Form::InPlace && found != wanted.positions;
        let other = other.then_some(("positions, as many as that", wanted.positions.0, found.0));
        let lacks = other.or_else(|| self.record.limits.lacks(wanted));
        lacks.map_or(Ok(()), |(what, wanted, found)| Err(BuiltError::Limits { path: path(), what, wanted, found }))
    }

    /// That of the decoder's.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether there is an engine of `graph`. Those that a package can't do without are there.
    #[must_use]
    pub fn has(&self, graph: Graph) -> bool {
        self.record.graphs.contains_key(graph.name())
    }

    /// The plan of `graph`, read to its end: built for this device, whole, and the one that was recorded.
    ///
    /// # Errors
    /// None of it, or another than was built.
    pub fn plan(&self, graph: Graph) -> Result<WholePlan, BuiltError> {
        let none = || BuiltError::NoEngine { path: self.folder.join(RECORD), graph };
        let entry = self.record.graphs.get(graph.name()).ok_or_else(none)?;
        let path = self.folder.join(&entry.file);
        let plan = map_file(&path).map_err(|source| BuiltError::Read { path: path.clone(), source })?;
        let found = sealed_by(&self.identity, &plan).map_err(|source| BuiltError::Plan { path: path.clone(), source })?;
        if found != entry.plan {
            return Err(BuiltError::Other { path, wanted: entry.plan.clone(), found });
        }
        Ok(WholePlan(plan))
    }
}
