//! A spec in place of a loaded model: what would be loaded, and what its networks cost.

use crate::compress::regions::Method;
use crate::config::{EngineKind, Model, Profile, Spec};
use crate::engine::DecoderShape;
use crate::engine::decoder::Llama;
use crate::planner::{Loaded, Loading, ModelCost, Verdict, positions, verdict};
use crate::units::{Bytes, Tiles};

/// What the process is taken to hold beside weights and its own map: the program, the device's context and libraries, the engines' workspaces. An
/// assumption, until an engine was loaded on the device and the map has the measured figure.
const ASSUMED_PROCESS: Bytes = Bytes(400 << 20);

fn decoder_shape(spec: &Spec) -> DecoderShape {
    let n = &spec.networks;
    DecoderShape {
        layers: n.layers,
        heads: n.heads,
        kv_heads: n.kv_heads,
        head_dim: n.head_dim,
        hidden: n.hidden,
        ffn: n.ffn,
        vocab: n.vocab,
        context: spec.context.get(),
    }
}

impl Loaded {
    /// What loading the model of `spec` would come to: the weights, activations and logits of the decoder here for a chunk of a prompt, and
    /// an assumption about the rest.
    #[must_use]
    pub fn assumed(spec: &Spec, profile: &Profile) -> Self {
        let (networks, decoder) = (&spec.networks, decoder_shape(spec));
        Self {
            resident: ASSUMED_PROCESS + networks.encoder + networks.projector + networks.refine,
            measured: false,
            on_device: Bytes(0),
            decoder_weights: match profile.engines.language {
                EngineKind::Auto | EngineKind::Tensorrt => networks.decoder_engines(spec.interface_layer),
                EngineKind::Gguf | EngineKind::Onnx | EngineKind::Scripted => networks.decoder(),
            },
            decoder_workspace: Llama::workspace_of(&decoder, positions(profile, spec), profile.engines.threads),
            decoder_caches: true,
            decoder,
            segmenter: None,
            kmeans: None,
        }
    }
}

impl ModelCost {
    /// Of a spec's networks. The encoder gets as many tiles at once as the profile has threads.
    #[must_use]
    pub fn assumed(spec: &Spec, profile: &Profile) -> Self {
        let networks = &spec.networks;
        // Two bytes a weight, and two operations on each token.
        let flop = |bytes: Bytes| bytes.0 as f64;
        Self {
            decoder: decoder_shape(spec),
            interface_layer: spec.interface_layer,
            feature_dim: spec.feature_dim(),
            tile_flop: networks.tile_flop,
            encoder_bytes: networks.encoder,
            encoder_batch: Tiles(u32::try_from(profile.engines.threads).unwrap_or(u32::MAX)),
            row_flop: flop(networks.projector),
            refine_flop: flop(networks.refine),
            step_bytes: networks.step(),
        }
    }
}

/// Whether the model of `spec` fits `profile`, and what would make it fit.
#[must_use]
pub fn spec_verdict(profile: &Profile, spec: &Spec, method: &Method) -> Verdict {
    let loaded = |profile: &Profile| Loaded::assumed(spec, profile);
    let four = spec.four_bit();
    let four_bit = four.as_ref().map(|four| move |profile: &Profile| Loaded::assumed(four, profile));
    verdict(profile, spec, method, &loaded, four_bit.as_ref().map(|four_bit| -> Loading<'_> { four_bit }))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::arena::FrameSlots;
    use crate::config::FOUR_BITS;
    use crate::planner::{Job, Stage, memory_lines};
    use crate::units::Tokens;

    pub fn spec(name: &str) -> Spec {
        Spec::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/specs").join(format!("{name}.toml"))).unwrap()
    }

    /// Computed from the configurations of CLIP ViT-L/14-336 and Qwen2-7B: bytes and operations of the paper's model.
    #[test]
    fn the_papers_model_has_its_sizes_and_costs() {
        let (spec, profile) = (spec("qwen2-7b-clip-l"), Profile::load("orin-nano-8").unwrap());
        let cost = ModelCost::assumed(&spec, &profile);
        let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.01, "wanted {wanted}, found {found}");
        near(cost.effort(Stage::Encode, &Job { tiles: Tiles(228), ..Job::default() }).0, 84e12);
        near(cost.step_bytes.0 as f64, 4.56e9);
        near(cost.kv_bytes(), 56.0 * 1024.0);
        for (tokens, tflop) in [(1_024, 13.6), (3_072, 42.0), (4_096, 57.0), (8_192, 120.0)] {
            near(cost.prefill_flop(Tokens(tokens)) / 1e12, tflop);
        }
        // All features in f16, without labels and the projected anchor.
        let labels = spec.vision.all_tokens().0 as f64 * 4.0;
        near(FrameSlots::slot_bytes(&spec.vision, spec.feature_dim, 0).0 as f64 - labels, 269e6);
    }

    #[test]
    fn the_papers_model_needs_six_to_seven_gigabytes() {
        let profile = Profile::load("orin-nano-8").unwrap();
        let gigabytes =
            |spec: &Spec| memory_lines(&profile, spec, &Method::Kmeans, &Loaded::assumed(spec, &profile)).total().0 as f64 / 1e9;
        let (mut spec, wanted) = (spec("qwen2-7b-clip-l"), [7.2, 6.0]);
        let f16 = gigabytes(&spec);
        // Tables of embeddings and output at 4 bits.
        (spec.networks.embedding_bits, spec.networks.output_bits) = (FOUR_BITS, Some(FOUR_BITS));
        for (found, wanted) in [f16, gigabytes(&spec)].into_iter().zip(wanted) {
            assert!((found / wanted - 1.0_f64).abs() < 0.1, "wanted {wanted}, found {found}");
        }
    }

    #[test]
    fn a_batch_reads_the_encoder_once() {
        let (spec, profile) = (spec("qwen2-7b-clip-l"), Profile::load("orin-nano-8").unwrap());
        let cost = ModelCost::assumed(&spec, &profile);
        let bytes = |tiles: u32| cost.effort(Stage::Encode, &Job { tiles: Tiles(tiles), ..Job::default() }).1;
        assert_eq!([0, 1, 6, 7].map(bytes), [0.0, 608e6, 608e6, 1216e6]);
    }
}
