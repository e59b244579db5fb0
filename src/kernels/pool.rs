//! A fixed set of worker threads that share out numbered tasks.
//!
//! # Why
//! A general work-stealing pool allocates as it goes; the path from prompt to answer may not. Here a run publishes one borrowed closure,
//! every thread (the caller's included) takes task numbers from a counter, and the run returns when all are done. Which thread
//! takes which task never changes a result: a task writes only what its number owns. A worker that the system hasn't woken by then is not waited for: on
//! a busy machine a run costs no more than its tasks.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// Threads that wait for [`Pool::run`]. Dropping the pool ends them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One run at a time: a second caller waits for the first.
    turn: Mutex<()>,
}

struct Shared {
    post: Mutex<Post>,
    posted: Condvar,
    done: Condvar,
    /// The next task number of the current run.
    next: AtomicUsize,
    /// Rises with every run, so that waiting workers can look without the lock.
    epoch: AtomicUsize,
    /// Workers inside the current run; rises under the lock of `post`, and only while a job stands there.
    busy: AtomicUsize,
    panicked: AtomicBool,
}

#[derive(Clone, Copy)]
struct Post {
    epoch: usize,
    tasks: usize,
    job: Option<Job>,
    stop: bool,
}

#[derive(Clone, Copy)]
struct Job(*const Task<'static>);

// SAFETY: the pointer is only followed while `Pool::run` holds the closure borrowed, and the closure is Sync.
unsafe impl Send for Job {}

/// How often a thread looks at an atomic before it sleeps: some tens of microseconds, the gap between two products of a decode step.
const SPINS: u32 = 4_000;

impl Pool {
    /// A pool that runs on `threads` threads in all, the caller's included; at least one.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            post: Mutex::new(Post { epoch: 0, tasks: 0, job: None, stop: false }),
            posted: Condvar::new(),
            done: Condvar::new(),
            next: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let workers = (1..threads.max(1))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.work())
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that take part in a run, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once for each number in `0..tasks`, on all threads; returns when every call has. Allocates nothing.
    ///
    /// # Panics
    /// If a task panics, after all threads have left the run.
    pub fn run(&self, tasks: usize, task: &Task<'_>) {
        if self.workers.is_empty() || tasks < 2 {
            (0..tasks).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. Workers enter while the job stands in the post, and follow the pointer until they lower `busy`; this
        // function takes the job away and doesn't return before `busy` is zero.
        let job = Job(unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) });
        {
            let mut post = lock(&shared.post);
            shared.next.store(0, Ordering::Relaxed);
            post.epoch += 1;
            post.tasks = tasks;
            post.job = Some(job);
            shared.epoch.store(post.epoch, Ordering::Release);
        }
        shared.posted.notify_all();
        shared.take_tasks(task, tasks);
        lock(&shared.post).job = None;
        for _ in 0..SPINS {
            if shared.busy.load(Ordering::Acquire) == 0 {
                break;
            }
            std::hint::spin_loop();
        }
        let mut post = lock(&shared.post);
        while shared.busy.load(Ordering::Acquire) != 0 {
            post = shared.done.wait(post).unwrap_or_else(PoisonError::into_inner);
        }
        drop(post);
        drop(turn);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of the thread pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut post = lock(&self.shared.post);
            post.stop = true;
            post.epoch += 1;
            self.shared.epoch.store(post.epoch, Ordering::Release);
        }
        self.shared.posted.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        loop {
            for _ in 0..SPINS {
                if self.epoch.load(Ordering::Acquire) != seen {
                    break;
                }
                std::hint::spin_loop();
            }
            let mut post = lock(&self.post);
            while post.epoch == seen {
                post = self.posted.wait(post).unwrap_or_else(PoisonError::into_inner);
            }
            let now = *post;
            if now.job.is_some() {
                self.busy.fetch_add(1, Ordering::Relaxed);
            }
            drop(post);
            seen = now.epoch;
            if now.stop {
                return;
            }
            // Too late for the run, which ended without this worker.
            let Some(Job(task)) = now.job else { continue };
            // SAFETY: `run` keeps the closure borrowed until this worker has lowered `busy`.
            self.take_tasks(unsafe { &*task }, now.tasks);
            if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
                let _post = lock(&self.post);
                self.done.notify_one();
            }
        }
    }

    fn take_tasks(&self, task: &Task<'_>, tasks: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                if number >= tasks {
                    return;
                }
                task(number);
            }
        }));
        if outcome.is_err() {
            self.next.store(tasks, Ordering::Relaxed);
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutable slice that tasks of one run may cut disjoint pieces from.
///
/// # Why
/// `chunks_mut` can't be shared by a `Fn`: the borrow checker doesn't see that task numbers differ.
struct Shards<'a, T> {
    start: *mut T,
    len: usize,
    _slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: pieces are handed out by the contract of `piece`: no two overlap.
unsafe impl<T: Send> Sync for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), _slice: std::marker::PhantomData }
    }

    /// The piece `range` of the slice.
    ///
    /// # Safety
    /// No two pieces alive at once may overlap: derive the range from the task number alone.
    ///
    /// # Panics
    /// If the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    unsafe fn piece(&self, range: std::ops::Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "piece {range:?} of a slice of {}", self.len);
        // SAFETY: in bounds by the line above, alone by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}

impl Pool {
    /// Cuts `data` into pieces of `piece` values (the last may be shorter) and calls `task(number, piece)` for each, on all threads.
    pub fn pieces<T: Send>(&self, data: &mut [T], piece: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (len, piece) = (data.len(), piece.max(1));
        let shards = Shards::new(data);
        self.run(len.div_ceil(piece), &|number| {
            let start = number * piece;
            // SAFETY: pieces of different numbers don't overlap.
            task(number, unsafe { shards.piece(start..len.min(start + piece)) });
        });
    }

    /// As [`Self::pieces`], with piece `number` of a second slice beside it (empty where that one is shorter).
    pub fn pairs<A: Send, B: Send>(
        &self,
        data: &mut [A],
        piece: usize,
        beside: &mut [B],
        beside_piece: usize,
        task: &(dyn Fn(usize, &mut [A], &mut [B]) + Sync),
    ) {
        let len = beside.len();
        let shards = Shards::new(beside);
        self.pieces(data, piece, &|number, data| {
            let start = (number * beside_piece).min(len);
            // SAFETY: pieces of different numbers don't overlap.
            task(number, data, unsafe { shards.piece(start..len.min(start + beside_piece)) });
        });
    }

    /// As [`Self::pairs`] with one value of `data` a piece, and a third slice cut as the second.
    pub fn triples<A: Send, B: Send, C: Send>(
        &self,
        data: &mut [A],
        beside: &mut [B],
        third: &mut [C],
        piece: usize,
        task: &(dyn Fn(usize, &mut A, &mut [B], &mut [C]) + Sync),
    ) {
        let len = third.len();
        let shards = Shards::new(third);
        self.pairs(data, 1, beside, piece, &|number, data, beside| {
            let start = (number * piece).min(len);
            // SAFETY: pieces of different numbers don't overlap.
            task(number, &mut data[0], beside, unsafe { shards.piece(start..len.min(start + piece)) });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_thread_count() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let mut hits = vec![0_u32; tasks];
                pool.pieces(&mut hits, 1, &|_, hit| hit[0] += 1);
                assert!(hits.iter().all(|&hit| hit == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(9, &|number| assert!(number != 4))));
        assert!(outcome.is_err());
        pool.run(9, &|_| ());
    }
}
