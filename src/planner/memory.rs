//! Every byte that the process will hold, by purpose, against the profile's limit.

use crate::arena::{FrameSlots, KvCache, TokenArena};
use crate::compress::regions::{Method, Sizes, Slic, Voter};
use crate::compress::{MergeWork, Ranked, SelectWork, TileRank};
use crate::config::{ClusterOn, Model, Padding, Profile};
use crate::engine::DecoderShape;
use crate::geometry::VisionShape;
use crate::imaging::{LabelMap, Pyramid, decoder_bytes};
use crate::planner::{MAX_FRAMES, PlannerError};
use crate::units::{Bytes, Px, Tokens};

/// One line of the memory map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub what: &'static str,
    pub bytes: Bytes,
}

/// Everything the process holds, by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    pub lines: Vec<Line>,
}

impl MemoryMap {
    #[must_use]
    pub fn total(&self) -> Bytes {
        self.lines.iter().map(|line| line.bytes).sum()
    }
}

/// Sizes that only loaded engines know, or that a spec stands for.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Resident set after the engines were loaded and run once: the program, encoder, projector and tokenizer.
    pub resident: Bytes,
    /// It was measured; of a spec it is assumed.
    pub measured: bool,
    pub decoder: DecoderShape,
    pub decoder_weights: Bytes,
    pub decoder_workspace: Bytes,
    /// Encoder, projector and MLP on a device: weights, workspaces and buffers on both sides, and what is reserved there and not taken. 0 on the CPU, where they are
    /// resident.
    pub on_device: Bytes,
    /// Keys and values stand in the process's own cache; else they are part of the decoder's workspace.
    pub decoder_caches: bool,
    /// Width and height of the segmenter's picture, where one was asked for.
    pub segmenter: Option<(Px, Px)>,
    /// Of k-means on a device, on both sides.
    pub kmeans: Option<Bytes>,
}

/// Positions that the KV cache holds: the anchor pass or the largest answer pass.
#[must_use]
pub fn positions(profile: &Profile, model: &impl Model) -> Tokens {
    model.shape().tokens(0).max(profile.tokens.max_visual) + profile.tokens.max_text + profile.tokens.max_new
}

/// Sizes of the workspaces, from the same numbers for the map and for the allocation.
pub struct Workspaces {
    pub tokens: usize,
    pub regions: usize,
    pub budget: usize,
    pub partition: Sizes,
    pub projected: usize,
    pub padding: usize,
}

impl Workspaces {
    #[must_use]
    pub fn new(profile: &Profile, model: &impl Model, method: &Method, hidden: usize) -> Self {
        let shape = model.shape();
        let tokens = shape.tokens(shape.views().len() - 1).get();
        let projected = model.policy().cluster_on == ClusterOn::Projected;
        let dim = if projected { hidden } else { model.feature_dim() };
        let partition = Sizes { tokens, dim, clusters: profile.compression.clusters as usize };
        // A view projected whole, for a policy that clusters projected tokens; a tile of padding, for one that keeps it.
        let projected = if projected { tokens * hidden } else { 0 };
        let padding = model.policy().padding == Padding::Kept;
        let padding = if padding { shape.tile_grid().pow(2) * model.feature_dim() } else { 0 };
        Self {
            tokens,
            regions: method.regions(partition),
            budget: profile.tokens.max_visual.get().min(tokens),
            partition,
            projected,
            padding,
        }
    }
}

/// Tiles as many as there are threads, and their features.
#[must_use]
pub fn tile_bytes(profile: &Profile, model: &impl Model) -> Bytes {
    let shape = model.shape();
    let (threads, tile) = (profile.engines.threads as u64, u64::from(shape.tile().0));
    let (pixels, tokens) = (3 * tile * tile, shape.tile_grid().pow(2) as u64);
    Bytes(threads * (4 * pixels + 2 * tokens * model.feature_dim() as u64))
}

/// The memory map of `profile` and `model`, with regions made by `method`.
///
/// # Errors
/// [`PlannerError::Memory`] when it is over the profile's limit.
pub fn memory_map(profile: &Profile, model: &impl Model, method: &Method, loaded: &Loaded) -> Result<MemoryMap, PlannerError> {
    let map = memory_lines(profile, model, method, loaded);
    if map.total() > profile.memory_limit {
        return Err(PlannerError::Memory { wanted: map.total(), allowed: profile.memory_limit });
    }
    Ok(map)
}

/// The same, whatever the profile's limit.
#[must_use]
pub fn memory_lines(profile: &Profile, model: &impl Model, method: &Method, loaded: &Loaded) -> MemoryMap {
    let shape = model.shape();
    let (dim, hidden) = (model.feature_dim(), loaded.decoder.hidden);
    let work = Workspaces::new(profile, model, method, hidden);
    let (views, strips) = Pyramid::bytes(shape, profile.frame.max_side);
    let slot = FrameSlots::slot_bytes(shape, dim, hidden);
    let chunk = profile.engines.projection_chunk;
    let cached = if loaded.decoder_caches { loaded.decoder.layers } else { 0 };
    let mut lines = vec![
        Line { what: if loaded.measured { RESIDENT } else { ASSUMED }, bytes: loaded.resident },
        Line { what: "decoder weights", bytes: loaded.decoder_weights },
        Line { what: "decoder activations and logits", bytes: loaded.decoder_workspace },
        Line { what: "KV cache", bytes: KvCache::bytes(cached, loaded.decoder.kv_width(), positions(profile, model)) },
        Line { what: "frame slots", bytes: Bytes(slot.0 * profile.frame.slots as u64) },
        Line { what: "token arena", bytes: TokenArena::bytes(profile.tokens.max_visual, hidden) },
        Line { what: "views", bytes: views },
        Line { what: "pyramid strips and filters", bytes: strips },
        Line { what: "picture decoder", bytes: decoder_bytes(profile.frame.max_side) },
        Line { what: "tiles in and out", bytes: tile_bytes(profile, model) },
        Line { what: "regions", bytes: loaded.kmeans.unwrap_or_else(|| method.bytes(&profile.compression, work.partition)) },
        Line {
            what: "selection",
            bytes: SelectWork::bytes(work.tokens, work.regions, work.budget)
                + Ranked::bytes(shape.all_tokens())
                + TileRank::bytes(shape.all_tiles())
                + Bytes::of::<f32>(2 * work.tokens + 2 * shape.tokens(0).get())
                + Bytes::of::<u8>(MAX_FRAMES * shape.tokens(0).get())
                + Bytes::of::<u32>(profile.frame.slots.min(MAX_FRAMES) * shape.all_tokens().get() + 5 * profile.tokens.max_visual.get()),
        },
        Line {
            what: "projection chunk",
            bytes: MergeWork::bytes(chunk, hidden) + Bytes::of::<f32>(chunk.get() * hidden) + Bytes::of::<u16>(chunk.get() * dim),
        },
        Line { what: "a projected view and a tile of padding", bytes: Bytes::of::<u16>(work.projected + work.padding) },
    ];
    if method.maps() {
        lines.push(Line { what: "label map", bytes: label_map(profile, model, method, loaded) });
    }
    if loaded.on_device > Bytes(0) {
        lines.insert(1, Line { what: ON_DEVICE, bytes: loaded.on_device });
    }
    MemoryMap { lines }
}

const ON_DEVICE: &str = "encoder, projector and MLP on the device";
const RESIDENT: &str = "process, encoder, projector, tokenizer (measured at load)";
const ASSUMED: &str = "process (assumed: 400 MiB), encoder, projector";

/// The longest side of a picture that superpixels are made of.
const REDUCED: Px = Px(1_344);

/// The view that superpixels are made of: the largest that is at most [`REDUCED`], or the anchor.
#[must_use]
pub fn reduced(shape: &VisionShape) -> usize {
    shape.views().iter().rposition(|side| *side <= REDUCED).unwrap_or(0)
}

/// What a map of labels and the votes on it hold.
fn label_map(profile: &Profile, model: &impl Model, method: &Method, loaded: &Loaded) -> Bytes {
    let (shape, threads) = (model.shape(), profile.engines.threads);
    match method {
        Method::Labels(_) => LabelMap::bytes(profile.frame.max_side) + Voter::bytes(shape, profile.frame.max_side, threads),
        Method::Superpixels => {
            let side = shape.views()[reduced(shape)];
            Slic::bytes(side.get(), profile.compression.clusters as usize) + Voter::bytes(shape, side, threads)
        }
        Method::Segmenter => {
            let (width, height) = loaded.segmenter.unwrap_or_default();
            Bytes::of::<f32>(4 * width.get() * height.get()) + Voter::bytes(shape, width.max(height), threads)
        }
        Method::Kmeans | Method::Birch => Bytes(0),
    }
}
