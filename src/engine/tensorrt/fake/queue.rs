//! A device's memory and its queue, which a worker thread empties later.
//!
//! # Why
//! Work that is done before the call returns would hide every missing wait. Here nothing is: fresh memory and the destination of a copy hold
//! poison until the worker gets to them, and a test can hold the worker back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CStr;
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::tensorrt::fake::network::{Bound, Declared, Network, Tensors};
use crate::engine::tensorrt::fake::{FakeSettings, Live, POISON};
use crate::engine::tensorrt::shim::{ALIGNMENT, Given, Handle, RawRows, Status, TensorInfo};
use crate::units::Bytes;

/// Memory of a device, padded to whole words.
struct Memory {
    bytes: u64,
    /// Empty while a run has them.
    words: Box<[u64]>,
    /// Host memory that they stand for: what a run takes from it and leaves there.
    of: Option<Handle>,
}

/// Memory of the host that a device copies from and to. The owner of a `HostBuffer` looks at it as plain values, when no copy is on its way.
type Shared = Arc<[AtomicU64]>;

/// Bytes of a word.
const WORD: u64 = 8;
const POISONED: u64 = u64::from_ne_bytes([POISON; 8]);
/// Jobs that the queue has room for before it grows.
const JOBS: usize = 256;
/// The same of tensors, and of buffers in a run.
const TENSORS: usize = 4_096;
const BUFFERS: usize = 64;

/// Handles are numbered through all devices, so that one device's mean nothing to another.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_handle() -> Handle {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Clone)]
enum Job {
    In {
        buffer: Handle,
        host: Handle,
        bytes: u64,
    },
    Out {
        host: Handle,
        buffer: Handle,
        bytes: u64,
    },
    Rows {
        from: RawRows,
        to: RawRows,
        size: [u64; 2],
    },
    Zeros {
        to: RawRows,
        size: [u64; 2],
    },
    /// Over the next `tensors` of [`State::bound`].
    Run {
        network: Arc<Network>,
        tensors: usize,
    },
}

/// An engine that is open.
struct Engine {
    network: Arc<Network>,
    declared: Vec<Declared>,
    bytes: u64,
}

/// What a run works with; the worker's, kept from run to run.
#[derive(Default)]
struct Desk {
    bound: Vec<Bound>,
    buffers: Vec<(Handle, Box<[u64]>)>,
}

/// A device and its worker's post.
pub(super) struct Card {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    total: u64,
    used: u64,
    /// What `total` was before some of it was reserved.
    unreserved: Option<u64>,
    latency: Duration,
    shares: bool,
    /// Faults to come: allocations that still go well, runs until the device is lost, runs until one is refused.
    pub allocations_left: Option<u32>,
    pub runs_left: Option<u32>,
    pub refuse_in: Option<u32>,
    /// Why the device is lost.
    lost: Option<String>,
    last_error: String,
    buffers: BTreeMap<Handle, Memory>,
    hosts: BTreeMap<Handle, Shared>,
    engines: BTreeMap<Handle, Engine>,
    streams: BTreeSet<Handle>,
    /// How many jobs must be done for each to have come.
    events: BTreeMap<Handle, u64>,
    queue: VecDeque<Job>,
    /// Tensors of the runs in the queue, one run's after the other's.
    bound: VecDeque<Bound>,
    desk: Desk,
    /// Tensors of the run that is being enqueued, kept from one to the next.
    incoming: Vec<Bound>,
    enqueued: u64,
    done: u64,
    /// Runs that were enqueued.
    runs: u64,
    held: bool,
    /// Callers that wait for an empty queue, which a held worker works for too.
    emptying: u32,
    unplugged: bool,
}

fn words(bytes: u64) -> Result<usize, Status> {
    usize::try_from(bytes.div_ceil(WORD)).map_err(|_| Status::ARGUMENT)
}

impl Card {
    pub fn new(settings: FakeSettings) -> Self {
        let desk = Desk { bound: Vec::with_capacity(TENSORS), buffers: Vec::with_capacity(BUFFERS) };
        let (queue, bound) = (VecDeque::with_capacity(JOBS), VecDeque::with_capacity(TENSORS));
        let incoming = Vec::with_capacity(TENSORS);
        let FakeSettings { memory, latency, shares } = settings;
        let state = State { total: memory.0, latency, shares, queue, bound, desk, incoming, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that the worker or a caller may be waiting for.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    /// The worker's life: one job after the other, each some time after it was enqueued, until the card is unplugged.
    pub fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.unplugged {
                return;
            }
            let may = !state.held || state.emptying > 0;
            // Looked at and left in the queue, so that it isn't empty before the job is done.
            let Some(job) = state.queue.front().filter(|_| may).cloned() else {
                state = self.sleep(state);
                continue;
            };
            let latency = state.latency;
            drop(state);
            if !latency.is_zero() {
                std::thread::sleep(latency);
            }
            state = self.perform(job);
            state.queue.pop_front();
            // A device that was lost has dropped its jobs, all of which count as done.
            state.done = if state.queue.is_empty() { state.enqueued } else { state.done + 1 };
            self.changed.notify_all();
        }
    }

    fn perform(&self, job: Job) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        match job {
            _ if state.lost.is_some() => {}
            Job::In { buffer, host, bytes } => {
                let State { buffers, hosts, .. } = &mut *state;
                if let (Some(to), Some(from)) = (buffers.get_mut(&buffer), hosts.get(&host)) {
                    let from = from.iter().map(|word| word.load(Ordering::Relaxed));
                    copy(to.words.iter_mut().zip(from), bytes, |to, value, mask| *to = (*to & !mask) | (value & mask));
                }
            }
            Job::Out { host, buffer, bytes } => {
                if let (Some(to), Some(from)) = (state.hosts.get(&host), state.buffers.get(&buffer)) {
                    deliver(to, from.words.iter().copied(), bytes);
                }
            }
            Job::Run { .. } if state.runs_left == Some(0) => state.lose("it fell off the bus, as it was told to"),
            Job::Rows { from, to, size: [width, rows] } => {
                let source = state.buffers.get_mut(&from.buffer).map(|memory| take(&mut memory.words)).unwrap_or_default();
                if let Some(sink) = state.buffers.get_mut(&to.buffer) {
                    let (from_bytes, to_bytes) = (bytemuck::cast_slice(&source), bytemuck::cast_slice_mut(&mut sink.words));
                    for row in 0..rows {
                        let (from, to) = (span(from, row, width), span(to, row, width));
                        <[u8]>::copy_from_slice(&mut to_bytes[to], &from_bytes[from]);
                    }
                }
                if let Some(memory) = state.buffers.get_mut(&from.buffer) {
                    memory.words = source;
                }
            }
            Job::Zeros { to, size: [width, rows] } => {
                if let Some(sink) = state.buffers.get_mut(&to.buffer) {
                    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut sink.words);
                    (0..rows).for_each(|row| bytes[span(to, row, width)].fill(0));
                }
            }
            Job::Run { network, tensors } => {
                state.runs_left = state.runs_left.map(|left| left - 1);
                let State { buffers, hosts, bound, desk, .. } = &mut *state;
                let mut desk = take(desk);
                desk.bound.extend(bound.drain(..tensors));
                for bound in &desk.bound {
                    if desk.buffers.iter().all(|(handle, _)| *handle != bound.buffer) {
                        let memory = buffers.get_mut(&bound.buffer);
                        let host = memory.as_ref().and_then(|memory| hosts.get(&memory.of?));
                        let mut words = memory.map(|memory| take(&mut memory.words)).unwrap_or_default();
                        if let Some(host) = host {
                            words.iter_mut().zip(host.iter()).for_each(|(to, word)| *to = word.load(Ordering::Relaxed));
                        }
                        desk.buffers.push((bound.buffer, words));
                    }
                }
                // Callers may enqueue and ask meanwhile.
                drop(state);
                let ran = network.run(&mut Tensors { bound: &desk.bound, buffers: &mut desk.buffers });
                state = self.lock();
                let State { buffers, hosts, .. } = &mut *state;
                for (buffer, words) in desk.buffers.drain(..) {
                    if let Some(memory) = buffers.get_mut(&buffer) {
                        if let Some(host) = memory.of.and_then(|of| hosts.get(&of)) {
                            deliver(host, words.iter().copied(), memory.bytes);
                        }
                        memory.words = words;
                    }
                }
                desk.bound.clear();
                state.desk = desk;
                if let Err(why) = ran {
                    state.lose(why);
                }
            }
        }
        state
    }

    /// Takes away what `find` names, once nothing uses it any more.
    pub fn close<T>(&self, find: impl FnOnce(&mut State) -> Option<T>) -> Result<(), Status> {
        let mut state = self.lock();
        state.emptying += 1;
        self.changed.notify_all();
        while !state.queue.is_empty() && !state.unplugged {
            state = self.sleep(state);
        }
        state.emptying -= 1;
        find(&mut state).map(drop).ok_or(Status::ARGUMENT)
    }

    pub fn wait(&self, event: Handle) -> Result<(), Status> {
        let mut state = self.lock();
        loop {
            if state.came(event)? {
                return Ok(());
            }
            state = self.sleep(state);
        }
    }
}

/// Copies the first `bytes` bytes of words, the last by a mask (the crate builds for little-endian processors).
fn copy<T>(pairs: impl Iterator<Item = (T, u64)>, bytes: u64, put: impl Fn(T, u64, u64)) {
    let mut left = bytes;
    for (to, value) in pairs {
        match left {
            0 => return,
            1..WORD => put(to, value, (1 << (8 * left)) - 1),
            _ => put(to, value, u64::MAX),
        }
        left = left.saturating_sub(WORD);
    }
}

/// The bytes of a row.
fn span(at: RawRows, row: u64, width: u64) -> std::ops::Range<usize> {
    let start = (at.offset + row * at.pitch) as usize;
    start..start + width as usize
}

fn deliver(to: &Shared, from: impl Iterator<Item = u64>, bytes: u64) {
    copy(to.iter().zip(from), bytes, |to, value, mask| {
        to.store((to.load(Ordering::Relaxed) & !mask) | (value & mask), Ordering::Relaxed);
    });
}

impl State {
    /// Refuses everything from now on and forgets its jobs.
    fn lose(&mut self, why: impl Into<String>) {
        self.lost = Some(why.into());
        self.queue.truncate(1);
        self.bound.clear();
    }

    /// As new, but for what is still open on it.
    pub fn restore(&mut self) {
        (self.lost, self.allocations_left, self.runs_left, self.refuse_in) = (None, None, None, None);
    }

    pub fn unplug(&mut self) {
        self.unplugged = true;
        self.lost = Some("it was unplugged".into());
        self.queue.clear();
        self.bound.clear();
        self.done = self.enqueued;
    }

    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    pub fn runs(&self) -> u64 {
        self.runs
    }

    pub fn live(&self) -> Live {
        let host = self.hosts.values().map(|host| host.len() as u64 * WORD).sum();
        let handles = self.buffers.len() + self.hosts.len() + self.engines.len() + self.streams.len() + self.events.len();
        Live { memory: Bytes(self.used), host: Bytes(host), handles }
    }

    pub fn last_error(&self) -> String {
        self.lost.as_ref().unwrap_or(&self.last_error).clone()
    }

    /// What stands in a buffer now.
    pub fn peek(&self, buffer: Handle) -> Vec<u64> {
        self.buffers.get(&buffer).map(|memory| memory.words.to_vec()).unwrap_or_default()
    }

    /// What stands in host memory now.
    pub fn peek_host(&self, host: Handle) -> Vec<u64> {
        let read = |host: &Shared| host.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        self.hosts.get(&host).map(read).unwrap_or_default()
    }

    pub fn alive(&self) -> Result<(), Status> {
        if self.lost.is_some() { Err(Status::LOST) } else { Ok(()) }
    }

    fn say(&mut self, status: Status, why: &str) -> Status {
        why.clone_into(&mut self.last_error);
        status
    }

    /// Free and total; nothing is free once an allocation was made to fail.
    pub fn memory(&self) -> Result<(u64, u64), Status> {
        self.alive()?;
        let free = if self.allocations_left == Some(0) { 0 } else { self.total - self.used };
        Ok((free, self.total))
    }

    /// Whether `bytes` more of the device's memory, or of the host's, may be had.
    fn admit(&mut self, bytes: u64, own: bool) -> Result<(), Status> {
        self.alive()?;
        let (free, _) = self.memory()?;
        match &mut self.allocations_left {
            Some(0) => return Err(self.say(Status::OUT_OF_MEMORY, "out of memory, as it was told to be")),
            _ if own && bytes > free => return Err(self.say(Status::OUT_OF_MEMORY, "out of memory")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.used += if own { bytes } else { 0 };
        Ok(())
    }

    /// Leaves `bytes` of the memory to be had, once and before any of it was, until the device is closed.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), Status> {
        self.alive()?;
        if self.unreserved.is_some() || self.used > 0 || bytes == 0 {
            return Err(self.say(Status::ARGUMENT, "reserving memory: once, some, and first"));
        }
        if bytes > self.total {
            return Err(self.say(Status::OUT_OF_MEMORY, "out of memory"));
        }
        self.unreserved = Some(self.total);
        self.total = bytes;
        Ok(())
    }

    pub fn unreserve(&mut self) {
        self.total = self.unreserved.take().unwrap_or(self.total);
    }

    pub fn alloc(&mut self, bytes: u64) -> Result<Handle, Status> {
        let len = words(bytes)?;
        self.admit(len as u64 * WORD, true)?;
        Ok(self.keep(len, None))
    }

    /// A buffer of `len` words, its own or standing for host memory.
    fn keep(&mut self, len: usize, of: Option<Handle>) -> Handle {
        let handle = next_handle();
        self.buffers.insert(handle, Memory { bytes: len as u64 * WORD, words: vec![POISONED; len].into(), of });
        handle
    }

    pub fn free(&mut self, buffer: Handle) -> Option<()> {
        let Memory { bytes, of, .. } = self.buffers.remove(&buffer)?;
        self.used -= if of.is_none() { bytes } else { 0 };
        Some(())
    }

    pub fn host_map(&mut self, host: Handle) -> Result<Handle, Status> {
        self.alive()?;
        let len = self.hosts.get(&host).ok_or(Status::ARGUMENT)?.len();
        Ok(if self.shares { self.keep(len, Some(host)) } else { 0 })
    }

    pub fn host_alloc(&mut self, bytes: u64) -> Result<(Handle, Shared), Status> {
        let len = words(bytes)?;
        self.admit(len as u64 * WORD, false)?;
        let (handle, memory) = (next_handle(), (0..len).map(|_| AtomicU64::new(POISONED)).collect::<Shared>());
        self.hosts.insert(handle, Arc::clone(&memory));
        Ok((handle, memory))
    }

    pub fn host_free(&mut self, host: Handle) -> Option<Shared> {
        self.hosts.remove(&host)
    }

    pub fn stream_open(&mut self) -> Result<Handle, Status> {
        self.alive()?;
        let handle = next_handle();
        self.streams.insert(handle);
        Ok(handle)
    }

    pub fn stream_close(&mut self, stream: Handle) -> Option<()> {
        self.streams.remove(&stream).then_some(())
    }

    /// Its weights are as many bytes as its plan has.
    pub fn engine_open(&mut self, plan: &[u8]) -> Result<Handle, Status> {
        let Some((network, declared)) = Network::read(plan) else {
            return Err(self.say(Status::FAILED, "wanted a plan of the fake shim, found something else"));
        };
        let bytes = plan.len() as u64;
        self.admit(bytes, true)?;
        let handle = next_handle();
        self.engines.insert(handle, Engine { network: Arc::new(network), declared, bytes });
        Ok(handle)
    }

    fn engine(&self, engine: Handle) -> Result<&Engine, Status> {
        self.alive()?;
        self.engines.get(&engine).ok_or(Status::ARGUMENT)
    }

    pub fn engine_bytes(&self, engine: Handle) -> Result<u64, Status> {
        self.engine(engine).map(|engine| engine.bytes)
    }

    pub fn engine_tensor(&self, engine: Handle, name: &CStr) -> Result<TensorInfo, Status> {
        let declared = &self.engine(engine)?.declared;
        declared.iter().find(|own| own.name.as_c_str() == name).map(|own| own.tensor).ok_or(Status::SHAPE)
    }

    pub fn engine_close(&mut self, engine: Handle) -> Option<()> {
        self.used -= self.engines.remove(&engine)?.bytes;
        Some(())
    }

    /// A copy to the device or, `out`, from it. What it goes to on the host holds poison until it's there.
    pub fn enqueue_copy(&mut self, stream: Handle, [buffer, host]: [Handle; 2], bytes: u64, out: bool) -> Result<(), Status> {
        self.alive()?;
        let (Some(own), Some(other)) = (self.buffers.get(&buffer), self.hosts.get(&host)) else {
            return Err(self.say(Status::ARGUMENT, "a copy's memory is not this device's"));
        };
        let room = own.bytes.min(other.len() as u64 * WORD);
        if bytes > room || !self.streams.contains(&stream) {
            return Err(self.say(Status::ARGUMENT, "a copy's size or stream is not this device's"));
        }
        if out {
            deliver(other, std::iter::repeat(POISONED), bytes);
        }
        self.push(if out { Job::Out { host, buffer, bytes } } else { Job::In { buffer, host, bytes } });
        Ok(())
    }

    /// Rows that are copied, or zeroed where there is nothing to copy `from`.
    pub fn enqueue_rows(&mut self, stream: Handle, from: Option<RawRows>, to: RawRows, size: [u64; 2]) -> Result<(), Status> {
        self.alive()?;
        let [width, rows] = size;
        let fits = |at: &RawRows| {
            let end = rows.checked_sub(1).and_then(|before| before.checked_mul(at.pitch)?.checked_add(at.offset)?.checked_add(width));
            let bytes = self.buffers.get(&at.buffer).map(|memory| memory.bytes);
            width <= at.pitch && end.zip(bytes).is_some_and(|(end, bytes)| end <= bytes)
        };
        let itself = from.is_some_and(|from| from.buffer == to.buffer);
        if !from.as_ref().is_none_or(fits) || !fits(&to) || itself || !self.streams.contains(&stream) {
            return Err(self.say(Status::ARGUMENT, "rows that aren't in this device's memory, or copied onto themselves"));
        }
        self.push(from.map_or(Job::Zeros { to, size }, |from| Job::Rows { from, to, size }));
        Ok(())
    }

    pub fn enqueue_run(&mut self, stream: Handle, engine: Handle, given: &[Given<'_>]) -> Result<(), Status> {
        let mut bound = take(&mut self.incoming);
        bound.clear();
        let admitted = self.admit_run(stream, engine, given, &mut bound);
        let network = match (admitted, self.refuse_in) {
            (Ok(_), Some(0)) => {
                self.refuse_in = None;
                Err(self.say(Status::FAILED, "refused, as it was told to"))
            }
            (Err(Status::ARGUMENT), _) => {
                let why = "a run's memory or stream is not this device's, or an output lies over another tensor";
                Err(self.say(Status::ARGUMENT, why))
            }
            (admitted, _) => admitted,
        };
        if network.is_ok() {
            self.refuse_in = self.refuse_in.map(|left| left - 1);
            self.poison(engine, &bound);
            self.bound.extend(&bound);
            self.runs += 1;
        }
        let tensors = bound.len();
        self.incoming = bound;
        self.push(Job::Run { network: network?, tensors });
        Ok(())
    }

    /// Of host memory that a run writes to, until it does.
    fn poison(&self, engine: Handle, bound: &[Bound]) {
        let declared = self.engines.get(&engine).map(|engine| &engine.declared[..]).unwrap_or_default();
        for bound in declared.iter().zip(bound).filter_map(|(declared, bound)| declared.output.then_some(bound)) {
            if let Some(host) = self.buffers.get(&bound.buffer).and_then(|memory| self.hosts.get(&memory.of?)) {
                deliver(host, std::iter::repeat(POISONED), bound.bytes as u64);
            }
        }
    }

    /// The engine of a run, and its tensors in `bound`, in the order of what it declares.
    fn admit_run(&self, stream: Handle, engine: Handle, given: &[Given<'_>], bound: &mut Vec<Bound>) -> Result<Arc<Network>, Status> {
        let Engine { network, declared, .. } = self.engine(engine)?;
        if given.len() != declared.len() {
            return Err(Status::SHAPE);
        }
        for declared in declared {
            let given = given.iter().find(|given| given.name == declared.name.as_c_str()).ok_or(Status::SHAPE)?;
            let bytes = given.tensor.bytes().filter(|_| declared.tensor.admits(&given.tensor)).ok_or(Status::SHAPE)?;
            let memory = self.buffers.get(&given.buffer).ok_or(Status::ARGUMENT)?;
            let inside = given.offset.checked_add(bytes).is_some_and(|end| end <= memory.bytes);
            let place = usize::try_from(given.offset).ok().zip(usize::try_from(bytes).ok());
            let (offset, bytes) = place.filter(|(offset, _)| inside && offset.is_multiple_of(ALIGNMENT)).ok_or(Status::ARGUMENT)?;
            bound.push(Bound { buffer: given.buffer, offset, bytes, tensor: given.tensor });
        }
        if !network.admits(|place| bound[place].tensor) {
            return Err(Status::SHAPE);
        }
        // What an output is, it lies over, and nothing else does.
        let apart = |place: usize, other: usize| {
            let alias = |one: usize, other: usize| declared[one].alias.as_ref() == Some(&declared[other].name);
            let same = bound[place].buffer == bound[other].buffer && bound[place].offset == bound[other].offset;
            if alias(place, other) || alias(other, place) { same } else { !bound[place].overlaps(&bound[other]) }
        };
        let over = |place: usize| declared[place].output && (0..bound.len()).any(|other| other != place && !apart(place, other));
        if (0..bound.len()).any(over) || !self.streams.contains(&stream) {
            return Err(Status::ARGUMENT);
        }
        Ok(Arc::clone(network))
    }

    fn push(&mut self, job: Job) {
        self.queue.push_back(job);
        self.enqueued += 1;
    }

    pub fn event_open(&mut self) -> Result<Handle, Status> {
        self.alive()?;
        let handle = next_handle();
        self.events.insert(handle, 0);
        Ok(handle)
    }

    pub fn event_close(&mut self, event: Handle) -> Option<u64> {
        self.events.remove(&event)
    }

    pub fn event_record(&mut self, stream: Handle, event: Handle) -> Result<(), Status> {
        self.alive()?;
        let enqueued = self.enqueued;
        match self.events.get_mut(&event) {
            Some(jobs) if self.streams.contains(&stream) => *jobs = enqueued,
            _ => return Err(Status::ARGUMENT),
        }
        Ok(())
    }

    /// Whether an event's jobs are done.
    pub fn came(&self, event: Handle) -> Result<bool, Status> {
        self.alive()?;
        self.events.get(&event).map(|jobs| self.done >= *jobs).ok_or(Status::ARGUMENT)
    }
}
