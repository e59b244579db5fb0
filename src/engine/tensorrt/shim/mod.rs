//! The border to a TensorRT library: a flat-C table of functions, what they answer, and safe owners of what they hand out.
//!
//! # Why
//! TensorRT is C++ whose virtual tables move between releases, so a small library compiled against the device's own headers stands between. All
//! that crosses is in this file: integers, opaque handles, and places to write to. Device memory is a number here, never a pointer, so nothing can
//! read it by mistake; host memory that the device reads or writes belongs to the library (pinned), and is looked at only when an event says that
//! the device is done with it.
//!
//! # The contract of a library
//! - A call that answers anything but OK has changed and enqueued nothing.
//! - Copies and engines run later, in the order they were enqueued on their stream. What fails there is answered by the next wait or query.
//! - After LOST every call but the closing ones answers LOST, and the device touches host memory no more.
//! - Freeing waits for what was enqueued on the thing freed, and works on a lost device too. A handle of 0 is none.
//! - Calls may come from any thread, those on one stream from one thread at a time.

mod device;
mod export;
mod library;
mod memory;
mod stream;

use std::ffi::{CStr, c_char, c_void};
use std::fmt;

use half::f16;

use crate::engine::tensorrt::plan::PlanError;
use crate::units::Bytes;

pub use device::{Device, DeviceEngine};
pub(in crate::engine::tensorrt) use export::{Backend, Given, table};
pub use library::Libraries;
pub use memory::{DeviceBuffer, HostBuffer, Shared};
pub use stream::{Bound, Rows, Stream};

/// Of the table below. It changes with any change of the table but functions added at its end.
pub const ABI_VERSION: u32 = 2;
/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 4;
/// Most tensors of an engine's run: four a layer of 64, and eight others.
pub const MAX_BINDINGS: usize = 264;
/// Where in its buffer a tensor may begin: TensorRT wants addresses at multiples of so many bytes.
pub const ALIGNMENT: usize = 256;

/// Values from one tensor's begin to the next one's in the same buffer: `values`, up to a place where a tensor may begin.
#[must_use]
pub fn pitch<T>(values: usize) -> usize {
    values.next_multiple_of(ALIGNMENT / size_of::<T>())
}

/// Something that the library owns; 0 is none.
pub type Handle = u64;

/// What a call answers: 0 and above went well, below failed.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    pub const OK: Self = Self(0);
    /// Of a query: not yet.
    pub const PENDING: Self = Self(1);
    pub const OUT_OF_MEMORY: Self = Self(-1);
    /// The device answers no more, and won't until it is opened anew, if then.
    pub const LOST: Self = Self(-2);
    /// A tensor's name, type or dimensions are not the engine's.
    pub const SHAPE: Self = Self(-3);
    /// A handle that isn't one, or a size past its end.
    pub const ARGUMENT: Self = Self(-4);
    /// Anything else; the text says what.
    pub const FAILED: Self = Self(-5);
}

/// A tensor's type, numbered as TensorRT's own.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtype(pub i32);

impl Dtype {
    pub const F32: Self = Self(0);
    pub const F16: Self = Self(1);
    pub const I32: Self = Self(3);
}

/// Type and dimensions of a tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub rank: u32,
    /// The first `rank` of them. As an engine declares it, 0 is any number; in a call none is 0.
    pub dims: [u64; MAX_DIMS],
}

impl TensorInfo {
    /// Of at most [`MAX_DIMS`] dimensions; more are an info that fits no tensor.
    #[must_use]
    pub fn new(dtype: Dtype, wanted: &[usize]) -> Self {
        let mut dims = [0; MAX_DIMS];
        dims.iter_mut().zip(wanted).for_each(|(to, &dim)| *to = dim as u64);
        Self { dtype, rank: u32::try_from(wanted.len()).unwrap_or(u32::MAX), dims }
    }

    /// Values of a call's tensor; `None` where that is no number.
    #[must_use]
    pub fn values(&self) -> Option<u64> {
        let dims = self.dims.get(..usize::try_from(self.rank).ok()?)?;
        dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))
    }

    /// Bytes of a call's tensor; `None` where that is no number.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let size = match self.dtype {
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 => 2,
            _ => return None,
        };
        self.values()?.checked_mul(size)
    }

    /// Whether a call's tensor is one of those that `self` declares.
    #[must_use]
    pub fn admits(&self, given: &Self) -> bool {
        let fits = |(own, given): (&u64, &u64)| *given > 0 && (own == given || *own == 0);
        let dims = self.dims.iter().zip(&given.dims).take(self.rank as usize);
        self.dtype == given.dtype && self.rank == given.rank && { dims }.all(fits)
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            Dtype::F32 => f.write_str("f32 [")?,
            Dtype::F16 => f.write_str("f16 [")?,
            Dtype::I32 => f.write_str("i32 [")?,
            Dtype(other) => write!(f, "type {other} [")?,
        }
        for (place, dim) in self.dims.iter().take(self.rank as usize).enumerate() {
            f.write_str(if place == 0 { "" } else { ", " })?;
            if *dim == 0 { f.write_str("any")? } else { write!(f, "{dim}")? }
        }
        f.write_str("]")
    }
}

/// A tensor of a run: the engine's name for it, its buffer, and how many bytes into that it begins, a multiple of [`ALIGNMENT`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawBinding {
    name: *const c_char,
    buffer: Handle,
    offset: u64,
    tensor: TensorInfo,
}

/// Rows of `width` bytes, each `pitch` bytes after the one before, the first `offset` bytes into a buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawRows {
    pub buffer: Handle,
    pub offset: u64,
    pub pitch: u64,
}

/// The functions of a library, version [`ABI_VERSION`]. The first is the same in all versions; new ones come at the end.
///
/// # Why
/// Its fields can't be set from outside this room: whoever could put any function there could break every owner below.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShimTable {
    abi_version: unsafe extern "C" fn() -> u32,
    device_count: unsafe extern "C" fn(count: *mut u32) -> Status,
    device_open: unsafe extern "C" fn(ordinal: u32, device: *mut Handle) -> Status,
    /// Of a device whose buffers, engines, streams and events are closed.
    device_close: unsafe extern "C" fn(device: Handle) -> Status,
    /// Library and device in words, UTF-8 without a final zero: as much as there is room for; how many bytes.
    describe: unsafe extern "C" fn(device: Handle, text: *mut c_char, capacity: u64) -> u64,
    /// As `describe`: why the last call failed; of device 0, the last that was about none.
    last_error: unsafe extern "C" fn(device: Handle, text: *mut c_char, capacity: u64) -> u64,
    /// Bytes that could be had now, and that there are.
    memory: unsafe extern "C" fn(device: Handle, free: *mut u64, total: *mut u64) -> Status,
    buffer_alloc: unsafe extern "C" fn(device: Handle, bytes: u64, buffer: *mut Handle) -> Status,
    buffer_free: unsafe extern "C" fn(device: Handle, buffer: Handle) -> Status,
    /// Pinned host memory, aligned to 8 bytes at least, initialised, and nobody else's until freed.
    host_alloc: unsafe extern "C" fn(device: Handle, bytes: u64, host: *mut Handle, place: *mut *mut c_void) -> Status,
    host_free: unsafe extern "C" fn(device: Handle, host: Handle) -> Status,
    stream_open: unsafe extern "C" fn(device: Handle, stream: *mut Handle) -> Status,
    stream_close: unsafe extern "C" fn(device: Handle, stream: Handle) -> Status,
    /// An engine from its serialised plan.
    engine_open: unsafe extern "C" fn(device: Handle, plan: *const u8, bytes: u64, engine: *mut Handle) -> Status,
    /// Device memory of its weights and workspace.
    engine_bytes: unsafe extern "C" fn(device: Handle, engine: Handle, bytes: *mut u64) -> Status,
    /// SHAPE where it has no tensor of that name.
    engine_tensor: unsafe extern "C" fn(device: Handle, engine: Handle, name: *const c_char, tensor: *mut TensorInfo) -> Status,
    engine_close: unsafe extern "C" fn(device: Handle, engine: Handle) -> Status,
    /// Enqueues a copy of the first bytes of `host` to the first of `buffer`.
    copy_in: unsafe extern "C" fn(device: Handle, stream: Handle, buffer: Handle, host: Handle, bytes: u64) -> Status,
    /// Enqueues a copy of the first bytes of `buffer` to the first of `host`.
    copy_out: unsafe extern "C" fn(device: Handle, stream: Handle, host: Handle, buffer: Handle, bytes: u64) -> Status,
    /// Enqueues a run. The bindings are read before it returns.
    enqueue: unsafe extern "C" fn(device: Handle, stream: Handle, engine: Handle, bindings: *const RawBinding, count: u32) -> Status,
    event_open: unsafe extern "C" fn(device: Handle, event: *mut Handle) -> Status,
    event_close: unsafe extern "C" fn(device: Handle, event: Handle) -> Status,
    /// The event comes when all that is on the stream now is done.
    event_record: unsafe extern "C" fn(device: Handle, stream: Handle, event: Handle) -> Status,
    /// OK or PENDING.
    event_query: unsafe extern "C" fn(device: Handle, event: Handle) -> Status,
    /// Returns when the event has come.
    event_wait: unsafe extern "C" fn(device: Handle, event: Handle) -> Status,
    /// The one allocation that all later buffers, weights and workspaces are taken from. Once, before any of them; ARGUMENT afterwards.
    reserve: unsafe extern "C" fn(device: Handle, bytes: u64) -> Status,
    identity: unsafe extern "C" fn(device: Handle, identity: *mut Identity) -> Status,
    /// Enqueues a copy of `rows` rows of `width` bytes between two buffers of the device.
    copy_rows: unsafe extern "C" fn(device: Handle, stream: Handle, from: RawRows, to: RawRows, width: u64, rows: u64) -> Status,
    /// Enqueues zeros to `rows` rows of `width` bytes.
    zero_rows: unsafe extern "C" fn(device: Handle, stream: Handle, to: RawRows, width: u64, rows: u64) -> Status,
    /// All device memory that opening an engine took, what it gave back included: with so much left it opens wherever that lies.
    engine_taken: unsafe extern "C" fn(device: Handle, engine: Handle, bytes: *mut u64) -> Status,
    /// Host memory as a buffer of the device, where both have one memory; 0 where they don't. The buffer is freed before the memory.
    host_map: unsafe extern "C" fn(device: Handle, host: Handle, buffer: *mut Handle) -> Status,
}

// The layout of `jetson/shim/uhr_shim.h`.
const _: () = assert!(size_of::<TensorInfo>() == 40 && size_of::<RawBinding>() == 64 && size_of::<ShimTable>() == 31 * 8);
const _: () = assert!(size_of::<RawRows>() == 24);

/// What an engine is built for: it runs on no other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Major, minor, patch and build; 0 where the library doesn't tell.
    pub tensorrt: [u32; 4],
    /// The GPU's compute capability.
    pub compute: [u32; 2],
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensorrt: [major, minor, patch, build], compute } = self;
        write!(f, "TensorRT {major}.{minor}.{patch}.{build} on SM {}.{}", compute[0], compute[1])
    }
}

/// What a device or its library could not do, with wanted and found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShimError {
    #[error("device memory, {what}: wanted {wanted}, free {free} of {total}")]
    OutOfMemory { what: &'static str, wanted: Bytes, free: Bytes, total: Bytes },
    #[error("device lost while {doing}: {reason}")]
    Lost { doing: &'static str, reason: String },
    #[error("TensorRT shim: wanted ABI version {wanted}, found {found}")]
    Abi { wanted: u32, found: u32 },
    #[error("{library}: wanted a library that loads, found: {reason}")]
    NoLibrary { library: String, reason: String },
    #[error("{library}: wanted all its functions, found one missing: {reason}")]
    NoSymbol { library: String, reason: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("another TensorRT: {reason}")]
    OtherTensorrt { reason: String },
    #[error("no usable GPU: {reason}")]
    NoGpu { reason: String },
    #[error("device {ordinal}: wanted one below {count}, which is how many there are")]
    NoDevice { ordinal: u32, count: u32 },
    #[error("tensor {tensor}: wanted {wanted}, found {found}")]
    Shape { tensor: String, wanted: String, found: String },
    #[error("{what}: wanted {wanted} values, found room for {found}")]
    Room { what: &'static str, wanted: u64, found: u64 },
    #[error("{what}: wanted it to begin at a multiple of {ALIGNMENT} bytes, found {found}")]
    Alignment { what: &'static str, found: usize },
    #[error("host memory: wanted it idle, found the device not done with it")]
    Busy,
    #[error("{what}: wanted one of the stream's device, found another's")]
    OtherDevice { what: &'static str },
    #[error("{doing}: status {status}: {reason}")]
    Failed { doing: &'static str, status: i32, reason: String },
}

/// A type that a tensor's values have on both sides.
pub trait Element: bytemuck::Pod + Send + Sync {
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

/// Counts and places, far below 2³¹.
impl Element for u32 {
    const DTYPE: Dtype = Dtype::I32;
}

/// A tensor that an engine is held to at load: its name and what of it is fixed.
pub type Wanted<'a> = (&'a CStr, TensorInfo);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensorrt::fake;

    extern "C" fn version_one() -> u32 {
        1
    }

    #[test]
    fn a_table_of_another_version_is_not_called() {
        let table = ShimTable { abi_version: version_one, ..fake::table() };
        assert_eq!(Device::open(&table, 0).err(), Some(ShimError::Abi { wanted: 2, found: 1 }));
    }

    #[test]
    fn shapes_admit_and_read_well() {
        let declared = TensorInfo::new(Dtype::F16, &[0, 3]);
        let cases =
            [(Dtype::F16, &[5, 3][..], true), (Dtype::F32, &[5, 3], false), (Dtype::F16, &[5, 4], false), (Dtype::F16, &[0, 3], false)];
        for (dtype, dims, wanted) in cases {
            assert_eq!(declared.admits(&TensorInfo::new(dtype, dims)), wanted, "{dtype:?} {dims:?}");
        }
        assert_eq!(declared.to_string(), "f16 [any, 3]");
        assert_eq!(TensorInfo::new(Dtype::F32, &[1 << 40, 1 << 40]).values(), None);
        assert_eq!(TensorInfo::new(Dtype::F32, &[1; 5]).values(), None);
    }
}
