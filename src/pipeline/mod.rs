//! Frame in, answer out: the only place that calls both engines and the compression.
//!
//! [`Pipeline::ingest`] does once a frame what doesn't depend on a question: views, features, regions, the projected anchor. [`Pipeline::answer`] does
//! the rest: the anchor pass, selection, merge, prefill, greedy decoding.
//!
//! # Why
//! All storage is made at start, from the planner's map. Between a prompt's token ids and the answer's nothing is allocated outside the ONNX engine.

mod answer;
mod choose;
mod clock;
mod engines;
mod evidence;
mod ingest;
mod kept;
mod lazy;
mod maps;
mod on_device;
mod planning;
mod prompt;
mod receipt;
mod shown;

pub use answer::Told;
pub use clock::{Clock, Monotonic};
pub use engines::Engines;
pub use ingest::Frame;
pub use kept::Importance;
pub use planning::{Request, Spent};
pub use prompt::PromptIds;
pub use receipt::{Answer, Finish, Receipt};
pub use shown::{Kept, MergedRegion, Picture, Shown};

use std::sync::Arc;

use half::f16;

use crate::arena::{FrameLease, FrameSlots, Full, KvCache, Stale, TokenArena};
use crate::compress::regions::{Method, Partition};
use crate::compress::{CompressError, MergeWork, PositionsError, Ranked, SelectWork, TileRank};
use crate::config::{ConfigError, Manifest, Profile};
use crate::engine::tensorrt::ShimError;
use crate::engine::{DecoderError, EngineError, TokenizerError};
use crate::geometry::GeometryError;
use crate::imaging::{ImagingError, LabelMapError, Limits, Pyramid};
use crate::kernels::Isa;
use crate::planner::{self, BudgetError, CostModel, Costs, Line, MemoryMap, PlannerError, Workspaces};
use crate::units::{Bytes, Readings};
use choose::Chosen;
use maps::Maps;

impl PipelineError {
    /// The device answers no more: neither would the next question, until the engines are loaded anew.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let source = match self {
            Self::Compress(CompressError::Device { lost, .. }) => return *lost,
            Self::Engine(EngineError::Device { source, .. } | EngineError::Decoder(DecoderError::Device { source, .. })) => source,
            _ => return false,
        };
        matches!(source, ShimError::Lost { .. })
    }
}

/// What kept a frame or a question from its answer.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Imaging(#[from] ImagingError),
    #[error(transparent)]
    LabelMap(#[from] LabelMapError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Planner(#[from] PlannerError),
    #[error(transparent)]
    Compress(#[from] CompressError),
    #[error(transparent)]
    Positions(#[from] PositionsError),
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("partition segmenter: wanted a package with vision.segmenter, found none in {model}")]
    NoSegmenter { model: String },
    #[error("question: wanted text, found none")]
    EmptyQuestion,
}

impl From<DecoderError> for PipelineError {
    fn from(error: DecoderError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<TokenizerError> for PipelineError {
    fn from(error: TokenizerError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<BudgetError> for PipelineError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::Config(error) => Self::Config(error),
            BudgetError::Planner(error) => Self::Planner(error),
        }
    }
}

/// Engines, and all storage that frames and questions use.
pub struct Pipeline {
    profile: Profile,
    manifest: Manifest,
    engines: Engines,
    map: MemoryMap,
    slots: FrameSlots,
    tokens: TokenArena,
    kv: KvCache,
    pyramid: Pyramid,
    tiles: Vec<f32>,
    tile_features: Vec<f16>,
    partition: Box<dyn Partition>,
    maps: Option<Maps>,
    selecting: SelectWork,
    merging: MergeWork,
    ranked: Ranked,
    gathered: Vec<f16>,
    /// A chunk of rows after the selected tokens' MLP.
    refined: Vec<f32>,
    /// A view projected whole, and the features of a tile of padding, for policies that want them.
    projected: Vec<f16>,
    padding: Vec<f16>,
    /// Labels of a view that is clustered anew for one question.
    relabelled: Vec<u32>,
    /// Importance as the decoder gives it, over the anchor's grid, and over the view at hand.
    seen_scores: Vec<f32>,
    anchor_scores: Vec<f32>,
    /// The anchor's importance of each frame of the last question, `[MAX_FRAMES, anchor]`, for pictures.
    seen_importance: Vec<u8>,
    view_scores: Vec<f32>,
    chosen: Chosen,
    /// Fine tiles by importance.
    tile_rank: TileRank,
    /// The frame whose views are in the pyramid.
    pictured: Option<FrameLease>,
    costs: Costs,
    clock: Arc<dyn Clock>,
    /// How the board stands.
    senses: Senses,
    /// Answers that came after their deadline.
    late: u64,
    /// Of what the plan leaves, what pictures that others decode may hold.
    aside: Bytes,
}

/// What tells how the board stands; it must not wait for it.
pub type Senses = Box<dyn Fn() -> Readings + Send>;

impl Pipeline {
    /// Allocates what the map says. `method`: how regions are made; `resident`: the process after the engines were loaded.
    ///
    /// # Errors
    /// A map over the profile's limit.
    pub fn new(
        profile: Profile,
        manifest: Manifest,
        mut engines: Engines,
        method: &Method,
        resident: Bytes,
    ) -> Result<Self, PipelineError> {
        let loaded = engines.loaded(resident);
        let there = engines.kmeans.take();
        let map = planner::memory_map(&profile, &manifest, method, &loaded)?;
        let shape = manifest.vision.shape.clone();
        let (dim, hidden) = (manifest.vision.feature_dim, loaded.decoder.hidden);
        let work = Workspaces::new(&profile, &manifest, method, hidden);
        let (threads, chunk) = (profile.engines.threads, profile.engines.projection_chunk);
        let (tile, tile_tokens) = (shape.tile().get(), shape.tile_grid().pow(2));
        let positions = planner::positions(&profile, &manifest);
        let isa = Isa::detect();
        let anchor = shape.tokens(0).get();
        let mut padding = vec![f16::ZERO; work.padding];
        if work.padding > 0 {
            let pad = shape.pad();
            let plane = |channel: usize| std::iter::repeat_n(shape.normalise(channel, pad[channel]), tile * tile);
            let empty: Vec<f32> = (0..3).flat_map(plane).collect();
            engines.encoder.encode(&empty, &mut padding, &engines.pool)?;
        }
        let frames = profile.frame.slots.min(planner::MAX_FRAMES);
        let costs = Costs { model: CostModel { model: engines.model_cost(&manifest), device: profile.device.clone() }, calibration: None };
        Ok(Self {
            tile_rank: TileRank::new(shape.all_tiles()),
            pictured: None,
            costs,
            clock: Arc::new(Monotonic::default()),
            senses: Box::new(Readings::default),
            late: 0,
            aside: Bytes(0),
            slots: FrameSlots::new(profile.frame.slots, &shape, dim, hidden),
            tokens: TokenArena::new(profile.tokens.max_visual, hidden),
            kv: KvCache::new(if loaded.decoder_caches { loaded.decoder.layers } else { 0 }, loaded.decoder.kv_width(), positions),
            pyramid: Pyramid::new(&shape, profile.frame.max_side, isa),
            tiles: vec![0.0; threads * 3 * tile * tile],
            tile_features: vec![f16::ZERO; threads * tile_tokens * dim],
            partition: match there {
                Some(there) => Box::new(there),
                None => method.make(&profile.compression, &manifest.policy, isa, work.partition),
            },
            maps: Maps::new(&profile, &manifest, method, loaded.segmenter),
            selecting: SelectWork::new(work.tokens, work.regions, work.budget),
            merging: MergeWork::new(chunk, hidden),
            ranked: Ranked::new(shape.all_tokens()),
            gathered: vec![f16::ZERO; chunk.get() * dim],
            refined: vec![0.0; chunk.get() * hidden],
            projected: vec![f16::ZERO; work.projected],
            padding,
            relabelled: vec![0; work.tokens],
            seen_scores: vec![0.0; anchor],
            anchor_scores: vec![0.0; anchor],
            seen_importance: vec![0; planner::MAX_FRAMES * anchor],
            view_scores: vec![0.0; work.tokens],
            chosen: Chosen::new(frames * shape.views().len(), profile.tokens.max_visual.get(), frames * shape.all_tokens().get()),
            profile,
            manifest,
            engines,
            map,
        })
    }

    #[must_use]
    pub fn map(&self) -> &MemoryMap {
        &self.map
    }

    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    #[must_use]
    pub fn engines(&self) -> &Engines {
        &self.engines
    }

    /// Plans for what else the process holds, `line`; one part in `share` of what is left then is for others that decode pictures, and is returned.
    ///
    /// # Errors
    /// A map over the profile's limit.
    pub fn set_aside(&mut self, line: Line, share: u64) -> Result<Bytes, PipelineError> {
        self.map.lines.push(line);
        let (wanted, allowed) = (self.map.total(), self.profile.memory_limit);
        if wanted > allowed {
            return Err(PlannerError::Memory { wanted, allowed }.into());
        }
        self.aside = Bytes((allowed - wanted).0 / share);
        Ok(self.aside)
    }

    /// What a frame must keep to: what is left of the profile's memory is for pictures that can't be decoded by rows.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            max_side: self.profile.frame.max_side,
            max_pixels: self.profile.frame.max_pixels,
            whole: self.profile.memory_limit - self.map.total() - self.aside,
        }
    }

    /// Prompt ids of a question. Whether they are admitted is the plan's matter.
    ///
    /// # Errors
    /// A question of nothing, or one far beyond the text that the profile allows.
    pub fn prompt(&self, question: &str) -> Result<PromptIds, PipelineError> {
        if question.trim().is_empty() {
            return Err(PipelineError::EmptyQuestion);
        }
        let (wanted, allowed) = (Bytes::of::<u8>(question.len()), planner::max_question(&self.profile));
        if wanted > allowed {
            return Err(PlannerError::Question { wanted, allowed }.into());
        }
        Ok(PromptIds::new(&self.manifest.prompt, &self.engines.tokenizer, question)?)
    }
}
