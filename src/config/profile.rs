//! The device profile: memory, frame and token limits, engines and threads. One file a device in `firmware-config/`, compiled in.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::device::{QualificationFile, ThermalFile};
use crate::config::link::LinkFile;
use crate::config::serve::{JournalFile, ServeFile};
use crate::config::{Budget, ConfigError, Device, JournalSettings, LadderStep, Link, PRESETS, Qualification, Serve, Thermal, parse};
use crate::units::{Bytes, Px, Tokens};

/// Profiles that a lone binary knows: name and text.
const BUILT_IN: [(&str, &str); 7] = [
    ("host", include_str!("../../firmware-config/host.toml")),
    ("sim", include_str!("../../firmware-config/sim.toml")),
    ("a6000", include_str!("../../firmware-config/a6000.toml")),
    ("orin-nano-8", include_str!("../../firmware-config/orin-nano-8.toml")),
    ("orin-nx-16", include_str!("../../firmware-config/orin-nx-16.toml")),
    ("agx-orin-64", include_str!("../../firmware-config/agx-orin-64.toml")),
    ("thor", include_str!("../../firmware-config/thor.toml")),
];

/// A validated device profile.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: String,
    /// What the process may plan for in all.
    pub memory_limit: Bytes,
    pub frame: FrameLimits,
    pub tokens: TokenLimits,
    pub compression: Compression,
    pub engines: Engines,
    pub device: Device,
    /// Absent where heat doesn't slow the device.
    pub thermal: Option<Thermal>,
    /// What a question gives way to, richest first.
    pub ladder: Vec<LadderStep>,
    pub qualification: Qualification,
    pub serve: Serve,
    pub journal: JournalSettings,
    pub link: Link,
}

/// The largest frame a profile admits, and how many it holds at once.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    pub max_pixels: u64,
    pub max_side: Px,
    pub slots: usize,
    /// Of a frame with bands; by default the first three, or the first where there are fewer.
    pub bands: Option<Bands>,
}

/// Which bands of a frame are seen, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bands {
    Grey(u16),
    Rgb([u16; 3]),
}

impl Bands {
    /// For red, green and blue.
    #[must_use]
    pub fn rgb(self) -> [u16; 3] {
        match self {
            Self::Grey(band) => [band; 3],
            Self::Rgb(bands) => bands,
        }
    }

    /// One band or three, from 1.
    fn new(bands: &[u16]) -> Option<Self> {
        match *bands {
            [band] if band > 0 => Some(Self::Grey(band)),
            [r, g, b] if r.min(g).min(b) > 0 => Some(Self::Rgb([r, g, b])),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct TokenLimits {
    /// The budget of a question that names none: a preset, a total or a list.
    pub default_budget: String,
    pub max_visual: Tokens,
    /// Template and question together.
    pub max_text: Tokens,
    pub max_new: Tokens,
}

/// Knobs of the partitions (Eq. 13–14 of UHR-BAT; its Table 8).
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    pub clusters: u32,
    /// Features are projected at random to as many coordinates before clustering; `None`: they aren't.
    pub cluster_dim: Option<u32>,
    pub max_iterations: u32,
    pub seed: u64,
    pub lambda_feature: f32,
    pub lambda_position: f32,
    pub birch: Birch,
}

/// BIRCH's tree.
#[derive(Clone, Copy, Debug)]
pub struct Birch {
    /// Largest radius of a leaf entry, in the space of Eq. 13, before memory makes it rise.
    pub threshold: f32,
    /// Most entries of a node.
    pub branching: usize,
    /// Most leaf entries that are held, or twice the clusters wanted if those are more.
    pub max_entries: usize,
}

impl Default for Birch {
    fn default() -> Self {
        Self { threshold: 0.1, branching: 50, max_entries: 2_400 }
    }
}

#[derive(Clone, Debug)]
pub struct Engines {
    pub vision: EngineKind,
    pub language: EngineKind,
    pub threads: usize,
    /// Tokens projected at once.
    pub projection_chunk: Tokens,
    /// What stands between an engine that is [`EngineKind::Tensorrt`] or [`EngineKind::Auto`] and TensorRT.
    pub shim: Shim,
    /// In place of a package's own folder of engines.
    pub plans: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// tract on the CPU.
    Onnx,
    /// The crate's own int4 decoder on the CPU.
    Gguf,
    /// Seeded, made-up outputs.
    Scripted,
    /// On a device, behind a shim.
    Tensorrt,
    /// TensorRT where its libraries, a GPU and engines of the package are there, the CPU where not; answers say which.
    Auto,
}

/// What stands between TensorRT and this crate: `"fake"`, or the shim's file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Shim {
    /// A made-up device that runs the scripted engines.
    Fake,
    /// Built by `jetson/shim/build.sh`; a name without a folder is looked for where the system looks for libraries.
    Library(PathBuf),
}

impl Default for Shim {
    fn default() -> Self {
        Self::Library("libuhr_shim.so".into())
    }
}

impl TryFrom<String> for Shim {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let library = || Path::new(&text).file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
        match &text[..] {
            "fake" => Ok(Self::Fake),
            _ if library() => Ok(Self::Library(text.into())),
            _ => Err(format!("shim {text:?}: wanted \"fake\" or a library (….so)")),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ProfileFile {
    name: String,
    memory: MemoryFile,
    frame: FrameFile,
    tokens: TokensFile,
    compression: CompressionFile,
    engines: EnginesFile,
    device: Device,
    thermal: Option<ThermalFile>,
    #[serde(default)]
    ladder: Vec<LadderStep>,
    #[serde(default)]
    qualification: QualificationFile,
    #[serde(default)]
    serve: ServeFile,
    #[serde(default)]
    journal: JournalFile,
    #[serde(default)]
    link: LinkFile,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MemoryFile {
    limit_mib: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FrameFile {
    max_megapixels: u64,
    max_side_px: u32,
    slots: usize,
    bands: Option<Vec<u16>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TokensFile {
    budget: String,
    max_visual_tokens: u32,
    max_text_tokens: u32,
    max_new_tokens: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CompressionFile {
    clusters: u32,
    cluster_dim: Option<u32>,
    max_iterations: u32,
    seed: u64,
    lambda_feature: f32,
    lambda_position: f32,
    birch_threshold: Option<f32>,
    birch_branching: Option<usize>,
    birch_max_entries: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct EnginesFile {
    vision: EngineKind,
    language: EngineKind,
    threads: usize,
    projection_chunk_tokens: u32,
    #[serde(default)]
    shim: Shim,
    plans: Option<PathBuf>,
}

impl Profile {
    /// Names of the built-in profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The built-in profile `name`, or the file it names when it ends in `.toml`.
    pub fn load(name: &str) -> Result<Self, ConfigError> {
        if Path::new(name).extension().is_some_and(|ending| ending == "toml") {
            let path = PathBuf::from(name);
            let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            return Self::parse(&path, &text);
        }
        let known = || BUILT_IN.map(|(name, _)| name).join(", ");
        let (_, text) = BUILT_IN
            .iter()
            .find(|(built_in, _)| *built_in == name)
            .ok_or_else(|| ConfigError::NoProfile { name: name.to_owned(), known: known() })?;
        Self::parse(&Path::new("firmware-config").join(format!("{name}.toml")), text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: ProfileFile = parse(path, text)?;
        let check = |key: &'static str, value: u64, range: std::ops::RangeInclusive<u64>| {
            if range.contains(&value) {
                return Ok(());
            }
            Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                found: value.to_string(),
                wanted: format!("{} to {}", range.start(), range.end()),
            })
        };
        let (frame, tokens, compression, engines) = (&file.frame, &file.tokens, &file.compression, &file.engines);
        check("memory.limit-mib", file.memory.limit_mib, 64..=1 << 20)?;
        check("frame.max-megapixels", frame.max_megapixels, 1..=1_000)?;
        check("frame.max-side-px", frame.max_side_px.into(), 1..=65_500)?;
        check("frame.slots", frame.slots as u64, 1..=64)?;
        check("tokens.max-visual-tokens", tokens.max_visual_tokens.into(), 1..=1 << 20)?;
        check("tokens.max-text-tokens", tokens.max_text_tokens.into(), 1..=1 << 16)?;
        check("tokens.max-new-tokens", tokens.max_new_tokens.into(), 1..=1 << 16)?;
        check("compression.clusters", compression.clusters.into(), 1..=65_535)?;
        if let Some(dim) = compression.cluster_dim {
            check("compression.cluster-dim", dim.into(), 1..=4_096)?;
        }
        check("compression.max-iterations", compression.max_iterations.into(), 1..=1_000)?;
        let usual = Birch::default();
        let birch = Birch {
            threshold: compression.birch_threshold.unwrap_or(usual.threshold),
            branching: compression.birch_branching.unwrap_or(usual.branching),
            max_entries: compression.birch_max_entries.unwrap_or(usual.max_entries),
        };
        check("compression.birch-branching", birch.branching as u64, 4..=1_024)?;
        check("compression.birch-max-entries", birch.max_entries as u64, 1..=65_535)?;
        check("engines.threads", engines.threads as u64, 1..=256)?;
        check("engines.projection-chunk-tokens", engines.projection_chunk_tokens.into(), 1..=1 << 16)?;
        let bands = match frame.bands.as_deref().map(|bands| (bands, Bands::new(bands))) {
            None => None,
            Some((_, Some(bands))) => Some(bands),
            Some((found, None)) => {
                let wanted = "one band or three, numbered from 1".into();
                return Err(ConfigError::Value { path: path.to_owned(), key: "frame.bands", found: format!("{found:?}"), wanted });
            }
        };
        for (key, value) in [
            ("compression.lambda-feature", compression.lambda_feature),
            ("compression.lambda-position", compression.lambda_position),
            ("compression.birch-threshold", birch.threshold),
        ] {
            if !value.is_finite() || value < 0.0 {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    key,
                    found: value.to_string(),
                    wanted: "a finite number, 0 or more".into(),
                });
            }
        }
        for (key, kind, allowed) in [
            ("engines.vision", engines.vision, [EngineKind::Onnx, EngineKind::Scripted, EngineKind::Tensorrt, EngineKind::Auto]),
            ("engines.language", engines.language, [EngineKind::Gguf, EngineKind::Scripted, EngineKind::Tensorrt, EngineKind::Auto]),
        ] {
            if !allowed.contains(&kind) {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    key,
                    found: format!("{kind:?}"),
                    wanted: format!("one of {allowed:?}"),
                });
            }
        }
        for budget in std::iter::once(&tokens.budget).chain(file.ladder.iter().map(|step| &step.budget)) {
            if !PRESETS.iter().any(|(name, _)| name == budget) {
                let views = budget.split(',').count();
                Budget::parse(budget, if views == 1 { 4 } else { views })?;
            }
        }
        check("ladder steps", file.ladder.len() as u64, 0..=16)?;
        for step in &file.ladder {
            check("ladder.encode-tiles", step.encode_tiles.unwrap_or(1).into(), 1..=1 << 16)?;
            check("ladder.max-new-tokens", step.max_new_tokens.unwrap_or(1).into(), 1..=1 << 16)?;
        }
        let refused = |(key, found, wanted): (&'static str, String, &str)| ConfigError::Value {
            path: path.to_owned(),
            key,
            found,
            wanted: wanted.to_owned(),
        };
        file.device.check().map_err(refused)?;
        let qualification = file.qualification.check().map_err(refused)?;
        let serve = file.serve.check().map_err(refused)?;
        let journal = file.journal.check().map_err(refused)?;
        let link = file.link.check().map_err(refused)?;
        let thermal = file.thermal.map(|thermal| thermal.check()).transpose().map_err(refused)?;
        Ok(Self {
            memory_limit: Bytes(file.memory.limit_mib << 20),
            frame: FrameLimits { max_pixels: frame.max_megapixels * 1_000_000, max_side: Px(frame.max_side_px), slots: frame.slots, bands },
            tokens: TokenLimits {
                default_budget: tokens.budget.clone(),
                max_visual: Tokens(tokens.max_visual_tokens),
                max_text: Tokens(tokens.max_text_tokens),
                max_new: Tokens(tokens.max_new_tokens),
            },
            compression: Compression {
                clusters: compression.clusters,
                cluster_dim: compression.cluster_dim,
                max_iterations: compression.max_iterations,
                seed: compression.seed,
                lambda_feature: compression.lambda_feature,
                lambda_position: compression.lambda_position,
                birch,
            },
            engines: Engines {
                vision: engines.vision,
                language: engines.language,
                threads: engines.threads,
                projection_chunk: Tokens(engines.projection_chunk_tokens),
                shim: file.engines.shim,
                plans: file.engines.plans,
            },
            device: file.device,
            thermal,
            ladder: file.ladder,
            qualification,
            serve,
            journal,
            link,
            name: file.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_load_under_their_own_names() {
        for (name, _) in BUILT_IN {
            assert_eq!(Profile::load(name).unwrap().name, name);
        }
    }

    #[test]
    fn bad_profiles_say_what_was_wanted_and_what_was_there() {
        let host = BUILT_IN[0].1;
        let cases = [
            ("limit-mib = 2048", "limit-mib = 1", "memory.limit-mib = 1: wanted 64 to 1048576"),
            ("limit-mib = 2048", "limit-bytes = 2048", "unknown field `limit-bytes`"),
            ("threads = 2", "threads = 0", "engines.threads = 0: wanted 1 to 256"),
            ("threads = 2", "threads = -2", "invalid value"),
            ("lambda-feature = 1.0", "lambda-feature = nan", "compression.lambda-feature = NaN: wanted a finite number"),
            ("seed = 0", "seed = 0\nbirch-threshold = -1.0", "compression.birch-threshold = -1: wanted a finite number, 0 or more"),
            ("seed = 0", "seed = 0\nbirch-branching = 3", "compression.birch-branching = 3: wanted 4 to 1024"),
            ("vision = \"onnx\"", "vision = \"gguf\"", "engines.vision = Gguf: wanted one of [Onnx, Scripted, Tensorrt, Auto]"),
            ("threads = 2", "threads = 2\nshim = \"real\"", "shim \"real\": wanted \"fake\" or a library"),
            ("budget = \"onboard\"", "budget = \"huge\"", "budget \"huge\": wanted onboard"),
            ("slots = 4", "slots = 4\nbands = [1, 2]", "frame.bands = [1, 2]: wanted one band or three"),
            ("slots = 4", "slots = 4\nbands = [0]", "frame.bands = [0]: wanted one band or three, numbered from 1"),
            ("name = \"host\"", "", "missing field `name`"),
            ("tflops = 0.15", "tflops = 0.0", "device.tflops = 0: wanted a number above 0"),
            (
                "[device]",
                "[thermal]\nslow-from-c = 90\nslowest-at-c = 80\nslowdown = 2\n[device]",
                "thermal.slowest-at-c = 80: wanted more",
            ),
            ("[device]", "[serve]\nhttp = \"8080\"\n[device]", "serve.http = 8080: wanted ADDRESS:PORT"),
            ("[device]", "[serve]\nqueue = 0\n[device]", "serve.queue = 0: wanted 1 to 1024"),
            ("[device]", "[serve]\nports = 1\n[device]", "unknown field `ports`"),
            ("[device]", "[journal]\nmax-mib = 1\n[device]", "journal.max-mib = 1: wanted 2 to 1048576"),
            ("[device]", "[[ladder]]\nbudget = \"some\"\n[device]", "budget \"some\": wanted onboard"),
            ("[device]", "[[ladder]]\nbudget = \"onboard\"\nencode-tiles = 0\n[device]", "ladder.encode-tiles = 0: wanted 1"),
        ];
        for (there, instead, message) in cases {
            assert!(host.contains(there), "{there}");
            let error = Profile::parse(Path::new("p.toml"), &host.replacen(there, instead, 1)).unwrap_err().to_string();
            assert!(error.contains(message), "{instead}: {error}");
        }
        let error = Profile::load("jetson").unwrap_err().to_string();
        assert!(error.contains("wanted one of host, sim, a6000, orin-nano-8"), "{error}");
    }
}
