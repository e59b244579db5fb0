//! Encoder and projector from ONNX, run by tract on the CPU.
//!
//! # Why
//! tract runs one tile at a time faster than four, and gains nothing from threads of its own: so each thread of the pool has a
//! single-threaded copy of the run state, and takes the next tile. Weights are shared by all.

mod segmenter;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid as _;

use crate::config::Vision;
use crate::engine::{EngineError, Projector, VisionEncoder};
use crate::kernels::Pool;
use crate::units::{Bytes, Px, Tokens};

pub use segmenter::OnnxSegmenter;

const ID: &str = "tract 0.23 f32";

/// The largest ONNX file that is parsed: a bound on what a hostile one can make the parser allocate.
const MAX_FILE: Bytes = Bytes(4 << 30);

type Plan = Arc<TypedRunnableModel>;
type State = TypedSimpleState;

/// A graph with one input and one output of fixed shapes.
struct Graph {
    plan: Plan,
    weights: Bytes,
}

impl Graph {
    /// Loads `path` with its dynamic first dimension set by `input`, and checks that the output is `output`, f32.
    fn load(path: &Path, input: &[usize], output: &[usize]) -> Result<Self, EngineError> {
        let (graph, dtype, found) = Self::load_any(path, input)?;
        if dtype != f32::datum_type() || found != output {
            return Err(EngineError::Tensor {
                path: path.to_owned(),
                tensor: "output 0".into(),
                wanted: format!("f32 {output:?}"),
                found: format!("{dtype:?} {found:?}"),
            });
        }
        Ok(graph)
    }

    /// As [`Self::load`], with any output: its type and shape.
    fn load_any(path: &Path, input: &[usize]) -> Result<(Self, DatumType, Vec<usize>), EngineError> {
        let weights = admit(path)?;
        // The parser works on bytes from outside; should it panic, that is the file's fault and no reason to end the process.
        let loaded = catch_unwind(AssertUnwindSafe(|| Self::optimise(path, input)));
        let refuse = |_| EngineError::Load { path: path.to_owned(), reason: "not a graph this engine can run".into() };
        let (plan, dtype, shape) = loaded.map_err(refuse)??;
        Ok((Self { plan, weights }, dtype, shape))
    }

    fn optimise(path: &Path, input: &[usize]) -> Result<(Plan, DatumType, Vec<usize>), EngineError> {
        let refuse = |error: TractError| EngineError::Load { path: path.to_owned(), reason: format!("{error:#}") };
        let model = tract_onnx::onnx().model_for_path(path).map_err(refuse)?;
        let [inputs, outputs] = [model.inputs.len(), model.outputs.len()];
        if [inputs, outputs] != [1, 1] {
            return Err(EngineError::Load {
                path: path.to_owned(),
                reason: format!("wanted 1 input and 1 output, found {inputs} and {outputs}"),
            });
        }
        let declared = model.input_fact(0).map_err(refuse)?.clone();
        let wanted = InferenceFact::dt_shape(f32::datum_type(), input);
        // A named dimension, such as a dynamic batch, fits any number; a number fits itself.
        let rank = declared.shape.rank().concretize();
        let mut dims = declared.shape.dims().zip(input);
        let fits = dims.all(|(dim, &wanted)| dim.concretize().and_then(|dim| dim.to_i64().ok()).is_none_or(|dim| dim == wanted as i64));
        let dtype = declared.datum_type.concretize();
        if !fits || rank.is_some_and(|rank| rank != input.len() as i64) || dtype.is_some_and(|dtype| dtype != f32::datum_type()) {
            return Err(EngineError::Tensor {
                path: path.to_owned(),
                tensor: "input 0".into(),
                wanted: format!("f32 {input:?}"),
                found: format!("{declared:?}"),
            });
        }
        let model = model.with_input_fact(0, wanted).and_then(InferenceModelExt::into_optimized).map_err(refuse)?;
        let fact = model.output_fact(0).map_err(refuse)?;
        let shape = fact.shape.as_concrete().map(<[usize]>::to_vec).unwrap_or_default();
        let dtype = fact.datum_type;
        let plan = model.into_runnable().map_err(refuse)?;
        Ok((plan, dtype, shape))
    }

    fn spawn(&self) -> Result<State, EngineError> {
        self.plan.spawn().map_err(run_error)
    }
}

/// A file's size, if it is one that is parsed.
fn admit(path: &Path) -> Result<Bytes, EngineError> {
    let refuse = |reason: String| EngineError::Load { path: path.to_owned(), reason };
    let size = Bytes(std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len());
    if size > MAX_FILE { Err(refuse(format!("wanted at most {MAX_FILE}, found {size}"))) } else { Ok(size) }
}

fn run_error(error: TractError) -> EngineError {
    EngineError::Run { engine: ID, reason: format!("{error:#}") }
}

fn run(state: &mut State, shape: &[usize], input: &[f32], mut output: impl FnMut(&[f32])) -> Result<(), EngineError> {
    let tensor = Tensor::from_shape(shape, input).map_err(run_error)?;
    let outputs = state.run(tvec!(tensor.into())).map_err(run_error)?;
    output(outputs[0].to_plain_array_view::<f32>().map_err(run_error)?.as_slice().unwrap_or_default());
    Ok(())
}

/// Shapes an encoder is held to.
#[derive(Clone, Copy, Debug)]
pub struct EncoderShape {
    pub tile: Px,
    pub patch: Px,
    pub feature_dim: usize,
}

impl EncoderShape {
    /// As a package has it.
    #[must_use]
    pub fn of(vision: &Vision) -> Self {
        Self { tile: vision.shape.tile(), patch: vision.shape.patch(), feature_dim: vision.feature_dim }
    }

    /// Tokens of a tile, P.
    #[must_use]
    pub fn tokens(self) -> usize {
        (self.tile.get() / self.patch.get()).pow(2)
    }
    /// Of a tile, three planes.
    #[must_use]
    pub fn values_in(self) -> usize {
        3 * self.tile.get().pow(2)
    }
    /// Of a tile's features.
    #[must_use]
    pub fn values_out(self) -> usize {
        self.tokens() * self.feature_dim
    }
}

/// `[n,3,T,T]` f32 → `[n,P,d_v]`, one tile a thread.
pub struct OnnxEncoder {
    shape: EncoderShape,
    states: Vec<Mutex<State>>,
    bytes: Bytes,
}

impl OnnxEncoder {
    /// # Errors
    /// Names the file and the tensor when the graph isn't `[n,3,T,T]` f32 → `[n,P,d_v]` f32.
    pub fn load(path: &Path, shape: EncoderShape, threads: usize) -> Result<Self, EngineError> {
        let tile = shape.tile.get();
        let graph = Graph::load(path, &[1, 3, tile, tile], &[1, shape.tokens(), shape.feature_dim])?;
        let states = (0..threads).map(|_| graph.spawn().map(Mutex::new)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { shape, states, bytes: graph.weights })
    }
}

impl VisionEncoder for OnnxEncoder {
    fn id(&self) -> &str {
        ID
    }

    fn bytes(&self) -> Bytes {
        self.bytes
    }

    fn encode(&mut self, tiles: &[f32], out: &mut [f16], pool: &Pool) -> Result<(), EngineError> {
        let (values_in, values_out) = (self.shape.values_in(), self.shape.values_out());
        let count = tiles.len() / values_in;
        if tiles.len() != count * values_in || out.len() != count * values_out {
            return Err(EngineError::Length { engine: ID, what: "features", wanted: count * values_out, found: out.len() });
        }
        let side = self.shape.tile.get();
        let failure = Mutex::new(None);
        pool.pieces(out, values_out, &|tile, features| {
            let pixels = &tiles[tile * values_in..(tile + 1) * values_in];
            let mut state = self.states[tile % self.states.len()].lock().unwrap_or_else(PoisonError::into_inner);
            let done = run(&mut state, &[1, 3, side, side], pixels, |values| features.convert_from_f32_slice(values));
            if let Err(error) = done {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Each thread has a heap of its own in the system's allocator: one that first works in flight would grow there.
    fn warm_up(&mut self, pool: &Pool) -> Result<(), EngineError> {
        let (tile, side) = (vec![0.0; self.shape.values_in()], self.shape.tile.get());
        let (together, failure) = (Barrier::new(pool.threads()), Mutex::new(None));
        // A heap reaches its largest after some tiles: 2 left it a fifth short at 16 threads, 8 nothing.
        for _ in 0..8 {
            pool.run(pool.threads(), &|number| {
                // Nobody takes a second task before everybody has one.
                together.wait();
                let mut state = self.states[number % self.states.len()].lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = run(&mut state, &[1, 3, side, side], &tile, |_| ()) {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// `[n,d_v]` → `[n,d]`, in chunks of a fixed number of rows.
pub struct OnnxProjector {
    state: State,
    chunk: Tokens,
    feature_dim: usize,
    hidden: usize,
    input: Vec<f32>,
    bytes: Bytes,
}

impl OnnxProjector {
    /// # Errors
    /// Names the file and the tensor when the graph isn't `[n,d_v]` f32 → `[n,d]` f32.
    pub fn load(path: &Path, chunk: Tokens, feature_dim: usize, hidden: usize) -> Result<Self, EngineError> {
        let rows = chunk.get();
        let graph = Graph::load(path, &[rows, feature_dim], &[rows, hidden])?;
        let input = vec![0.0; rows * feature_dim];
        let bytes = graph.weights + Bytes::of::<f32>(input.len());
        Ok(Self { state: graph.spawn()?, chunk, feature_dim, hidden, input, bytes })
    }
}

impl Projector for OnnxProjector {
    fn id(&self) -> &str {
        ID
    }

    fn bytes(&self) -> Bytes {
        self.bytes
    }

    fn chunk(&self) -> Tokens {
        self.chunk
    }

    fn project(&mut self, features: &[f16], out: &mut [f32]) -> Result<(), EngineError> {
        let rows = features.len() / self.feature_dim;
        if rows > self.chunk.get() || out.len() != rows * self.hidden {
            return Err(EngineError::Length { engine: ID, what: "projected rows", wanted: rows * self.hidden, found: out.len() });
        }
        features.convert_to_f32_slice(&mut self.input[..features.len()]);
        self.input[features.len()..].fill(0.0);
        let shape = [self.chunk.get(), self.feature_dim];
        run(&mut self.state, &shape, &self.input, |values| out.copy_from_slice(&values[..out.len()]))
    }
}
