//! The language model on a device: rows go in, logits and importance come out, keys and values stay there.
//!
//! The engines are those of `tools/export/decoder.py`: each takes a run of rows after `length` others and tells the run's keys and values, which are
//! copied behind the others, or writes them there itself ([`Form`]). A prompt goes through `prefill` in chunks, an answer token by token through
//! `step`, the pass for importance through `anchor`, whose keys and values stand in the same memory and are forgotten with it. The caller's cache
//! counts positions; its memory is not used.
//!
//! # Why
//! The table of embeddings stays on the host: a prompt is mostly rows, and a step wants one row of a table as large as a layer. Each sequence begins
//! on zeros, since a masked row is multiplied by zero all the same: what a run that overflowed left there would be in every answer after it.

mod memory;

use std::ffi::{CStr, CString};
use std::ops::Range;

use half::f16;
use heapless::Vec as Few;

use crate::arena::{Full, KvCache};
use crate::config::ImportanceRows;
use crate::engine::decoder::{Embed, finite, first_looking};
use crate::engine::tensorrt::shim::{Bound, Device, DeviceEngine, Dtype, MAX_BINDINGS, Rows, ShimError, Stream, TensorInfo};
use crate::engine::tensorrt::{Form, Plan, Room, id, names};
use crate::engine::{Decoder, DecoderError, DecoderShape, Segment};
use crate::units::{Bytes, Tokens};
use memory::{Memory, Names, bucket};

/// Plans of its engines.
#[derive(Clone, Copy, Debug)]
pub struct DecoderPlans<'a> {
    pub prefill: Plan<'a>,
    pub step: Plan<'a>,
    pub anchor: Plan<'a>,
    pub form: Form,
}

/// How much a decoder is to serve, none of it more than its engines were built for.
#[derive(Clone, Copy, Debug)]
pub struct DecoderSizes {
    /// Of a sequence.
    pub positions: Tokens,
    /// Of a run.
    pub chunk: Tokens,
    /// Visual tokens of the pass for importance.
    pub visual: Tokens,
}

/// A decoder of `sizes.positions` positions, fed `sizes.chunk` of them a run.
pub struct TensorrtDecoder {
    id: String,
    shape: DecoderShape,
    interface_layer: usize,
    sizes: DecoderSizes,
    prefill: DeviceEngine,
    step: DeviceEngine,
    anchor: DeviceEngine,
    embeddings: Box<dyn Embed>,
    names: Vec<Names>,
    memory: Memory,
    stream: Stream,
    /// Positions whose keys and values aren't zeros any more.
    written: usize,
    /// The logits are those of the last call.
    said: bool,
}

/// An error of the device, told with what the decoder was at.
fn at(doing: &'static str) -> impl Fn(ShimError) -> DecoderError {
    move |source| DecoderError::Device { doing, source }
}

/// What a run of an engine binds; nothing is allocated for it.
type Bindings<'a> = Few<Bound<'a>, MAX_BINDINGS>;

fn bind<'a>(to: &mut Bindings<'a>, bound: Bound<'a>) -> Result<(), ShimError> {
    to.push(bound).map_err(|_| ShimError::Room { what: "an engine's tensors", wanted: MAX_BINDINGS as u64 + 1, found: MAX_BINDINGS as u64 })
}

/// A run of new positions.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    rows: usize,
    /// Positions that the caches are bound with, where they aren't written in place.
    bound: usize,
}

/// What a run is of.
#[derive(Clone, Copy)]
enum Pass {
    Prefill,
    Step,
    /// So many rows look at so many keys.
    Anchor {
        asked: usize,
        seen: usize,
    },
}

/// What is looked at in the pass for importance.
struct Looked {
    image: Range<usize>,
    /// The first of the positions that look; the others follow it.
    from: usize,
    /// Those of earlier runs.
    before: usize,
}

impl TensorrtDecoder {
    /// The engines of `plans` on `device`, the anchor pass's for `interface_layer`, and memory for `sizes`.
    ///
    /// # Errors
    /// A tensor that differs, by its name; out of memory, with figures; a lost device.
    pub fn load(
        device: &Device,
        plans: &DecoderPlans<'_>,
        (embeddings, shape): (Box<dyn Embed>, DecoderShape),
        interface_layer: usize,
        sizes: DecoderSizes,
    ) -> Result<Self, DecoderError> {
        if !(1..=shape.layers).contains(&interface_layer) {
            return Err(DecoderError::Layer { found: interface_layer, layers: shape.layers });
        }
        let names = Names::of(shape.layers);
        let load = || {
            let memory = Memory::new(device, &shape, sizes, plans.form)?;
            let tensors = |rows, anchor| tensors((&shape, &names), (sizes, plans.form), rows, anchor);
            let stream = device.stream()?;
            stream.zero_rows(&memory.kv, memory.cached.rows(0), [memory.cached.count, memory.cached.stride])?;
            Ok(Self {
                id: id(device),
                prefill: device.engine(plans.prefill, &tensors(0, None))?,
                step: device.engine(plans.step, &tensors(1, None))?,
                anchor: device.engine(plans.anchor, &tensors(0, Some(interface_layer)))?,
                shape,
                interface_layer,
                sizes,
                embeddings,
                names,
                memory,
                stream,
                written: 0,
                said: false,
            })
        };
        load().map_err(at("load"))
    }

    /// What [`Self::load`] takes of the device beside its engines.
    pub fn buffers(room: &mut Room, shape: &DecoderShape, sizes: DecoderSizes, form: Form) {
        Memory::buffers(room, shape, sizes, form);
    }

    /// Copies a run's rows, which are those from `from` on in `segments`, and the number of positions before them in.
    fn send(&mut self, segments: &[Segment<'_>], from: usize, run: Run) -> Result<(), ShimError> {
        let (hidden, memory) = (self.shape.hidden, &mut self.memory);
        let rows = &mut memory.embeds.to_write()?[..run.rows * hidden];
        fill(&mut *self.embeddings, segments, from, (rows, hidden));
        memory.embeds.send(&self.stream, run.rows * hidden)?;
        memory.length.to_write()?[0] = u32::try_from(run.first).unwrap_or(u32::MAX);
        memory.length.send(&self.stream, 1)
    }

    /// Enqueues a run of `pass` over what [`Self::send`] sent, and the copy of its keys and values behind the others.
    fn enqueue(&mut self, pass: Pass, run: Run) -> Result<(), ShimError> {
        let (hidden, vocab, width, whole) = (self.shape.hidden, self.shape.vocab, self.shape.kv_width(), whole(&self.shape, self.sizes));
        let Memory { cached, fresh, kv, new, embeds, length, looking, visual, importance, logits } = &mut self.memory;
        let new = new.as_ref();
        let (engine, blocks) = match pass {
            Pass::Prefill => (&self.prefill, cached.count),
            Pass::Step => (&self.step, cached.count),
            Pass::Anchor { .. } => (&self.anchor, anchor_blocks(self.interface_layer)),
        };
        let mut bound = Bindings::new();
        bind(&mut bound, Bound::shared(names::INPUTS_EMBEDS, embeds, &[run.rows, hidden]))?;
        bind(&mut bound, Bound::shared(names::LENGTH, length, &[1]))?;
        for (number, names) in self.names[..blocks].iter().enumerate() {
            let at = number * cached.stride;
            match new {
                Some(new) => {
                    bind(&mut bound, Bound::new(&names.cache, kv, &[run.bound, width]).at(at))?;
                    bind(&mut bound, Bound::new(&names.new, new, &[run.rows, width]).at(number * fresh.stride))?;
                }
                None => {
                    bind(&mut bound, Bound::new(&names.cache, kv, &whole).at(at))?;
                    bind(&mut bound, Bound::new(&names.kept, kv, &whole).at(at))?;
                }
            }
        }
        match pass {
            Pass::Prefill | Pass::Step => bind(&mut bound, Bound::shared(names::LOGITS, logits, &[vocab]))?,
            Pass::Anchor { asked, seen } => {
                bind(&mut bound, Bound::shared(names::QUERY_ROWS, looking, &[asked]))?;
                bind(&mut bound, Bound::shared(names::VISUAL_KEYS, visual, &[seen]))?;
                bind(&mut bound, Bound::shared(names::IMPORTANCE, importance, &[seen]))?;
            }
        }
        self.stream.enqueue(engine, &bound)?;
        self.written = self.written.max(run.first + run.rows);
        // A run in place has written them there itself.
        let Some(new) = new else { return Ok(()) };
        self.stream.copy_rows((new, fresh.rows(0)), (kv, cached.rows(run.first)), [blocks, run.rows * width])
    }

    /// Zeros where there are keys and values.
    fn forget(&mut self) -> Result<(), ShimError> {
        let (memory, cached) = (&self.memory, self.memory.cached);
        let [_, heads, positions, head_dim] = whole(&self.shape, self.sizes);
        if self.written > 0 && memory.new.is_some() {
            self.stream.zero_rows(&memory.kv, cached.rows(0), [cached.count, self.written * self.shape.kv_width()])?;
        } else if self.written > 0 {
            for block in 0..cached.count {
                let rows = Rows { first: block * cached.stride, pitch: positions * head_dim };
                self.stream.zero_rows(&memory.kv, rows, [heads, self.written * head_dim])?;
            }
        }
        self.written = 0;
        Ok(())
    }

    fn runs(&self, positions: usize) -> impl Iterator<Item = Run> + use<> {
        let DecoderSizes { chunk, positions: most, .. } = self.sizes;
        let run = move |first| Run { first, rows: chunk.get().min(positions - first), bound: bucket(first, most) };
        (0..positions).step_by(chunk.get()).map(run)
    }

    /// A whole run of all layers.
    fn go(&mut self, segments: &[Segment<'_>], run: Run, step: bool) -> Result<(), ShimError> {
        self.send(segments, if step { 0 } else { run.first }, run)?;
        self.enqueue(if step { Pass::Step } else { Pass::Prefill }, run)
    }

    /// The logits of the last run.
    fn tell(&mut self) -> Result<(), ShimError> {
        self.memory.logits.fetch(&self.stream, self.shape.vocab)?;
        self.said = true;
        Ok(())
    }

    /// A run of the pass for importance: what of it looks adds to `scores`.
    fn look(&mut self, segments: &[Segment<'_>], run: Run, looked: &mut Looked, scores: &mut [f32]) -> Result<(), ShimError> {
        self.send(segments, run.first, run)?;
        let looking = looked.from.max(run.first)..(run.first + run.rows).max(looked.from);
        let memory = &mut self.memory;
        let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (rows, keys) = (memory.looking.to_write()?, memory.visual.to_write()?);
        // No tensor is empty: of a run that holds no looking row, some row looks at some key, and nothing is made of it.
        (rows[0], keys[0]) = (0, 0);
        rows.iter_mut().zip(looking.clone()).for_each(|(row, position)| *row = place(position - run.first));
        let appended = memory.new.is_some();
        let key = |position: usize| if position < run.first || !appended { position } else { run.bound + position - run.first };
        let (asked, seen) = if looking.is_empty() { (1, 1) } else { (looking.len(), looked.image.len()) };
        let shown = looked.image.clone().take(if looking.is_empty() { 0 } else { seen });
        keys.iter_mut().zip(shown).for_each(|(to, position)| *to = place(key(position)));
        memory.looking.send(&self.stream, asked)?;
        memory.visual.send(&self.stream, seen)?;
        self.enqueue(Pass::Anchor { asked, seen }, run)?;
        if looking.is_empty() {
            return Ok(());
        }
        looked.before += asked;
        let share = asked as f32 / looked.before as f32;
        let found = self.memory.importance.fetch(&self.stream, seen)?;
        scores.iter_mut().zip(found).for_each(|(score, found)| *score += (found - *score) * share);
        Ok(())
    }

    /// Ids below the vocabulary's size, whole rows.
    fn admit(&self, segments: &[Segment<'_>]) -> Result<Tokens, DecoderError> {
        let (hidden, vocab) = (self.shape.hidden, self.shape.vocab);
        for segment in segments {
            match segment {
                Segment::Ids(ids) => {
                    if let Some(&found) = ids.iter().find(|id| **id as usize >= vocab) {
                        return Err(DecoderError::Id { found, vocab });
                    }
                }
                Segment::Rows(rows) if !rows.len().is_multiple_of(hidden) => {
                    return Err(DecoderError::Length { what: "rows", wanted: rows.len().next_multiple_of(hidden), found: rows.len() });
                }
                Segment::Rows(_) => {}
            }
        }
        let positions = segments.iter().map(|segment| segment.len(hidden)).sum();
        if positions == 0 {
            return Err(DecoderError::Length { what: "prompt", wanted: 1, found: 0 });
        }
        Ok(Tokens::of(positions))
    }

    /// Whether there is room for `wanted` positions after `held` ones, in the device's memory and in the caller's count.
    fn room(&self, kv: &KvCache, held: Tokens, wanted: Tokens) -> Result<(), DecoderError> {
        for (what, positions) in [("KV cache on the device", self.sizes.positions), ("KV cache", kv.capacity())] {
            let free = Tokens(positions.0.saturating_sub(held.0));
            if wanted > free {
                return Err(Full { what, wanted, free }.into());
            }
        }
        Ok(())
    }
}

/// The rows from position `first` of `segments` on.
fn fill(embeddings: &mut dyn Embed, segments: &[Segment<'_>], first: usize, (rows, hidden): (&mut [f16], usize)) {
    for (position, row) in (first..).zip(rows.chunks_exact_mut(hidden)) {
        let mut at = position;
        for segment in segments {
            let len = segment.len(hidden);
            if at >= len {
                at -= len;
                continue;
            }
            match segment {
                Segment::Ids(ids) => embeddings.embed(ids[at], row),
                Segment::Rows(given) => row.copy_from_slice(&given[at * hidden..][..hidden]),
            }
            break;
        }
    }
}

/// Dimensions of a cache that is written in place.
fn whole(shape: &DecoderShape, sizes: DecoderSizes) -> [usize; 4] {
    [1, shape.kv_heads, sizes.positions.get(), shape.head_dim]
}

/// Blocks of keys and values that the anchor pass makes: of the interface layer only keys.
fn anchor_blocks(interface_layer: usize) -> usize {
    2 * interface_layer - 1
}

/// What an engine's tensors are held to: of runs of `rows` positions (0: any), and of the anchor pass, where it is its engine.
fn tensors<'a>(
    (shape, names): (&DecoderShape, &'a [Names]),
    (sizes, form): (DecoderSizes, Form),
    rows: usize,
    anchor: Option<usize>,
) -> Vec<(&'a CStr, TensorInfo)> {
    let (f16, f32, i32) = (Dtype::F16, Dtype::F32, Dtype::I32);
    let info = TensorInfo::new;
    let mut wanted = vec![(names::INPUTS_EMBEDS, info(f16, &[rows, shape.hidden])), (names::LENGTH, info(i32, &[1]))];
    let blocks = anchor.map_or(names.len(), anchor_blocks);
    let cstr = |name: &'a CString| name.as_c_str();
    let in_place = info(f16, &whole(shape, sizes));
    for names in &names[..blocks] {
        match form {
            Form::Appended => {
                wanted.push((cstr(&names.cache), info(f16, &[0, shape.kv_width()])));
                wanted.push((cstr(&names.new), info(f16, &[rows, shape.kv_width()])));
            }
            Form::InPlace => wanted.extend([(cstr(&names.cache), in_place), (cstr(&names.kept), in_place)]),
        }
    }
    match anchor {
        None => wanted.push((names::LOGITS, info(f32, &[shape.vocab]))),
        Some(_) => {
            wanted.extend([(names::QUERY_ROWS, info(i32, &[0])), (names::VISUAL_KEYS, info(i32, &[0]))]);
            wanted.push((names::IMPORTANCE, info(f32, &[0])));
        }
    }
    wanted
}

impl Decoder for TensorrtDecoder {
    fn id(&self) -> &str {
        &self.id
    }

    fn shape(&self) -> &DecoderShape {
        &self.shape
    }

    fn weights(&self) -> Bytes {
        [&self.prefill, &self.step, &self.anchor].map(DeviceEngine::bytes).into_iter().sum()
    }

    /// With the keys and values, which stand on the device.
    fn workspace(&self) -> Bytes {
        self.memory.bytes()
    }

    fn caches(&self) -> bool {
        false
    }

    /// No sequence is there afterwards.
    fn attend(
        &mut self,
        kv: &mut KvCache,
        segments: &[Segment<'_>],
        image: usize,
        (layer, rows): (usize, ImportanceRows),
        scores: &mut [f32],
    ) -> Result<(), DecoderError> {
        let positions = self.admit(segments)?;
        if layer != self.interface_layer {
            return Err(DecoderError::EngineLayer { wanted: self.interface_layer, found: layer });
        }
        let Some(Segment::Rows(shown)) = segments.get(image) else {
            return Err(DecoderError::Length { what: "segments up to the image", wanted: image + 1, found: segments.len() });
        };
        let hidden = self.shape.hidden;
        let shown = shown.len() / hidden;
        if scores.len() != shown {
            return Err(DecoderError::Length { what: "scores", wanted: shown, found: scores.len() });
        }
        let (wanted, free) = (Tokens::of(shown), self.sizes.visual);
        if wanted > free {
            return Err(Full { what: "visual tokens of the pass for importance", wanted, free }.into());
        }
        self.room(kv, Tokens(0), positions)?;
        let start: usize = segments[..image].iter().map(|segment| segment.len(hidden)).sum();
        let image = start..start + shown;
        let from = first_looking(rows, image.end, positions.get());
        self.said = false;
        kv.clear();
        scores.fill(0.0);
        if image.is_empty() {
            return Ok(());
        }
        let mut looked = Looked { image, from, before: 0 };
        let mut pass = || {
            self.forget()?;
            self.runs(positions.get()).try_for_each(|run| self.look(segments, run, &mut looked, scores))
        };
        pass().map_err(at("attend"))?;
        finite(layer, scores)
    }

    /// After an error no sequence is there.
    fn prefill(&mut self, kv: &mut KvCache, segments: &[Segment<'_>]) -> Result<(), DecoderError> {
        self.said = false;
        let positions = self.admit(segments)?;
        self.room(kv, Tokens(0), positions)?;
        kv.clear();
        let mut pass = || {
            self.forget()?;
            self.runs(positions.get()).try_for_each(|run| self.go(segments, run, false))?;
            self.tell()
        };
        pass().map_err(at("prefill"))?;
        kv.reserve(positions)?;
        Ok(())
    }

    /// After an error the sequence is as it was.
    fn step(&mut self, kv: &mut KvCache, token: u32) -> Result<(), DecoderError> {
        self.said = false;
        let (ids, held) = ([token], kv.len());
        let segments = [Segment::Ids(&ids)];
        self.admit(&segments)?;
        self.room(kv, held, Tokens(1))?;
        let run = Run { first: held.get(), rows: 1, bound: bucket(held.get(), self.sizes.positions) };
        let mut pass = || {
            self.go(&segments, run, true)?;
            self.tell()
        };
        pass().map_err(at("step"))?;
        kv.reserve(Tokens(1))?;
        Ok(())
    }

    /// None after a call that failed.
    fn logits(&self) -> &[f32] {
        if self.said { self.memory.logits.values().unwrap_or_default() } else { &[] }
    }
}
