//! What a request may take, and what the process holds: pure functions of the profile, the model and the frame.
//!
//! # Why
//! All memory is known before the first frame, so that a device that starts has room for everything it admits; a question that doesn't fit is
//! refused before any work, with what it wanted and what is allowed.

mod calibration;
mod cost;
mod engines;
mod ladder;
mod memory;
mod outlook;
mod room;
mod rungs;
mod spec;

pub use calibration::{Calibration, CalibrationError, Fit, Identity, needed, percentile, quantile, upper_bound};
pub use cost::{CostModel, Costs, Job, ModelCost, Stage, StageTimes};
pub use engines::engine_limits;
pub use ladder::{Boundary, Cached, Descent, FrameShare, Plan, Predicted, Rung, Step, slowdown};
pub use memory::{Line, Loaded, MemoryMap, Workspaces, memory_lines, memory_map, positions, reduced, tile_bytes};
pub use outlook::{Outlook, USUAL_TEXT, outlook};
pub use room::{Loading, Preset, Remedy, Verdict, max_preset, verdict};
pub use rungs::{Asked, Held, asked, capture, is_coarse, lazy_tiles, rungs};
pub use spec::spec_verdict;

use crate::compress::Selector;
use crate::config::{Budget, ConfigError, Model, Profile};
use crate::geometry::{Layout, ViewLayout};
use crate::units::{Bytes, Millis, Tiles, Tokens, ViewId};

/// A request that is refused before any work, or a plan that doesn't fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlannerError {
    #[error("budget: wanted {wanted} of the frames, the profile allows {allowed}")]
    Budget { wanted: Tokens, allowed: Tokens },
    #[error("context: wanted {wanted} (visual, text and answer), the model allows {allowed}")]
    Context { wanted: Tokens, allowed: Tokens },
    #[error("question: wanted {wanted} of text with the template, the profile allows {allowed}")]
    Text { wanted: Tokens, allowed: Tokens },
    #[error("question: wanted {wanted}, the profile allows {allowed}")]
    Question { wanted: Bytes, allowed: Bytes },
    #[error("budget: nothing of it is left for frame {frame} of {frames}")]
    Share { frame: usize, frames: usize },
    #[error("answer: wanted {wanted}, the profile allows {allowed}")]
    NewTokens { wanted: Tokens, allowed: Tokens },
    #[error("frames: wanted {wanted} at once, the profile's slots and a question allow {allowed}")]
    Frames { wanted: usize, allowed: usize },
    #[error("tiles: wanted at most {wanted} encoded, the views that are always encoded have {least}")]
    EncodeTiles { wanted: Tiles, least: Tiles },
    #[error("tiles: --encode-tiles wanted a partition that clusters (kmeans or birch), found {found}")]
    EncodeMap { found: String },
    #[error("view {view}: wanted {wanted} of it, it got none when the frame was ingested")]
    Unseen { view: ViewId, wanted: Tokens },
    #[error("deadline: wanted an answer in {wanted}, the smallest that would do is {smallest}")]
    Deadline { wanted: Millis, smallest: Millis },
    #[error("deadline: wanted power mode {wanted}, which was calibrated, found {found}")]
    PowerMode { wanted: String, found: String },
    #[error("deadline: wanted {wanted}, whose decoding was calibrated, found {found}: `uhr-edge qualify --frames` measures others")]
    Kind { wanted: String, found: &'static str },
    #[error("deadline: wanted a calibration of this device with this model, found none: `uhr-edge qualify` makes one")]
    Uncalibrated,
    #[error("memory: the plan needs {wanted}, the profile's limit is {allowed}")]
    Memory { wanted: Bytes, allowed: Bytes },
    #[error("memory: {model} on {profile} {verdict}")]
    Unfit { model: String, profile: String, verdict: Box<Verdict> },
}

/// Most frames of a question.
pub const MAX_FRAMES: usize = 4;

/// The budget that `text` names, or the profile's own.
///
/// # Errors
/// A budget that can't be read, is 0 in all, or more than the profile allows.
pub fn budget(text: Option<&str>, profile: &Profile, model: &impl Model) -> Result<Budget, BudgetError> {
    let budget = Budget::parse(text.unwrap_or(&profile.tokens.default_budget), model.shape().views().len())?;
    let (wanted, allowed) = (budget.total(), profile.tokens.max_visual);
    if wanted > allowed {
        return Err(PlannerError::Budget { wanted, allowed }.into());
    }
    Ok(budget)
}

/// A budget that can't be parsed or isn't admitted.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Planner(#[from] PlannerError),
}

/// The longest question, in bytes: more is no text that its tokens' limit stands for.
#[must_use]
pub fn max_question(profile: &Profile) -> Bytes {
    Bytes(u64::from(profile.tokens.max_text.0) * 16)
}

/// What a frame is taken in for before anybody asks: the profile's default budget, and in views that it gives nothing as many tokens as they may have regions.
///
/// # Errors
/// As [`budget`].
pub fn capture_budget(profile: &Profile, model: &impl Model) -> Result<Budget, BudgetError> {
    let budget = budget(None, profile, model)?;
    let clusters = Tokens(profile.compression.clusters);
    Ok(Budget::new(budget.per_view().iter().map(|tokens| if tokens.0 == 0 { clusters } else { *tokens }).collect())?)
}

/// Admits a question of `visual` tokens and `text` tokens, template included, with an answer of up to `new`.
///
/// # Errors
/// What is over its limit, before any compute.
pub fn admit(profile: &Profile, model: &impl Model, visual: Tokens, text: Tokens, new: Tokens) -> Result<(), PlannerError> {
    let limits = &profile.tokens;
    if visual > limits.max_visual {
        return Err(PlannerError::Budget { wanted: visual, allowed: limits.max_visual });
    }
    if text > limits.max_text {
        return Err(PlannerError::Text { wanted: text, allowed: limits.max_text });
    }
    if new > limits.max_new {
        return Err(PlannerError::NewTokens { wanted: new, allowed: limits.max_new });
    }
    let wanted = (visual + new).max(model.shape().tokens(0)) + text;
    let allowed = model.context();
    if wanted > allowed { Err(PlannerError::Context { wanted, allowed }) } else { Ok(()) }
}

/// What `selector` may take of a frame's views in place of `budget`, where it doesn't go by views.
///
/// # Errors
/// [`PlannerError::Budget`] when all tokens are wanted and the profile allows fewer.
pub fn allowed(selector: Selector, budget: Budget, layout: &Layout, profile: &Profile) -> Result<Budget, PlannerError> {
    let open = |view: &ViewLayout| if view.dropped { Tokens(0) } else { view.unmasked_tokens() };
    let total = budget.total();
    let per_view: Vec<Tokens> = match selector {
        Selector::UhrBat | Selector::Uniform | Selector::Topk => return Ok(budget),
        Selector::AnchorOnly => {
            layout.views().iter().map(|view| if view.id == ViewId::ANCHOR { open(view).min(total) } else { Tokens(0) }).collect()
        }
        Selector::Dense => layout.views().iter().map(open).collect(),
    };
    let (wanted, allowed) = (per_view.iter().copied().sum(), profile.tokens.max_visual);
    if wanted > allowed {
        return Err(PlannerError::Budget { wanted, allowed });
    }
    // A frame has at least one unmasked token of its anchor.
    Ok(Budget::new(per_view).unwrap_or(budget))
}

/// The share of `budget` that frame `number` of `frames` gets: even in each view, the remainder to the first.
///
/// # Errors
/// A share of nothing at all.
pub fn share(budget: &Budget, number: usize, frames: usize) -> Result<Budget, PlannerError> {
    let nothing = PlannerError::Share { frame: number + 1, frames };
    let frames = u32::try_from(frames.max(1)).unwrap_or(u32::MAX);
    let rest = |tokens: u32| if number == 0 { tokens % frames } else { 0 };
    Budget::new(budget.per_view().iter().map(|tokens| Tokens(tokens.0 / frames + rest(tokens.0))).collect()).map_err(|_| nothing)
}

/// The budget on a frame: that of dropped views goes to the largest view left. Also where each went, by view.
#[must_use]
pub fn place(budget: &Budget, layout: &Layout) -> (Budget, Vec<Option<usize>>) {
    let finest = layout.finest().id.index();
    let mut placed = budget.clone();
    let moved = layout.views().iter().map(|view| view.dropped.then_some(finest)).collect::<Vec<_>>();
    for (view, to) in moved.iter().enumerate() {
        if let Some(to) = to {
            placed = placed.moved(view, *to);
        }
    }
    (placed, moved)
}
