//! Memory on both sides of a device's border, and the events that say whose turn it is on the host's side.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::engine::tensorrt::shim::device::Opened;
use crate::engine::tensorrt::shim::{Device, Element, Handle, ShimError, Status, Stream};
use crate::units::Bytes;

/// Comes when what was on a stream is done.
pub(super) struct Event {
    pub device: Device,
    pub handle: Handle,
}

impl Event {
    fn record(&self, stream: &Stream) -> Result<(), ShimError> {
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: three open handles.
        let status = unsafe { (table.event_record)(*handle, stream.handle, self.handle) };
        self.device.check("marking a stream", status)
    }

    fn came(&self) -> Result<bool, ShimError> {
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: two open handles.
        let status = unsafe { (table.event_query)(*handle, self.handle) };
        self.device.check("asking for an event", status)?;
        Ok(status == Status::OK)
    }

    fn wait(&self) -> Result<(), ShimError> {
        let Opened { table, handle } = &*self.device.0;
        // SAFETY: two open handles.
        let status = unsafe { (table.event_wait)(*handle, self.handle) };
        self.device.check("waiting for its work", status)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this value's own handle, closed once.
        unsafe { (self.device.0.table.event_close)(self.device.0.handle, self.handle) };
    }
}

/// `len` values in device memory, which the host never sees.
pub struct DeviceBuffer<T> {
    pub(super) device: Device,
    pub(super) handle: Handle,
    pub(super) what: &'static str,
    pub(super) len: usize,
    pub(super) values: PhantomData<T>,
}

impl<T: Element> DeviceBuffer<T> {
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::of::<T>(self.len)
    }

    /// For the fake, which shows its memory.
    pub(in crate::engine::tensorrt) fn handle(&self) -> Handle {
        self.handle
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: this value's own handle, freed once; the library waits for what still uses it.
        unsafe { (self.device.0.table.buffer_free)(self.device.0.handle, self.handle) };
    }
}

/// `len` values of pinned host memory, a copy's source or destination.
pub struct HostBuffer<T> {
    pub(super) event: Event,
    pub(super) handle: Handle,
    pub(super) start: NonNull<T>,
    pub(super) what: &'static str,
    pub(super) len: usize,
    pub(super) held: Held,
}

/// Who may touch host memory.
///
/// ```text
/// Idle ─copy enqueued─▶ Unmarked ─event recorded─▶ Copying ─event came─▶ Idle
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The host.
    Idle,
    /// The device, and no event says until when: for good.
    Unmarked,
    /// The device, until the event.
    Copying,
}

// SAFETY: the memory is this value's alone, and neither it nor a handle is tied to a thread.
unsafe impl<T: Element> Send for HostBuffer<T> {}

impl<T: Element> HostBuffer<T> {
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::of::<T>(self.len)
    }

    /// Waits until the device is done with it.
    ///
    /// # Errors
    /// A lost device, or what failed on the stream meanwhile.
    pub fn wait(&mut self) -> Result<(), ShimError> {
        match self.held {
            Held::Idle => return Ok(()),
            Held::Unmarked => return Err(ShimError::Busy),
            Held::Copying => {}
        }
        self.event.wait()?;
        self.held = Held::Idle;
        Ok(())
    }

    /// The values.
    ///
    /// # Errors
    /// [`ShimError::Busy`] while the device isn't done with them; a lost device.
    pub fn values(&self) -> Result<&[T], ShimError> {
        self.idle()?;
        // SAFETY: `len` initialised values at an aligned place (contract of `host_alloc`), any bits being one (`Pod`); the device is done with them,
        // and can't begin again while they are borrowed, since a copy takes `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }

    /// As [`Self::values`], to write.
    ///
    /// # Errors
    /// As [`Self::values`].
    pub fn values_mut(&mut self) -> Result<&mut [T], ShimError> {
        self.idle()?;
        self.held = Held::Idle;
        // SAFETY: as in `values`, and borrowed by nobody else.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    pub(super) fn idle(&self) -> Result<(), ShimError> {
        let idle = match self.held {
            Held::Idle => true,
            Held::Unmarked => false,
            Held::Copying => self.event.came()?,
        };
        if idle { Ok(()) } else { Err(ShimError::Busy) }
    }

    /// After a copy was enqueued on `stream`.
    pub(super) fn copying(&mut self, stream: &Stream) -> Result<(), ShimError> {
        self.held = Held::Unmarked;
        self.event.record(stream)?;
        self.held = Held::Copying;
        Ok(())
    }

    /// For the fake, which shows its memory.
    pub(in crate::engine::tensorrt) fn handle(&self) -> Handle {
        self.handle
    }
}

impl<T> Drop for HostBuffer<T> {
    fn drop(&mut self) {
        let Opened { table, handle } = &*self.event.device.0;
        // SAFETY: this value's own handle, freed once; the library waits for copies that still use it.
        unsafe { (table.host_free)(*handle, self.handle) };
    }
}
