//! The real shim over the fake libraries of `jetson/shim/fake`, built with the system's C++ compiler.
#![allow(unsafe_code, dead_code)]

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use libloading::Library;
use uhr_edge::engine::tensorrt::{Device, Identity, Libraries, ShimError, ShimTable};

/// What was built, or why it couldn't be.
static BUILT: LazyLock<Result<Built, String>> = LazyLock::new(Built::new);
/// The fakes' state is one for the process.
static TURN: Mutex<()> = Mutex::new(());

struct Built {
    folder: PathBuf,
    /// The fake driver, which holds the record and the faults of both fakes.
    cuda: Library,
}

impl Built {
    fn new() -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let found = Command::new(&compiler).arg("--version").output();
        if !found.is_ok_and(|found| found.status.success()) {
            return Err(format!("no C++ compiler ({compiler})"));
        }
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("jetson/shim/build.sh");
        let built = Command::new("sh").arg(build).arg(&folder).arg("fakes").output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        // 3: no headers; 101: cargo couldn't fetch them. Anything else is the shim's own fault.
        match built.status.code() {
            Some(0) => {}
            Some(3 | 101) => return Err(format!("no TensorRT headers: {said}")),
            code => panic!("build.sh: {code:?}: {said}"),
        }
        println!("headers: {}", String::from_utf8_lossy(&built.stdout).trim());
        // SAFETY: the fake has no initialisers but C++'s own.
        let cuda = unsafe { Library::new(folder.join("libfakecuda.so")) }.map_err(|error| error.to_string())?;
        Ok(Self { folder, cuda })
    }
}

/// The fakes, reset and ours alone.
pub struct Bench {
    built: &'static Built,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// None where the shim can't be built, which is said, and with `UHR_CI` set a failure.
    pub fn new() -> Option<Self> {
        match &*BUILT {
            Ok(built) => {
                let bench = Self { built, _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) };
                bench.reset();
                Some(bench)
            }
            Err(why) if std::env::var_os("UHR_CI").is_some() => panic!("{why}"),
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.built.folder.join(name)
    }

    /// The shim over the fake libraries, or others in their stead.
    pub fn load_with(&self, [shim, tensorrt, cuda]: [&str; 3]) -> Result<ShimTable, ShimError> {
        let [shim, tensorrt, cuda] = [shim, tensorrt, cuda].map(|name| self.path(name));
        ShimTable::load(&Libraries { shim: &shim, tensorrt: Some(&tensorrt), cuda: Some(&cuda) })
    }

    pub fn load(&self) -> Result<ShimTable, ShimError> {
        self.load_with(["libuhr_shim.so", "libfakenvinfer.so", "libfakecuda.so"])
    }

    pub fn reset(&self) {
        // SAFETY: its type in `fake/cuda.cpp`.
        unsafe { self.built.cuda.get::<unsafe extern "C" fn()>(b"fake_reset\0").unwrap()() };
    }

    pub fn set(&self, key: &str, value: i64) {
        let key = CString::new(key).unwrap();
        // SAFETY: its type in `fake/cuda.cpp`, and a name that ends with a zero.
        unsafe { self.built.cuda.get::<unsafe extern "C" fn(*const c_char, i64)>(b"fake_set\0").unwrap()(key.as_ptr(), value) };
    }

    /// Call `number` from the reset on fails with the driver's error `with`.
    pub fn fail_at(&self, number: i64, with: i32) {
        // SAFETY: its type in `fake/cuda.cpp`.
        unsafe { self.built.cuda.get::<unsafe extern "C" fn(i64, c_int)>(b"fake_fail_at\0").unwrap()(number, with) };
    }

    pub fn hold(&self, held: bool) {
        // SAFETY: its type in `fake/cuda.cpp`.
        unsafe { self.built.cuda.get::<unsafe extern "C" fn(c_int)>(b"fake_hold\0").unwrap()(held.into()) };
    }

    /// Calls so far that may fail.
    pub fn calls(&self) -> i64 {
        // SAFETY: its type in `fake/cuda.cpp`.
        unsafe { self.built.cuda.get::<unsafe extern "C" fn() -> i64>(b"fake_calls\0").unwrap()() }
    }

    /// Contexts, memory, streams, events and TensorRT's objects that are open.
    pub fn live(&self) -> i64 {
        // SAFETY: its type in `fake/cuda.cpp`.
        unsafe { self.built.cuda.get::<unsafe extern "C" fn() -> i64>(b"fake_live\0").unwrap()() }
    }

    /// All calls so far, one a line.
    pub fn log(&self) -> String {
        let mut text = vec![0_u8; 1 << 20];
        type Log = unsafe extern "C" fn(*mut c_char, u64) -> u64;
        // SAFETY: its type in `fake/cuda.cpp`, and a place as large as told.
        let len = unsafe { self.built.cuda.get::<Log>(b"fake_log\0").unwrap()(text.as_mut_ptr().cast(), text.len() as u64) };
        text.truncate(usize::try_from(len).unwrap());
        String::from_utf8(text).unwrap()
    }

    /// What the fake TensorRT says it is: of the headers' version.
    pub fn identity(&self) -> Identity {
        let device = Device::open(&self.load().unwrap(), 0).unwrap();
        let identity = device.identity().unwrap();
        drop(device);
        self.reset();
        identity
    }

    /// Major and minor.
    pub fn headers(&self) -> (u32, u32) {
        let [major, minor, ..] = self.identity().tensorrt;
        (major, minor)
    }
}
