//! Engines on a device: TensorRT behind a flat-C shim. Memory lives there, work completes later, and what goes wrong is an error with its figures.
//!
//! All memory that is ours or TensorRT's is allocated at load, on both sides, the device's as one piece ([`Room`]); what the driver takes for itself is its own. Each engine has a stream of its own and waits for its last
//! copy before it returns.
//!
//! # Why
//! The traits are the CPU's own, of engines and, for k-means, of partitions: features and rows cross to the host and back between the networks, which
//! is what selection and merging need, and a few megabytes a question; features to be clustered cross once more. Nothing here has run on a GPU:
//! [`fake`] proves what is above the shim, and libraries that stand for TensorRT and the CUDA driver prove the real one (`jetson/shim`).

mod builder;
mod built;
mod decoder;
mod encoder;
pub mod fake;
mod graphs;
mod kmeans;
mod onnx_file;
mod plan;
mod projector;
mod room;
mod shim;

pub use builder::{Builder, builds_for, told_version};
pub use built::{Built, BuiltError, Entry, RECORD, Record, WholePlan, built_in, of_package, plans_folder};
pub use decoder::{DecoderPlans, DecoderSizes, TensorrtDecoder};
pub use encoder::TensorrtEncoder;
pub use graphs::{Axis, Form, Graph, GraphError, Input, Limits, Shapes, Tensor, numbered};
pub use kmeans::TensorrtKmeans;
pub use plan::{Plan, PlanError, SEAL, seal, sealed, sealed_by, told_digest};
pub use projector::{RowsOf, TensorrtProjector};
pub use room::Room;
pub use shim::{
    ABI_VERSION, Bound, Device, DeviceBuffer, DeviceEngine, Dtype, Element, HostBuffer, Identity, Libraries, Rows, Shared, ShimError,
    ShimTable, Stream, TensorInfo, Wanted,
};

use crate::config::Shim;
use crate::engine::EngineError;

/// What the tensors of a package's engines are called, as `tools/export` writes them; a layer's keys and values: [`decoder`].
mod names {
    use std::ffi::CStr;

    pub const TILES: &CStr = c"tiles";
    pub const FEATURES: &CStr = c"features";
    pub const ROWS: &CStr = c"rows";
    pub const TOKENS: &CStr = c"tokens";
    pub const REFINED: &CStr = c"refined";
    pub const INPUTS_EMBEDS: &CStr = c"inputs_embeds";
    pub const LENGTH: &CStr = c"length";
    pub const QUERY_ROWS: &CStr = c"query_rows";
    pub const VISUAL_KEYS: &CStr = c"visual_keys";
    pub const LOGITS: &CStr = c"logits";
    pub const IMPORTANCE: &CStr = c"importance";
    pub const COORDINATES: &CStr = c"coordinates";
    pub const LABELS_BEFORE: &CStr = c"labels_before";
    pub const LABELS: &CStr = c"labels";
    pub const CENTRES: &CStr = c"centres";
    pub const NEXT_CENTRES: &CStr = c"next_centres";
    pub const SUMS_BEFORE: &CStr = c"sums_before";
    pub const SUMS: &CStr = c"sums";
    pub const COUNTS_BEFORE: &CStr = c"counts_before";
    pub const COUNTS: &CStr = c"counts";
    pub const CHANGED: &CStr = c"changed";
    pub const MOVED: &CStr = c"moved";
}

/// The first GPU behind a profile's shim, and what engines for it are built for.
///
/// # Errors
/// A library or a GPU that is missing.
pub fn first_device(shim: &Shim) -> Result<(Device, Identity), EngineError> {
    let open = || {
        let table = match shim {
            Shim::Fake => fake::table(),
            Shim::Library(path) => ShimTable::load(&Libraries { shim: path, tensorrt: None, cuda: None })?,
        };
        let device = Device::open(&table, 0)?;
        let identity = device.identity()?;
        Ok((device, identity))
    };
    open().map_err(|source| EngineError::Device { engine: "tensorrt", source })
}

/// For receipts: the library and the device in its own words.
fn id(device: &Device) -> String {
    format!("tensorrt {}", device.describe())
}
