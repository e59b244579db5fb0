//! The queue of a device: copies and runs that are done later, in order.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;

use crate::engine::tensorrt::shim::device::Opened;
use crate::engine::tensorrt::shim::{
    Device, DeviceBuffer, DeviceEngine, Element, Handle, HostBuffer, MAX_BINDINGS, RawBinding, ShimError, Status, TensorInfo,
};
use crate::units::Bytes;

/// A tensor of a run: the first values of a buffer.
#[derive(Clone, Copy)]
pub struct Bound<'a> {
    name: &'static CStr,
    what: &'static str,
    room: usize,
    raw: RawBinding,
    device: &'a Device,
}

impl<'a> Bound<'a> {
    /// `buffer` as the engine's tensor `name`, of dimensions `dims`.
    #[must_use]
    pub fn new<T: Element>(name: &'static CStr, buffer: &'a DeviceBuffer<T>, dims: &[usize]) -> Self {
        let raw = RawBinding { name: name.as_ptr(), buffer: buffer.handle, tensor: TensorInfo::new(T::DTYPE, dims) };
        Self { name, what: buffer.what, room: buffer.len, raw, device: &buffer.device }
    }
}

/// Copies and runs, done in the order they were enqueued, after the call that enqueues them has returned.
pub struct Stream {
    pub(super) device: Device,
    pub(super) handle: Handle,
}

impl Stream {
    /// Enqueues a copy of the first `len` values of `from`, which the host can't touch until it is done.
    ///
    /// # Errors
    /// Too little room, host memory still in use, a lost device; nothing was enqueued then.
    pub fn copy_in<T: Element>(&self, from: &mut HostBuffer<T>, to: &DeviceBuffer<T>, len: usize) -> Result<(), ShimError> {
        let bytes = self.admit(from, to, len)?;
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: open handles of memory for `bytes`. The host won't write to `from` before its event, nor is it freed before the copy is done.
        let status = unsafe { (table.copy_in)(*handle, self.handle, to.handle, from.handle, bytes.0) };
        self.device.check("copying to the device", status)?;
        from.copying(self)
    }

    /// Enqueues a copy of the first `len` values of `from` to `to`, which the host can't touch until it is done.
    ///
    /// # Errors
    /// As [`Self::copy_in`].
    pub fn copy_out<T: Element>(&self, from: &DeviceBuffer<T>, to: &mut HostBuffer<T>, len: usize) -> Result<(), ShimError> {
        let bytes = self.admit(to, from, len)?;
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: open handles of memory for `bytes`. The host won't touch `to` before its event, nor is it freed before the copy is done.
        let status = unsafe { (table.copy_out)(*handle, self.handle, to.handle, from.handle, bytes.0) };
        self.device.check("copying from the device", status)?;
        to.copying(self)
    }

    /// Enqueues a run of `engine`.
    ///
    /// # Errors
    /// A tensor larger than its buffer or other than the engine's, a lost device; nothing was enqueued then.
    pub fn enqueue(&self, engine: &DeviceEngine, bound: &[Bound<'_>]) -> Result<(), ShimError> {
        let mut raw = [RawBinding { name: ptr::null(), buffer: 0, tensor: TensorInfo::new(f32::DTYPE, &[]) }; MAX_BINDINGS];
        if bound.len() > MAX_BINDINGS {
            return Err(ShimError::Room { what: "an engine's tensors", wanted: bound.len() as u64, found: MAX_BINDINGS as u64 });
        }
        self.own("an engine", &engine.device)?;
        for (to, bound) in raw.iter_mut().zip(bound) {
            self.own(bound.what, bound.device)?;
            let (wanted, found) = (bound.raw.tensor.values().unwrap_or(u64::MAX), bound.room as u64);
            if wanted > found {
                return Err(ShimError::Room { what: bound.what, wanted, found });
            }
            *to = bound.raw;
        }
        let Opened { table, handle } = &*self.device.0;
        // At most MAX_BINDINGS, by the check above.
        let count = u32::try_from(bound.len()).unwrap_or(0);
        // SAFETY: open handles; `count` bindings whose names are static and whose buffers are open and large enough. A buffer that is dropped
        // while the run is enqueued is freed by the library after the run.
        let status = unsafe { (table.enqueue)(*handle, self.handle, engine.handle, raw.as_ptr(), count) };
        if status == Status::SHAPE {
            let given = bound.iter().map(|bound| format!("{} {}", bound.name.to_string_lossy(), bound.raw.tensor));
            let found = given.collect::<Vec<_>>().join(", ");
            return Err(ShimError::Shape { tensor: "of a run".into(), wanted: "those of the engine".into(), found });
        }
        self.device.check("enqueuing a run", status)
    }

    /// The bytes of a copy between `host` and `buffer`.
    fn admit<T: Element>(&self, host: &HostBuffer<T>, buffer: &DeviceBuffer<T>, len: usize) -> Result<Bytes, ShimError> {
        for (what, room, device) in [(host.what, host.len, &host.event.device), (buffer.what, buffer.len, &buffer.device)] {
            self.own(what, device)?;
            if len > room {
                return Err(ShimError::Room { what, wanted: len as u64, found: room as u64 });
            }
        }
        host.idle()?;
        Ok(Bytes::of::<T>(len))
    }

    /// Handles mean something to their own device alone.
    fn own(&self, what: &'static str, device: &Device) -> Result<(), ShimError> {
        if Arc::ptr_eq(&self.device.0, &device.0) { Ok(()) } else { Err(ShimError::OtherDevice { what }) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: this value's own handle, closed once; the library finishes what is on it.
        unsafe { (self.device.0.table.stream_close)(self.device.0.handle, self.handle) };
    }
}
