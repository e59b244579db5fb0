//! A device's memory and its queue, which a worker thread empties later.
//!
//! # Why
//! Work that is done before the call returns would hide every missing wait. Here nothing is: fresh memory and the destination of a copy hold
//! poison until the worker gets to them, and a test can hold the worker back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::tensorrt::fake::kernel::Kernel;
use crate::engine::tensorrt::fake::{FakeSettings, Live, POISON};
use crate::engine::tensorrt::shim::{Given, Handle, Status, TensorInfo};
use crate::units::Bytes;

/// Memory of a device, padded to whole words.
struct Memory {
    bytes: u64,
    /// Empty while a run has them.
    words: Box<[u64]>,
}

/// Memory of the host that a device copies from and to. The owner of a `HostBuffer` looks at it as plain values, when no copy is on its way.
type Shared = Arc<[AtomicU64]>;

/// Bytes of a word.
const WORD: u64 = 8;
const POISONED: u64 = u64::from_ne_bytes([POISON; 8]);
/// Jobs that the queue has room for before it grows.
const JOBS: usize = 256;

/// Handles are numbered through all devices, so that one device's mean nothing to another.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_handle() -> Handle {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Clone, Copy)]
enum Job {
    In { buffer: Handle, host: Handle, bytes: u64 },
    Out { host: Handle, buffer: Handle, bytes: u64 },
    Run { kernel: Kernel, buffers: [Handle; 2], counts: [usize; 2] },
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
    /// Faults to come: allocations that still go well, runs until the device is lost, runs until one is refused.
    pub allocations_left: Option<u32>,
    pub runs_left: Option<u32>,
    pub refuse_in: Option<u32>,
    /// Why the device is lost.
    lost: Option<&'static str>,
    last_error: String,
    buffers: BTreeMap<Handle, Memory>,
    hosts: BTreeMap<Handle, Shared>,
    engines: BTreeMap<Handle, (Kernel, u64)>,
    streams: BTreeSet<Handle>,
    /// How many jobs must be done for each to have come.
    events: BTreeMap<Handle, u64>,
    queue: VecDeque<Job>,
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
        let queue = VecDeque::with_capacity(JOBS);
        let state = State { total: settings.memory.0, latency: settings.latency, queue, ..State::default() };
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
            let Some(job) = state.queue.front().copied().filter(|_| may) else {
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
            Job::Run { kernel, buffers, counts } => {
                state.runs_left = state.runs_left.map(|left| left - 1);
                let mut tensors =
                    buffers.map(|buffer| state.buffers.get_mut(&buffer).map(|memory| take(&mut memory.words)).unwrap_or_default());
                // Callers may enqueue and ask meanwhile.
                drop(state);
                let [first, second] = &mut tensors;
                kernel.run(counts, first, second);
                state = self.lock();
                for (buffer, words) in buffers.iter().zip(tensors) {
                    if let Some(memory) = state.buffers.get_mut(buffer) {
                        memory.words = words;
                    }
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

fn deliver(to: &Shared, from: impl Iterator<Item = u64>, bytes: u64) {
    copy(to.iter().zip(from), bytes, |to, value, mask| {
        to.store((to.load(Ordering::Relaxed) & !mask) | (value & mask), Ordering::Relaxed);
    });
}

impl State {
    /// Refuses everything from now on and forgets its jobs.
    fn lose(&mut self, why: &'static str) {
        self.lost = Some(why);
        self.queue.truncate(1);
    }

    /// As new, but for what is still open on it.
    pub fn restore(&mut self) {
        (self.lost, self.allocations_left, self.runs_left, self.refuse_in) = (None, None, None, None);
    }

    pub fn unplug(&mut self) {
        self.unplugged = true;
        self.lost = Some("it was unplugged");
        self.queue.clear();
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
        self.lost.map_or_else(|| self.last_error.clone(), str::to_owned)
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
        let handle = next_handle();
        self.buffers.insert(handle, Memory { bytes: len as u64 * WORD, words: vec![POISONED; len].into() });
        Ok(handle)
    }

    pub fn free(&mut self, buffer: Handle) -> Option<()> {
        self.used -= self.buffers.remove(&buffer)?.bytes;
        Some(())
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
        let kernel = serde_json::from_slice(plan).ok().filter(|kernel: &Kernel| kernel.sound());
        let Some(kernel) = kernel else { return Err(self.say(Status::FAILED, "wanted a plan of the fake shim, found something else")) };
        let bytes = plan.len() as u64;
        self.admit(bytes, true)?;
        let handle = next_handle();
        self.engines.insert(handle, (kernel, bytes));
        Ok(handle)
    }

    pub fn engine(&self, engine: Handle) -> Result<(Kernel, u64), Status> {
        self.alive()?;
        self.engines.get(&engine).copied().ok_or(Status::ARGUMENT)
    }

    pub fn engine_close(&mut self, engine: Handle) -> Option<()> {
        let (_, bytes) = self.engines.remove(&engine)?;
        self.used -= bytes;
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

    pub fn enqueue_run(&mut self, stream: Handle, engine: Handle, given: &[Given<'_>]) -> Result<(), Status> {
        let (kernel, _) = self.engine(engine)?;
        let find = |name| given.iter().find(|given| given.name == name);
        let [first, second] = kernel.tensors().map(|(name, _)| find(name));
        let (Some(first), Some(second)) = (first, second) else { return Err(Status::SHAPE) };
        if given.len() != 2 || !kernel.admits([&first.tensor, &second.tensor]) || first.buffer == second.buffer {
            return Err(Status::SHAPE);
        }
        let known = |given: &Given<'_>| {
            self.buffers.get(&given.buffer).is_some_and(|memory| given.tensor.bytes().is_some_and(|bytes| bytes <= memory.bytes))
        };
        if !known(first) || !known(second) || !self.streams.contains(&stream) {
            return Err(self.say(Status::ARGUMENT, "a run's memory or stream is not this device's"));
        }
        match &mut self.refuse_in {
            Some(0) => {
                self.refuse_in = None;
                return Err(self.say(Status::FAILED, "refused, as it was told to"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let count = |tensor: &TensorInfo| usize::try_from(tensor.dims[0]).map_err(|_| Status::SHAPE);
        let counts = [count(&first.tensor)?, count(&second.tensor)?];
        self.runs += 1;
        self.push(Job::Run { kernel, buffers: [first.buffer, second.buffer], counts });
        Ok(())
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
