//! Engines on a device: which it is, and where they come from.

use crate::compress::regions::{Method, Sizes, kmeans};
use crate::config::{EngineKind, Manifest, Profile, Shim};
use crate::engine::decoder::Embeddings;
use crate::engine::onnx::EncoderShape;
use crate::engine::tensorrt::{
    Built, BuiltError, DecoderPlans, DecoderSizes, Device, Form, Graph, Plan, RECORD, Room, RowsOf, ShimError, TensorrtDecoder,
    TensorrtEncoder, TensorrtKmeans, TensorrtProjector, WholePlan, built_in, fake, first_device, plans_folder,
};
use crate::engine::{DecoderShape, EngineError};
use crate::kernels::Isa;
use crate::pipeline::PipelineError;
use crate::planner::{self, PlannerError, Workspaces};
use crate::units::{Bytes, Tokens};

/// The first GPU, and the package's engines for it.
pub struct OnDevice {
    device: Device,
    /// None: the made-up device's own, which are scripted.
    built: Option<Built>,
    plans: Vec<(Graph, WholePlan)>,
    /// Why k-means isn't on it, though it has engines for that.
    without: Option<String>,
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
            return Ok(Self { device, built: None, plans: Vec::new(), without: None });
        }
        let folder = folder.ok_or(BuiltError::NoPlace).map_err(EngineError::from)?;
        let built = Built::open(&folder, manifest, &identity).map_err(EngineError::from)?;
        built.serves(&planner::engine_limits(profile, manifest)?).map_err(EngineError::from)?;
        Ok(Self { device, built: Some(built), plans: Vec::new(), without: None })
    }

    /// Whether its engines are scripted.
    pub fn scripted(&self) -> bool {
        self.built.is_none()
    }

    /// Takes all memory of the device that a profile's engines and their buffers will use, as one piece; `vision`, `language`: what is to be on it. Regions by
    /// k-means are made there too, where there are engines that do and room for them.
    ///
    /// # Errors
    /// An engine that isn't as it was built, or doesn't open; less memory than that, with figures.
    pub fn reserve(
        &mut self,
        (profile, manifest, method): (&Profile, &Manifest, &Method),
        [vision, language]: [bool; 2],
        sizes: DecoderSizes,
    ) -> Result<(), PipelineError> {
        let Some(built) = &self.built else { return Ok(()) };
        let shape = Embeddings::load(&manifest.language.decoder)?.1;
        let encoder = EncoderShape::of(&manifest.vision);
        let mut wanted = vec![Graph::Projector];
        wanted.extend(Some(Graph::TokenMlp).filter(|graph| built.has(*graph)));
        wanted.extend(Some(Graph::Encoder).filter(|_| vision));
        wanted.extend([Graph::Prefill, Graph::Step, Graph::Anchor].into_iter().filter(|_| language));
        let device = |source| EngineError::Device { engine: "tensorrt", source };
        let mut room = Room::new(&self.device).map_err(device)?;
        for graph in wanted {
            let plan = built.plan(graph).map_err(EngineError::from)?;
            room.engine(&plan, &[]).map_err(|source| EngineError::Device { engine: engine(graph), source })?;
            self.plans.push((graph, plan));
            match graph {
                Graph::Encoder => TensorrtEncoder::buffers(&mut room, encoder),
                Graph::Projector => TensorrtProjector::buffers(&mut room, sizes.chunk, [encoder.feature_dim, shape.hidden]),
                Graph::TokenMlp => TensorrtProjector::buffers(&mut room, sizes.chunk, [shape.hidden; 2]),
                _ => {}
            }
        }
        if language {
            TensorrtDecoder::buffers(&mut room, &shape, sizes, built.form());
        }
        let with =
            if vision && *method == Method::Kmeans { Self::with_kmeans(built, (profile, manifest), &room, shape.hidden)? } else { None };
        match with {
            Some(Ok((with, plans))) => {
                with.reserve().map_err(device)?;
                self.plans.extend(plans);
            }
            without => {
                self.without = without.and_then(Result::err);
                let (wanted, allowed) = (room.total(), profile.memory_limit);
                if wanted > allowed {
                    return Err(PlannerError::Memory { wanted, allowed }.into());
                }
                room.reserve().map_err(device)?;
            }
        }
        Ok(())
    }

    /// `room` and what k-means takes, with its plans; why it can't be there; or that nothing wants it there.
    fn with_kmeans(
        built: &Built,
        (profile, manifest): (&Profile, &Manifest),
        room: &Room,
        hidden: usize,
    ) -> Result<Option<WithKmeans>, PipelineError> {
        let (settings, sizes) = kmeans_of(profile, manifest, hidden);
        if !built.has(Graph::Kmeans) || !built.has(Graph::Centres) || !TensorrtKmeans::computes(&settings, sizes.dim) {
            return Ok(None);
        }
        let plan = |graph| built.plan(graph).map(|plan| (graph, plan)).map_err(EngineError::from);
        let plans = [plan(Graph::Kmeans)?, plan(Graph::Centres)?];
        let mut with = room.clone();
        match TensorrtKmeans::room(&mut with, [&plans[0].1, &plans[1].1], sizes, built.record().limits.chunk) {
            Ok(()) => {}
            Err(error @ (ShimError::OutOfMemory { .. } | ShimError::Shape { .. })) => {
                return Ok(Some(Err(format!("tensorrt kmeans: {error}"))));
            }
            Err(source) => return Err(EngineError::Device { engine: engine(Graph::Kmeans), source }.into()),
        }
        let (wanted, (free, _)) =
            (with.total(), with.device().memory().map_err(|source| EngineError::Device { engine: "tensorrt", source })?);
        let allowed = free.min(profile.memory_limit);
        Ok(Some(if wanted > allowed { Err(format!("wanted {wanted} of the device's memory, found {allowed}")) } else { Ok((with, plans)) }))
    }

    /// What is reserved and wasn't taken.
    ///
    /// # Errors
    /// A lost device.
    pub fn spare(&self) -> Result<Bytes, EngineError> {
        let memory = || self.device.memory().map_err(|source| EngineError::Device { engine: "tensorrt", source });
        if self.built.is_some() { Ok(memory()?.0) } else { Ok(Bytes(0)) }
    }

    /// Why k-means isn't on it, though it has engines for that.
    pub fn without_kmeans(&self) -> Option<&str> {
        self.without.as_deref()
    }

    /// The plan of `graph`, which [`Self::reserve`] has read; none of scripted engines, and of what it wasn't told to.
    fn plan(&self, graph: Graph) -> Option<Plan<'_>> {
        self.plans.iter().find(|(own, _)| *own == graph).map(|(_, plan)| plan.into())
    }

    pub fn encoder(&self, shape: EncoderShape) -> Result<TensorrtEncoder, EngineError> {
        match self.plan(Graph::Encoder) {
            Some(plan) => TensorrtEncoder::load(&self.device, plan, shape),
            None => fake::encoder(&self.device, shape),
        }
    }

    pub fn projector(&self, chunk: Tokens, [feature_dim, hidden]: [usize; 2]) -> Result<TensorrtProjector, EngineError> {
        match self.plan(Graph::Projector) {
            Some(plan) => TensorrtProjector::load(&self.device, (plan, RowsOf::Features), chunk, [feature_dim, hidden]),
            None => fake::projector(&self.device, chunk, feature_dim, hidden),
        }
    }

    /// The selected tokens' MLP; none of scripted engines.
    pub fn token_mlp(&self, chunk: Tokens, hidden: usize) -> Result<Option<TensorrtProjector>, EngineError> {
        let plan = self.plan(Graph::TokenMlp);
        plan.map(|plan| TensorrtProjector::load(&self.device, (plan, RowsOf::Tokens), chunk, [hidden; 2])).transpose()
    }

    /// k-means on it; none where it has no engines for that, or their graphs don't compute what the profile wants.
    ///
    /// # Errors
    /// As [`TensorrtKmeans::load`]; engines that are there and damaged.
    pub fn kmeans(&self, profile: &Profile, manifest: &Manifest, hidden: usize) -> Result<Option<TensorrtKmeans>, EngineError> {
        let (settings, sizes) = kmeans_of(profile, manifest, hidden);
        let plans = [Graph::Kmeans, Graph::Centres].map(|graph| self.plan(graph));
        let ([Some(kmeans), Some(centres)], Some(built)) = (plans, &self.built) else { return Ok(None) };
        TensorrtKmeans::load(&self.device, [kmeans, centres], settings, sizes, built.record().limits.chunk).map(Some)
    }

    /// `scripted`: shape and answer of a scripted one, asked for where it is one.
    pub fn decoder(
        &self,
        manifest: &Manifest,
        scripted: impl FnOnce() -> Result<(DecoderShape, (u32, u32)), PipelineError>,
        sizes: DecoderSizes,
    ) -> Result<TensorrtDecoder, PipelineError> {
        let plans = [Graph::Prefill, Graph::Step, Graph::Anchor].map(|graph| self.plan(graph));
        let [Some(prefill), Some(step), Some(anchor)] = plans else {
            let (shape, answer) = scripted()?;
            return Ok(fake::decoder(&self.device, shape, answer, sizes)?);
        };
        let (table, shape) = Embeddings::load(&manifest.language.decoder)?;
        let form = self.built.as_ref().map_or(Form::Appended, Built::form);
        let plans = DecoderPlans { prefill, step, anchor, form };
        let layer = manifest.language.interface_layer;
        Ok(TensorrtDecoder::load(&self.device, &plans, (Box::new(table), shape), layer, sizes)?)
    }
}

/// The memory of all with k-means, and its plans; or why it can't be there.
type WithKmeans = Result<(Room, [(Graph, WholePlan); 2]), String>;

/// Whose a graph is, for errors.
fn engine(graph: Graph) -> &'static str {
    match graph {
        Graph::Encoder => "tensorrt encoder",
        Graph::Projector => "tensorrt projector",
        Graph::TokenMlp => "tensorrt token MLP",
        Graph::Prefill | Graph::Step | Graph::Anchor => "tensorrt decoder",
        Graph::Kmeans | Graph::Centres => "tensorrt kmeans",
        Graph::Merge => "tensorrt merge",
    }
}

/// What k-means is to do, and the largest view that it is for.
fn kmeans_of(profile: &Profile, manifest: &Manifest, hidden: usize) -> (kmeans::Settings, Sizes) {
    let settings = kmeans::Settings::new(&profile.compression, &manifest.policy, Isa::detect());
    (settings, Workspaces::new(profile, manifest, &Method::Kmeans, hidden).partition)
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
