//! The graphs that a package's engines are built from: names, tensors, and how far each dimension goes.
//!
//! # Why
//! One table for the manifest's keys, the builder's shapes and what the runtime binds: `tools/export` writes the graphs, and says there what each computes.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{GraphFile, Graphs};
use crate::engine::tensorrt::onnx_file::{Declared, OnnxFile, with_number};
use crate::engine::tensorrt::shim::{Dtype, Identity};
use crate::units::{Tiles, Tokens};

/// A graph of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Graph {
    Encoder,
    Projector,
    TokenMlp,
    Prefill,
    Step,
    Anchor,
    Kmeans,
    Centres,
    Merge,
}

/// How the decoder's engines keep keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// They tell those of a run, which are copied behind the others.
    Appended,
    /// They write them where they stay.
    InPlace,
}

impl Form {
    /// What a TensorRT runs of what a package has.
    #[must_use]
    pub fn of(identity: &Identity, graphs: &Graphs) -> Self {
        let writes = match identity.tensorrt {
            // TensorRT-RTX: the first that was tried.
            [1, minor, ..] => minor >= 7,
            [10, minor, ..] => minor >= 15,
            [major, ..] => major > 10,
        };
        if writes && graphs.in_place.is_some() { Self::InPlace } else { Self::Appended }
    }
}

/// A dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// A number that the graph itself has.
    Fixed,
    /// Tiles of a run of the encoder.
    Tiles,
    /// Rows of a run.
    Chunk,
    /// Rows of a cache of keys or values, used or not.
    Cache,
    /// Rows of a cache that is written in place: any in a package's graph, and the number of its limits in what is built, which TensorRT wants.
    Room,
    /// Positions that look, in the anchor pass.
    Looking,
    /// Visual tokens that are looked at.
    Visual,
    Clusters,
    /// Tokens that others are merged into.
    Budget,
}

/// An input or an output. A name that ends in `*` is one a layer, numbered from 0.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub name: &'static str,
    pub dtype: Dtype,
    pub axes: &'static [Axis],
}

/// What graphs call [`Axis::Room`].
const ROOM: &str = "cache";

const fn tensor(name: &'static str, dtype: Dtype, axes: &'static [Axis]) -> Tensor {
    Tensor { name, dtype, axes }
}

use Axis::{Budget, Cache, Chunk, Clusters, Fixed, Looking, Room, Visual};

/// `[positions, kv-width]`.
const CACHES: [Tensor; 2] = [tensor("k_cache_*", Dtype::F16, &[Cache, Fixed]), tensor("v_cache_*", Dtype::F16, &[Cache, Fixed])];
/// `[1, kv-heads, positions, head-dim]`, as they come and as they go.
const IN_PLACE: [Tensor; 4] = {
    const fn cache(name: &'static str) -> Tensor {
        tensor(name, Dtype::F16, &[Fixed, Fixed, Room, Fixed])
    }
    [cache("k_cache_*"), cache("v_cache_*"), cache("kept_k_*"), cache("kept_v_*")]
};
const LENGTH: Tensor = tensor("length", Dtype::I32, &[Fixed]);
const LOGITS: Tensor = tensor("logits", Dtype::F32, &[Fixed]);
const EMBEDS: Tensor = tensor("inputs_embeds", Dtype::F16, &[Chunk, Fixed]);
const NEW: [Tensor; 2] = [tensor("new_k_*", Dtype::F16, &[Chunk, Fixed]), tensor("new_v_*", Dtype::F16, &[Chunk, Fixed])];

impl Graph {
    pub const ALL: [Self; 9] =
        [Self::Encoder, Self::Projector, Self::TokenMlp, Self::Prefill, Self::Step, Self::Anchor, Self::Kmeans, Self::Centres, Self::Merge];

    /// As in `[tensorrt]` of a manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Projector => "projector",
            Self::TokenMlp => "token-mlp",
            Self::Prefill => "prefill",
            Self::Step => "step",
            Self::Anchor => "anchor",
            Self::Kmeans => "kmeans",
            Self::Centres => "centres",
            Self::Merge => "merge",
        }
    }

    /// The graph that a manifest calls `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|graph| graph.name() == name)
    }

    /// A package that has it can't be served without its engine.
    #[must_use]
    pub fn needed(self) -> bool {
        !matches!(self, Self::Kmeans | Self::Centres | Self::Merge)
    }

    /// Its file in a package that has `form`.
    #[must_use]
    pub fn file(self, graphs: &Graphs, form: Form) -> Option<&GraphFile> {
        let in_place = graphs.in_place.as_ref().filter(|_| form == Form::InPlace);
        match (self, in_place) {
            (Self::Prefill, Some(graphs)) => return Some(&graphs.prefill),
            (Self::Step, Some(graphs)) => return Some(&graphs.step),
            (Self::Anchor, Some(graphs)) => return Some(&graphs.anchor),
            _ => {}
        }
        match self {
            Self::Encoder => Some(&graphs.encoder),
            Self::Projector => Some(&graphs.projector),
            Self::TokenMlp => graphs.token_mlp.as_ref(),
            Self::Prefill => Some(&graphs.prefill),
            Self::Step => Some(&graphs.step),
            Self::Anchor => Some(&graphs.anchor),
            Self::Kmeans => graphs.kmeans.as_ref(),
            Self::Centres => graphs.centres.as_ref(),
            Self::Merge => graphs.merge.as_ref(),
        }
    }

    /// The file of weights that it may refer to.
    #[must_use]
    pub fn weights(self, graphs: &Graphs) -> Option<&GraphFile> {
        if matches!(self, Self::Prefill | Self::Step | Self::Anchor) { graphs.weights.as_ref() } else { None }
    }

    /// Inputs and outputs.
    #[must_use]
    pub fn tensors(self, form: Form) -> (Vec<Tensor>, Vec<Tensor>) {
        let (f16, f32, i32) = (Dtype::F16, Dtype::F32, Dtype::I32);
        let (caches, made) = match form {
            Form::Appended => (&CACHES[..], &NEW[..]),
            Form::InPlace => IN_PLACE.split_at(2),
        };
        match self {
            Self::Encoder => {
                let tiles = tensor("tiles", f32, &[Axis::Tiles, Fixed, Fixed, Fixed]);
                (vec![tiles], vec![tensor("features", f16, &[Axis::Tiles, Fixed, Fixed])])
            }
            Self::Projector => (vec![tensor("features", f16, &[Chunk, Fixed])], vec![tensor("rows", f32, &[Chunk, Fixed])]),
            Self::TokenMlp => (vec![tensor("tokens", f16, &[Chunk, Fixed])], vec![tensor("refined", f32, &[Chunk, Fixed])]),
            Self::Prefill => ([&[EMBEDS, LENGTH], caches].concat(), [made, &[LOGITS]].concat()),
            Self::Step => {
                let one = |tensor: &Tensor| Tensor { axes: if tensor.axes[0] == Chunk { &[Fixed, Fixed] } else { tensor.axes }, ..*tensor };
                let made = made.iter().map(one).chain([LOGITS]).collect();
                ([&[one(&EMBEDS), LENGTH], caches].concat(), made)
            }
            Self::Anchor => {
                let looking = [tensor("query_rows", i32, &[Looking]), tensor("visual_keys", i32, &[Visual])];
                let importance = tensor("importance", f32, &[Visual]);
                ([&[EMBEDS, LENGTH], &looking[..], caches].concat(), [made, &[importance]].concat())
            }
            Self::Kmeans => {
                let sums = [tensor("sums_before", f32, &[Clusters, Fixed]), tensor("counts_before", f32, &[Clusters])];
                let rows = [tensor("features", f16, &[Chunk, Fixed]), tensor("coordinates", f32, &[Chunk, Fixed])];
                let (labels, centres) = (tensor("labels_before", i32, &[Chunk]), tensor("centres", f32, &[Clusters, Fixed]));
                let out = [tensor("labels", i32, &[Chunk]), tensor("sums", f32, &[Clusters, Fixed]), tensor("counts", f32, &[Clusters])];
                ([&rows[..], &[labels, centres], &sums].concat(), [&out[..], &[tensor("changed", f32, &[Fixed])]].concat())
            }
            Self::Centres => {
                let sums = [tensor("sums", f32, &[Clusters, Fixed]), tensor("counts", f32, &[Clusters])];
                let out = vec![tensor("next_centres", f32, &[Clusters, Fixed]), tensor("moved", f32, &[Fixed])];
                ([&sums[..], &[tensor("centres", f32, &[Clusters, Fixed])]].concat(), out)
            }
            Self::Merge => {
                let rows = [tensor("rows", f32, &[Chunk, Fixed]), tensor("slots", i32, &[Chunk]), tensor("shares", f32, &[Chunk])];
                let before = tensor("tokens_before", f32, &[Budget, Fixed]);
                ([&rows[..], &[before]].concat(), vec![tensor("tokens", f32, &[Budget, Fixed])])
            }
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The most that engines are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Limits {
    /// Of the cache of keys and values.
    pub positions: Tokens,
    /// Positions of a usual question: engines are fastest there.
    pub usual: Tokens,
    /// Rows of a run of the decoder, the projector and the compression.
    pub chunk: Tokens,
    /// Visual tokens of the anchor view.
    pub visual: Tokens,
    /// Of a run of the encoder.
    pub tiles: Tiles,
    pub clusters: u32,
    /// Tokens that others are merged into.
    pub budget: Tokens,
}

impl Limits {
    /// Least, usual and most of a dimension; `None` of one that is fixed.
    #[must_use]
    pub fn range(&self, axis: Axis) -> Option<[u32; 3]> {
        let up_to = |most: u32| Some([1, most, most]);
        match axis {
            Axis::Fixed => None,
            Axis::Tiles => up_to(self.tiles.0),
            Axis::Chunk => up_to(self.chunk.0),
            Axis::Cache => Some([1, self.usual.min(self.positions).0, self.positions.0]),
            Axis::Room => Some([self.positions.0; 3]),
            Axis::Looking => Some([1, 1, self.chunk.0]),
            Axis::Visual => up_to(self.visual.0),
            Axis::Clusters => up_to(self.clusters),
            Axis::Budget => up_to(self.budget.0),
        }
    }

    /// The first of them that is below what is `wanted`: its name, wanted and found.
    #[must_use]
    pub fn lacks(&self, wanted: &Self) -> Option<(&'static str, u32, u32)> {
        let all = |limits: &Self| {
            let Self { positions, usual: _, chunk, visual, tiles, clusters, budget } = *limits;
            [positions.0, chunk.0, visual.0, tiles.0, clusters, budget.0]
        };
        let names = ["positions", "rows of a run", "visual tokens of the anchor view", "tiles of a run", "clusters", "tokens merged into"];
        let pairs = all(wanted).into_iter().zip(all(self));
        names.into_iter().zip(pairs).find_map(|(name, (wanted, found))| (found < wanted).then_some((name, wanted, found)))
    }
}

/// A graph that isn't as its table says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("{path}: tensor {tensor}: wanted {wanted}, found {found}")]
    Tensor { path: String, tensor: String, wanted: String, found: String },
    #[error("{path}: weights: wanted them in the graph or in {wanted}, found {found}")]
    Weights { path: String, wanted: String, found: String },
}

/// A dynamic input's name and its least, usual and largest dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    pub name: String,
    pub least: Vec<u32>,
    pub usual: Vec<u32>,
    pub most: Vec<u32>,
}

/// What a builder is told of a graph's inputs; those of fixed dimensions go without saying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Shapes {
    pub inputs: Vec<Input>,
    /// Rows of the caches that the graph writes in place: [`numbered`] in what the builder gets.
    #[serde(skip)]
    pub room: Option<Tokens>,
}

impl Shapes {
    /// Reads the graph's file and holds it to the table.
    ///
    /// # Errors
    /// A file that is no graph; a tensor that is missing, or isn't wanted, or has another type or other dimensions; weights outside of `weights`.
    pub fn read((graph, form): (Graph, Form), file: &Path, weights: Option<&Path>, limits: &Limits) -> Result<Self, GraphError> {
        let path = file.display().to_string();
        let found = OnnxFile::read(file).map_err(|reason| GraphError::File { path: path.clone(), reason })?;
        // Beside the graph, by its plain name: what the builder opens is a file of the package.
        let beside = weights.filter(|weights| weights.parent() == file.parent()).and_then(|weights| weights.file_name()?.to_str());
        if let Some(found) = found.external.iter().find(|name| Some(name.as_str()) != beside) {
            let wanted = beside.unwrap_or("no file, as the manifest's tensorrt.weights has none for it").to_owned();
            return Err(GraphError::Weights { path, wanted, found: format!("{found:?}") });
        }
        let (inputs, outputs) = graph.tensors(form);
        hold(&path, &found.outputs, &outputs)?;
        hold(&path, &found.inputs, &inputs)?;
        let (mut shapes, mut room) = (Vec::new(), None);
        for declared in &found.inputs {
            let Some(tensor) = inputs.iter().find(|tensor| names(tensor, &declared.name)) else { continue };
            let ranges = tensor.axes.iter().map(|axis| limits.range(*axis));
            let ranges: Vec<_> = ranges.zip(&declared.dims).map(|(range, dim)| range.or_else(|| dim.map(|dim| [dim; 3]))).collect();
            if tensor.axes.contains(&Axis::Room) {
                room = Some(limits.positions);
                continue;
            }
            if tensor.axes.iter().all(|axis| *axis == Axis::Fixed) {
                continue;
            }
            let side = |at: usize| ranges.iter().flatten().map(|range| range[at]).collect();
            shapes.push(Input { name: declared.name.clone(), least: side(0), usual: side(1), most: side(2) });
        }
        Ok(Self { inputs: shapes, room })
    }

    /// `name:1x3x336x336,…` of the least, the usual and the largest dimensions.
    #[must_use]
    pub fn told(&self) -> [String; 3] {
        let told = |dims: fn(&Input) -> &[u32]| {
            let one = |input: &Input| format!("{}:{}", input.name, dims(input).iter().map(u32::to_string).collect::<Vec<_>>().join("x"));
            self.inputs.iter().map(one).collect::<Vec<_>>().join(",")
        };
        [told(|input| &input.least), told(|input| &input.usual), told(|input| &input.most)]
    }
}

impl fmt::Display for Shapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, usual, most] = self.told();
        write!(f, "{least} to {most}, best {usual}")?;
        self.room.map_or(Ok(()), |room| write!(f, ", caches of {room} positions"))
    }
}

/// A graph's file with the rows of its caches a number.
///
/// # Errors
/// A file that can't be read, or that names no such dimension.
pub fn numbered(file: &Path, room: Tokens) -> Result<Vec<u8>, GraphError> {
    let failed = |reason| GraphError::File { path: file.display().to_string(), reason };
    let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    with_number(bytes, ROOM, room.0).map_err(failed)
}

/// Whether `name` is that of `tensor`, or one of its layers'.
fn names(tensor: &Tensor, name: &str) -> bool {
    let Some(stem) = tensor.name.strip_suffix('*') else { return tensor.name == name };
    name.strip_prefix(stem).is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Compares what a graph declares with the table. Of values, a layer may have none: the anchor pass takes only the keys of its last.
fn hold(path: &str, found: &[Declared], wanted: &[Tensor]) -> Result<(), GraphError> {
    let differs = |tensor: &str, wanted: String, found: String| {
        Err(GraphError::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), wanted, found })
    };
    for tensor in wanted {
        let optional = tensor.name.contains("v_") && tensor.name.ends_with('*');
        if !optional && !found.iter().any(|declared| names(tensor, &declared.name)) {
            return differs(tensor.name, said(tensor), "none of that name".into());
        }
    }
    for declared in found {
        let Some(tensor) = wanted.iter().find(|tensor| names(tensor, &declared.name)) else {
            let known: Vec<_> = wanted.iter().map(|tensor| tensor.name).collect();
            return differs(&declared.name, format!("only {}", known.join(", ")), "it".into());
        };
        let fits = |(axis, dim): (&Axis, &Option<u32>)| (*axis == Axis::Fixed) == dim.is_some();
        let dims = tensor.axes.len() == declared.dims.len() && tensor.axes.iter().zip(&declared.dims).all(fits);
        if !dims || onnx_type(tensor.dtype) != declared.dtype {
            let dims = declared.dims.iter().map(|dim| dim.map_or("any".into(), |dim| dim.to_string())).collect::<Vec<_>>();
            return differs(&declared.name, said(tensor), format!("{} [{}]", type_name(declared.dtype), dims.join(", ")));
        }
    }
    Ok(())
}

/// ONNX's number of a type.
fn onnx_type(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F32 => 1,
        Dtype::I32 => 6,
        Dtype::F16 => 10,
        _ => 0,
    }
}

fn type_name(onnx: i32) -> String {
    match onnx {
        1 => "f32".into(),
        6 => "i32".into(),
        10 => "f16".into(),
        other => format!("ONNX type {other}"),
    }
}

fn said(tensor: &Tensor) -> String {
    let dims = tensor.axes.iter().map(|axis| if *axis == Axis::Fixed { "a number" } else { "any" }).collect::<Vec<_>>();
    format!("{} [{}]", type_name(onnx_type(tensor.dtype)), dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_graph_has_its_name_and_its_tensors() {
        for (graph, form) in Graph::ALL.into_iter().flat_map(|graph| [(graph, Form::Appended), (graph, Form::InPlace)]) {
            assert_eq!(Graph::named(graph.name()), Some(graph));
            let (inputs, outputs) = graph.tensors(form);
            let mut all: Vec<_> = inputs.iter().chain(&outputs).map(|tensor| tensor.name).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), inputs.len() + outputs.len(), "{graph}");
        }
        assert_eq!(Graph::named("decoder"), None);
    }

    #[test]
    fn a_layers_name_ends_in_its_number() {
        let [keys, _] = CACHES;
        for (name, wanted) in [("k_cache_0", true), ("k_cache_27", true), ("k_cache_", false), ("k_cache_*", false), ("v_cache_0", false)] {
            assert_eq!(names(&keys, name), wanted, "{name}");
        }
    }

    #[test]
    fn limits_that_are_less_are_told_by_name() {
        let all = Limits {
            positions: Tokens(100),
            usual: Tokens(50),
            chunk: Tokens(8),
            visual: Tokens(16),
            tiles: Tiles(2),
            clusters: 5,
            budget: Tokens(60),
        };
        assert_eq!(all.lacks(&Limits { usual: Tokens(90), ..all }), None);
        assert_eq!(all.lacks(&Limits { positions: Tokens(101), ..all }), Some(("positions", 101, 100)));
        assert_eq!(all.lacks(&Limits { tiles: Tiles(3), ..all }), Some(("tiles of a run", 3, 2)));
        assert_eq!(all.lacks(&Limits { positions: Tokens(9), chunk: Tokens(1), ..all }), None);
    }
}
