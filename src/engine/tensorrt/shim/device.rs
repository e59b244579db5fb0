//! A device, and the engines on it: each value owns one handle of the library and gives it back when dropped.
//!
//! # Why
//! Everything above this folder is safe code. What makes it so: a handle is used by its owner only and with its own device, sizes are checked against
//! what was allocated before a call, and host memory is seen by the host or used by the device, never both.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::engine::tensorrt::plan::Plan;
use crate::engine::tensorrt::shim::memory::{Event, Mark};
use crate::engine::tensorrt::shim::{
    ABI_VERSION, DeviceBuffer, Element, Handle, HostBuffer, Identity, MAX_DIMS, Shared, ShimError, ShimTable, Status, Stream, TensorInfo,
    Wanted,
};
use crate::units::Bytes;

/// Longest text that is asked for: a reason, and a few lines of TensorRT's own.
const TEXT: usize = 1_024;

/// An open device; clones stand for the same one, which is closed with the last of them and of what was opened on it.
#[derive(Clone)]
pub struct Device(pub(super) Arc<Opened>);

pub(super) struct Opened {
    pub table: ShimTable,
    pub handle: Handle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by this table, and nothing that was opened on it is left: each holds a clone of the `Arc`.
        unsafe { (self.table.device_close)(self.handle) };
    }
}

impl Device {
    /// Opens device `ordinal`, from 0.
    ///
    /// # Errors
    /// A library of another version, no such device, or one that can't be used.
    pub fn open(table: &ShimTable, ordinal: u32) -> Result<Self, ShimError> {
        // SAFETY: the first function of every version, without arguments.
        let found = unsafe { (table.abi_version)() };
        if found != ABI_VERSION {
            return Err(ShimError::Abi { wanted: ABI_VERSION, found });
        }
        let (mut count, mut handle) = (0, 0);
        // SAFETY: `count` is a place for the one number written.
        let status = unsafe { (table.device_count)(&mut count) };
        judge(table, 0, "counting devices", status)?;
        if ordinal >= count {
            return Err(ShimError::NoDevice { ordinal, count });
        }
        // SAFETY: `handle` is a place for the one handle written.
        let status = unsafe { (table.device_open)(ordinal, &mut handle) };
        judge(table, 0, "opening a device", status)?;
        Ok(Self(Arc::new(Opened { table: *table, handle })))
    }

    /// Library and device in words, for receipts.
    #[must_use]
    pub fn describe(&self) -> String {
        // SAFETY: an open device; `text` gives a place as long as it says.
        text(|place, capacity| unsafe { (self.0.table.describe)(self.0.handle, place, capacity) })
    }

    /// Allocates `bytes` of device memory, which all later buffers, weights and workspaces are taken from. Without it each is an allocation of its own.
    ///
    /// # Errors
    /// Out of memory, with figures; what was allocated or reserved before; a lost device.
    pub fn reserve(&self, bytes: Bytes) -> Result<(), ShimError> {
        // SAFETY: an open device.
        let status = unsafe { (self.0.table.reserve)(self.0.handle, bytes.0) };
        self.check_memory("what is reserved for all engines", bytes, status)
    }

    /// What engines must have been built for to run here.
    ///
    /// # Errors
    /// A library's own reason.
    pub fn identity(&self) -> Result<Identity, ShimError> {
        let mut identity = Identity::default();
        // SAFETY: an open device, and a place for the one identity written.
        let status = unsafe { (self.0.table.identity)(self.0.handle, &mut identity) };
        self.check("asking what it is", status)?;
        Ok(identity)
    }

    /// Memory that could be had now, and that there is: of what was reserved, if anything was.
    ///
    /// # Errors
    /// A lost device.
    pub fn memory(&self) -> Result<(Bytes, Bytes), ShimError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: an open device, and places for the two numbers written.
        let status = unsafe { (self.0.table.memory)(self.0.handle, &mut free, &mut total) };
        self.check("asking for its memory", status)?;
        Ok((Bytes(free), Bytes(total)))
    }

    /// Device memory for `len` values, whose bytes are whatever was there. `what`: its name in an error.
    ///
    /// # Errors
    /// Out of memory, with figures; a lost device.
    pub fn buffer<T: Element>(&self, what: &'static str, len: usize) -> Result<DeviceBuffer<T>, ShimError> {
        let (bytes, mut handle) = (Bytes::of::<T>(len), 0);
        // SAFETY: an open device, and a place for the one handle written.
        let status = unsafe { (self.0.table.buffer_alloc)(self.0.handle, bytes.0, &mut handle) };
        self.check_memory(what, bytes, status)?;
        Ok(DeviceBuffer { device: self.clone(), handle, what, len, values: PhantomData })
    }

    /// Pinned host memory for `len` values, whose bytes are whatever was there.
    ///
    /// # Errors
    /// As [`Self::buffer`].
    pub fn host<T: Element>(&self, what: &'static str, len: usize) -> Result<HostBuffer<T>, ShimError> {
        let mark = Mark::new(self.event()?);
        let (bytes, mut handle, mut place) = (Bytes::of::<T>(len), 0, ptr::null_mut());
        // SAFETY: an open device, and places for the handle and the pointer written.
        let status = unsafe { (self.0.table.host_alloc)(self.0.handle, bytes.0, &mut handle, &mut place) };
        self.check_memory(what, bytes, status)?;
        let start = NonNull::new(place.cast::<T>()).filter(|start| start.is_aligned());
        let Some(start) = start else {
            // SAFETY: the handle was just given, and nothing was enqueued on it.
            unsafe { (self.0.table.host_free)(self.0.handle, handle) };
            let reason = format!("wanted host memory aligned to {} bytes, found {place:?}", align_of::<T>());
            return Err(ShimError::Failed { doing: "allocating host memory", status: Status::FAILED.0, reason });
        };
        Ok(HostBuffer { mark, handle, start, what, len })
    }

    /// Memory for `len` values that both sides use: one memory where they have one, else pinned memory and a buffer, and a copy each way.
    ///
    /// # Errors
    /// As [`Self::buffer`].
    pub fn shared<T: Element>(&self, what: &'static str, len: usize) -> Result<Shared<T>, ShimError> {
        let (host, mut handle) = (self.host(what, len)?, 0);
        // SAFETY: an open device and memory of its own, and a place for the one handle written.
        let status = unsafe { (self.0.table.host_map)(self.0.handle, host.handle, &mut handle) };
        self.check("mapping host memory", status)?;
        let mapped = handle != 0;
        let device =
            if mapped { DeviceBuffer { device: self.clone(), handle, what, len, values: PhantomData } } else { self.buffer(what, len)? };
        Ok(Shared { device, host, mapped })
    }

    /// Whether [`Self::shared`] takes no memory of the device.
    ///
    /// # Errors
    /// As [`Self::buffer`].
    pub fn shares(&self) -> Result<bool, ShimError> {
        Ok(self.shared::<u32>("one value", 1)?.device_bytes() == Bytes(0))
    }

    /// A queue of copies and runs, done in order.
    ///
    /// # Errors
    /// A lost device, or a library's own reason.
    pub fn stream(&self) -> Result<Stream, ShimError> {
        let mut handle = 0;
        // SAFETY: an open device, and a place for the one handle written.
        let status = unsafe { (self.0.table.stream_open)(self.0.handle, &mut handle) };
        self.check("opening a stream", status)?;
        Ok(Stream { device: self.clone(), handle })
    }

    /// An engine from its `plan`, held to the tensors `wanted`.
    ///
    /// # Errors
    /// A sealed plan for another TensorRT or GPU, or damaged; one that the library refuses, a tensor that differs by its name, out of memory, a lost device.
    pub fn engine<'a>(&self, plan: impl Into<Plan<'a>>, wanted: &[Wanted<'_>]) -> Result<DeviceEngine, ShimError> {
        let plan = plan.into().bytes(&self.identity()?)?;
        let mut handle = 0;
        // SAFETY: an open device, bytes that live through the call, and a place for the one handle written.
        let status = unsafe { (self.0.table.engine_open)(self.0.handle, plan.as_ptr(), plan.len() as u64, &mut handle) };
        self.check_memory("an engine's weights", Bytes::of::<u8>(plan.len()), status)?;
        let mut engine = DeviceEngine { device: self.clone(), handle, bytes: Bytes(0), taken: Bytes(0) };
        for (name, wanted) in wanted {
            engine.hold(name, wanted)?;
        }
        // SAFETY: the device and the engine are open; a place for the one number written.
        let status = unsafe { (self.0.table.engine_bytes)(self.0.handle, engine.handle, &mut engine.bytes.0) };
        self.check("asking for an engine's memory", status)?;
        // SAFETY: as above.
        let status = unsafe { (self.0.table.engine_taken)(self.0.handle, engine.handle, &mut engine.taken.0) };
        self.check("asking for an engine's memory", status)?;
        Ok(engine)
    }

    fn event(&self) -> Result<Event, ShimError> {
        let mut handle = 0;
        // SAFETY: an open device, and a place for the one handle written.
        let status = unsafe { (self.0.table.event_open)(self.0.handle, &mut handle) };
        self.check("opening an event", status)?;
        Ok(Event { device: self.clone(), handle })
    }

    pub(super) fn check(&self, doing: &'static str, status: Status) -> Result<(), ShimError> {
        judge(&self.0.table, self.0.handle, doing, status)
    }

    /// As [`Self::check`], of a call that takes memory.
    fn check_memory(&self, what: &'static str, wanted: Bytes, status: Status) -> Result<(), ShimError> {
        if status == Status::OUT_OF_MEMORY {
            let (free, total) = self.memory()?;
            return Err(ShimError::OutOfMemory { what, wanted, free, total });
        }
        self.check(what, status)
    }
}

/// An answer as an error, if it is one.
fn judge(table: &ShimTable, device: Handle, doing: &'static str, status: Status) -> Result<(), ShimError> {
    if status.0 >= 0 {
        return Ok(());
    }
    // SAFETY: an open device or none; `text` gives a place as long as it says.
    let reason = text(|place, capacity| unsafe { (table.last_error)(device, place, capacity) });
    match status {
        Status::LOST => Err(ShimError::Lost { doing, reason }),
        status => Err(ShimError::Failed { doing, status: status.0, reason }),
    }
}

/// What a library says, by a function that writes to a place of so many bytes and tells how many it wrote.
pub(super) fn text(say: impl FnOnce(*mut c_char, u64) -> u64) -> String {
    let mut bytes = [0_u8; TEXT];
    let len = usize::try_from(say(bytes.as_mut_ptr().cast(), TEXT as u64)).unwrap_or(TEXT);
    String::from_utf8_lossy(&bytes[..len.min(TEXT)]).into_owned()
}

/// A network on a device.
pub struct DeviceEngine {
    pub(super) device: Device,
    pub(super) handle: Handle,
    bytes: Bytes,
    taken: Bytes,
}

impl DeviceEngine {
    /// Its weights and workspace.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes
    }

    /// All that opening it took, what was given back meanwhile included.
    #[must_use]
    pub fn taken(&self) -> Bytes {
        self.taken
    }

    /// Compares a tensor with what is wanted.
    fn hold(&self, name: &CStr, wanted: &TensorInfo) -> Result<(), ShimError> {
        let Opened { table, handle } = &*self.device.0;
        let mut found = TensorInfo { dtype: wanted.dtype, rank: 0, dims: [0; MAX_DIMS] };
        // SAFETY: two open handles, a name that ends with a zero, and a place for the one tensor written.
        let status = unsafe { (table.engine_tensor)(*handle, self.handle, name.as_ptr(), &mut found) };
        let differs =
            |found: String| Err(ShimError::Shape { tensor: name.to_string_lossy().into_owned(), wanted: wanted.to_string(), found });
        if status == Status::SHAPE {
            return differs("none of that name".into());
        }
        self.device.check("asking for a tensor", status)?;
        if found == *wanted { Ok(()) } else { differs(found.to_string()) }
    }
}

impl Drop for DeviceEngine {
    fn drop(&mut self) {
        // SAFETY: this value's own handle, closed once; the library waits for its runs.
        unsafe { (self.device.0.table.engine_close)(self.device.0.handle, self.handle) };
    }
}
