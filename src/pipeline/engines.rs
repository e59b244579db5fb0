//! The engines of a profile and a model, loaded and run once.

use std::path::Path;
use std::sync::Arc;

use half::f16;

use crate::arena::KvCache;
use crate::compress::Positions;
use crate::compress::regions::{Method, Partition, Rows, ViewFeatures};
use crate::config::{EngineKind, Manifest, Profile};
use crate::engine::decoder::Llama;
use crate::engine::onnx::{EncoderShape, OnnxEncoder, OnnxProjector, OnnxSegmenter};
use crate::engine::scripted::{ScriptedDecoder, ScriptedEncoder, ScriptedProjector};
use crate::engine::tensorrt::{DecoderSizes, TensorrtKmeans};
use crate::engine::{Decoder, DecoderShape, Projector, Segment, Segmenter, Tokenizer, VisionEncoder};
use crate::kernels::Pool;
use crate::pipeline::PipelineError;
use crate::pipeline::on_device::{Choice, OnDevice};
use crate::planner::{self, PlannerError};
use crate::units::Bytes;

/// Sizes of the scripted decoder, its layers but as many as the manifest's interface layer needs.
const SCRIPTED: DecoderShape =
    DecoderShape { layers: 1, heads: 1, kv_heads: 1, head_dim: 32, hidden: 32, ffn: 32, vocab: 1 << 16, context: 1 << 16 };
/// Tokens of a scripted answer.
const SCRIPTED_ANSWER: u32 = 3;

/// Everything of a model.
pub struct Engines {
    pub encoder: Box<dyn VisionEncoder>,
    pub projector: Box<dyn Projector>,
    pub decoder: Box<dyn Decoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub positions: Option<Positions>,
    /// Over the selected tokens, where the model has it: `[n,d]` → `[n,d]`.
    pub selected_token_mlp: Option<Box<dyn Projector>>,
    /// Where regions are made by it.
    pub segmenter: Option<Box<dyn Segmenter>>,
    /// k-means on the device, where it is done there; a pipeline takes it.
    pub kmeans: Option<TensorrtKmeans>,
    pub stop: Vec<u32>,
    pub pool: Arc<Pool>,
    /// Of all but the decoder, what a device holds.
    pub on_device: Bytes,
    /// Where engines were left to what is there: which it is, and what of TensorRT is missing. Why k-means isn't on the device that has engines for it.
    pub chosen: Option<String>,
}

impl Engines {
    /// Loads what `profile` names from the package `manifest`, checks shapes against each other, and runs each network once, so that its workspace
    /// is resident. A segmenter is loaded only where `method` asks for it.
    ///
    /// # Errors
    /// Whatever is wrong with the package, and tiles that are more than the profile's memory, before they are allocated.
    pub fn load(profile: &Profile, manifest: &Manifest, method: &Method) -> Result<Self, PipelineError> {
        let (wanted, allowed) = (planner::tile_bytes(profile, manifest), profile.memory_limit);
        if wanted > allowed {
            return Err(PlannerError::Memory { wanted, allowed }.into());
        }
        let pool = Arc::new(Pool::new(profile.engines.threads));
        let vision = &manifest.vision;
        let segmenter = if *method == Method::Segmenter { Some(segmenter(manifest)?) } else { None };
        let Choice { vision: vision_kind, language, mut device, said: mut chosen } = Choice::new(profile, manifest)?;
        let chunk = profile.engines.projection_chunk;
        let sizes = DecoderSizes { positions: planner::positions(profile, manifest), chunk, visual: vision.shape.tokens(0) };
        if let Some(device) = &mut device {
            device.reserve((profile, manifest, method), [vision_kind, language].map(|kind| kind == EngineKind::Tensorrt), sizes)?;
        }
        let on_device = |kind| if kind == EngineKind::Tensorrt { device.as_ref() } else { None };
        // The made-up device's engines are the scripted ones, where it has no others.
        let made_up = language == EngineKind::Scripted || on_device(language).is_some_and(OnDevice::scripted);
        let scripted = || -> Result<_, PipelineError> {
            let tokenizer = Tokenizer::load(&manifest.language.tokenizer, SCRIPTED.vocab)?;
            let stop = tokenizer.id(&manifest.language.stop[0])?;
            let shape = DecoderShape { layers: manifest.language.interface_layer, vocab: tokenizer.len(), ..SCRIPTED };
            Ok((shape, (stop, SCRIPTED_ANSWER)))
        };
        let mut decoder: Box<dyn Decoder> = match (language, on_device(language)) {
            (EngineKind::Scripted, _) => {
                let (shape, (stop, len)) = scripted()?;
                Box::new(ScriptedDecoder::new(shape, stop, len))
            }
            (_, Some(device)) => Box::new(device.decoder(manifest, scripted, sizes)?),
            _ => Box::new(Llama::load(&manifest.language.decoder, sizes.positions, Arc::clone(&pool))?),
        };
        let (hidden, layers, context) = (decoder.shape().hidden, decoder.shape().layers, decoder.shape().context);
        let tokenizer = Arc::new(Tokenizer::load(&manifest.language.tokenizer, decoder.shape().vocab)?);
        let stop = manifest.language.stop.iter().map(|token| tokenizer.id(token)).collect::<Result<Vec<_>, _>>()?;
        if manifest.language.interface_layer > layers {
            return Err(crate::engine::DecoderError::Layer { found: manifest.language.interface_layer, layers }.into());
        }
        if manifest.language.context.get() > context {
            let (wanted, allowed) = (manifest.language.context, crate::units::Tokens::of(context));
            return Err(PlannerError::Context { wanted, allowed }.into());
        }
        let shape = EncoderShape::of(vision);
        let mut encoder: Box<dyn VisionEncoder> = match (vision_kind, on_device(vision_kind)) {
            (EngineKind::Scripted, _) => Box::new(ScriptedEncoder::new(shape)),
            (_, Some(device)) => Box::new(device.encoder(shape)?),
            _ => Box::new(OnnxEncoder::load(&vision.encoder, shape, profile.engines.threads)?),
        };
        let scripted = vision_kind == EngineKind::Scripted || language == EngineKind::Scripted;
        let mut projector: Box<dyn Projector> = match &device {
            Some(device) => Box::new(device.projector(chunk, [vision.feature_dim, hidden])?),
            None if scripted => Box::new(ScriptedProjector { chunk, feature_dim: vision.feature_dim, hidden }),
            None => Box::new(OnnxProjector::load(&vision.projector, chunk, vision.feature_dim, hidden)?),
        };
        let positions = match &vision.positions {
            Some(path) if !made_up => Some(Positions::load(path, vision.shape.views().len(), vision.shape.tile_grid().pow(2), hidden)?),
            _ => None,
        };
        let mut selected_token_mlp: Option<Box<dyn Projector>> = match &vision.selected_token_mlp {
            Some(path) if !made_up => {
                let there = device.as_ref().map(|device| device.token_mlp(chunk, hidden)).transpose()?.flatten();
                Some(match there {
                    Some(there) => Box::new(there),
                    None => Box::new(OnnxProjector::load(path, chunk, hidden, hidden)?),
                })
            }
            _ => None,
        };
        let on = on_device(vision_kind).filter(|_| *method == Method::Kmeans);
        let mut kmeans = on.map(|device| device.kmeans(profile, manifest, hidden)).transpose()?.flatten();
        if let Some(why) = on.and_then(OnDevice::without_kmeans) {
            let before = chosen.map_or_else(String::new, |chosen| format!("{chosen}; "));
            chosen = Some(format!("{before}k-means on the CPU: {why}"));
        }
        let tile = vision.shape.tile().get();
        let threads = profile.engines.threads;
        let tiles = vec![0.0; threads * 3 * tile * tile];
        let mut features = vec![f16::ZERO; threads * shape.tokens() * vision.feature_dim];
        encoder.warm_up(&pool)?;
        encoder.encode(&tiles, &mut features, &pool)?;
        projector.project(&features[..vision.feature_dim], &mut vec![0.0; hidden])?;
        if let Some(mlp) = &mut selected_token_mlp {
            mlp.project(&vec![f16::ZERO; hidden], &mut vec![0.0; hidden])?;
        }
        if let Some(kmeans) = &mut kmeans {
            let dim = kmeans.dim();
            kmeans.partition(&ViewFeatures::raster(Rows::F16(&vec![f16::ZERO; dim]), dim, 1), 1, &pool, &mut [0])?;
        }
        if on_device(language).is_some() {
            // What a first run takes of the device it takes now.
            let mut kv = KvCache::new(0, decoder.shape().kv_width(), sizes.positions);
            let prompt = [Segment::Rows(&vec![f16::ZERO; hidden]), Segment::Ids(&[0])];
            decoder.attend(&mut kv, &prompt, 0, (manifest.language.interface_layer, manifest.policy.importance), &mut [0.0])?;
            decoder.prefill(&mut kv, &prompt)?;
            decoder.step(&mut kv, 0)?;
        }
        let beside = projector.bytes() + selected_token_mlp.as_ref().map_or(Bytes(0), |mlp| mlp.bytes());
        let seen = if on_device(vision_kind).is_some() { encoder.bytes() } else { Bytes(0) };
        let on_device = device.as_ref().map_or(Ok(Bytes(0)), |device| device.spare().map(|spare| seen + beside + spare))?;
        Ok(Self { on_device, encoder, projector, decoder, tokenizer, positions, selected_token_mlp, segmenter, kmeans, stop, pool, chosen })
    }

    /// What the networks cost, by their weights.
    #[must_use]
    pub fn model_cost(&self, manifest: &Manifest) -> planner::ModelCost {
        let refine = self.selected_token_mlp.as_ref().map_or(Bytes(0), |mlp| mlp.bytes());
        // A made-up engine has no weights: its time, where a clock scripts it, is that of the package's own.
        let weights = |held: Bytes, path: &Path| {
            if held > Bytes(0) { held } else { Bytes(std::fs::metadata(path).map_or(0, |file| file.len())) }
        };
        let vision = &manifest.vision;
        let networks = [weights(self.encoder.bytes(), &vision.encoder), weights(self.projector.bytes(), &vision.projector), refine];
        planner::ModelCost::of(manifest, self.decoder.shape().clone(), self.decoder.weights(), networks)
    }

    /// For the memory map; `resident` is that of the process after the load.
    #[must_use]
    pub fn loaded(&self, resident: Bytes) -> planner::Loaded {
        planner::Loaded {
            resident,
            measured: true,
            decoder: self.decoder.shape().clone(),
            on_device: self.on_device,
            decoder_weights: self.decoder.weights(),
            decoder_workspace: self.decoder.workspace(),
            decoder_caches: self.decoder.caches(),
            segmenter: self.segmenter.as_ref().map(|segmenter| segmenter.size()),
            kmeans: self.kmeans.as_ref().map(TensorrtKmeans::bytes),
        }
    }
}

/// The package's segmenter, run once.
fn segmenter(manifest: &Manifest) -> Result<Box<dyn Segmenter>, PipelineError> {
    let Some(path) = &manifest.vision.segmenter else {
        return Err(PipelineError::NoSegmenter { model: manifest.name.clone() });
    };
    let mut segmenter = OnnxSegmenter::load(path)?;
    let (width, height) = segmenter.size();
    let pixels = width.get() * height.get();
    segmenter.segment(&vec![0.0; 3 * pixels], &mut vec![0; pixels])?;
    Ok(Box::new(segmenter))
}
