//! A spec: what a plan needs of a model and no weights, a file in `models/specs/`.
//!
//! # Why
//! Whether a model fits a device is asked before anyone exports, quantises or downloads it. Its sizes are enough for that.

use std::path::Path;

use serde::Deserialize;

use crate::config::manifest::{CompressionFile, Shared};
use crate::config::{ConfigError, Manifest, Policy, parse};
use crate::geometry::VisionShape;
use crate::units::{Bytes, Tokens};

/// Bits a weight of the 4-bit formats: 4, and an f16 scale for 64 weights.
pub const FOUR_BITS: f64 = 4.25;
/// Of an output head that no key speaks of: f16, as 4-bit exports leave it.
const HEAD_BITS: f64 = 16.0;

/// What plans need to know of a model: a package's manifest tells it, and a spec.
pub trait Model {
    fn name(&self) -> &str;
    fn shape(&self) -> &VisionShape;
    /// Width d_v of a token's encoder features.
    fn feature_dim(&self) -> usize;
    /// Most positions of visual, text and answer tokens.
    fn context(&self) -> Tokens;
    /// From 1.
    fn interface_layer(&self) -> usize;
    fn policy(&self) -> &Policy;
}

impl Model for Manifest {
    fn name(&self) -> &str {
        &self.name
    }
    fn shape(&self) -> &VisionShape {
        &self.vision.shape
    }
    fn feature_dim(&self) -> usize {
        self.vision.feature_dim
    }
    fn context(&self) -> Tokens {
        self.language.context
    }
    fn interface_layer(&self) -> usize {
        self.language.interface_layer
    }
    fn policy(&self) -> &Policy {
        &self.policy
    }
}

impl Model for Spec {
    fn name(&self) -> &str {
        &self.name
    }
    fn shape(&self) -> &VisionShape {
        &self.vision
    }
    fn feature_dim(&self) -> usize {
        self.feature_dim
    }
    fn context(&self) -> Tokens {
        self.context
    }
    fn interface_layer(&self) -> usize {
        self.interface_layer
    }
    fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// A model by its sizes.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    /// Where the sizes are from.
    pub source: String,
    pub vision: VisionShape,
    pub feature_dim: usize,
    pub context: Tokens,
    pub interface_layer: usize,
    pub policy: Policy,
    pub networks: Networks,
}

/// Sizes of a spec's networks.
#[derive(Clone, Debug, PartialEq)]
pub struct Networks {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub vocab: usize,
    /// A weight of the decoder's layers.
    pub bits: f64,
    /// A weight of the table of embeddings.
    pub embedding_bits: f64,
    /// A weight of the output head; `None` where the table of embeddings is the head.
    pub output_bits: Option<f64>,
    /// Operations a tile.
    pub tile_flop: f64,
    pub encoder: Bytes,
    /// f16 weights.
    pub projector: Bytes,
    /// f16 weights of the selected tokens' MLP; 0 where there is none.
    pub refine: Bytes,
}

impl Networks {
    /// All weights of the decoder. Biases and norms, thousandths of a per cent, are left out.
    #[must_use]
    pub fn decoder(&self) -> Bytes {
        self.layer_bytes() + self.table(self.embedding_bits) + self.output_bits.map_or(Bytes(0), |bits| self.table(bits))
    }

    /// What one token reads of them: the layers and the output head.
    #[must_use]
    pub fn step(&self) -> Bytes {
        self.layer_bytes() + self.table(self.output_bits.unwrap_or(self.embedding_bits))
    }

    /// Weights of the decoder on a device: an engine of a prompt's runs and one of a step, each with all layers and the head, one of the layers up to the
    /// `interface` layer; and the table of embeddings on the host.
    #[must_use]
    pub fn decoder_engines(&self, interface: usize) -> Bytes {
        let anchor = Bytes(self.layer_bytes().0 * interface as u64 / self.layers.max(1) as u64);
        self.step() + self.step() + anchor + self.table(self.embedding_bits)
    }

    fn layer_bytes(&self) -> Bytes {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        bytes_of(self.layers * self.hidden * (2 * queries + 2 * keys + 3 * self.ffn), self.bits)
    }

    fn table(&self, bits: f64) -> Bytes {
        bytes_of(self.vocab * self.hidden, bits)
    }
}

/// Of so many weights; the limits of the keys keep the product far below 2⁵³.
fn bytes_of(weights: usize, bits: f64) -> Bytes {
    Bytes((weights as f64 * bits / 8.0).ceil() as u64)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SpecFile {
    format: u32,
    name: String,
    source: String,
    vision: VisionFile,
    language: LanguageFile,
    compression: CompressionFile,
    shape: ShapeFile,
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
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LanguageFile {
    context: u32,
    interface_layer: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ShapeFile {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    hidden: usize,
    ffn: usize,
    vocab: usize,
    bits: f64,
    embedding_bits: f64,
    output_bits: Option<f64>,
    tied_embeddings: bool,
    encoder_gflop_a_tile: f64,
    encoder_bytes: u64,
    projector_bytes: u64,
    selected_token_mlp_bytes: Option<u64>,
}

impl Spec {
    /// Reads the spec in file `path`.
    ///
    /// # Errors
    /// The key that can't be, with what it holds and what was wanted.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Whether `text` is a spec's: a manifest with `[shape]` and without `[files]`.
    pub(super) fn is(text: &str) -> bool {
        text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("shape") && !table.contains_key("files"))
    }

    /// The same model with its table of embeddings at `bits` a weight.
    ///
    /// # Errors
    /// `bits` that aren't above 0 and at most 32.
    pub fn with_embedding_bits(mut self, bits: f64) -> Result<Self, ConfigError> {
        check_bits("--embedding-bits".as_ref(), "embedding-bits", bits)?;
        self.networks.embedding_bits = bits;
        Ok(self)
    }

    /// The same model with 4-bit embeddings, where they have more.
    #[must_use]
    pub fn four_bit(&self) -> Option<Self> {
        let networks = Networks { embedding_bits: FOUR_BITS, ..self.networks.clone() };
        (self.networks.embedding_bits > FOUR_BITS).then(|| Self { networks, ..self.clone() })
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: SpecFile = parse(path, text)?;
        let (vision, language) = (&file.vision, &file.language);
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
        let networks = file.shape.check(path)?;
        if language.interface_layer > networks.layers {
            let wanted = format!("1 to {}, the layers there are", networks.layers);
            return Err(wrong(path, "language.interface-layer", language.interface_layer, wanted));
        }
        Ok(Self {
            vision: shape,
            feature_dim: vision.feature_dim,
            context: Tokens(language.context),
            interface_layer: language.interface_layer,
            policy,
            networks,
            name: file.name,
            source: file.source,
        })
    }
}

impl ShapeFile {
    fn check(&self, path: &Path) -> Result<Networks, ConfigError> {
        for (key, value, most) in [
            ("shape.layers", self.layers, 1 << 10),
            ("shape.heads", self.heads, 1 << 10),
            ("shape.kv-heads", self.kv_heads, self.heads),
            ("shape.head-dim", self.head_dim, 1 << 10),
            ("shape.hidden", self.hidden, 1 << 16),
            ("shape.ffn", self.ffn, 1 << 20),
            ("shape.vocab", self.vocab, 1 << 24),
        ] {
            if !(1..=most).contains(&value) {
                return Err(wrong(path, key, value, format!("1 to {most}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(wrong(path, "shape.kv-heads", self.kv_heads, format!("a divisor of {} heads", self.heads)));
        }
        check_bits(path, "shape.bits", self.bits)?;
        check_bits(path, "shape.embedding-bits", self.embedding_bits)?;
        let output_bits = match (self.tied_embeddings, self.output_bits) {
            (true, Some(bits)) => {
                return Err(wrong(
                    path,
                    "shape.output-bits",
                    bits,
                    "none: with tied-embeddings the table of embeddings is the head".into(),
                ));
            }
            (true, None) => None,
            (false, bits) => Some(bits.unwrap_or(HEAD_BITS)),
        };
        if let Some(bits) = output_bits {
            check_bits(path, "shape.output-bits", bits)?;
        }
        let gflop = self.encoder_gflop_a_tile;
        if !(gflop > 0.0 && gflop <= 1e6) {
            return Err(wrong(path, "shape.encoder-gflop-a-tile", gflop, "above 0, to 1000000".into()));
        }
        let refine = self.selected_token_mlp_bytes.unwrap_or(1);
        for (key, bytes) in [
            ("shape.encoder-bytes", self.encoder_bytes),
            ("shape.projector-bytes", self.projector_bytes),
            ("shape.selected-token-mlp-bytes", refine),
        ] {
            if !(1..=1 << 40).contains(&bytes) {
                return Err(wrong(path, key, bytes, format!("1 to {}", 1_u64 << 40)));
            }
        }
        Ok(Networks {
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            hidden: self.hidden,
            ffn: self.ffn,
            vocab: self.vocab,
            bits: self.bits,
            embedding_bits: self.embedding_bits,
            output_bits,
            tile_flop: gflop * 1e9,
            encoder: Bytes(self.encoder_bytes),
            projector: Bytes(self.projector_bytes),
            refine: Bytes(self.selected_token_mlp_bytes.unwrap_or(0)),
        })
    }
}

fn wrong(path: &Path, key: &'static str, found: impl ToString, wanted: String) -> ConfigError {
    ConfigError::Value { path: path.to_owned(), key, found: found.to_string(), wanted }
}

fn check_bits(path: &Path, key: &'static str, bits: f64) -> Result<(), ConfigError> {
    if bits > 0.0 && bits <= 32.0 { Ok(()) } else { Err(wrong(path, key, bits, "above 0, to 32".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = include_str!("../../models/specs/qwen2-7b-clip-l.toml");

    fn parsed(there: &str, instead: &str) -> Result<Spec, ConfigError> {
        assert!(SPEC.contains(there), "{there}");
        Spec::parse(Path::new("s.toml"), &SPEC.replacen(there, instead, 1))
    }

    #[test]
    fn the_papers_model_has_the_bytes_that_its_parts_add_up_to() {
        let networks = parsed("", "").unwrap().networks;
        // 28 layers of 233.05 million weights, tables of 152,064 × 3,584.
        assert_eq!(networks.layer_bytes(), Bytes(3_466_559_488));
        assert_eq!((networks.step(), networks.decoder()), (Bytes(4_556_554_240), Bytes(5_646_548_992)));
        let four = parsed("", "").unwrap().four_bit().unwrap();
        // The head keeps its bits: what a step reads doesn't change.
        assert_eq!((four.networks.step(), four.networks.decoder()), (Bytes(4_556_554_240), Bytes(4_846_084_096)));
        assert!(four.four_bit().is_none());
    }

    #[test]
    fn bad_specs_say_what_was_wanted_and_what_was_there() {
        let cases = [
            ("layers = 28", "layers = 0", "shape.layers = 0: wanted 1 to 1024"),
            ("layers = 28", "layers = 28\ndepth = 1", "unknown field `depth`"),
            ("kv-heads = 4", "kv-heads = 3", "shape.kv-heads = 3: wanted a divisor of 28 heads"),
            ("kv-heads = 4", "kv-heads = 29", "shape.kv-heads = 29: wanted 1 to 28"),
            ("\nbits = 4.25", "\nbits = 0.0", "shape.bits = 0: wanted above 0, to 32"),
            ("\nbits = 4.25", "\nbits = nan", "shape.bits = NaN: wanted above 0, to 32"),
            ("embedding-bits = 16.0", "embedding-bits = 33.0", "shape.embedding-bits = 33: wanted above 0, to 32"),
            ("output-bits = 16.0", "output-bits = -1.0", "shape.output-bits = -1: wanted above 0"),
            ("tied-embeddings = false", "tied-embeddings = true", "shape.output-bits = 16: wanted none"),
            ("encoder-gflop-a-tile = 368.2", "encoder-gflop-a-tile = inf", "shape.encoder-gflop-a-tile = inf: wanted above 0"),
            ("interface-layer = 2", "interface-layer = 29", "language.interface-layer = 29: wanted 1 to 28"),
            ("policy = \"paper\"", "policy = \"own\"", "compression.policy = \"own\": wanted one of"),
            ("format = 1", "format = 2", "format = 2: wanted 1"),
        ];
        for (there, instead, message) in cases {
            let error = parsed(there, instead).unwrap_err().to_string();
            assert!(error.contains(message), "{instead}: {error}");
        }
        assert!(parsed("\nbits = 4.25", "\nbits = 3.7").is_ok());
        assert!(parsed("", "").unwrap().with_embedding_bits(0.0).is_err());
    }

    #[test]
    fn a_spec_is_told_from_a_package() {
        assert!(Spec::is(SPEC) && !Spec::is(&format!("{SPEC}\n[files]\n")) && !Spec::is("not = [toml"));
    }
}
