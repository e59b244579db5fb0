//! What isn't in a slab: networks' intermediate tensors, texts, connections.
//!
//! # Why
//! Left to itself glibc gives the top of its heaps back to the system and asks for it again, megabytes at a time, whenever a network has run: the
//! resident set comes and goes, and each return costs page faults. Kept, it is its own high-water mark. One heap for all threads: of several, each has
//! holes that only its own threads fill, and all of them grow for hours. Most blocks come from a thread's own cache; taking a frame in is as fast.
#![allow(unsafe_code)]

/// Has the C library keep what is freed, for all threads, from now on. Blocks of 32 MiB and more still go back to the system, each by itself.
pub fn keep_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: each takes any number and only changes where later blocks come from; called before other threads are there.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
}
