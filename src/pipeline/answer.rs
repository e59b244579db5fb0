//! Once a question: importance, selection, merge, prefill, greedy decoding.

use std::sync::Arc;

use crate::arena::{FrameLease, TokenSpan};
use crate::compress::{Selector, clusters};
use crate::engine::decoder::argmax;
use crate::engine::{DecoderError, Segment};
use crate::geometry::{Rect, ViewLayout};
use crate::imaging::FrameSource;
use crate::pipeline::receipt::{BudgetUse, Descended, EngineIds, Evidence, FrameRecord, Memory, Planned, Stages, TokenUse, ViewUse, Wgs84};
use crate::pipeline::{Answer, Finish, Frame, Pipeline, PipelineError, PromptIds, Receipt, Spent};
use crate::planner::{Boundary, Job, MAX_FRAMES, Plan, PlannerError, Stage, is_coarse};
use crate::units::{Millis, Tokens};

/// What an answer tells while it is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told<'a> {
    /// A stage begins.
    Stage(Stage),
    /// The whole text so far. Where time ends an answer inside a word, the answer itself has less.
    Text(&'a str),
}

/// As [`Told`], in token ids: nothing is allocated for it.
enum Heard<'a> {
    Stage(Stage),
    Ids(&'a [u32]),
}

/// Token ids of an answer.
struct Made {
    len: usize,
    finish: Finish,
    /// What would have come next, where time ended it.
    next: Option<u32>,
    /// From the start of the question's own work.
    first_token: Millis,
}

impl Pipeline {
    /// Answers the question of `prompt` on `frames`, which its tokens show in their order, as `plan` has it; between stages the plan may step down. `ingest`: the
    /// times of the frames' ingest, where this question paid for it. `told`: what comes of it, as it comes.
    ///
    /// # Errors
    /// As [`Self::answer_tokens`]; token ids that the tokenizer has no text for.
    pub fn answer(
        &mut self,
        frames: &[&Frame],
        prompt: &PromptIds,
        plan: &mut Plan,
        ingest: Option<Spent>,
        told: &mut dyn FnMut(Told<'_>),
    ) -> Result<(Answer, Spent), PipelineError> {
        let begun = self.clock.now();
        let mut ids = vec![0; plan.rung().step.max_new.get()];
        let mut own = Spent::default();
        let tokenizer = Arc::clone(&self.engines.tokenizer);
        let mut hear = |heard: Heard<'_>| match heard {
            Heard::Stage(stage) => told(Told::Stage(stage)),
            // Half of a character is shown when its other half is there.
            Heard::Ids(ids) => {
                if let Ok(text) = tokenizer.decode(ids) {
                    told(Told::Text(text.trim_end_matches('\u{fffd}')));
                }
            }
        };
        let mut made = self.answer_ids(frames, prompt, plan, &mut ids, &mut own, &mut hear)?;
        let text = self.text(&ids[..made.len], made.next)?;
        let now = self.clock.now();
        if plan.deadline.is_some_and(|deadline| now - plan.started > deadline) {
            made.finish = Finish::Late;
            self.late += 1;
        }
        let paid = ingest.unwrap_or_default();
        let mut spent = paid;
        spent += own;
        let ingested = paid.measured.total();
        let stages =
            Stages { total: (ingested + (now - begun)).0, first_token: (ingested + made.first_token).0, ..Stages::of(&spent.measured) };
        let mut receipt = self.receipt(frames, prompt, plan, stages)?;
        let visual = receipt.budget.per_view.iter().map(|view| view.tokens).sum();
        receipt.tokens = TokenUse { text: prompt.tokens().0, visual, answer: Tokens::of(made.len).0 };
        Ok((Answer { text, choice: None, choices: Vec::new(), margin: None, finish: made.finish, receipt }, spent))
    }

    /// From prompt token ids to answer token ids, written to `out`; how many, and why they end. Allocates nothing outside the projector's engine, unless
    /// fine tiles are encoded for the question.
    ///
    /// # Errors
    /// A full slab, a stale frame, scores that are not finite, an engine's failure; spans are given back in any case.
    pub fn answer_tokens(
        &mut self,
        frames: &[&Frame],
        prompt: &PromptIds,
        plan: &mut Plan,
        out: &mut [u32],
    ) -> Result<(usize, Finish), PipelineError> {
        self.answer_ids(frames, prompt, plan, out, &mut Spent::default(), &mut |_| ()).map(|made| (made.len, made.finish))
    }

    fn answer_ids(
        &mut self,
        frames: &[&Frame],
        prompt: &PromptIds,
        plan: &mut Plan,
        out: &mut [u32],
        spent: &mut Spent,
        hear: &mut dyn FnMut(Heard<'_>),
    ) -> Result<Made, PipelineError> {
        let allowed = self.profile.frame.slots.min(MAX_FRAMES);
        if frames.is_empty() || frames.len() > allowed || frames.len() != plan.rung().frames.len() {
            return Err(PlannerError::Frames { wanted: frames.len(), allowed }.into());
        }
        // What gave nothing at ingest was not encoded.
        for (frame, share) in frames.iter().zip(&plan.rung().frames) {
            let layout = self.slots.get(frame.lease)?.layout()?;
            for view in layout.present() {
                let (view, wanted) = (view.id, share.budget.per_view()[view.id.index()]);
                let coarse = is_coarse(view, layout.views().len());
                if wanted.0 > 0 && frame.tiles_encoded[view.index()] == 0 && (coarse || !frame.lazy) {
                    return Err(PlannerError::Unseen { view, wanted }.into());
                }
            }
        }
        let wanted: Tokens = plan.rung().frames.iter().map(|share| share.budget.total()).sum();
        let span = self.tokens.lend(wanted)?;
        let generated = self.generate(frames, prompt, plan, span, (out, spent, hear));
        self.tokens.release(span)?;
        generated
    }

    fn generate(
        &mut self,
        frames: &[&Frame],
        prompt: &PromptIds,
        plan: &mut Plan,
        span: TokenSpan,
        (out, spent, hear): (&mut [u32], &mut Spent, &mut dyn FnMut(Heard<'_>)),
    ) -> Result<Made, PipelineError> {
        let begun = self.clock.now();
        self.chosen.clear();
        for (number, frame) in frames.iter().enumerate() {
            self.step_down(plan, Boundary::Question(number, Stage::Anchor));
            hear(Heard::Stage(Stage::Anchor));
            let start = self.clock.now();
            let anchor = self.look(frame.lease, prompt)?;
            self.passed(spent, Stage::Anchor, start, &Job { anchor, frames: 1, ..Job::default() });
            if frame.lazy {
                self.step_down(plan, Boundary::Question(number, Stage::Encode));
                hear(Heard::Stage(Stage::Encode));
                let rung = plan.rung();
                self.see_fine(frame, &rung.frames[number].budget, rung.step.encode_tiles, spent)?;
            }
            self.step_down(plan, Boundary::Question(number, Stage::Select));
            hear(Heard::Stage(Stage::Select));
            plan.chose();
            self.choose(number, frame, &plan.rung().frames[number].budget, plan.mode, span, spent)?;
        }
        let count = self.chosen.entries.len();
        let start = self.clock.now();
        self.refine(span, count)?;
        let positions = Tokens::of(count) + prompt.tokens();
        self.passed(spent, Stage::Merge, start, &Job { prompt: Tokens::of(count), ..Job::default() });
        hear(Heard::Stage(Stage::Prefill));
        let start = self.clock.now();
        let hidden = self.engines.decoder.shape().hidden;
        let rows = &self.tokens.rows(span)?[..count * hidden];
        let ids = prompt;
        let segments = [Segment::Ids(&ids.before), Segment::Rows(rows), Segment::Ids(&ids.after)];
        self.engines.decoder.prefill(&mut self.kv, &segments)?;
        self.passed(spent, Stage::Prefill, start, &Job { prompt: positions, ..Job::default() });
        let first_token = self.clock.now() - begun;
        // From here on only the answer's length can give way.
        let most = out.len().min(plan.rung().step.max_new.get());
        let mut made = Made { len: 0, finish: Finish::Length, next: None, first_token };
        // The steps of one answer are one stage to those who predict it, and each of them to a clock that lets time pass.
        let slowdown = if plan.deadline.is_some() { self.slowdown() } else { 1.0 };
        let mut start = self.clock.now();
        while made.len < most {
            let token = argmax(self.engines.decoder.logits()).ok_or(DecoderError::NoLogit)?;
            if self.engines.stop.contains(&token) {
                made.finish = Finish::Stop;
                break;
            }
            // Without time for the step after it, a token tells whether the word before it is whole; the first is an answer all the same.
            let last = made.len + 1 < most && !plan.one_more(self.clock.now(), slowdown);
            if last && made.len > 0 {
                (made.finish, made.next) = (Finish::Deadline, Some(token));
                break;
            }
            out[made.len] = token;
            made.len += 1;
            hear(Heard::Ids(&out[..made.len]));
            if last {
                made.finish = Finish::Deadline;
                break;
            }
            if made.len < most {
                self.engines.decoder.step(&mut self.kv, token)?;
                let context = positions + Tokens::of(made.len);
                self.passed(spent, Stage::Generate, start, &Job { prompt: context, steps: Tokens(1), ..Job::default() });
                start = self.clock.now();
            }
        }
        Ok(made)
    }

    /// The text of an answer. `next`: what would have come next, of one that time ended: then it ends with a whole word, unless it has but one.
    fn text(&self, ids: &[u32], next: Option<u32>) -> Result<String, PipelineError> {
        let text = self.engines.tokenizer.decode(ids)?;
        let Some(next) = next else { return Ok(text) };
        let more: Vec<u32> = ids.iter().copied().chain([next]).collect();
        let whole = self.engines.tokenizer.decode(&more)?;
        let ended = whole.strip_prefix(&text).is_none_or(|rest| rest.starts_with(char::is_whitespace));
        match text.rfind(char::is_whitespace) {
            Some(end) if !ended => Ok(text[..end].to_owned()),
            _ => Ok(text),
        }
    }

    /// Importance over the whole anchor grid. Masked tokens, which alignment may touch at the content's edge, take that of the nearest unmasked one.
    /// How many positions were looked at.
    fn look(&mut self, lease: FrameLease, prompt: &PromptIds) -> Result<Tokens, PipelineError> {
        let slot = self.slots.get(lease)?;
        let layout = slot.layout()?;
        let view = &layout.views()[0];
        let hidden = self.engines.decoder.shape().hidden;
        let open = view.unmasked_tokens().get();
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
        Ok(Tokens::of(open) + prompt.tokens())
    }

    fn receipt(&self, frames: &[&Frame], prompt: &PromptIds, plan: &Plan, stages_ms: Stages) -> Result<Receipt, PipelineError> {
        let engines = &self.engines;
        let mut receipt = Receipt {
            model: self.model_id(),
            profile: self.profile.name.clone(),
            engines: EngineIds {
                encoder: engines.encoder.id().to_owned(),
                projector: engines.projector.id().to_owned(),
                decoder: engines.decoder.id().to_owned(),
                partition: self.partition.id().to_owned(),
                chosen: engines.chosen.clone(),
            },
            seed: self.profile.compression.seed,
            policy: self.manifest.policy.name.clone(),
            mode: plan.mode,
            select: frames.first().map(|frame| frame.selector).unwrap_or_default(),
            clusters: self.profile.compression.clusters,
            cluster_dim: self.profile.compression.cluster_dim.filter(|_| self.partition.id() == "kmeans"),
            budget: BudgetUse::default(),
            tokens: TokenUse::default(),
            degraded: Vec::new(),
            stages_ms,
            predicted_ms: predicted(plan),
            plan: Planned {
                asked: plan.rungs()[0].step.clone(),
                began: plan.first().step.name.clone(),
                ended: plan.rung().step.clone(),
                slowdown: plan.slowdown,
                unmeasured: plan.first().unmeasured.clone(),
                deadline_ms: plan.deadline,
                descents: plan.descents.iter().map(|descent| Descended::new(descent, plan)).collect(),
            },
            memory: Memory { planned_bytes: self.map.total().0, peak_bytes: 0 },
            evidence: Vec::new(),
            frames: Vec::new(),
        };
        if prompt.unknown > 0 {
            receipt.degraded.push(format!("question: {} of its tokens stand for what the model's vocabulary lacks", prompt.unknown));
        }
        let began = plan.first();
        if began.step.name != plan.rungs()[0].step.name {
            receipt.degraded.push(format!("the deadline left room for step {} of the ladder, not for what was asked", began.step.name));
        }
        receipt.degraded.extend(receipt.plan.descents.iter().map(|descent| {
            let Descended { before, from, to, left_ms, needed_ms } = descent;
            format!("stepped down from {from} to {to} before {}: {left_ms} left, {needed_ms} needed", before.name())
        }));
        for (number, frame) in frames.iter().enumerate() {
            self.record(number, frame, plan, &mut receipt)?;
        }
        Ok(receipt)
    }

    /// Adds what is to be said of one frame.
    fn record(&self, number: usize, frame: &Frame, plan: &Plan, receipt: &mut Receipt) -> Result<(), PipelineError> {
        let layout = self.slots.get(frame.lease)?.layout()?;
        let count = |len: usize| Tokens::of(len).0;
        let views = layout.views();
        // The best of all views together may all lie in one.
        let of = &self.chosen.views[number * views.len()..(number + 1) * views.len()];
        let total: Tokens = of.iter().map(|chosen| chosen.budget).sum();
        let share = |view: &ViewLayout| match (frame.selector, of[view.id.index()].budget) {
            (Selector::Topk, Tokens(1..)) => total.min(view.unmasked_tokens()),
            (_, tokens) => tokens,
        };
        receipt.budget.total += total.0;
        let slot = self.slots.get(frame.lease)?;
        receipt.budget.per_view.extend(views.iter().map(|view: &ViewLayout| {
            let at = view.id.index();
            let chosen = of[at];
            let lazy = frame.lazy && !is_coarse(view.id, views.len()) && !view.dropped && chosen.budget.0 > 0;
            let encoded = if lazy { looked_at(view, slot.view_tiles(at).1) } else { frame.tiles_encoded[at] };
            let skipped = if lazy { count(view.encoded_tile_count()) - encoded } else { 0 };
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
                tiles_encoded: encoded,
                tiles_skipped: skipped,
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
        let source = frame.source.dropped.iter().cloned().chain(self.fewer_regions(number, frame, plan)?);
        let of = if plan.rung().frames.len() > 1 { format!("frame {}: ", number + 1) } else { String::new() };
        receipt.degraded.extend(source.chain(dropped).chain(upscaled).map(|what| format!("{of}{what}")));
        receipt.evidence.extend(located(self.evidence(number, layout), &frame.source));
        receipt.frames.push(FrameRecord {
            id: frame.source.id().to_string(),
            w: layout.width.0,
            h: layout.height.0,
            sha256: frame.source.digest.to_string(),
            label_map: frame.label_map.map(|digest| digest.to_string()),
            geotag: frame.source.geotag.clone(),
        });
        Ok(())
    }
}

impl Pipeline {
    /// Views whose regions, made when the frame came, are fewer than the question's own budget would have them.
    fn fewer_regions(&self, number: usize, frame: &Frame, plan: &Plan) -> Result<Vec<String>, PipelineError> {
        if frame.selector != Selector::UhrBat || self.maps.is_some() {
            return Ok(Vec::new());
        }
        let (rule, most) = (self.manifest.policy.clusters, self.profile.compression.clusters);
        let asked = &plan.rung().frames[number].budget;
        let views = self.slots.get(frame.lease)?.layout()?.views();
        let fewer = views.iter().zip(asked.per_view()).zip(&frame.clusters).filter_map(|((view, budget), &made)| {
            let wanted = clusters(rule, most, *budget);
            let less = made > 0 && budget.0 > 0 && made < wanted;
            less.then(|| {
                format!(
                    "view {}: its regions were made for {made} clusters when the frame came, this budget would have {wanted}",
                    view.side
                )
            })
        });
        Ok(fewer.collect())
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

/// Tiles of a view that are looked at, padding left out.
fn looked_at(view: &ViewLayout, shown: &[bool]) -> u32 {
    let [columns, rows] = view.encoded_tiles();
    let side = view.tiles_side();
    let tiles = rows.flat_map(|y| columns.clone().map(move |x| y * side + x));
    Tokens::of(tiles.filter(|&tile| shown[tile]).count()).0
}

/// A stage's predicted times, and their sum, under the rung that the plan began with. Empty without a calibration.
fn predicted(plan: &Plan) -> serde_json::Map<String, serde_json::Value> {
    let predicted = plan.predicted();
    let (p50, Some(bound)) = (predicted.p50, predicted.bound) else { return serde_json::Map::new() };
    let pair = |p50: Millis, bound: Millis| serde_json::json!({"p50": p50 * plan.slowdown, "p99": bound * plan.slowdown});
    let stages = Stage::ALL.into_iter().map(|stage| (stage.name().to_owned(), pair(p50.get(stage), bound.get(stage))));
    stages.chain([("total".to_owned(), pair(p50.total(), bound.total()))]).collect()
}
