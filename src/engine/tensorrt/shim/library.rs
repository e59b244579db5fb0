//! The shim's own library, loaded at run time: its version first, then the table.
//!
//! # Why
//! The program is built and runs without TensorRT and CUDA; what of them is missing is an error with the library's name.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::path::Path;
use std::ptr;

use libloading::Library;

use crate::engine::tensorrt::shim::device::text;
use crate::engine::tensorrt::shim::{ABI_VERSION, ShimError, ShimTable, Status};

/// Where the libraries are; without a path, TensorRT and the CUDA driver are searched for by their usual names.
#[derive(Clone, Copy, Debug)]
pub struct Libraries<'a> {
    /// Built by `jetson/shim/build.sh`.
    pub shim: &'a Path,
    pub tensorrt: Option<&'a Path>,
    pub cuda: Option<&'a Path>,
}

type Version = unsafe extern "C" fn() -> u32;
type Open = unsafe extern "C" fn(*const c_char, *const c_char, *mut ShimTable, u64, *mut c_char, u64, *mut u64) -> Status;

// As in `uhr_shim.h`.
const NO_LIBRARY: Status = Status(-16);
const NO_SYMBOL: Status = Status(-17);
const OTHER_VERSION: Status = Status(-18);
const NO_GPU: Status = Status(-19);

impl ShimTable {
    /// The table of a real shim, over a TensorRT of its version and with a GPU to use.
    ///
    /// # Errors
    /// A library that is missing or lacks a function, a shim of another ABI, a TensorRT of another version, no usable GPU, a device that is open.
    pub fn load(libraries: &Libraries<'_>) -> Result<Self, ShimError> {
        let shim = libraries.shim.display().to_string();
        // SAFETY: the library is the operator's choice, and has no initialisers but C++'s own.
        let library = unsafe { Library::new(libraries.shim) };
        let library = library.map_err(|error| ShimError::NoLibrary { library: shim.clone(), reason: error.to_string() })?;
        // Never closed: what is in the table is good for the rest of the process, and TensorRT isn't made to be unloaded.
        let library = ManuallyDrop::new(library);
        let lacks = |error: libloading::Error| ShimError::NoSymbol { library: shim.clone(), reason: error.to_string() };
        // SAFETY: its type is the same in all versions.
        let version = unsafe { library.get::<Version>(b"uhr_shim_abi_version\0") }.map_err(lacks)?;
        // SAFETY: it takes nothing and only returns a number.
        let found = unsafe { version() };
        if found != ABI_VERSION {
            return Err(ShimError::Abi { wanted: ABI_VERSION, found });
        }
        // SAFETY: its type, by the header of that version.
        let open = unsafe { library.get::<Open>(b"uhr_shim_open\0") }.map_err(lacks)?;
        let (tensorrt, cuda) = (terminated(libraries.tensorrt)?, terminated(libraries.cuda)?);
        let path = |path: &Option<CString>| path.as_ref().map_or(ptr::null(), |path| path.as_ptr());
        let (mut table, mut status) = (MaybeUninit::uninit(), Status::OK);
        let bytes = size_of::<Self>() as u64;
        // SAFETY: paths that end with a zero or are none, places as large as told, and one for the length; all live through the call.
        let reason = text(|place, capacity| unsafe {
            let mut len = 0;
            status = open(path(&tensorrt), path(&cuda), table.as_mut_ptr(), bytes, place, capacity, &mut len);
            len
        });
        let library = "TensorRT or the CUDA driver".to_owned();
        match status {
            // SAFETY: OK says that all `bytes` of it were written, with functions that this ABI version has.
            Status::OK => Ok(unsafe { table.assume_init() }),
            NO_LIBRARY => Err(ShimError::NoLibrary { library: "TensorRT".into(), reason }),
            NO_SYMBOL => Err(ShimError::NoSymbol { library, reason }),
            OTHER_VERSION => Err(ShimError::OtherTensorrt { reason }),
            NO_GPU => Err(ShimError::NoGpu { reason }),
            Status(status) => Err(ShimError::Failed { doing: "opening TensorRT", status, reason }),
        }
    }
}

fn terminated(path: Option<&Path>) -> Result<Option<CString>, ShimError> {
    let Some(path) = path else { return Ok(None) };
    let terminated = CString::new(path.as_os_str().as_encoded_bytes());
    let library = || path.display().to_string();
    terminated.map(Some).map_err(|error| ShimError::NoLibrary { library: library(), reason: error.to_string() })
}
