//! How much of a device's memory engines and their buffers take, before any of it is taken.
//!
//! # Why
//! One allocation at start either is there or isn't; many can run out one by one, in an order that nobody planned. What an engine takes only TensorRT
//! knows, and tells when it is open: so each is opened once, alone, and closed again.

use crate::engine::tensorrt::Plan;
use crate::engine::tensorrt::shim::{ALIGNMENT, Device, Element, ShimError, Wanted};
use crate::units::Bytes;

/// Adds up pieces of a device's memory, each as the device rounds it.
#[derive(Clone)]
pub struct Room {
    device: Device,
    /// What both sides use is the host's.
    shares: bool,
    total: Bytes,
}

impl Room {
    /// Of nothing yet.
    ///
    /// # Errors
    /// A lost device; one without any memory.
    pub fn new(device: &Device) -> Result<Self, ShimError> {
        Ok(Self { device: device.clone(), shares: device.shares()?, total: Bytes(0) })
    }

    /// An engine's weights and workspace, and what reading its plan takes for a while; `wanted`: what its tensors are held to.
    ///
    /// # Errors
    /// Those of [`Device::engine`].
    pub fn engine<'a>(&mut self, plan: impl Into<Plan<'a>>, wanted: &[Wanted<'_>]) -> Result<(), ShimError> {
        self.total += self.device.engine(plan, wanted)?.taken();
        Ok(())
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    #[must_use]
    pub fn total(&self) -> Bytes {
        self.total
    }

    pub fn buffer<T: Element>(&mut self, len: usize) {
        self.total += Bytes(Bytes::of::<T>(len).0.max(1).next_multiple_of(ALIGNMENT as u64));
    }

    /// As [`Self::buffer`], of what both sides use.
    pub fn shared<T: Element>(&mut self, len: usize) {
        if !self.shares {
            self.buffer::<T>(len);
        }
    }

    /// Takes it from the device, as one piece.
    ///
    /// # Errors
    /// Out of memory, with figures; a lost device.
    pub fn reserve(self) -> Result<Bytes, ShimError> {
        self.device.reserve(self.total)?;
        Ok(self.total)
    }
}
