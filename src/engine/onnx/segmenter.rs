//! A segmenter from ONNX: `[n,3,H,W]` f32 → class logits `[n,C,H,W]` f32, or labels `[n,H,W]` of an integer type.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid as _;

use super::{Graph, ID, State, run_error};
use crate::engine::{EngineError, Segmenter};
use crate::units::{Bytes, Px};

/// Most pixels a side and most classes: a bound on what a file can ask for.
const MAX_SIDE: usize = 4_096;
const MAX_CLASSES: usize = 65_536;

/// What the graph gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Logits { classes: usize },
    Labels,
}

pub struct OnnxSegmenter {
    state: State,
    width: usize,
    height: usize,
    output: Output,
    bytes: Bytes,
}

impl OnnxSegmenter {
    /// Height and width are the graph's own.
    ///
    /// # Errors
    /// Names the file and the tensor when the graph has other inputs or outputs.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        // As in `Graph::load`: a parser of bytes from outside.
        let declared = catch_unwind(AssertUnwindSafe(|| declared(path)));
        let refuse = |reason: &str| EngineError::Load { path: path.to_owned(), reason: reason.into() };
        let dims = declared.map_err(|_| refuse("not a graph this engine can run"))??;
        let tensor = |tensor: &str, wanted: &str, found: String| EngineError::Tensor {
            path: path.to_owned(),
            tensor: tensor.into(),
            wanted: wanted.into(),
            found,
        };
        let &[_, _, Some(height), Some(width)] = &dims[..] else {
            return Err(tensor("input 0", "f32 [n, 3, H, W], H and W numbers", format!("{dims:?}")));
        };
        let sides = 1..=MAX_SIDE;
        if !sides.contains(&height) || !sides.contains(&width) {
            return Err(tensor("input 0", "H and W of 1 to 4096", format!("{height} x {width}")));
        }
        let (graph, dtype, shape) = Graph::load_any(path, &[1, 3, height, width])?;
        let output = match shape[..] {
            [1, classes, h, w] if dtype == f32::datum_type() && (h, w) == (height, width) && (1..=MAX_CLASSES).contains(&classes) => {
                Output::Logits { classes }
            }
            [1, h, w] if dtype.is_integer() && (h, w) == (height, width) => Output::Labels,
            _ => {
                let wanted = format!("f32 [1, C, {height}, {width}] or integers [1, {height}, {width}]");
                return Err(tensor("output 0", &wanted, format!("{dtype:?} {shape:?}")));
            }
        };
        let bytes = graph.weights + Bytes::of::<f32>(3 * width * height);
        Ok(Self { state: graph.spawn()?, width, height, output, bytes })
    }

    fn place(&self, at: usize) -> (usize, usize) {
        (at % self.width, at / self.width)
    }
}

/// The dimensions of the input, as far as they are numbers.
fn declared(path: &Path) -> Result<Vec<Option<usize>>, EngineError> {
    let refuse = |error: TractError| EngineError::Load { path: path.to_owned(), reason: format!("{error:#}") };
    super::admit(path)?;
    let model = tract_onnx::onnx().model_for_path(path).map_err(refuse)?;
    if model.inputs.is_empty() {
        return Ok(Vec::new());
    }
    let fact = model.input_fact(0).map_err(refuse)?.clone();
    let number = |dim: Option<TDim>| dim.and_then(|dim| dim.to_i64().ok()).and_then(|dim| usize::try_from(dim).ok());
    Ok(fact.shape.dims().map(|dim| number(dim.concretize())).collect())
}

impl Segmenter for OnnxSegmenter {
    fn id(&self) -> &str {
        ID
    }

    fn bytes(&self) -> Bytes {
        self.bytes
    }

    fn size(&self) -> (Px, Px) {
        (Px::of(self.width), Px::of(self.height))
    }

    fn segment(&mut self, picture: &[f32], labels: &mut [u32]) -> Result<(), EngineError> {
        let pixels = self.width * self.height;
        if picture.len() != 3 * pixels || labels.len() != pixels {
            return Err(EngineError::Length { engine: ID, what: "labels", wanted: pixels, found: labels.len() });
        }
        let input = Tensor::from_shape(&[1, 3, self.height, self.width], picture).map_err(run_error)?;
        let outputs = self.state.run(tvec!(input.into())).map_err(run_error)?;
        let wrong = |at: usize, found: String| {
            let (x, y) = self.place(at);
            EngineError::Run { engine: ID, reason: format!("segmenter: pixel ({x}, {y}): {found}") }
        };
        match self.output {
            Output::Logits { classes } => {
                let view = outputs[0].to_plain_array_view::<f32>().map_err(run_error)?;
                let logits = view.as_slice().unwrap_or_default();
                for (at, label) in labels.iter_mut().enumerate() {
                    let mut best = (f32::NEG_INFINITY, 0);
                    for class in 0..classes {
                        let value = logits[class * pixels + at];
                        if value.is_nan() {
                            return Err(wrong(at, format!("wanted a logit, found {value}")));
                        }
                        if value > best.0 {
                            best = (value, class);
                        }
                    }
                    // At most `MAX_CLASSES`.
                    *label = best.1 as u32;
                }
            }
            Output::Labels => {
                let wide = outputs[0].cast_to::<i64>().map_err(run_error)?;
                let view = wide.to_plain_array_view::<i64>().map_err(run_error)?;
                for (at, (label, &value)) in labels.iter_mut().zip(view.as_slice().unwrap_or_default()).enumerate() {
                    let found = u32::try_from(value).ok().filter(|label| *label < u32::MAX);
                    *label = found.ok_or_else(|| wrong(at, format!("wanted a label of 0 to 4294967294, found {value}")))?;
                }
            }
        }
        Ok(())
    }
}
