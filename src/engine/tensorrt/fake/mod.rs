//! A TensorRT library without TensorRT: devices in this process's memory, whose work is done later by a thread, and whose faults are foretold.
//!
//! Its engines are the scripted ones, so an answer is that of [`crate::engine::scripted`], by way of device memory, copies and events; or a package's
//! own graphs, run on the CPU.
//!
//! # Why
//! The code between the pipeline and a device is tried on any machine, at every point where a device can run out of memory or be lost. It is
//! stricter than a real one where it can be: memory that nothing was copied to yet is poison, and every handle that is still open is counted.

mod graph;
mod kernel;
mod network;
mod queue;
mod scatter;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::decoder::Embed;
use crate::engine::onnx::EncoderShape;
use crate::engine::tensorrt::shim::{
    self, Backend, DeviceBuffer, Element, Given, Handle, HostBuffer, Identity, RawRows, ShimTable, Status, TensorInfo,
};
use crate::engine::tensorrt::{
    DecoderPlans, DecoderSizes, Device, Form, RowsOf, TensorrtDecoder, TensorrtEncoder, TensorrtProjector, sealed,
};
use crate::engine::{DecoderError, DecoderShape, EngineError};
use crate::units::{Bytes, Tokens};
use half::f16;
use kernel::{ID_MARK, Kernel};
use queue::{Card, State, next_handle};

/// Every byte of memory that no work has reached yet: not a number as f16 and f32, no token as an id.
pub const POISON: u8 = 0xFF;

/// What engines for the made-up device are built for: no TensorRT there is.
pub const IDENTITY: Identity = Identity { tensorrt: [0; 4], compute: [0; 2] };

/// Memory and slowness of a made-up device.
#[derive(Clone, Copy, Debug)]
pub struct FakeSettings {
    pub memory: Bytes,
    /// From the moment that the worker takes a job up to the job's work.
    pub latency: Duration,
    /// Host and device have one memory.
    pub shares: bool,
}

impl Default for FakeSettings {
    fn default() -> Self {
        Self { memory: Bytes(64 << 20), latency: Duration::from_micros(20), shares: false }
    }
}

/// What is open on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Of the device's memory.
    pub memory: Bytes,
    /// Pinned memory of the host.
    pub host: Bytes,
    /// Buffers of both kinds, engines, streams and events.
    pub handles: usize,
}

/// The made-up library's table. Its device 0 is always there, with [`FakeSettings::default`] and without faults.
#[must_use]
pub fn table() -> ShimTable {
    shim::table::<Library>()
}

/// A made-up device of one's own, unplugged when dropped: what is open on it then finds it lost.
pub struct FakeDevice {
    ordinal: u32,
    card: Arc<Card>,
    worker: Option<JoinHandle<()>>,
}

impl FakeDevice {
    #[must_use]
    pub fn new(settings: FakeSettings) -> Self {
        let mut registry = registry();
        let ordinal = registry.next;
        registry.next += 1;
        let (card, worker) = plug(settings);
        registry.cards.insert(ordinal, Arc::clone(&card));
        Self { ordinal, card, worker: Some(worker) }
    }

    /// For [`Device::open`].
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    #[must_use]
    pub fn live(&self) -> Live {
        self.card.lock().live()
    }

    /// Runs enqueued so far.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.card.lock().runs()
    }

    /// `allocations` more go well, of the device's memory or pinned, and no other.
    pub fn fail_alloc_after(&self, allocations: u32) {
        self.card.change(|state| state.allocations_left = Some(allocations));
    }

    /// `runs` more are done, and the next one finds the device lost.
    pub fn lose_device_after(&self, runs: u32) {
        self.card.change(|state| state.runs_left = Some(runs));
    }

    /// `runs` more are enqueued, the next one is refused, and those after it are enqueued again.
    pub fn refuse_after(&self, runs: u32) {
        self.card.change(|state| state.refuse_in = Some(runs));
    }

    /// Ends all faults, a loss among them. What is open stays open.
    pub fn restore(&self) {
        self.card.change(State::restore);
    }

    /// Nothing enqueued is done before what this gives is dropped, unless something is freed, which waits for all that is enqueued.
    #[must_use]
    pub fn hold(&self) -> Hold<'_> {
        self.card.change(|state| state.hold(true));
        Hold(&self.card)
    }

    /// The bytes of `buffer` as they are now, done with or not, up to a whole word.
    #[must_use]
    pub fn peek<T: Element>(&self, buffer: &DeviceBuffer<T>) -> Vec<u8> {
        bytemuck::cast_slice(&self.card.lock().peek(buffer.handle())).to_vec()
    }

    /// As [`Self::peek`], of host memory.
    #[must_use]
    pub fn peek_host<T: Element>(&self, host: &HostBuffer<T>) -> Vec<u8> {
        bytemuck::cast_slice(&self.card.lock().peek_host(host.handle())).to_vec()
    }
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        registry().cards.remove(&self.ordinal);
        self.card.change(State::unplug);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// Keeps a device's worker from working.
pub struct Hold<'a>(&'a Card);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.hold(false));
    }
}

/// The scripted encoder's engine on `device`.
///
/// # Errors
/// What [`TensorrtEncoder::load`] finds.
pub fn encoder(device: &Device, shape: EncoderShape) -> Result<TensorrtEncoder, EngineError> {
    let EncoderShape { tile, patch, feature_dim } = shape;
    TensorrtEncoder::load(device, &plan(Kernel::Encode { tile, patch, feature_dim }), shape)
}

/// The scripted projector's engine on `device`.
///
/// # Errors
/// What [`TensorrtProjector::load`] finds.
pub fn projector(device: &Device, chunk: Tokens, feature_dim: usize, hidden: usize) -> Result<TensorrtProjector, EngineError> {
    let plan = plan(Kernel::Project { feature_dim, hidden });
    TensorrtProjector::load(device, (&plan, RowsOf::Features), chunk, [feature_dim, hidden])
}

/// The scripted decoder's engines on `device`: answers of `answer.1` tokens, none of them `answer.0`, then that. Its last layer is the interface layer.
///
/// # Errors
/// What [`TensorrtDecoder::load`] finds.
pub fn decoder(
    device: &Device,
    shape: DecoderShape,
    (stop, answer_len): (u32, u32),
    sizes: DecoderSizes,
) -> Result<TensorrtDecoder, DecoderError> {
    let DecoderShape { layers, hidden, vocab, .. } = shape;
    let kv_width = shape.kv_width();
    let run = |step| plan(Kernel::Run { hidden, kv_width, layers, vocab, stop, answer_len, step });
    let (prefill, step, anchor) = (run(false), run(true), plan(Kernel::Anchor { hidden, kv_width, layers }));
    let plans = DecoderPlans { prefill: (&prefill).into(), step: (&step).into(), anchor: (&anchor).into(), form: Form::Appended };
    TensorrtDecoder::load(device, &plans, (Box::new(Spelled), shape), layers, sizes)
}

/// Ids as rows that say so, which the scripted engines read again.
struct Spelled;

impl Embed for Spelled {
    fn embed(&mut self, id: u32, row: &mut [f16]) {
        row.fill(f16::ZERO);
        let [a, b, c, d] = id.to_le_bytes();
        let words = [ID_MARK, u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])];
        row.iter_mut().zip(words).for_each(|(to, word)| *to = f16::from_bits(word));
    }

    fn bytes(&self) -> Bytes {
        Bytes(0)
    }
}

fn plan(kernel: Kernel) -> Vec<u8> {
    // A kernel is numbers under fixed names, which JSON can always say.
    sealed(&IDENTITY, &serde_json::to_vec(&kernel).unwrap_or_default())
}

/// All made-up devices: plugged in by ordinal, open by handle.
struct Registry {
    cards: BTreeMap<u32, Arc<Card>>,
    open: BTreeMap<Handle, Arc<Card>>,
    next: u32,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(|| {
    let (card, _) = plug(FakeSettings::default());
    Mutex::new(Registry { cards: BTreeMap::from([(0, card)]), open: BTreeMap::new(), next: 1 })
});

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A card and the thread that works for it.
fn plug(settings: FakeSettings) -> (Arc<Card>, JoinHandle<()>) {
    let card = Arc::new(Card::new(settings));
    let worker = Arc::clone(&card);
    (card, std::thread::spawn(move || worker.work()))
}

/// The card of an open device.
fn card(device: Handle) -> Result<Arc<Card>, Status> {
    registry().open.get(&device).cloned().ok_or(Status::ARGUMENT)
}

/// The functions of the table.
struct Library;

impl Backend for Library {
    fn device_count() -> u32 {
        registry().next
    }

    fn device_open(ordinal: u32) -> Result<Handle, Status> {
        let mut registry = registry();
        let card = registry.cards.get(&ordinal).cloned().ok_or(Status::ARGUMENT)?;
        card.lock().alive()?;
        let handle = next_handle();
        registry.open.insert(handle, card);
        Ok(handle)
    }

    fn device_close(device: Handle) -> Result<(), Status> {
        let card = registry().open.remove(&device).ok_or(Status::ARGUMENT)?;
        card.change(State::unreserve);
        Ok(())
    }

    fn describe(_device: Handle) -> String {
        "fake".into()
    }

    fn last_error(device: Handle) -> String {
        card(device).map_or_else(|_| "the made-up device is lost or unplugged".into(), |card| card.lock().last_error())
    }

    fn memory(device: Handle) -> Result<(u64, u64), Status> {
        card(device)?.lock().memory()
    }

    fn buffer_alloc(device: Handle, bytes: u64) -> Result<Handle, Status> {
        card(device)?.lock().alloc(bytes)
    }

    fn buffer_free(device: Handle, buffer: Handle) -> Result<(), Status> {
        card(device)?.close(|state| state.free(buffer))
    }

    fn host_alloc(device: Handle, bytes: u64) -> Result<(Handle, *mut c_void), Status> {
        let (handle, memory) = card(device)?.lock().host_alloc(bytes)?;
        // Atomics may be written through a shared place; the card holds the memory until it is freed.
        Ok((handle, memory.as_ptr().cast_mut().cast()))
    }

    fn host_free(device: Handle, host: Handle) -> Result<(), Status> {
        card(device)?.close(|state| state.host_free(host))
    }

    fn stream_open(device: Handle) -> Result<Handle, Status> {
        card(device)?.lock().stream_open()
    }

    fn stream_close(device: Handle, stream: Handle) -> Result<(), Status> {
        card(device)?.close(|state| state.stream_close(stream))
    }

    fn engine_open(device: Handle, plan: &[u8]) -> Result<Handle, Status> {
        card(device)?.lock().engine_open(plan)
    }

    fn engine_bytes(device: Handle, engine: Handle) -> Result<u64, Status> {
        card(device)?.lock().engine_bytes(engine)
    }

    fn engine_tensor(device: Handle, engine: Handle, name: &CStr) -> Result<TensorInfo, Status> {
        card(device)?.lock().engine_tensor(engine, name)
    }

    fn engine_close(device: Handle, engine: Handle) -> Result<(), Status> {
        card(device)?.close(|state| state.engine_close(engine))
    }

    fn copy_in(device: Handle, stream: Handle, buffer: Handle, host: Handle, bytes: u64) -> Result<(), Status> {
        card(device)?.change(|state| state.enqueue_copy(stream, [buffer, host], bytes, false))
    }

    fn copy_out(device: Handle, stream: Handle, host: Handle, buffer: Handle, bytes: u64) -> Result<(), Status> {
        card(device)?.change(|state| state.enqueue_copy(stream, [buffer, host], bytes, true))
    }

    fn enqueue(device: Handle, stream: Handle, engine: Handle, given: &[Given<'_>]) -> Result<(), Status> {
        card(device)?.change(|state| state.enqueue_run(stream, engine, given))
    }

    fn event_open(device: Handle) -> Result<Handle, Status> {
        card(device)?.lock().event_open()
    }

    fn event_close(device: Handle, event: Handle) -> Result<(), Status> {
        card(device)?.close(|state| state.event_close(event))
    }

    fn event_record(device: Handle, stream: Handle, event: Handle) -> Result<(), Status> {
        card(device)?.lock().event_record(stream, event)
    }

    fn event_query(device: Handle, event: Handle) -> Result<bool, Status> {
        card(device)?.lock().came(event)
    }

    fn event_wait(device: Handle, event: Handle) -> Result<(), Status> {
        card(device)?.wait(event)
    }

    fn reserve(device: Handle, bytes: u64) -> Result<(), Status> {
        card(device)?.lock().reserve(bytes)
    }

    fn identity(device: Handle) -> Result<Identity, Status> {
        card(device).map(|_| IDENTITY)
    }

    fn copy_rows(device: Handle, stream: Handle, from: RawRows, to: RawRows, size: [u64; 2]) -> Result<(), Status> {
        card(device)?.change(|state| state.enqueue_rows(stream, Some(from), to, size))
    }

    fn zero_rows(device: Handle, stream: Handle, to: RawRows, size: [u64; 2]) -> Result<(), Status> {
        card(device)?.change(|state| state.enqueue_rows(stream, None, to, size))
    }

    fn engine_taken(device: Handle, engine: Handle) -> Result<u64, Status> {
        card(device)?.lock().engine_bytes(engine)
    }

    fn host_map(device: Handle, host: Handle) -> Result<Handle, Status> {
        card(device)?.lock().host_map(host)
    }
}
