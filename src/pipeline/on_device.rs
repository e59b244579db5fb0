//! Engines on a device: which it is, and where they come from.

use crate::config::{EngineKind, Manifest, Profile, Shim};
use crate::engine::decoder::Embeddings;
use crate::engine::onnx::EncoderShape;
use crate::engine::tensorrt::{
    Built, BuiltError, DecoderPlans, DecoderSizes, Device, Graph, RECORD, RowsOf, TensorrtDecoder, TensorrtEncoder, TensorrtProjector,
    built_in, fake, first_device, plans_folder,
};
use crate::engine::{DecoderShape, EngineError};
use crate::pipeline::PipelineError;
use crate::planner;
use crate::units::Tokens;

/// The first GPU, and the package's engines for it.
pub struct OnDevice {
    device: Device,
    /// None: the made-up device's own, which are scripted.
    built: Option<Built>,
}

impl OnDevice {
    /// Behind the profile's shim. The made-up device serves the package's engines too, where there are any for it.
    ///
    /// # Errors
    /// A library or a GPU that is missing; engines that are, or do not do for the profile.
    pub fn open(profile: &Profile, manifest: &Manifest) -> Result<Self, PipelineError> {
        let made_up = profile.engines.shim == Shim::Fake;
        let (device, identity) = first_device(&profile.engines.shim)?;
        let folder = plans_folder(profile.engines.plans.as_deref()).map(|plans| built_in(&plans, &manifest.name, &identity));
        if made_up && !folder.as_ref().is_some_and(|folder| folder.join(RECORD).is_file()) {
            return Ok(Self { device, built: None });
        }
        let folder = folder.ok_or(BuiltError::NoPlace).map_err(EngineError::from)?;
        let built = Built::open(&folder, manifest, &identity).map_err(EngineError::from)?;
        built.serves(&planner::engine_limits(profile, manifest)?).map_err(EngineError::from)?;
        Ok(Self { device, built: Some(built) })
    }

    /// Whether its engines are scripted.
    pub fn scripted(&self) -> bool {
        self.built.is_none()
    }

    pub fn encoder(&self, shape: EncoderShape) -> Result<TensorrtEncoder, EngineError> {
        match &self.built {
            Some(built) => TensorrtEncoder::load(&self.device, &built.plan(Graph::Encoder)?, shape),
            None => fake::encoder(&self.device, shape),
        }
    }

    pub fn projector(&self, chunk: Tokens, [feature_dim, hidden]: [usize; 2]) -> Result<TensorrtProjector, EngineError> {
        match &self.built {
            Some(built) => {
                let plan = built.plan(Graph::Projector)?;
                TensorrtProjector::load(&self.device, (&plan, RowsOf::Features), chunk, [feature_dim, hidden])
            }
            None => fake::projector(&self.device, chunk, feature_dim, hidden),
        }
    }

    /// The selected tokens' MLP; none of scripted engines.
    pub fn token_mlp(&self, chunk: Tokens, hidden: usize) -> Result<Option<TensorrtProjector>, EngineError> {
        let Some(built) = &self.built else { return Ok(None) };
        let plan = built.plan(Graph::TokenMlp)?;
        TensorrtProjector::load(&self.device, (&plan, RowsOf::Tokens), chunk, [hidden; 2]).map(Some)
    }

    /// `scripted`: shape and answer of a scripted one, asked for where it is one.
    pub fn decoder(
        &self,
        manifest: &Manifest,
        scripted: impl FnOnce() -> Result<(DecoderShape, (u32, u32)), PipelineError>,
        sizes: DecoderSizes,
    ) -> Result<TensorrtDecoder, PipelineError> {
        let Some(built) = &self.built else {
            let (shape, answer) = scripted()?;
            return Ok(fake::decoder(&self.device, shape, answer, sizes)?);
        };
        let (table, shape) = Embeddings::load(&manifest.language.decoder)?;
        let plan = |graph| built.plan(graph).map_err(EngineError::from);
        let [prefill, step, anchor] = [plan(Graph::Prefill)?, plan(Graph::Step)?, plan(Graph::Anchor)?];
        let plans = DecoderPlans { prefill: &prefill, step: &step, anchor: &anchor, form: built.form() };
        let layer = manifest.language.interface_layer;
        Ok(TensorrtDecoder::load(&self.device, &plans, (Box::new(table), shape), layer, sizes)?)
    }
}

/// Where a profile's engines run.
pub struct Choice {
    pub vision: EngineKind,
    pub language: EngineKind,
    pub device: Option<OnDevice>,
    pub said: Option<String>,
}

impl Choice {
    /// What is [`EngineKind::Auto`] is decided by what is there.
    ///
    /// # Errors
    /// An engine that must be on a device, without one.
    pub fn new(profile: &Profile, manifest: &Manifest) -> Result<Self, PipelineError> {
        let (vision, language) = (profile.engines.vision, profile.engines.language);
        let any = |kind| vision == kind || language == kind;
        if !any(EngineKind::Tensorrt) && !any(EngineKind::Auto) {
            return Ok(Self { vision, language, device: None, said: None });
        }
        let (device, on, said) = match OnDevice::open(profile, manifest) {
            Ok(device) => (Some(device), [EngineKind::Tensorrt; 2], "TensorRT".to_owned()),
            Err(error) if any(EngineKind::Tensorrt) => return Err(error),
            Err(error) => (None, [EngineKind::Onnx, EngineKind::Gguf], format!("CPU; TensorRT missing: {error}")),
        };
        let decided = |kind, on| if kind == EngineKind::Auto { on } else { kind };
        let said = any(EngineKind::Auto).then_some(said);
        Ok(Self { vision: decided(vision, on[0]), language: decided(language, on[1]), device, said })
    }
}
