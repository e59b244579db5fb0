//! `model.toml`: everything the runtime knows about a model, and the digest of every file of its package.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::config::policy::PolicyFile;
use crate::config::{ConfigError, POLICIES, Policy, Spec, parse};
use crate::geometry::VisionShape;
use crate::units::{Px, Tokens};

/// The one format of this page.
const FORMAT: u32 = 1;

/// A package whose every file had the digest it should have when it was opened.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub name: String,
    pub licence: String,
    /// SHA-256 of `model.toml` itself: with the name, the model's id in receipts.
    pub digest: Digest,
    pub vision: Vision,
    pub language: Language,
    pub prompt: Prompt,
    pub policy: Policy,
    pub self_test: Option<SelfTest>,
    /// Absent in a package for the CPU alone.
    pub tensorrt: Option<Graphs>,
    /// Where the package stands.
    pub folder: PathBuf,
}

/// What engines are built from.
#[derive(Clone, Debug)]
pub struct Graphs {
    pub encoder: GraphFile,
    pub projector: GraphFile,
    /// Where [`Vision::selected_token_mlp`] is.
    pub token_mlp: Option<GraphFile>,
    pub prefill: GraphFile,
    pub step: GraphFile,
    pub anchor: GraphFile,
    /// The decoder's once more, for a TensorRT that writes keys and values in place.
    pub in_place: Option<DecoderGraphs>,
    pub kmeans: Option<GraphFile>,
    pub centres: Option<GraphFile>,
    pub merge: Option<GraphFile>,
    /// What the decoder's graphs refer to, where their weights aren't in themselves.
    pub weights: Option<GraphFile>,
}

/// A form of the decoder's.
#[derive(Clone, Debug)]
pub struct DecoderGraphs {
    pub prefill: GraphFile,
    pub step: GraphFile,
    pub anchor: GraphFile,
}

/// A file of `[tensorrt]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFile {
    pub path: PathBuf,
    /// As in `[files]`.
    pub digest: Digest,
}

/// What a package must answer wherever it is loaded.
#[derive(Clone, Debug)]
pub struct SelfTest {
    pub image: PathBuf,
    pub question: String,
    /// As on the command line.
    pub budget: String,
    /// Of the answer, without the one that ends it.
    pub tokens: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct Vision {
    pub shape: VisionShape,
    /// Width d_v of a token's encoder features.
    pub feature_dim: usize,
    /// `[n,3,T,T]` f32 → `[n,P,d_v]`.
    pub encoder: PathBuf,
    /// `[n,d_v]` → `[n,d]`.
    pub projector: PathBuf,
    /// Eq. 5: `p` `[G,G,d]` and `q` `[S,d]`.
    pub positions: Option<PathBuf>,
    /// `[n,d]` → `[n,d]`, over the selected tokens.
    pub selected_token_mlp: Option<PathBuf>,
    /// `[n,3,H,W]` f32 → a label a pixel, or logits a class.
    pub segmenter: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Language {
    pub decoder: PathBuf,
    pub tokenizer: PathBuf,
    pub context: Tokens,
    /// From 1: importance is read from this layer's attention.
    pub interface_layer: usize,
    pub stop: Vec<String>,
}

/// The template, cut at its image and its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub before_image: String,
    pub between: String,
    pub after_question: String,
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Digest {
    /// Of 64 hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let digits = text.as_bytes().chunks_exact(2);
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Of all bytes of `reader`, 64 KiB at a time.
    pub fn of(mut reader: impl Read) -> std::io::Result<Self> {
        let mut sha = Sha256::new();
        let mut block = vec![0; 64 << 10];
        loop {
            match reader.read(&mut block)? {
                0 => return Ok(Self(sha.finalize().into())),
                read => sha.update(&block[..read]),
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ManifestFile {
    format: u32,
    name: String,
    licence: String,
    vision: VisionFile,
    language: LanguageFile,
    prompt: PromptFile,
    compression: CompressionFile,
    self_test: Option<SelfTestFile>,
    tensorrt: Option<GraphsFile>,
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct VisionFile {
    tile_px: u32,
    patch_px: u32,
    views_px: Vec<u32>,
    mean: [f32; 3],
    std: [f32; 3],
    pad: String,
    feature_dim: usize,
    encoder: String,
    projector: String,
    positions: Option<String>,
    selected_token_mlp: Option<String>,
    segmenter: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LanguageFile {
    decoder: String,
    tokenizer: String,
    context: u32,
    interface_layer: usize,
    stop: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PromptFile {
    template: String,
    #[serde(default)]
    system: String,
    /// Only a question with choices uses it.
    #[serde(default, rename = "choice-suffix")]
    _choice_suffix: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct GraphsFile {
    encoder: String,
    projector: String,
    token_mlp: Option<String>,
    prefill: String,
    step: String,
    anchor: String,
    in_place: Option<DecoderGraphsFile>,
    kmeans: Option<String>,
    centres: Option<String>,
    merge: Option<String>,
    weights: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DecoderGraphsFile {
    prefill: String,
    step: String,
    anchor: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SelfTestFile {
    image: String,
    question: String,
    budget: String,
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct CompressionFile {
    pub(super) policy: PolicyFile,
}

impl Manifest {
    /// Opens the package in folder `dir`: parses `model.toml`, then checks that the folder holds the listed files and no others, each with its digest.
    ///
    /// # Errors
    /// What is wrong with the package; [`ConfigError::NoWeights`] for a spec.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = if dir.is_file() { dir.to_owned() } else { dir.join("model.toml") };
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        if Spec::is(&text) {
            return Err(ConfigError::NoWeights { path });
        }
        let file: ManifestFile = parse(&path, &text)?;
        check_files(dir, &path, &file.files)?;
        let digest = Digest(Sha256::digest(text.as_bytes()).into());
        Self::validate(dir, &path, file, digest)
    }

    fn validate(dir: &Path, path: &Path, file: ManifestFile, digest: Digest) -> Result<Self, ConfigError> {
        let value = |key: &'static str, found: String, wanted: &str| ConfigError::Value {
            path: path.to_owned(),
            key,
            found,
            wanted: wanted.to_owned(),
        };
        let listed = |name: &str| {
            if file.files.contains_key(name) {
                return Ok(dir.join(name));
            }
            Err(ConfigError::Unlisted { path: path.to_owned(), file: name.to_owned() })
        };
        let (vision, language, prompt) = (&file.vision, &file.language, &file.prompt);
        let shared = Shared {
            format: file.format,
            pad: &vision.pad,
            views_px: &vision.views_px,
            tile_px: vision.tile_px,
            patch_px: vision.patch_px,
            mean: vision.mean,
            std: vision.std,
            feature_dim: vision.feature_dim,
            context: language.context,
            interface_layer: language.interface_layer,
            policy: &file.compression.policy,
        };
        let (shape, policy) = shared.check(path)?;
        if language.stop.is_empty() {
            return Err(value("language.stop", "[]".into(), "at least one token"));
        }
        let template = prompt.template.replace("{system}", &prompt.system);
        let cut = template.split_once("{image}").and_then(|(before, rest)| {
            let (between, after) = rest.split_once("{question}")?;
            Some(Prompt { before_image: before.into(), between: between.into(), after_question: after.into() })
        });
        let prompt = cut.ok_or_else(|| value("prompt.template", format!("{template:?}"), "one {image} and after it one {question}"))?;
        let self_test = match &file.self_test {
            None => None,
            Some(test) if (1..=64).contains(&test.tokens.len()) => Some(SelfTest {
                image: listed(&test.image)?,
                question: test.question.clone(),
                budget: test.budget.clone(),
                tokens: test.tokens.clone(),
            }),
            Some(test) => return Err(value("self-test.tokens", format!("{} of them", test.tokens.len()), "1 to 64")),
        };
        let tensorrt = match &file.tensorrt {
            None => None,
            Some(graphs) if graphs.token_mlp.is_some() == vision.selected_token_mlp.is_some() => {
                let file = |name: &str| {
                    let path = listed(name)?;
                    let digest = file.files.get(name).and_then(|digest| Digest::parse(digest));
                    let digest = digest.ok_or_else(|| value("files", format!("{name:?}"), "64 hexadecimal digits of a sha256"))?;
                    Ok::<_, ConfigError>(GraphFile { path, digest })
                };
                let in_place = |graphs: &DecoderGraphsFile| {
                    let (prefill, step, anchor) = (file(&graphs.prefill)?, file(&graphs.step)?, file(&graphs.anchor)?);
                    Ok::<_, ConfigError>(DecoderGraphs { prefill, step, anchor })
                };
                let maybe = |name: &Option<String>| name.as_deref().map(file).transpose();
                Some(Graphs {
                    encoder: file(&graphs.encoder)?,
                    projector: file(&graphs.projector)?,
                    token_mlp: maybe(&graphs.token_mlp)?,
                    prefill: file(&graphs.prefill)?,
                    step: file(&graphs.step)?,
                    anchor: file(&graphs.anchor)?,
                    in_place: graphs.in_place.as_ref().map(in_place).transpose()?,
                    kmeans: maybe(&graphs.kmeans)?,
                    centres: maybe(&graphs.centres)?,
                    merge: maybe(&graphs.merge)?,
                    weights: maybe(&graphs.weights)?,
                })
            }
            Some(graphs) => {
                let wanted = "a graph exactly where vision.selected-token-mlp is one";
                return Err(value("tensorrt.token-mlp", format!("{:?}", graphs.token_mlp), wanted));
            }
        };
        Ok(Self {
            tensorrt,
            folder: dir.to_owned(),
            vision: Vision {
                shape,
                feature_dim: vision.feature_dim,
                encoder: listed(&vision.encoder)?,
                projector: listed(&vision.projector)?,
                positions: vision.positions.as_deref().map(listed).transpose()?,
                selected_token_mlp: vision.selected_token_mlp.as_deref().map(listed).transpose()?,
                segmenter: vision.segmenter.as_deref().map(listed).transpose()?,
            },
            language: Language {
                decoder: listed(&language.decoder)?,
                tokenizer: listed(&language.tokenizer)?,
                context: Tokens(language.context),
                interface_layer: language.interface_layer,
                stop: language.stop.clone(),
            },
            prompt,
            policy,
            self_test,
            digest,
            name: file.name,
            licence: file.licence,
        })
    }
}

/// What packages and specs have in common, as written.
pub(super) struct Shared<'a> {
    pub format: u32,
    pub pad: &'a str,
    pub views_px: &'a [u32],
    pub tile_px: u32,
    pub patch_px: u32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub feature_dim: usize,
    pub context: u32,
    pub interface_layer: usize,
    pub policy: &'a PolicyFile,
}

impl Shared<'_> {
    pub(super) fn check(&self, path: &Path) -> Result<(VisionShape, Policy), ConfigError> {
        let value = |key: &'static str, found: String, wanted: &str| ConfigError::Value {
            path: path.to_owned(),
            key,
            found,
            wanted: wanted.to_owned(),
        };
        if self.format != FORMAT {
            return Err(value("format", self.format.to_string(), "1"));
        }
        if self.pad != "mean" {
            return Err(value("vision.pad", format!("{:?}", self.pad), "\"mean\""));
        }
        let policy = self.policy.policy();
        let policy = policy
            .map_err(|found| value("compression.policy", format!("{found:?}"), &format!("one of {POLICIES:?}, or a table of knobs")))?;
        if !(1..=1 << 14).contains(&self.feature_dim) {
            return Err(value("vision.feature-dim", self.feature_dim.to_string(), "1 to 16384"));
        }
        if !(1..=1 << 20).contains(&self.context) {
            return Err(value("language.context", self.context.to_string(), "1 to 1048576"));
        }
        if self.interface_layer == 0 {
            return Err(value("language.interface-layer", "0".into(), "1 or more: layers count from 1"));
        }
        let views = self.views_px.iter().copied().map(Px).collect();
        let shape = VisionShape::new(views, Px(self.tile_px), Px(self.patch_px), self.mean, self.std);
        let shape = shape.map_err(|error| value("vision", error.to_string(), "views of whole tiles, tiles of whole patches"))?;
        Ok((shape, policy))
    }
}

fn read(path: &Path) -> impl FnOnce(std::io::Error) -> ConfigError {
    let path = path.to_owned();
    move |source| ConfigError::Read { path, source }
}

/// The folder below a package that is no part of it: who names it in `engines.plans` keeps engines there.
pub const BUILT_FOLDER: &str = "engines";

/// The files of the package in folder `dir`, and of the folders in it but [`BUILT_FOLDER`]: names as in `[files]`, and `model.toml`.
///
/// # Errors
/// A folder that can't be read.
pub fn package_files(dir: &Path) -> Result<Vec<String>, ConfigError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read(dir))? {
        let entry = entry.map_err(read(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == BUILT_FOLDER && entry.path().is_dir() {
            continue;
        }
        if !entry.file_type().map_err(read(dir))?.is_dir() {
            found.push(name);
            continue;
        }
        for inner in std::fs::read_dir(entry.path()).map_err(read(dir))? {
            found.push(format!("{name}/{}", inner.map_err(read(dir))?.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}

/// Every file of `dir` is listed with its digest, and every listed file is there.
fn check_files(dir: &Path, path: &Path, listed: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if let Some(file) = package_files(dir)?.into_iter().find(|name| name != "model.toml" && !listed.contains_key(name)) {
        return Err(ConfigError::Unlisted { path: path.to_owned(), file });
    }
    for (name, wanted) in listed {
        let parts = name.split('/').collect::<Vec<_>>();
        let plain = |part: &&str| Path::new(part).file_name().is_some_and(|plain| plain == *part);
        if parts.len() > 2 || !parts.iter().all(plain) || parts[0] == BUILT_FOLDER {
            return Err(ConfigError::Value {
                path: path.to_owned(),
                key: "files",
                found: name.clone(),
                wanted: "a plain name in the package's own folder, or in a folder in it other than engines".into(),
            });
        }
        let file = dir.join(name);
        let found = Digest::of(std::fs::File::open(&file).map_err(read(&file))?).map_err(read(&file))?.to_string();
        if found != wanted.to_lowercase() {
            return Err(ConfigError::Digest { path: file, wanted: wanted.clone(), found });
        }
    }
    Ok(())
}
