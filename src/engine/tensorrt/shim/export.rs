//! The table of a library that is written in Rust: C functions over a [`Backend`].
//!
//! # Why
//! The made-up library goes through the very border that a real one will, and yet is safe code: pointers end here.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::slice;

use crate::engine::tensorrt::shim::{
    ABI_VERSION, Dtype, Handle, Identity, MAX_BINDINGS, RawBinding, RawRows, ShimTable, Status, TensorInfo,
};

/// A tensor of a run, as a backend sees it.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::tensorrt) struct Given<'a> {
    pub name: &'a CStr,
    pub buffer: Handle,
    /// Bytes into the buffer.
    pub offset: u64,
    pub tensor: TensorInfo,
}

/// The functions of [`ShimTable`], each with its contract there. An `Err` is never OK nor PENDING.
///
/// # Why
/// It is seen in this room only: memory that `host_alloc` gives must be as the table says, or the owners' safe code isn't.
pub(in crate::engine::tensorrt) trait Backend {
    fn device_count() -> u32;
    fn device_open(ordinal: u32) -> Result<Handle, Status>;
    fn device_close(device: Handle) -> Result<(), Status>;
    fn describe(device: Handle) -> String;
    fn last_error(device: Handle) -> String;
    /// Free and total.
    fn memory(device: Handle) -> Result<(u64, u64), Status>;
    fn buffer_alloc(device: Handle, bytes: u64) -> Result<Handle, Status>;
    fn buffer_free(device: Handle, buffer: Handle) -> Result<(), Status>;
    fn host_alloc(device: Handle, bytes: u64) -> Result<(Handle, *mut c_void), Status>;
    fn host_free(device: Handle, host: Handle) -> Result<(), Status>;
    fn stream_open(device: Handle) -> Result<Handle, Status>;
    fn stream_close(device: Handle, stream: Handle) -> Result<(), Status>;
    fn engine_open(device: Handle, plan: &[u8]) -> Result<Handle, Status>;
    fn engine_bytes(device: Handle, engine: Handle) -> Result<u64, Status>;
    fn engine_tensor(device: Handle, engine: Handle, name: &CStr) -> Result<TensorInfo, Status>;
    fn engine_close(device: Handle, engine: Handle) -> Result<(), Status>;
    fn copy_in(device: Handle, stream: Handle, buffer: Handle, host: Handle, bytes: u64) -> Result<(), Status>;
    fn copy_out(device: Handle, stream: Handle, host: Handle, buffer: Handle, bytes: u64) -> Result<(), Status>;
    fn enqueue(device: Handle, stream: Handle, engine: Handle, given: &[Given<'_>]) -> Result<(), Status>;
    fn event_open(device: Handle) -> Result<Handle, Status>;
    fn event_close(device: Handle, event: Handle) -> Result<(), Status>;
    fn event_record(device: Handle, stream: Handle, event: Handle) -> Result<(), Status>;
    /// Whether it came.
    fn event_query(device: Handle, event: Handle) -> Result<bool, Status>;
    fn event_wait(device: Handle, event: Handle) -> Result<(), Status>;
    fn reserve(device: Handle, bytes: u64) -> Result<(), Status>;
    fn identity(device: Handle) -> Result<Identity, Status>;
    fn copy_rows(device: Handle, stream: Handle, from: RawRows, to: RawRows, size: [u64; 2]) -> Result<(), Status>;
    fn zero_rows(device: Handle, stream: Handle, to: RawRows, size: [u64; 2]) -> Result<(), Status>;
    fn engine_taken(device: Handle, engine: Handle) -> Result<u64, Status>;
    fn host_map(device: Handle, host: Handle) -> Result<Handle, Status>;
}

/// The table of `B`.
pub(in crate::engine::tensorrt) fn table<B: Backend>() -> ShimTable {
    ShimTable {
        abi_version,
        device_count: device_count::<B>,
        device_open: device_open::<B>,
        device_close: device_close::<B>,
        describe: describe::<B>,
        last_error: last_error::<B>,
        memory: memory::<B>,
        buffer_alloc: buffer_alloc::<B>,
        buffer_free: buffer_free::<B>,
        host_alloc: host_alloc::<B>,
        host_free: host_free::<B>,
        stream_open: stream_open::<B>,
        stream_close: stream_close::<B>,
        engine_open: engine_open::<B>,
        engine_bytes: engine_bytes::<B>,
        engine_tensor: engine_tensor::<B>,
        engine_close: engine_close::<B>,
        copy_in: copy_in::<B>,
        copy_out: copy_out::<B>,
        enqueue: enqueue::<B>,
        event_open: event_open::<B>,
        event_close: event_close::<B>,
        event_record: event_record::<B>,
        event_query: event_query::<B>,
        event_wait: event_wait::<B>,
        reserve: reserve::<B>,
        identity: identity::<B>,
        copy_rows: copy_rows::<B>,
        zero_rows: zero_rows::<B>,
        engine_taken: engine_taken::<B>,
        host_map: host_map::<B>,
    }
}

fn status(done: Result<(), Status>) -> Status {
    done.map_or_else(|status| status, |()| Status::OK)
}

/// Writes what was made.
///
/// # Safety
/// `place` is good for one `T`.
unsafe fn put<T>(place: *mut T, made: Result<T, Status>) -> Status {
    match made {
        // SAFETY: by this function's contract.
        Ok(made) => unsafe { place.write(made) },
        Err(status) => return status,
    }
    Status::OK
}

/// Writes as much of `text` as there is room for.
///
/// # Safety
/// `place` is good for `capacity` bytes.
unsafe fn write(text: &str, place: *mut c_char, capacity: u64) -> u64 {
    let len = text.len().min(usize::try_from(capacity).unwrap_or(usize::MAX));
    // SAFETY: both are good for `len` bytes, and a new place doesn't overlap the text.
    unsafe { place.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), len) };
    len as u64
}

// Every pointer below is the caller's: `Device` and what is opened on it give places of their own stack or memory that they hold, good for what the
// table says is read or written there.

unsafe extern "C" fn abi_version() -> u32 {
    ABI_VERSION
}

unsafe extern "C" fn device_count<B: Backend>(count: *mut u32) -> Status {
    // SAFETY: a place for one number, by the table.
    unsafe { put(count, Ok(B::device_count())) }
}

unsafe extern "C" fn device_open<B: Backend>(ordinal: u32, device: *mut Handle) -> Status {
    // SAFETY: a place for one handle, by the table.
    unsafe { put(device, B::device_open(ordinal)) }
}

unsafe extern "C" fn device_close<B: Backend>(device: Handle) -> Status {
    status(B::device_close(device))
}

unsafe extern "C" fn describe<B: Backend>(device: Handle, text: *mut c_char, capacity: u64) -> u64 {
    // SAFETY: a place for `capacity` bytes, by the table.
    unsafe { write(&B::describe(device), text, capacity) }
}

unsafe extern "C" fn last_error<B: Backend>(device: Handle, text: *mut c_char, capacity: u64) -> u64 {
    // SAFETY: a place for `capacity` bytes, by the table.
    unsafe { write(&B::last_error(device), text, capacity) }
}

unsafe extern "C" fn memory<B: Backend>(device: Handle, free: *mut u64, total: *mut u64) -> Status {
    match B::memory(device) {
        // SAFETY: places for one number each, by the table.
        Ok((left, all)) => unsafe {
            free.write(left);
            total.write(all);
            Status::OK
        },
        Err(status) => status,
    }
}

unsafe extern "C" fn buffer_alloc<B: Backend>(device: Handle, bytes: u64, buffer: *mut Handle) -> Status {
    // SAFETY: a place for one handle, by the table.
    unsafe { put(buffer, B::buffer_alloc(device, bytes)) }
}

unsafe extern "C" fn buffer_free<B: Backend>(device: Handle, buffer: Handle) -> Status {
    status(B::buffer_free(device, buffer))
}

unsafe extern "C" fn host_alloc<B: Backend>(device: Handle, bytes: u64, host: *mut Handle, place: *mut *mut c_void) -> Status {
    match B::host_alloc(device, bytes) {
        // SAFETY: places for the handle and the pointer, by the table.
        Ok((handle, start)) => unsafe {
            host.write(handle);
            place.write(start);
            Status::OK
        },
        Err(status) => status,
    }
}

unsafe extern "C" fn host_free<B: Backend>(device: Handle, host: Handle) -> Status {
    status(B::host_free(device, host))
}

unsafe extern "C" fn stream_open<B: Backend>(device: Handle, stream: *mut Handle) -> Status {
    // SAFETY: a place for one handle, by the table.
    unsafe { put(stream, B::stream_open(device)) }
}

unsafe extern "C" fn stream_close<B: Backend>(device: Handle, stream: Handle) -> Status {
    status(B::stream_close(device, stream))
}

unsafe extern "C" fn engine_open<B: Backend>(device: Handle, plan: *const u8, bytes: u64, engine: *mut Handle) -> Status {
    let Ok(len) = usize::try_from(bytes) else { return Status::ARGUMENT };
    // SAFETY: `bytes` bytes that live through the call, and a place for one handle, by the table.
    unsafe { put(engine, B::engine_open(device, slice::from_raw_parts(plan, len))) }
}

unsafe extern "C" fn engine_bytes<B: Backend>(device: Handle, engine: Handle, bytes: *mut u64) -> Status {
    // SAFETY: a place for one number, by the table.
    unsafe { put(bytes, B::engine_bytes(device, engine)) }
}

unsafe extern "C" fn engine_tensor<B: Backend>(device: Handle, engine: Handle, name: *const c_char, tensor: *mut TensorInfo) -> Status {
    // SAFETY: a name that ends with a zero and lives through the call, and a place for one tensor, by the table.
    unsafe { put(tensor, B::engine_tensor(device, engine, CStr::from_ptr(name))) }
}

unsafe extern "C" fn engine_close<B: Backend>(device: Handle, engine: Handle) -> Status {
    status(B::engine_close(device, engine))
}

unsafe extern "C" fn copy_in<B: Backend>(device: Handle, stream: Handle, buffer: Handle, host: Handle, bytes: u64) -> Status {
    status(B::copy_in(device, stream, buffer, host, bytes))
}

unsafe extern "C" fn copy_out<B: Backend>(device: Handle, stream: Handle, host: Handle, buffer: Handle, bytes: u64) -> Status {
    status(B::copy_out(device, stream, host, buffer, bytes))
}

unsafe extern "C" fn enqueue<B: Backend>(
    device: Handle,
    stream: Handle,
    engine: Handle,
    bindings: *const RawBinding,
    count: u32,
) -> Status {
    let count = count as usize;
    if count > MAX_BINDINGS {
        return Status::ARGUMENT;
    }
    // SAFETY: `count` bindings that live through the call, by the table.
    let bindings = unsafe { slice::from_raw_parts(bindings, count) };
    let mut given = [Given { name: c"", buffer: 0, offset: 0, tensor: TensorInfo::new(Dtype::F32, &[]) }; MAX_BINDINGS];
    for (to, binding) in given.iter_mut().zip(bindings) {
        // SAFETY: a name that ends with a zero and lives through the call, by the table.
        let name = unsafe { CStr::from_ptr(binding.name) };
        *to = Given { name, buffer: binding.buffer, offset: binding.offset, tensor: binding.tensor };
    }
    status(B::enqueue(device, stream, engine, &given[..count]))
}

unsafe extern "C" fn event_open<B: Backend>(device: Handle, event: *mut Handle) -> Status {
    // SAFETY: a place for one handle, by the table.
    unsafe { put(event, B::event_open(device)) }
}

unsafe extern "C" fn event_close<B: Backend>(device: Handle, event: Handle) -> Status {
    status(B::event_close(device, event))
}

unsafe extern "C" fn event_record<B: Backend>(device: Handle, stream: Handle, event: Handle) -> Status {
    status(B::event_record(device, stream, event))
}

unsafe extern "C" fn event_query<B: Backend>(device: Handle, event: Handle) -> Status {
    match B::event_query(device, event) {
        Ok(true) => Status::OK,
        Ok(false) => Status::PENDING,
        Err(status) => status,
    }
}

unsafe extern "C" fn event_wait<B: Backend>(device: Handle, event: Handle) -> Status {
    status(B::event_wait(device, event))
}

unsafe extern "C" fn reserve<B: Backend>(device: Handle, bytes: u64) -> Status {
    status(B::reserve(device, bytes))
}

unsafe extern "C" fn identity<B: Backend>(device: Handle, identity: *mut Identity) -> Status {
    // SAFETY: a place for one identity, by the table.
    unsafe { put(identity, B::identity(device)) }
}

unsafe extern "C" fn copy_rows<B: Backend>(device: Handle, stream: Handle, from: RawRows, to: RawRows, width: u64, rows: u64) -> Status {
    status(B::copy_rows(device, stream, from, to, [width, rows]))
}

unsafe extern "C" fn zero_rows<B: Backend>(device: Handle, stream: Handle, to: RawRows, width: u64, rows: u64) -> Status {
    status(B::zero_rows(device, stream, to, [width, rows]))
}

unsafe extern "C" fn engine_taken<B: Backend>(device: Handle, engine: Handle, bytes: *mut u64) -> Status {
    // SAFETY: a place for one number, by the table.
    unsafe { put(bytes, B::engine_taken(device, engine)) }
}

unsafe extern "C" fn host_map<B: Backend>(device: Handle, host: Handle, buffer: *mut Handle) -> Status {
    // SAFETY: a place for one handle, by the table.
    unsafe { put(buffer, B::host_map(device, host)) }
}
