//! Memory on both sides of a device's border, and the events that say whose turn it is on the host's side.
#![allow(unsafe_code)]

use std::cell::Cell;
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

/// Who may touch host memory.
///
/// ```text
/// Idle ─copy or run enqueued─▶ Unmarked ─event recorded─▶ Working ─event came─▶ Idle
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The host.
    Idle,
    /// The device, and no event says until when: for good.
    Unmarked,
    /// The device, until the event that was recorded on this stream.
    Working(Handle),
}

/// Whose turn it is at host memory.
pub(super) struct Mark {
    event: Event,
    held: Cell<Held>,
}

impl Mark {
    pub fn new(event: Event) -> Self {
        Self { event, held: Cell::new(Held::Idle) }
    }

    pub fn device(&self) -> &Device {
        &self.event.device
    }

    fn wait(&self) -> Result<(), ShimError> {
        match self.held.get() {
            Held::Idle => return Ok(()),
            Held::Unmarked => return self.idle(),
            Held::Working(_) => {}
        }
        self.event.wait()?;
        self.held.set(Held::Idle);
        Ok(())
    }

    pub fn idle(&self) -> Result<(), ShimError> {
        let idle = match self.held.get() {
            Held::Idle => true,
            // The device may be lost, which only a call tells.
            Held::Unmarked => self.event.came().map(|_| false)?,
            Held::Working(_) => self.event.came()?,
        };
        if idle { Ok(()) } else { Err(ShimError::Busy) }
    }

    /// Whether a run on `stream` may use it: nothing does, or what was enqueued before on the same stream.
    pub fn free_for(&self, stream: &Stream) -> Result<(), ShimError> {
        if self.held.get() == Held::Working(stream.handle) { Ok(()) } else { self.idle() }
    }

    /// Something that uses it was enqueued.
    pub fn taken(&self) {
        self.held.set(Held::Unmarked);
    }

    /// After something that uses it was enqueued on `stream`.
    pub fn working(&self, stream: &Stream) -> Result<(), ShimError> {
        self.taken();
        self.event.record(stream)?;
        self.held.set(Held::Working(stream.handle));
        Ok(())
    }
}

/// `len` values of pinned host memory, a copy's source or destination.
pub struct HostBuffer<T> {
    pub(super) mark: Mark,
    pub(super) handle: Handle,
    pub(super) start: NonNull<T>,
    pub(super) what: &'static str,
    pub(super) len: usize,
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
        self.mark.wait()
    }

    /// The values.
    ///
    /// # Errors
    /// [`ShimError::Busy`] while the device isn't done with them; a lost device.
    pub fn values(&self) -> Result<&[T], ShimError> {
        self.mark.idle()?;
        // SAFETY: `len` initialised values at an aligned place (contract of `host_alloc`), any bits being one (`Pod`); the device is done with them,
        // and can't begin again while they are borrowed, since a copy and a run take `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }

    /// As [`Self::values`], to write.
    ///
    /// # Errors
    /// As [`Self::values`].
    pub fn values_mut(&mut self) -> Result<&mut [T], ShimError> {
        self.mark.idle()?;
        self.mark.held.set(Held::Idle);
        // SAFETY: as in `values`, and borrowed by nobody else.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    /// For the fake, which shows its memory.
    pub(in crate::engine::tensorrt) fn handle(&self) -> Handle {
        self.handle
    }
}

impl<T> Drop for HostBuffer<T> {
    fn drop(&mut self) {
        let Opened { table, handle } = &*self.mark.device().0;
        // SAFETY: this value's own handle, freed once; the library waits for what still uses it.
        unsafe { (table.host_free)(*handle, self.handle) };
    }
}

/// `len` values that the host writes and a run reads, or the other way round. Where host and device have one memory nothing is copied.
///
/// # Why
/// On a board whose GPU has no memory of its own a copy moves bytes from one place of it to another.
pub struct Shared<T> {
    /// Of the same memory as `host` where `mapped`; dropped before it.
    pub(super) device: DeviceBuffer<T>,
    pub(super) host: HostBuffer<T>,
    pub(super) mapped: bool,
}

impl<T: Element> Shared<T> {
    /// On both sides.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.host.bytes() + self.device_bytes()
    }

    /// Beside the host's.
    #[must_use]
    pub fn device_bytes(&self) -> Bytes {
        if self.mapped { Bytes(0) } else { self.device.bytes() }
    }

    /// Waits until the device is done with them.
    ///
    /// # Errors
    /// As [`HostBuffer::wait`].
    pub fn wait(&mut self) -> Result<(), ShimError> {
        self.host.wait()
    }

    /// The values.
    ///
    /// # Errors
    /// As [`HostBuffer::values`].
    pub fn values(&self) -> Result<&[T], ShimError> {
        self.host.values()
    }

    /// As [`Self::values`], to write, once the device is done with them.
    ///
    /// # Errors
    /// A lost device, or what failed on the stream meanwhile.
    pub fn to_write(&mut self) -> Result<&mut [T], ShimError> {
        self.host.wait()?;
        self.host.values_mut()
    }

    /// Lets the runs that are enqueued next on `stream` see the first `len` values.
    ///
    /// # Errors
    /// As [`Stream::copy_in`].
    pub fn send(&mut self, stream: &Stream, len: usize) -> Result<(), ShimError> {
        if self.mapped { self.host.mark.free_for(stream) } else { stream.copy_in(&mut self.host, &self.device, len) }
    }

    /// Waits for the first `len` values that the runs on `stream` have made.
    ///
    /// # Errors
    /// As [`Stream::copy_out`], and what failed on the stream meanwhile.
    pub fn fetch(&mut self, stream: &Stream, len: usize) -> Result<&[T], ShimError> {
        self.ask(stream, len)?;
        self.wait()?;
        Ok(&self.values()?[..len])
    }

    /// As [`Self::fetch`], without waiting for them.
    ///
    /// # Errors
    /// As [`Stream::copy_out`].
    pub fn ask(&mut self, stream: &Stream, len: usize) -> Result<(), ShimError> {
        if self.mapped { self.host.mark.free_for(stream) } else { stream.copy_out(&self.device, &mut self.host, len) }
    }

    /// What a run marks.
    pub(super) fn mark(&self) -> Option<&Mark> {
        self.mapped.then_some(&self.host.mark)
    }
}
