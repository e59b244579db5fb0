//! k-means on a device (Eq. 13 and 14 of UHR-BAT): a view is copied there once, runs of its tokens go to their nearest centres, and centres to
//! the means of their tokens.
//!
//! Starts, iterations, when it stops and what is masked are those of [`crate::compress::regions::kmeans`]. Rows and centres are 1/λ_f as long as
//! Eq. 13 has them, which changes no label.
//!
//! # Why
//! The products of an assignment are the most of what an ingest leaves to the CPU. From the first iteration to the last the view stays on the
//! device: what comes back in between is a count a run, and at the end a label a token. Only unmasked tokens are copied, so no graph knows of masks.
//! Sums are f32 in the order of runs: a token that is about as near to two centres may have another label than on the CPU, and the receipt names
//! the device.

use half::f16;

use crate::compress::regions::kmeans::{Settings, Starts};
use crate::compress::regions::{Partition, Partitioned, Sizes, ViewFeatures, check_view, dense, open_tokens};
use crate::compress::{CompressError, MASKED};
use crate::config::Stop;
use crate::engine::EngineError;
use crate::engine::tensorrt::shim::{
    Bound, Device, DeviceBuffer, DeviceEngine, Dtype, Element, HostBuffer, Rows, ShimError, Stream, TensorInfo, pitch,
};
use crate::engine::tensorrt::{Plan, Room, id, names};
use crate::kernels::Pool;
use crate::units::{Bytes, Tokens};

const ENGINE: &str = "tensorrt kmeans";
/// Runs whose features are under way to the device at once.
const LANES: usize = 2;

/// The engines of `kmeans` and `centres`, and memory for the largest view.
pub struct TensorrtKmeans {
    id: String,
    settings: Settings,
    sizes: Sizes,
    kmeans: DeviceEngine,
    centres: DeviceEngine,
    memory: Memory,
    stream: Stream,
    /// Unmasked tokens of the view at hand, ascending.
    open: Vec<u32>,
    starts: Starts,
    numbers: Vec<u32>,
}

/// Where runs of `rows` tokens of `dim` features lie in their buffers, in values.
#[derive(Clone, Copy, Debug)]
struct Runs {
    rows: usize,
    dim: usize,
    features: usize,
    coordinates: usize,
    labels: usize,
    changed: usize,
}

impl Runs {
    fn new(rows: usize, dim: usize) -> Self {
        let (features, coordinates) = (pitch::<f16>(rows * dim), pitch::<f32>(rows * 2));
        Self { rows, dim, features, coordinates, labels: pitch::<u32>(rows), changed: pitch::<f32>(1) }
    }

    fn count(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.rows)
    }

    /// Each run's number and tokens, of `tokens` in all.
    fn each(self, tokens: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count(tokens)).map(move |run| (run, self.rows.min(tokens - run * self.rows)))
    }

    /// Values from the first run's begin to the last one's end, where each begins `pitch` after the one before and has `width` values a token.
    fn span(&self, tokens: usize, pitch: usize, width: usize) -> usize {
        self.each(tokens).last().map_or(0, |(run, rows)| run * pitch + rows * width)
    }
}

/// Buffers on both sides. Of a pair one is read while the other is written, and the other way round the next time.
struct Memory {
    runs: Runs,
    features_in: [HostBuffer<f16>; LANES],
    arrived: DeviceBuffer<f16>,
    features: DeviceBuffer<f16>,
    coordinates_in: HostBuffer<f32>,
    coordinates: DeviceBuffer<f32>,
    labels_held: HostBuffer<u32>,
    labels: [DeviceBuffer<u32>; 2],
    centres_in: HostBuffer<f32>,
    centres: [DeviceBuffer<f32>; 2],
    sums: [DeviceBuffer<f32>; 2],
    counts: [DeviceBuffer<f32>; 2],
    changed: DeviceBuffer<f32>,
    changed_out: HostBuffer<f32>,
    moved: DeviceBuffer<f32>,
    moved_out: HostBuffer<f32>,
}

impl Memory {
    fn new(device: &Device, sizes: Sizes, rows: usize) -> Result<Self, ShimError> {
        let runs = Runs::new(rows, sizes.dim);
        let (count, k, row) = (runs.count(sizes.tokens), sizes.clusters, sizes.dim + 2);
        Ok(Self {
            runs,
            features_in: [device.host("features in", runs.features)?, device.host("features in", runs.features)?],
            arrived: device.buffer("a run's features", runs.features)?,
            features: device.buffer("a view's features", count * runs.features)?,
            coordinates_in: device.host("coordinates in", count * runs.coordinates)?,
            coordinates: device.buffer("a view's coordinates", count * runs.coordinates)?,
            labels_held: device.host("labels in and out", count * runs.labels)?,
            labels: pair(device, "labels", count * runs.labels)?,
            centres_in: device.host("centres in", k * row)?,
            centres: pair(device, "centres", k * row)?,
            sums: pair(device, "sums of clusters", k * row)?,
            counts: pair(device, "counts of clusters", k)?,
            changed: device.buffer("labels changed", count * runs.changed)?,
            changed_out: device.host("labels changed out", count * runs.changed)?,
            moved: device.buffer("coordinates moved", 1)?,
            moved_out: device.host("coordinates moved out", 1)?,
        })
    }

    /// What [`Self::new`] takes of the device.
    fn buffers(room: &mut Room, sizes: Sizes, rows: usize) {
        let runs = Runs::new(rows, sizes.dim);
        let (count, k, row) = (runs.count(sizes.tokens), sizes.clusters, sizes.dim + 2);
        room.buffer::<f16>(runs.features);
        room.buffer::<f16>(count * runs.features);
        room.buffer::<f32>(count * runs.coordinates);
        for _ in 0..2 {
            room.buffer::<u32>(count * runs.labels);
            [k * row, k * row, k].into_iter().for_each(|len| room.buffer::<f32>(len));
        }
        [count * runs.changed, 1].into_iter().for_each(|len| room.buffer::<f32>(len));
    }

    fn bytes(&self) -> Bytes {
        let both = |pair: &[DeviceBuffer<f32>; 2]| pair.iter().map(DeviceBuffer::bytes).sum::<Bytes>();
        let features = self.features_in.iter().map(HostBuffer::bytes).sum::<Bytes>() + self.arrived.bytes() + self.features.bytes();
        let places = self.coordinates_in.bytes() + self.coordinates.bytes();
        let labels = self.labels_held.bytes() + self.labels.iter().map(DeviceBuffer::bytes).sum();
        let clusters = self.centres_in.bytes() + both(&self.centres) + both(&self.sums) + both(&self.counts);
        let told = self.changed.bytes() + self.changed_out.bytes() + self.moved.bytes() + self.moved_out.bytes();
        features + places + labels + clusters + told
    }

    /// Sends the features of run `number`, which are the rows of `tokens`.
    fn send(&mut self, stream: &Stream, number: usize, view: &ViewFeatures<'_>, tokens: &[u32]) -> Result<(), ShimError> {
        let (dim, values) = (self.runs.dim, tokens.len() * self.runs.dim);
        let lane = &mut self.features_in[number % LANES];
        lane.wait()?;
        for (row, &token) in lane.values_mut()?.chunks_exact_mut(dim).zip(tokens) {
            view.rows.copy_half(token as usize * dim, row);
        }
        stream.copy_in(lane, &self.arrived, values)?;
        let place = Rows { first: number * self.runs.features, pitch: values };
        stream.copy_rows((&self.arrived, Rows { first: 0, pitch: values }), (&self.features, place), [1, values])
    }

    /// Sends where `tokens` are, and that none has a label yet.
    fn send_places(&mut self, stream: &Stream, tokens: &[u32], place: impl Fn(u32) -> [f32; 2]) -> Result<(), ShimError> {
        let runs = self.runs;
        self.coordinates_in.wait()?;
        let places = self.coordinates_in.values_mut()?;
        for (tokens, places) in tokens.chunks(runs.rows).zip(places.chunks_mut(runs.coordinates)) {
            tokens.iter().zip(places.as_chunks_mut().0).for_each(|(token, to)| *to = place(*token));
        }
        stream.copy_in(&mut self.coordinates_in, &self.coordinates, runs.span(tokens.len(), runs.coordinates, 2))?;
        let labels = runs.span(tokens.len(), runs.labels, 1);
        self.labels_held.wait()?;
        self.labels_held.values_mut()?[..labels].fill(MASKED);
        stream.copy_in(&mut self.labels_held, &self.labels[0], labels)
    }
}

fn pair<T: Element>(device: &Device, what: &'static str, len: usize) -> Result<[DeviceBuffer<T>; 2], ShimError> {
    Ok([device.buffer(what, len)?, device.buffer(what, len)?])
}

fn failed(source: ShimError) -> CompressError {
    CompressError::Device { engine: ENGINE, lost: matches!(source, ShimError::Lost { .. }), reason: source.to_string() }
}

/// The first values of `from`, brought to the host.
fn told<'a, T: Element>(stream: &Stream, from: &DeviceBuffer<T>, to: &'a mut HostBuffer<T>, len: usize) -> Result<&'a mut [T], ShimError> {
    to.wait()?;
    stream.copy_out(from, to, len)?;
    to.wait()?;
    Ok(&mut to.values_mut()?[..len])
}

/// No more clusters than tokens, and no longer runs.
fn fitted(sizes: Sizes, rows: Tokens) -> (Sizes, usize) {
    (Sizes { clusters: sizes.clusters.min(sizes.tokens), ..sizes }, rows.get().clamp(1, sizes.tokens.max(1)))
}

/// What the engines' tensors are held to.
fn tensors(dim: usize) -> [Vec<(&'static std::ffi::CStr, TensorInfo)>; 2] {
    let (f16, f32, i32) = (Dtype::F16, Dtype::F32, Dtype::I32);
    let rows = |name| (name, TensorInfo::new(f32, &[0, dim + 2]));
    let values = |name, dtype, len| (name, TensorInfo::new(dtype, &[len]));
    let kmeans = vec![
        (names::FEATURES, TensorInfo::new(f16, &[0, dim])),
        (names::COORDINATES, TensorInfo::new(f32, &[0, 2])),
        values(names::LABELS_BEFORE, i32, 0),
        rows(names::CENTRES),
        rows(names::SUMS_BEFORE),
        values(names::COUNTS_BEFORE, f32, 0),
        values(names::LABELS, i32, 0),
        rows(names::SUMS),
        values(names::COUNTS, f32, 0),
        values(names::CHANGED, f32, 1),
    ];
    let counts = values(names::COUNTS, f32, 0);
    let centres = vec![rows(names::SUMS), counts, rows(names::CENTRES), rows(names::NEXT_CENTRES), values(names::MOVED, f32, 1)];
    [kmeans, centres]
}

impl TensorrtKmeans {
    /// Whether the graphs compute what `settings` want of features of width `dim`: λ_f divides, and features are as they are.
    #[must_use]
    pub fn computes(settings: &Settings, dim: usize) -> bool {
        let scale = 1.0 / settings.embedding.lambda_feature;
        settings.sketched(dim).is_none()
            && settings.embedding.lambda_feature > 0.0
            && (scale * settings.embedding.lambda_position).is_finite()
    }

    /// The engines of `plans`, `kmeans` and `centres`, on `device`, and memory for views of up to `sizes`, in runs of up to `rows` tokens.
    ///
    /// # Errors
    /// A tensor that differs, by its name; out of memory, with figures; a lost device.
    pub fn load<'a>(
        device: &Device,
        [kmeans, centres]: [impl Into<Plan<'a>>; 2],
        settings: Settings,
        sizes: Sizes,
        rows: Tokens,
    ) -> Result<Self, EngineError> {
        let (sizes, rows) = fitted(sizes, rows);
        let load = || {
            let wanted = tensors(sizes.dim);
            Ok(Self {
                id: format!("kmeans, {}", id(device)),
                settings,
                sizes,
                kmeans: device.engine(kmeans, &wanted[0])?,
                centres: device.engine(centres, &wanted[1])?,
                memory: Memory::new(device, sizes, rows)?,
                stream: device.stream()?,
                open: Vec::with_capacity(sizes.tokens),
                starts: Starts::new(sizes.tokens, sizes.dim),
                numbers: vec![0; sizes.clusters],
            })
        };
        load().map_err(|source| EngineError::Device { engine: ENGINE, source })
    }

    /// Adds what [`Self::load`] takes of the device.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn room<'a>(room: &mut Room, plans: [impl Into<Plan<'a>>; 2], sizes: Sizes, rows: Tokens) -> Result<(), ShimError> {
        let (sizes, rows) = fitted(sizes, rows);
        plans.into_iter().zip(tensors(sizes.dim)).try_for_each(|(plan, wanted)| room.engine(plan, &wanted))?;
        Memory::buffers(room, sizes, rows);
        Ok(())
    }

    /// Width of the features that it takes.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.sizes.dim
    }

    /// Its memory on the device, pinned, and in the process.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let own = Starts::bytes(self.sizes.tokens, self.sizes.dim) + Bytes::of::<u32>(self.sizes.tokens + self.sizes.clusters);
        self.kmeans.bytes() + self.centres.bytes() + self.memory.bytes() + own
    }

    fn check(&self, tokens: usize, dim: usize, clusters: usize) -> Result<(), CompressError> {
        self.sizes.admit(tokens, dim, clusters)?;
        // The graphs' width is a number.
        if dim == self.sizes.dim { Ok(()) } else { Err(CompressError::Room { what: "features", found: dim, room: self.sizes.dim }) }
    }

    /// Copies a view's open tokens and the centres that it starts from to the device.
    fn begin(&mut self, view: &ViewFeatures<'_>, k: usize, pool: &Pool, labels: &[u32]) -> Result<(), CompressError> {
        let Self { memory, stream, open, settings, .. } = self;
        for (number, tokens) in open.chunks(memory.runs.rows).enumerate() {
            for &token in tokens {
                if let Some(found) = view.rows.not_half(token as usize * view.dim, view.dim) {
                    return Err(CompressError::NotFinite { what: "clustering feature", token, found });
                }
            }
            memory.send(stream, number, view, tokens).map_err(failed)?;
        }
        let scale = 1.0 / settings.embedding.lambda_feature;
        let place = |token| settings.embedding.place(view, token).map(|value| value * scale);
        memory.send_places(stream, open, place).map_err(failed)?;
        memory.centres_in.wait().map_err(failed)?;
        let values = k * (view.dim + 2);
        let centres = &mut memory.centres_in.values_mut().map_err(failed)?[..values];
        settings.start(view, (open, labels), &mut self.starts, pool, centres)?;
        centres.iter_mut().for_each(|value| *value *= scale);
        stream.copy_in(&mut memory.centres_in, &memory.centres[0], values).map_err(failed)
    }

    /// Lloyd's iterations; how many. The labels of the last stand where [`turn`] says that the next one would read.
    fn iterate(&mut self, k: usize) -> Result<u32, ShimError> {
        let Settings { max_iterations, stop, .. } = self.settings;
        for iteration in 1..=max_iterations {
            self.assign(k, turn(iteration))?;
            if iteration == max_iterations || (stop == Stop::Labels && !self.changed()?) {
                return Ok(iteration);
            }
            self.update(k, turn(iteration))?;
            if stop == Stop::Centres && !self.moved()? {
                return Ok(iteration);
            }
        }
        Ok(0)
    }

    /// Enqueues an assignment: every run's labels, and sums and counts of all.
    fn assign(&self, k: usize, turn: usize) -> Result<(), ShimError> {
        let (memory, runs, row) = (&self.memory, self.memory.runs, self.sizes.dim + 2);
        let begin = |values| Rows { first: 0, pitch: values };
        self.stream.zero_rows(&memory.sums[0], begin(k * row), [1, k * row])?;
        self.stream.zero_rows(&memory.counts[0], begin(k), [1, k])?;
        for (run, rows) in runs.each(self.open.len()) {
            let (from, to) = (run % 2, 1 - run % 2);
            let bound = [
                Bound::new(names::FEATURES, &memory.features, &[rows, runs.dim]).at(run * runs.features),
                Bound::new(names::COORDINATES, &memory.coordinates, &[rows, 2]).at(run * runs.coordinates),
                Bound::new(names::LABELS_BEFORE, &memory.labels[turn], &[rows]).at(run * runs.labels),
                Bound::new(names::CENTRES, &memory.centres[turn], &[k, row]),
                Bound::new(names::SUMS_BEFORE, &memory.sums[from], &[k, row]),
                Bound::new(names::COUNTS_BEFORE, &memory.counts[from], &[k]),
                Bound::new(names::LABELS, &memory.labels[1 - turn], &[rows]).at(run * runs.labels),
                Bound::new(names::SUMS, &memory.sums[to], &[k, row]),
                Bound::new(names::COUNTS, &memory.counts[to], &[k]),
                Bound::new(names::CHANGED, &memory.changed, &[1]).at(run * runs.changed),
            ];
            self.stream.enqueue(&self.kmeans, &bound)?;
        }
        Ok(())
    }

    /// Enqueues the centres' moves to the means of their tokens.
    fn update(&self, k: usize, turn: usize) -> Result<(), ShimError> {
        let (memory, row) = (&self.memory, self.sizes.dim + 2);
        // Each run wrote where the one before hadn't.
        let last = memory.runs.count(self.open.len()) % 2;
        let bound = [
            Bound::new(names::SUMS, &memory.sums[last], &[k, row]),
            Bound::new(names::COUNTS, &memory.counts[last], &[k]),
            Bound::new(names::CENTRES, &memory.centres[turn], &[k, row]),
            Bound::new(names::NEXT_CENTRES, &memory.centres[1 - turn], &[k, row]),
            Bound::new(names::MOVED, &memory.moved, &[1]),
        ];
        self.stream.enqueue(&self.centres, &bound)
    }

    /// Whether any label is another than before.
    fn changed(&mut self) -> Result<bool, ShimError> {
        let (memory, stream) = (&mut self.memory, &self.stream);
        let (runs, count) = (memory.runs, memory.runs.count(self.open.len()));
        let changed = told(stream, &memory.changed, &mut memory.changed_out, (count - 1) * runs.changed + 1)?;
        Ok(changed.iter().step_by(runs.changed).any(|count| *count != 0.0))
    }

    /// Whether any centre moved by more than the stop rule allows.
    fn moved(&mut self) -> Result<bool, ShimError> {
        let memory = &mut self.memory;
        Ok(told(&self.stream, &memory.moved, &mut memory.moved_out, 1)?.iter().any(|count| *count != 0.0))
    }

    /// The labels in buffer `turn`, dense; how many there are.
    fn finish(&mut self, k: usize, turn: usize, labels: &mut [u32]) -> Result<usize, CompressError> {
        let (memory, open) = (&mut self.memory, &self.open);
        let runs = memory.runs;
        let span = runs.span(open.len(), runs.labels, 1);
        let found = told(&self.stream, &memory.labels[turn], &mut memory.labels_held, span).map_err(failed)?;
        for (run, rows) in runs.each(open.len()) {
            found.copy_within(run * runs.labels..run * runs.labels + rows, run * runs.rows);
        }
        let found = &mut found[..open.len()];
        if let Some((&token, &found)) = open.iter().zip(&*found).find(|(_, label)| **label as usize >= k) {
            return Err(CompressError::Label { token, found, regions: k });
        }
        let regions = dense(found, &mut self.numbers[..k]);
        open.iter().zip(found).for_each(|(&token, label)| labels[token as usize] = *label);
        Ok(regions)
    }
}

/// Which of a pair iteration `number`, from 1, reads.
fn turn(number: u32) -> usize {
    usize::from(number.is_multiple_of(2))
}

impl Partition for TensorrtKmeans {
    fn id(&self) -> &str {
        &self.id
    }

    fn reseed(&mut self, seed: u64) {
        self.settings.seed = seed;
    }

    /// Features of f32 are rounded to f16. J is not computed.
    fn partition(
        &mut self,
        view: &ViewFeatures<'_>,
        clusters: usize,
        pool: &Pool,
        labels: &mut [u32],
    ) -> Result<Partitioned, CompressError> {
        check_view(view, labels)?;
        let clusters = view.starts.map_or(clusters, <[u32]>::len);
        if clusters == 0 {
            return Err(CompressError::NoClusters);
        }
        self.check(labels.len(), view.dim, clusters)?;
        open_tokens(labels, &mut self.open);
        let mut made = Partitioned { regions: 0, iterations: 0, objective: 0.0 };
        if self.open.is_empty() {
            return Ok(made);
        }
        let k = clusters.min(self.open.len());
        self.begin(view, k, pool, labels)?;
        made.iterations = self.iterate(k).map_err(failed)?;
        made.regions = self.finish(k, turn(made.iterations + 1), labels)?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_begin_where_tensors_may() {
        // 37 rows of 5 f16 are 370 bytes, of two f32 296, of an i32 148.
        let runs = Runs::new(37, 5);
        assert_eq!((runs.features, runs.coordinates, runs.labels, runs.changed), (256, 128, 64, 64));
        assert_eq!(runs.each(80).collect::<Vec<_>>(), [(0, 37), (1, 37), (2, 6)]);
        assert_eq!((runs.span(80, runs.coordinates, 2), runs.span(74, runs.labels, 1), runs.span(0, 64, 1)), (2 * 128 + 12, 64 + 37, 0));
        assert_eq!([1, 2, 3].map(turn), [0, 1, 0]);
    }
}
