//! What an ONNX file says of its inputs and outputs, and which files its weights are in.
//!
//! # Why
//! Engines are built by another program; what is asked of it must be right before it takes its minutes. Only what is named here is decoded: weights, which
//! may be gigabytes, are passed over where they lie.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;

use crate::kernels::map_file;

/// ONNX's `ModelProto`, as far as it is needed.
#[derive(prost::Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(prost::Message)]
struct Graph {
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Weights>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Value>,
}

/// `TensorProto`: where its bytes are, if not in it.
#[derive(prost::Message)]
struct Weights {
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external: Vec<Entry>,
}

#[derive(prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Kind>,
}

#[derive(prost::Message)]
struct Kind {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorKind>,
}

#[derive(prost::Message)]
struct TensorKind {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Dims>,
}

#[derive(prost::Message)]
struct Dims {
    #[prost(message, repeated, tag = "1")]
    dims: Vec<Dim>,
}

#[derive(prost::Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    number: Option<i64>,
}

/// An input or an output.
pub(super) struct Declared {
    pub name: String,
    /// ONNX's number of the type.
    pub dtype: i32,
    /// `None`: any number.
    pub dims: Vec<Option<u32>>,
}

/// A graph's face.
pub(super) struct OnnxFile {
    pub inputs: Vec<Declared>,
    pub outputs: Vec<Declared>,
    /// Names of files that hold weights, as the graph has them.
    pub external: BTreeSet<String>,
}

impl OnnxFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Why it can't be read or isn't a graph.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = map_file(path).map_err(|error| error.to_string())?;
        let model = Model::decode(&bytes[..]).map_err(|error| format!("wanted an ONNX graph, found: {error}"))?;
        let graph = model.graph.ok_or("wanted an ONNX graph, found none in it")?;
        let places = graph.initializers.into_iter().flat_map(|weights| weights.external);
        Ok(Self {
            inputs: graph.inputs.into_iter().map(declared).collect(),
            outputs: graph.outputs.into_iter().map(declared).collect(),
            external: places.filter(|entry| entry.key == "location").map(|entry| entry.value).collect(),
        })
    }
}

fn declared(value: Value) -> Declared {
    let tensor = value.kind.and_then(|kind| kind.tensor).unwrap_or_default();
    let dims = tensor.shape.unwrap_or_default().dims;
    // What is no number, and a number that is no dimension, is any.
    let dims = dims.iter().map(|dim| dim.number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)).collect();
    Declared { name: value.name, dtype: tensor.dtype, dims }
}
