//! Once a question: importance, selection, merge, prefill, greedy decoding.

use std::time::Instant;

use half::slice::HalfFloatSliceExt;

use crate::arena::{FrameLease, TokenSpan};
use crate::compress::{MODE, POLICY, Source, align, merge, select};
use crate::config::Budget;
use crate::engine::decoder::argmax;
use crate::engine::{DecoderError, Segment};
use crate::geometry::{Rect, ViewLayout};
use crate::imaging::FrameSource;
use crate::pipeline::ingest::ms;
use crate::pipeline::receipt::{BudgetUse, EngineIds, Evidence, FrameRecord, Memory, Stages, ViewUse, Wgs84};
use crate::pipeline::{Answer, Finish, Frame, IngestTimes, Pipeline, PipelineError, PromptIds, Receipt};
use crate::units::Tokens;

/// One question on one frame.
#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: PromptIds,
    /// Most tokens of the answer.
    pub max_new: Tokens,
}

/// What the last answer was made of, by view, in buffers made at start.
pub(super) struct Chosen {
    pub views: Vec<ViewChosen>,
    pub entries: Vec<Entry>,
    pub members: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct ViewChosen {
    pub start: usize,
    pub len: usize,
    pub merged: usize,
    pub regions: usize,
    pub starved: usize,
}

/// A selected token: kept, or merged from `members`.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub source: Source,
    pub score: f32,
    pub region: u32,
}

impl Chosen {
    pub fn new(views: usize, budget: usize, tokens: usize) -> Self {
        Self { views: vec![ViewChosen::default(); views], entries: Vec::with_capacity(budget), members: Vec::with_capacity(tokens) }
    }
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
    /// Answers `question` on `frame`. `ingest`: the times of the frame's ingest, where this question paid for it.
    pub fn answer(&mut self, frame: &Frame, question: &Question, ingest: Option<IngestTimes>) -> Result<Answer, PipelineError> {
        let begun = Instant::now();
        let mut ids = vec![0; question.max_new.get()];
        let (count, finish, times) = self.answer_ids(frame.lease, &frame.budget, question, &mut ids)?;
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
        let receipt = self.receipt(frame, stages)?;
        Ok(Answer { text, choice: None, choices: Vec::new(), margin: None, finish, receipt })
    }

    /// From prompt token ids to answer token ids, written to `out`; how many, and why they end. Allocates nothing outside the projector's engine.
    ///
    /// # Errors
    /// A full slab, a stale frame, scores that are not finite, an engine's failure; spans are given back in any case.
    pub fn answer_tokens(&mut self, frame: &Frame, question: &Question, out: &mut [u32]) -> Result<(usize, Finish), PipelineError> {
        self.answer_ids(frame.lease, &frame.budget, question, out).map(|(count, finish, _)| (count, finish))
    }

    fn answer_ids(
        &mut self,
        lease: FrameLease,
        budget: &Budget,
        question: &Question,
        out: &mut [u32],
    ) -> Result<(usize, Finish, Times), PipelineError> {
        let mut times = Times::default();
        let begun = Instant::now();
        self.look(lease, question)?;
        times.anchor = ms(begun);
        let span = self.tokens.lend(budget.total().min(self.tokens.total()))?;
        let generated = self.generate(lease, budget, question, span, out, begun, &mut times);
        self.tokens.release(span)?;
        generated.map(|(count, finish)| (count, finish, times))
    }

    fn generate(
        &mut self,
        lease: FrameLease,
        budget: &Budget,
        question: &Question,
        span: TokenSpan,
        out: &mut [u32],
        begun: Instant,
        times: &mut Times,
    ) -> Result<(usize, Finish), PipelineError> {
        let count = self.choose(lease, budget, span, times)?;
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
        self.engines.decoder.attend(&mut self.kv, &segments, 1, self.manifest.language.interface_layer, seen)?;
        let side = view.grid_side() as usize;
        let [columns, lines] = view.unmasked();
        for (v, row) in self.anchor_scores.chunks_exact_mut(side).enumerate() {
            let y = v.clamp(lines.start, lines.end - 1) - lines.start;
            for (u, score) in row.iter_mut().enumerate() {
                let x = u.clamp(columns.start, columns.end - 1) - columns.start;
                *score = seen[y * columns.len() + x];
            }
        }
        Ok(())
    }

    /// Selects and makes the tokens of every view, side by side in `span`; how many.
    fn choose(&mut self, lease: FrameLease, budget: &Budget, span: TokenSpan, times: &mut Times) -> Result<usize, PipelineError> {
        self.chosen.entries.clear();
        self.chosen.members.clear();
        let slot = self.slots.get(lease)?;
        let layout = slot.layout()?;
        let hidden = self.engines.decoder.shape().hidden;
        let dim = self.manifest.vision.feature_dim;
        let anchor_side = layout.views()[0].grid_side() as usize;
        for view in layout.views() {
            let at = view.id.index();
            let start = self.chosen.entries.len();
            self.chosen.views[at] = ViewChosen { start, ..ViewChosen::default() };
            let allowed = budget.per_view()[at];
            if view.dropped || allowed.0 == 0 {
                continue;
            }
            let begun = Instant::now();
            let scores = &mut self.view_scores[..view.tokens().get()];
            align(&self.anchor_scores, anchor_side, view.grid_side() as usize, scores);
            let selection = select(scores, slot.view_labels(at), slot.regions[at], allowed, &mut self.selecting)?;
            for entry in selection.entries {
                let source = match entry.source {
                    Source::Kept(token) => Source::Kept(token),
                    Source::Merged { .. } => {
                        let members = selection.sources(entry);
                        let first = self.chosen.members.len();
                        self.chosen.members.extend_from_slice(members);
                        Source::Merged { start: first as u32, len: members.len() as u32 }
                    }
                };
                self.chosen.entries.push(Entry { source, score: entry.score, region: entry.region });
            }
            self.chosen.views[at] = ViewChosen {
                start,
                len: selection.entries.len(),
                merged: selection.merged().get(),
                regions: selection.regions,
                starved: selection.starved,
            };
            times.select += ms(begun);
            let begun = Instant::now();
            let out = &mut self.tokens.rows_mut(span)?[start * hidden..];
            let features = slot.view_features(at);
            let (projector, positions, gathered) = (&mut self.engines.projector, &self.engines.positions, &mut self.gathered);
            merge::<PipelineError>(
                &selection,
                &mut self.merging,
                &mut |tokens, rows| {
                    for (&token, to) in tokens.iter().zip(gathered.chunks_exact_mut(dim)) {
                        to.copy_from_slice(&features[token as usize * dim..][..dim]);
                    }
                    projector.project(&gathered[..tokens.len() * dim], rows)?;
                    if let Some(positions) = positions {
                        let rows = rows.chunks_exact_mut(hidden);
                        tokens.iter().zip(rows).for_each(|(&token, row)| positions.add(at, view.centre(token), row));
                    }
                    Ok(())
                },
                &mut |place, row| out[place * hidden..(place + 1) * hidden].convert_from_f32_slice(row),
            )?;
            times.merge += ms(begun);
        }
        Ok(self.chosen.entries.len())
    }

    fn receipt(&self, frame: &Frame, stages_ms: Stages) -> Result<Receipt, PipelineError> {
        let layout = self.slots.get(frame.lease)?.layout()?;
        let count = |len: usize| Tokens::of(len).0;
        let per_view = layout.views().iter().map(|view: &ViewLayout| {
            let at = view.id.index();
            let chosen = self.chosen.views[at];
            ViewUse {
                view_px: view.side.0,
                budget: frame.budget.per_view()[at].0,
                tokens: count(chosen.len),
                regions: count(chosen.regions),
                regions_starved: count(chosen.starved),
                kept: count(chosen.len - chosen.merged),
                merged: count(chosen.merged),
                tiles: count(view.tiles_side().pow(2)),
                tiles_encoded: frame.tiles_encoded[at],
                budget_moved_to_px: frame.moved[at].map(|to| layout.views()[to].side.0),
            }
        });
        let dropped = layout.views().iter().zip(&frame.moved).filter_map(|(view, to)| {
            let to = layout.views()[(*to)?].side;
            Some(format!(
                "view {} dropped: the frame's longer side is {}; its budget went to view {to}",
                view.side,
                layout.width.max(layout.height)
            ))
        });
        let upscaled = layout.present().filter(|view| layout.upscaled(view));
        let upscaled = upscaled.map(|view| format!("view {} upscaled from {}", view.side, layout.width.max(layout.height)));
        let engines = &self.engines;
        Ok(Receipt {
            model: format!("{}@{}", self.manifest.name, &self.manifest.digest.to_string()[..16]),
            profile: self.profile.name.clone(),
            engines: EngineIds {
                encoder: engines.encoder.id().to_owned(),
                projector: engines.projector.id().to_owned(),
                decoder: engines.decoder.id().to_owned(),
                partition: "kmeans".into(),
            },
            seed: self.profile.compression.seed,
            policy: POLICY,
            mode: MODE,
            budget: BudgetUse { total: frame.budget.total().0, per_view: per_view.collect() },
            degraded: frame.source.dropped.iter().cloned().chain(dropped).chain(upscaled).collect(),
            stages_ms,
            predicted_ms: serde_json::Map::new(),
            memory: Memory { planned_bytes: self.map.total().0, peak_bytes: 0 },
            evidence: located(self.evidence(layout), &frame.source),
            frames: vec![FrameRecord {
                id: frame.source.id().to_string(),
                w: layout.width.0,
                h: layout.height.0,
                sha256: frame.source.digest.to_string(),
                geotag: frame.source.geotag.clone(),
            }],
        })
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
