//! The queue of a device: copies and runs that are done later, in order.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;

use crate::engine::tensorrt::shim::device::Opened;
use crate::engine::tensorrt::shim::memory::Mark;
use crate::engine::tensorrt::shim::{
    ALIGNMENT, Device, DeviceBuffer, DeviceEngine, Element, Handle, HostBuffer, MAX_BINDINGS, RawBinding, RawRows, Shared, ShimError,
    Status, TensorInfo,
};
use crate::units::Bytes;

/// A tensor of a run: values of a buffer, the first ones if nothing else is said.
#[derive(Clone, Copy)]
pub struct Bound<'a> {
    name: &'a CStr,
    what: &'static str,
    /// Values before it, and of the whole buffer.
    first: usize,
    room: usize,
    size: usize,
    raw: RawBinding,
    device: &'a Device,
    /// Of host memory that the device uses as its own.
    mark: Option<&'a Mark>,
}

impl<'a> Bound<'a> {
    /// `buffer` as the engine's tensor `name`, of dimensions `dims`.
    #[must_use]
    pub fn new<T: Element>(name: &'a CStr, buffer: &'a DeviceBuffer<T>, dims: &[usize]) -> Self {
        let raw = RawBinding { name: name.as_ptr(), buffer: buffer.handle, offset: 0, tensor: TensorInfo::new(T::DTYPE, dims) };
        Self { name, what: buffer.what, first: 0, room: buffer.len, size: size_of::<T>(), raw, device: &buffer.device, mark: None }
    }

    /// The same of `shared`, which the host can't touch before it is bound no more, nor before the run is done where both sides have one memory.
    #[must_use]
    pub fn shared<T: Element>(name: &'a CStr, shared: &'a mut Shared<T>, dims: &[usize]) -> Self {
        Self { mark: shared.mark(), ..Self::new(name, &shared.device, dims) }
    }

    /// The same, from value `first` of the buffer on, which lies at a multiple of [`ALIGNMENT`] bytes.
    #[must_use]
    pub fn at(self, first: usize) -> Self {
        Self { first, ..self }
    }
}

/// Rows of values in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Values before the first row.
    pub first: usize,
    /// Values from a row's begin to the next one's.
    pub pitch: usize,
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
        from.mark.working(self)
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
        to.mark.working(self)
    }

    /// Enqueues a run of `engine`.
    ///
    /// # Errors
    /// A tensor larger than its buffer or other than the engine's, a lost device; nothing was enqueued then.
    pub fn enqueue(&self, engine: &DeviceEngine, bound: &[Bound<'_>]) -> Result<(), ShimError> {
        let mut raw = [RawBinding { name: ptr::null(), buffer: 0, offset: 0, tensor: TensorInfo::new(f32::DTYPE, &[]) }; MAX_BINDINGS];
        if bound.len() > MAX_BINDINGS {
            return Err(ShimError::Room { what: "an engine's tensors", wanted: bound.len() as u64, found: MAX_BINDINGS as u64 });
        }
        self.own("an engine", &engine.device)?;
        for (to, bound) in raw.iter_mut().zip(bound) {
            self.own(bound.what, bound.device)?;
            let (values, found) = (bound.raw.tensor.values().unwrap_or(u64::MAX), bound.room as u64);
            let wanted = values.saturating_add(bound.first as u64);
            if wanted > found {
                return Err(ShimError::Room { what: bound.what, wanted, found });
            }
            let offset = bound.first * bound.size;
            if !offset.is_multiple_of(ALIGNMENT) {
                return Err(ShimError::Alignment { what: bound.what, found: offset });
            }
            bound.mark.map_or(Ok(()), |mark| mark.free_for(self))?;
            *to = RawBinding { offset: offset as u64, ..bound.raw };
        }
        let Opened { table, handle } = &*self.device.0;
        // At most MAX_BINDINGS, by the check above.
        let count = u32::try_from(bound.len()).unwrap_or(0);
        // SAFETY: open handles; `count` bindings whose names live through the call and whose buffers are open and large enough. A buffer that is dropped
        // while the run is enqueued is freed by the library after the run. Host memory among them is nobody's: a bound one is borrowed exclusively, and
        // below it is the device's until the event after the run.
        let status = unsafe { (table.enqueue)(*handle, self.handle, engine.handle, raw.as_ptr(), count) };
        if status == Status::SHAPE {
            let given = bound.iter().map(|bound| format!("{} {}", bound.name.to_string_lossy(), bound.raw.tensor));
            let found = given.collect::<Vec<_>>().join(", ");
            return Err(ShimError::Shape { tensor: "of a run".into(), wanted: "those of the engine".into(), found });
        }
        self.device.check("enqueuing a run", status)?;
        // All of them are the device's before the first event is asked for: one that fails leaves none to the host.
        let marks = || bound.iter().filter_map(|bound| bound.mark);
        marks().for_each(Mark::taken);
        marks().try_for_each(|mark| mark.working(self))
    }

    /// Enqueues a copy of `rows` rows of `width` values from one buffer to another.
    ///
    /// # Errors
    /// Rows past a buffer's end or longer than their pitch, a buffer copied onto itself, a lost device; nothing was enqueued then.
    pub fn copy_rows<T: Element>(
        &self,
        (from, at): (&DeviceBuffer<T>, Rows),
        (to, place): (&DeviceBuffer<T>, Rows),
        [rows, width]: [usize; 2],
    ) -> Result<(), ShimError> {
        let (source, sink) = (self.rows(from, at, [rows, width])?, self.rows(to, place, [rows, width])?);
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: open handles of memory that all rows are in. A buffer that is dropped meanwhile is freed after the copy.
        let status = unsafe { (table.copy_rows)(*handle, self.handle, source, sink, Bytes::of::<T>(width).0, rows as u64) };
        self.device.check("copying rows on the device", status)
    }

    /// Enqueues zeros to `rows` rows of `width` values.
    ///
    /// # Errors
    /// As [`Self::copy_rows`].
    pub fn zero_rows<T: Element>(&self, to: &DeviceBuffer<T>, place: Rows, [rows, width]: [usize; 2]) -> Result<(), ShimError> {
        let sink = self.rows(to, place, [rows, width])?;
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: as in `copy_rows`.
        let status = unsafe { (table.zero_rows)(*handle, self.handle, sink, Bytes::of::<T>(width).0, rows as u64) };
        self.device.check("zeroing rows on the device", status)
    }

    /// Where rows lie, all of them in their buffer.
    fn rows<T: Element>(&self, buffer: &DeviceBuffer<T>, at: Rows, [rows, width]: [usize; 2]) -> Result<RawRows, ShimError> {
        self.own(buffer.what, &buffer.device)?;
        let end = rows.checked_sub(1).map_or(Some(0), |before| before.checked_mul(at.pitch)?.checked_add(at.first)?.checked_add(width));
        let (wanted, found) = (end.unwrap_or(usize::MAX), buffer.len);
        if wanted > found || width > at.pitch {
            let (wanted, found) = if wanted > found { (wanted, found) } else { (width, at.pitch) };
            return Err(ShimError::Room { what: buffer.what, wanted: wanted as u64, found: found as u64 });
        }
        Ok(RawRows { buffer: buffer.handle, offset: Bytes::of::<T>(at.first).0, pitch: Bytes::of::<T>(at.pitch).0 })
    }

    /// The bytes of a copy between `host` and `buffer`.
    fn admit<T: Element>(&self, host: &HostBuffer<T>, buffer: &DeviceBuffer<T>, len: usize) -> Result<Bytes, ShimError> {
        for (what, room, device) in [(host.what, host.len, host.mark.device()), (buffer.what, buffer.len, &buffer.device)] {
            self.own(what, device)?;
            if len > room {
                return Err(ShimError::Room { what, wanted: len as u64, found: room as u64 });
            }
        }
        host.mark.idle()?;
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
