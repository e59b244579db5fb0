//! What each stage costs: floating-point operations and bytes, on a device's roofline, corrected by what was measured there.
//!
//! # Why
//! A deadline can be kept only when a stage's time is known before it starts. The roofline gives the shape of the curve (an attention's square, a
//! decoder's bytes), the calibration its height: `p50 = base + factor · nominal`.

use serde::{Deserialize, Serialize};

use crate::config::{Device, Manifest};
use crate::engine::DecoderShape;
use crate::planner::{Calibration, Fit};
use crate::units::{Bytes, Millis, Tiles, Tokens};

/// Stages in the order in which a first question goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Decode,
    Views,
    Encode,
    Regions,
    Anchor,
    Select,
    Merge,
    Prefill,
    Generate,
}

impl Stage {
    pub const ALL: [Self; 9] =
        [Self::Decode, Self::Views, Self::Encode, Self::Regions, Self::Anchor, Self::Select, Self::Merge, Self::Prefill, Self::Generate];

    #[must_use]
    pub fn name(self) -> &'static str {
        ["decode", "views", "encode", "regions", "anchor", "select", "merge", "prefill", "generate"][self as usize]
    }

    /// Done once a frame, unless its fine tiles are encoded lazily.
    #[must_use]
    pub fn at_ingest(self) -> bool {
        self <= Self::Regions
    }

    /// Its work is that of a network; the others run on the CPU.
    #[must_use]
    pub fn on_networks(self) -> bool {
        matches!(self, Self::Encode | Self::Anchor | Self::Merge | Self::Prefill | Self::Generate)
    }
}

/// A time for each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StageTimes([Millis; 9]);

impl StageTimes {
    #[must_use]
    pub fn of(time: impl FnMut(Stage) -> Millis) -> Self {
        Self(Stage::ALL.map(time))
    }

    #[must_use]
    pub fn get(&self, stage: Stage) -> Millis {
        self.0[stage as usize]
    }

    pub fn add(&mut self, stage: Stage, time: Millis) {
        self.0[stage as usize] += time;
    }

    #[must_use]
    pub fn total(&self) -> Millis {
        self.0.iter().copied().sum()
    }

    /// Of the stages that are networks, and of those on the CPU.
    #[must_use]
    pub fn by_processor(&self) -> (Millis, Millis) {
        let of = |networks: bool| Stage::ALL.into_iter().filter(|stage| stage.on_networks() == networks).map(|stage| self.get(stage)).sum();
        (of(true), of(false))
    }

    /// Of `from` and the stages after it.
    #[must_use]
    pub fn from(&self, from: Stage) -> Millis {
        self.0[from as usize..].iter().copied().sum()
    }
}

impl std::ops::Add for StageTimes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::of(|stage| self.get(stage) + other.get(stage))
    }
}

/// How much each stage has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Job {
    /// Pixels of the file, decoded and made into views.
    pub pixels: u64,
    /// Pixels of a file whose digest is taken again before it is read: counted as another decode.
    pub digested: u64,
    pub tiles: Tiles,
    /// Σ tokens · clusters over the views that are clustered.
    pub clustered: u64,
    /// Positions of the anchor passes, one a frame: visual and text.
    pub anchor: Tokens,
    /// Frames, each with an anchor pass.
    pub frames: u32,
    /// Tokens that are aligned, scored and sorted.
    pub candidates: Tokens,
    /// Rows through the projector.
    pub projected: Tokens,
    /// Positions of the answer's prompt.
    pub prompt: Tokens,
    /// Steps of the decoder after the prompt.
    pub steps: Tokens,
}

impl std::ops::Add for Job {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            pixels: self.pixels + other.pixels,
            digested: self.digested + other.digested,
            tiles: self.tiles + other.tiles,
            clustered: self.clustered + other.clustered,
            anchor: self.anchor + other.anchor,
            frames: self.frames + other.frames,
            candidates: self.candidates + other.candidates,
            projected: self.projected + other.projected,
            prompt: self.prompt + other.prompt,
            steps: self.steps + other.steps,
        }
    }
}

/// What a model's networks cost.
#[derive(Clone, Debug)]
pub struct ModelCost {
    pub decoder: DecoderShape,
    pub interface_layer: usize,
    pub feature_dim: usize,
    /// Operations a tile.
    pub tile_flop: f64,
    /// Weights of the encoder, read once for `encoder_batch` tiles.
    pub encoder_bytes: Bytes,
    pub encoder_batch: Tiles,
    /// Operations a projected row.
    pub row_flop: f64,
    /// Of a row through the selected tokens' MLP, where the model has one.
    pub refine_flop: f64,
    /// What a decoder step reads of weights: all layers and the output head.
    pub step_bytes: Bytes,
}

impl ModelCost {
    /// Of a linear layer's weights, twice: a multiplication and an addition.
    fn layer_flop(&self) -> f64 {
        let d = &self.decoder;
        let (heads, kv) = (d.heads * d.head_dim, d.kv_width());
        2.0 * (d.hidden as f64) * (2 * heads + 2 * kv + 3 * d.ffn) as f64
    }

    /// Causal attention of `n` positions in one layer: scores and sums of values, the half below the diagonal.
    fn attention_flop(&self, n: f64) -> f64 {
        2.0 * (self.decoder.heads * self.decoder.head_dim) as f64 * n * n
    }

    fn head_flop(&self) -> f64 {
        2.0 * (self.decoder.hidden * self.decoder.vocab) as f64
    }

    /// A prompt of `n` positions through all layers, the head for the last one.
    #[must_use]
    pub fn prefill_flop(&self, n: Tokens) -> f64 {
        let (layers, n) = (self.decoder.layers as f64, f64::from(n.0));
        layers * (n * self.layer_flop() + self.attention_flop(n)) + self.head_flop()
    }

    /// `n` positions through the layers before the interface layer, and its queries and keys.
    #[must_use]
    pub fn anchor_flop(&self, n: Tokens) -> f64 {
        let d = &self.decoder;
        let n = f64::from(n.0);
        let looked = 2.0 * n * (d.hidden * (d.heads * d.head_dim + d.kv_width())) as f64;
        (self.interface_layer.saturating_sub(1)) as f64 * (n * self.layer_flop() + self.attention_flop(n)) + looked
    }

    /// Keys and values of a position, in all layers, f16.
    #[must_use]
    pub fn kv_bytes(&self) -> f64 {
        (4 * self.decoder.layers * self.decoder.kv_width()) as f64
    }

    /// Operations of a question as the authors' code runs it (Table 4 of UHR-BAT): all tiles encoded twice, all their tokens projected, the anchor's
    /// pass through all layers without its attention's square, `kept` tokens with logits of every position and the selected tokens' MLP, and `text`.
    #[must_use]
    pub fn released_flop(&self, tiles: Tiles, all: Tokens, anchor: Tokens, kept: Tokens, text: Tokens) -> f64 {
        let linear = self.decoder.layers as f64 * self.layer_flop();
        let position = linear + self.head_flop();
        2.0 * f64::from(tiles.0) * self.tile_flop
            + f64::from(all.0) * self.row_flop
            + f64::from(anchor.0) * linear
            + f64::from(kept.0) * (position + self.refine_flop)
            + f64::from(text.0) * position
    }

    /// Operations and bytes of the networks' part of a stage; none for the stages outside of them.
    #[must_use]
    pub fn effort(&self, stage: Stage, job: &Job) -> (f64, f64) {
        let count = |tokens: Tokens| f64::from(tokens.0);
        match stage {
            Stage::Encode => {
                let (tiles, batches) = (f64::from(job.tiles.0), job.tiles.0.div_ceil(self.encoder_batch.0.max(1)));
                (tiles * self.tile_flop, f64::from(batches) * self.encoder_bytes.0 as f64)
            }
            Stage::Anchor if job.frames > 0 => {
                let frames = f64::from(job.frames);
                let each = Tokens((count(job.anchor) / frames) as u32);
                (frames * self.anchor_flop(each), 0.0)
            }
            Stage::Merge => (count(job.projected) * self.row_flop + count(job.prompt) * self.refine_flop, 0.0),
            Stage::Prefill if job.prompt.0 > 0 => (self.prefill_flop(job.prompt), self.step_bytes.0 as f64),
            Stage::Generate => {
                let (steps, context) = (count(job.steps), count(job.prompt) + count(job.steps) / 2.0);
                let one = self.decoder.layers as f64 * self.layer_flop() + self.head_flop();
                (steps * one, steps * (self.step_bytes.0 as f64 + context * self.kv_bytes()))
            }
            _ => (0.0, 0.0),
        }
    }
}

/// Nanoseconds a pixel of a JPEG decoded and made into four views, on two CPUs of an AMD EPYC (Zen 4): `tools/bench/run views`. One half each.
const IMAGING_NS: f64 = 5.2;
/// Multiplications and additions of plain Lloyd iterations that the exact k-means here does without, or does, in a second, on the same CPUs: 1.6e12 in
/// 2.0 s (`tools/bench/run compress`).
const REGIONS_FLOPS: f64 = 0.8e12;
/// Iterations of k-means.
const ITERATIONS: f64 = 10.0;
/// Nanoseconds a token to align, score and sort, on the same CPUs.
const SELECT_NS: f64 = 12.0;

/// A model on a device.
#[derive(Clone, Debug)]
pub struct CostModel {
    pub model: ModelCost,
    pub device: Device,
}

impl CostModel {
    /// The least that a stage can take by the device's roofline; for imaging and regions, which run on the CPU, what two cores of an x86-64 need.
    #[must_use]
    pub fn nominal(&self, stage: Stage, job: &Job) -> Millis {
        let (flop, bytes) = self.model.effort(stage, job);
        let seconds = match stage {
            Stage::Decode => (job.pixels + job.digested) as f64 * IMAGING_NS / 2.0 * 1e-9,
            Stage::Views => job.pixels as f64 * IMAGING_NS / 2.0 * 1e-9,
            Stage::Regions => job.clustered as f64 * 2.0 * self.model.feature_dim as f64 * ITERATIONS / REGIONS_FLOPS,
            Stage::Select => f64::from(job.candidates.0) * SELECT_NS * 1e-9,
            _ => (flop / (self.device.tflops * 1e12)).max(bytes / (self.device.bandwidth_gbps * 1e9)),
        };
        Millis(seconds * 1e3)
    }
}

/// Times to be expected: the cost model, with a calibration of the device where there is one.
#[derive(Clone, Debug)]
pub struct Costs {
    pub model: CostModel,
    pub calibration: Option<Calibration>,
}

impl Costs {
    fn fit(&self, stage: Stage) -> Option<&Fit> {
        self.calibration.as_ref().and_then(|calibration| calibration.stages.get(stage.name()))
    }

    /// Whether the calibration, where there is one, was made over work of that size.
    #[must_use]
    pub fn has_seen(&self, stage: Stage, job: &Job) -> bool {
        let nominal = self.model.nominal(stage, job);
        nominal == Millis::ZERO || self.fit(stage).is_none_or(|fit| fit.has_seen(nominal))
    }

    /// Half of all stages of that size take less. Without a calibration: the nominal time.
    #[must_use]
    pub fn p50(&self, stage: Stage, job: &Job) -> Millis {
        let nominal = self.model.nominal(stage, job);
        match self.fit(stage) {
            _ if nominal == Millis::ZERO => Millis::ZERO,
            Some(fit) => fit.p50(nominal),
            None => nominal,
        }
    }

    /// The calibrated bound on the stage's 99th percentile (of stages at ingest: the 95th). `None` without a calibration, or one without that stage.
    #[must_use]
    pub fn p99(&self, stage: Stage, job: &Job) -> Option<Millis> {
        let nominal = self.model.nominal(stage, job);
        self.calibration.as_ref()?;
        if nominal == Millis::ZERO { Some(Millis::ZERO) } else { self.fit(stage).map(|fit| fit.bound(nominal)) }
    }
}

impl ModelCost {
    /// Of a loaded package. `encoder`, `projector`, `refine`: bytes of their f32 weights; a weight is two operations on each of its tokens.
    #[must_use]
    pub fn of(manifest: &Manifest, decoder: DecoderShape, decoder_bytes: Bytes, [encoder, projector, refine]: [Bytes; 3]) -> Self {
        let tokens = (manifest.vision.shape.tile_grid().pow(2)) as f64;
        let flop = |bytes: Bytes| bytes.0 as f64 / 4.0 * 2.0;
        Self {
            interface_layer: manifest.language.interface_layer,
            feature_dim: manifest.vision.feature_dim,
            tile_flop: flop(encoder) * tokens,
            encoder_bytes: encoder,
            encoder_batch: Tiles(1),
            row_flop: flop(projector),
            refine_flop: flop(refine),
            step_bytes: decoder_bytes,
            decoder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CLIP ViT-L/14-336 and Qwen2-7B, int4 layers of 4.25 bits a weight and an f16 head.
    pub fn paper() -> ModelCost {
        let decoder =
            DecoderShape { layers: 28, heads: 28, kv_heads: 4, head_dim: 128, hidden: 3_584, ffn: 18_944, vocab: 152_064, context: 32_768 };
        ModelCost {
            decoder,
            interface_layer: 2,
            feature_dim: 1_024,
            tile_flop: 368.2e9,
            encoder_bytes: Bytes(0),
            encoder_batch: Tiles(1),
            row_flop: 2.0 * (1_024.0 * 3_584.0 + 3_584.0 * 3_584.0),
            refine_flop: 4.0 * 3_584.0 * 3_584.0,
            step_bytes: Bytes(4_556_000_000),
        }
    }

    #[test]
    fn the_papers_table_4_within_a_fifth_of_a_teraflop() {
        // Kept tokens in thousands, TFLOP. Its row of 4,000 tokens is 7 off the line of the others, and stands here for that.
        let rows = [(5, 274.91), (6, 289.10), (8, 317.48), (10, 345.75), (11, 359.94), (12, 374.24)];
        let model = paper();
        let total = |kept: u32| model.released_flop(Tiles(228), Tokens(131_328), Tokens(2_304), Tokens(kept * 1_000), Tokens(110)) / 1e12;
        for (kept, tflop) in rows {
            assert!((total(kept) - tflop).abs() < 0.2, "{kept}k: wanted {tflop}, found {}", total(kept));
        }
        assert!((total(4) - 267.68).abs() > 5.0, "{}", total(4));
    }

    #[test]
    fn prefills_and_steps_of_the_papers_model() {
        let model = paper();
        for (tokens, tflop) in [(1_024, 13.6), (3_072, 42.0), (4_096, 57.0), (8_192, 120.0)] {
            let found = model.prefill_flop(Tokens(tokens)) / 1e12;
            assert!((found / tflop - 1.0).abs() < 0.01, "{tokens}: {found}");
        }
        assert_eq!(model.kv_bytes(), 57_344.0);
        let (_, bytes) = model.effort(Stage::Generate, &Job { steps: Tokens(1), ..Job::default() });
        assert!((bytes / 4.56e9 - 1.0).abs() < 0.01, "{bytes}");
    }
}
