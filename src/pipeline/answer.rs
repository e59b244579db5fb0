//! Once a question: importance, selection, merge, prefill, greedy decoding.

use std::time::Instant;

use crate::arena::{FrameLease, TokenSpan};
use crate::compress::{Mode, Selector};
use crate::engine::decoder::argmax;
use crate::engine::{DecoderError, Segment};
use crate::geometry::{Rect, ViewLayout};
use crate::imaging::FrameSource;
use crate::pipeline::ingest::ms;
use crate::pipeline::receipt::{BudgetUse, EngineIds, Evidence, FrameRecord, Memory, Stages, ViewUse, Wgs84};
use crate::pipeline::{Answer, Finish, Frame, IngestTimes, Pipeline, PipelineError, PromptIds, Receipt};
use crate::planner::{MAX_FRAMES, PlannerError};
use crate::units::Tokens;

/// One question.
#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: PromptIds,
    /// Most tokens of the answer.
    pub max_new: Tokens,
    pub mode: Mode,
}

/// Milliseconds of the question's own stages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub anchor: f64,
    pub select: f64,
    pub merge: f64,
    pub prefill: f64,
    pub generate: f64,
    pub first_token: f64,
}

impl Pipeline {
    /// Answers `question` on `frames`, which its tokens show in their order. `ingest`: the times of the frames' ingest, where this question paid for it.
    pub fn answer(&mut self, frames: &[&Frame], question: &Question, ingest: Option<IngestTimes>) -> Result<Answer, PipelineError> {
        let begun = Instant::now();
        let mut ids = vec![0; question.max_new.get()];
        let mut times = Times::default();
        let (count, finish) = self.answer_ids(frames, question, &mut ids, &mut times)?;
        let text = self.engines.tokenizer.decode(&ids[..count])?;
        let total = ms(begun);
        let paid = ingest.unwrap_or_default();
        let ingest_total = paid.decode + paid.views + paid.encode + paid.regions;
        let stages = Stages {
            decode: paid.decode,
            views: paid.views,
            encode: paid.encode,
            regions: paid.regions,
            anchor: times.anchor,
            select: times.select,
            merge: times.merge,
            prefill: times.prefill,
            generate: times.generate,
            total: ingest_total + total,
            first_token: ingest_total + times.first_token,
        };
        let receipt = self.receipt(frames, question, stages)?;
        Ok(Answer { text, choice: None, choices: Vec::new(), margin: None, finish, receipt })
    }

    /// From prompt token ids to answer token ids, written to `out`; how many, and why they end. Allocates nothing outside the projector's engine.
    ///
    /// # Errors
    /// A full slab, a stale frame, scores that are not finite, an engine's failure; spans are given back in any case.
    pub fn answer_tokens(&mut self, frames: &[&Frame], question: &Question, out: &mut [u32]) -> Result<(usize, Finish), PipelineError> {
        self.answer_ids(frames, question, out, &mut Times::default())
    }

    fn answer_ids(
        &mut self,
        frames: &[&Frame],
        question: &Question,
        out: &mut [u32],
        times: &mut Times,
    ) -> Result<(usize, Finish), PipelineError> {
        let allowed = self.profile.frame.slots.min(MAX_FRAMES);
        if frames.is_empty() || frames.len() > allowed {
            return Err(PlannerError::Frames { wanted: frames.len(), allowed }.into());
        }
        let wanted: Tokens = frames.iter().map(|frame| frame.budget.total()).sum();
        let span = self.tokens.lend(wanted)?;
        let generated = self.generate(frames, question, span, out, times);
        self.tokens.release(span)?;
        generated
    }

    fn generate(
        &mut self,
        frames: &[&Frame],
        question: &Question,
        span: TokenSpan,
        out: &mut [u32],
        times: &mut Times,
    ) -> Result<(usize, Finish), PipelineError> {
        let begun = Instant::now();
        self.chosen.clear();
        for (number, frame) in frames.iter().enumerate() {
            let start = Instant::now();
            self.look(frame.lease, question)?;
            times.anchor += ms(start);
            self.choose(number, frame, question.mode, span, times)?;
        }
        let count = self.chosen.entries.len();
        let start = Instant::now();
        self.refine(span, count)?;
        times.merge += ms(start);
        let start = Instant::now();
        let hidden = self.engines.decoder.shape().hidden;
        let rows = &self.tokens.rows(span)?[..count * hidden];
        let prompt = &question.prompt;
        let segments = [Segment::Ids(&prompt.before), Segment::Rows(rows), Segment::Ids(&prompt.after)];
        self.engines.decoder.prefill(&mut self.kv, &segments)?;
        times.prefill = ms(start);
        times.first_token = ms(begun);
        let start = Instant::now();
        let mut made = 0;
        let mut finish = Finish::Length;
        while made < out.len() {
            let token = argmax(self.engines.decoder.logits()).ok_or(DecoderError::NoLogit)?;
            if self.engines.stop.contains(&token) {
                finish = Finish::Stop;
                break;
            }
            out[made] = token;
            made += 1;
            if made < out.len() {
                self.engines.decoder.step(&mut self.kv, token)?;
            }
        }
        times.generate = ms(start);
        Ok((made, finish))
    }

    /// Importance over the whole anchor grid. Masked tokens, which alignment may touch at the content's edge, take that of the nearest unmasked one.
    fn look(&mut self, lease: FrameLease, question: &Question) -> Result<(), PipelineError> {
        let slot = self.slots.get(lease)?;
        let layout = slot.layout()?;
        let view = &layout.views()[0];
        let hidden = self.engines.decoder.shape().hidden;
        let open = view.unmasked_tokens().get();
        let prompt = &question.prompt;
        let rows = &slot.anchor[..open * hidden];
        let segments = [Segment::Ids(&prompt.before), Segment::Rows(rows), Segment::Ids(&prompt.after)];
        let seen = &mut self.seen_scores[..open];
        let looked = (self.manifest.language.interface_layer, self.manifest.policy.importance);
        self.engines.decoder.attend(&mut self.kv, &segments, 1, looked, seen)?;
        let (grid, side) = (view.grid(), view.grid_side() as usize);
        let unmasked = (0..view.tokens().0).filter(|&token| !view.is_masked(token));
        for (token, score) in unmasked.zip(seen) {
            let (x, y) = grid.place(token);
            self.anchor_scores[y * side + x] = *score;
        }
        let [columns, lines] = view.unmasked();
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let nearest = y.clamp(lines.start, lines.end - 1) * side + x.clamp(columns.start, columns.end - 1);
            self.anchor_scores[y * side + x] = self.anchor_scores[nearest];
        }
        Ok(())
    }

    fn receipt(&self, frames: &[&Frame], question: &Question, stages_ms: Stages) -> Result<Receipt, PipelineError> {
        let engines = &self.engines;
        let mut receipt = Receipt {
            model: format!("{}@{}", self.manifest.name, &self.manifest.digest.to_string()[..16]),
            profile: self.profile.name.clone(),
            engines: EngineIds {
                encoder: engines.encoder.id().to_owned(),
                projector: engines.projector.id().to_owned(),
                decoder: engines.decoder.id().to_owned(),
                partition: self.partition.id().to_owned(),
            },
            seed: self.profile.compression.seed,
            policy: self.manifest.policy.name.clone(),
            mode: question.mode,
            select: frames.first().map(|frame| frame.selector).unwrap_or_default(),
            clusters: self.profile.compression.clusters,
            cluster_dim: self.profile.compression.cluster_dim.filter(|_| self.partition.id() == "kmeans"),
            budget: BudgetUse::default(),
            degraded: Vec::new(),
            stages_ms,
            predicted_ms: serde_json::Map::new(),
            memory: Memory { planned_bytes: self.map.total().0, peak_bytes: 0 },
            evidence: Vec::new(),
            frames: Vec::new(),
        };
        if question.prompt.unknown > 0 {
            receipt
                .degraded
                .push(format!("question: {} of its tokens stand for what the model's vocabulary lacks", question.prompt.unknown));
        }
        for (number, frame) in frames.iter().enumerate() {
            self.record(number, frame, frames.len() > 1, &mut receipt)?;
        }
        Ok(receipt)
    }

    /// Adds what is to be said of one frame.
    fn record(&self, number: usize, frame: &Frame, several: bool, receipt: &mut Receipt) -> Result<(), PipelineError> {
        let layout = self.slots.get(frame.lease)?.layout()?;
        let count = |len: usize| Tokens::of(len).0;
        let views = layout.views();
        // The best of all views together may all lie in one.
        let share = |view: &ViewLayout| match (frame.selector, frame.budget.per_view()[view.id.index()]) {
            (Selector::Topk, Tokens(1..)) => frame.budget.total().min(view.unmasked_tokens()),
            (_, tokens) => tokens,
        };
        receipt.budget.total += frame.budget.total().0;
        receipt.budget.per_view.extend(views.iter().map(|view: &ViewLayout| {
            let at = view.id.index();
            let chosen = self.chosen.views[number * views.len() + at];
            ViewUse {
                frame: count(number),
                view_px: view.side.0,
                budget: share(view).0,
                tokens: count(chosen.len),
                regions: count(chosen.regions),
                regions_starved: count(chosen.starved),
                kept: count(chosen.len - chosen.merged),
                merged: count(chosen.merged),
                tiles: count(view.tiles_side().pow(2)),
                tiles_encoded: frame.tiles_encoded[at],
                budget_moved_to_px: frame.moved[at].map(|to| views[to].side.0),
                reclustered: chosen.reclustered,
            }
        }));
        let longer = layout.width.max(layout.height);
        let dropped = views.iter().zip(&frame.moved).filter_map(|(view, to)| {
            let to = views[(*to)?].side;
            Some(format!("view {} dropped: the frame's longer side is {longer}; its budget went to view {to}", view.side))
        });
        let upscaled = layout.present().filter(|view| layout.upscaled(view));
        let upscaled = upscaled.map(|view| format!("view {} upscaled from {longer}", view.side));
        let source = frame.source.dropped.iter().cloned();
        let of = if several { format!("frame {}: ", number + 1) } else { String::new() };
        receipt.degraded.extend(source.chain(dropped).chain(upscaled).map(|what| format!("{of}{what}")));
        receipt.evidence.extend(located(self.evidence(number, layout), &frame.source));
        receipt.frames.push(FrameRecord {
            id: frame.source.id().to_string(),
            w: layout.width.0,
            h: layout.height.0,
            sha256: frame.source.digest.to_string(),
            geotag: frame.source.geotag.clone(),
        });
        Ok(())
    }
}

/// Boxes with their places on the ground, where the frame's file tells.
fn located(mut boxes: Vec<Evidence>, source: &FrameSource) -> Vec<Evidence> {
    for place in &mut boxes {
        let rect = Rect { x: place.x, y: place.y, w: place.w, h: place.h };
        place.wgs84 = source.corners(rect).map(|(corners, error_m)| Wgs84 { corners, error_m });
    }
    boxes
}
