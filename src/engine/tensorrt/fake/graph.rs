//! A plan that is an ONNX file with its weights in itself: run by tract on the CPU, optimised anew for each set of dimensions.
//!
//! # Why
//! What the graphs of a package compute, and that the code above the shim binds them right, can be held against the CPU's engines on any machine.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dimension;
use tract_onnx::pb::{ValueInfoProto, type_proto};
use tract_onnx::prelude::*;

use crate::engine::tensorrt::fake::network::{Declared, Tensors};
use crate::engine::tensorrt::fake::scatter::tensor_scatter;
use crate::engine::tensorrt::shim::{Dtype, MAX_DIMS, TensorInfo};

/// Dimensions of all inputs.
type Dims = Vec<Vec<usize>>;

pub(super) struct Graph {
    model: InferenceModel,
    inputs: usize,
    optimised: Mutex<BTreeMap<Dims, Arc<TypedRunnableModel>>>,
}

impl Graph {
    /// The graph in `bytes`, and its tensors: inputs, then outputs. `None` where it is none, or has others than of f32, f16 and i32.
    pub fn read(bytes: &[u8]) -> Option<(Self, Vec<Declared>)> {
        let mut onnx = tract_onnx::onnx().with_ignore_output_shapes(true);
        onnx.op_register.insert("TensorScatter", tensor_scatter);
        let proto = onnx.proto_model_for_read(&mut Cursor::new(bytes)).ok()?;
        let graph = proto.graph.as_ref()?;
        let of = |infos: &[ValueInfoProto], output| infos.iter().map(|info| declared(info, output)).collect::<Option<Vec<_>>>();
        let (mut all, outputs) = (of(&graph.input, false)?, of(&graph.output, true)?);
        let inputs = all.len();
        all.extend(outputs);
        // Such an output is the memory of what it is written into, as in TensorRT.
        for node in graph.node.iter().filter(|node| node.op_type == "TensorScatter") {
            let [Some(output), Some(input)] = [node.output.first(), node.input.first()] else { return None };
            let made = all.iter_mut().find(|declared| declared.output && declared.name.as_bytes() == output.as_bytes())?;
            made.alias = CString::new(input.as_str()).ok();
        }
        let model = onnx.model_for_proto_model(&proto).ok()?;
        Some((Self { model, inputs, optimised: Mutex::default() }, all))
    }

    fn optimise(&self, inputs: &[TensorInfo]) -> TractResult<Arc<TypedRunnableModel>> {
        let dims: Dims = inputs.iter().map(dims).collect();
        let mut optimised = self.optimised.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = optimised.get(&dims) {
            return Ok(Arc::clone(found));
        }
        let mut model = self.model.clone();
        for (number, (info, dims)) in inputs.iter().zip(&dims).enumerate() {
            model.set_input_fact(number, InferenceFact::dt_shape(datum(info.dtype), dims))?;
        }
        let runnable = model.into_optimized()?.into_runnable()?;
        Ok(Arc::clone(optimised.entry(dims).or_insert(runnable)))
    }

    pub fn run(&self, tensors: &mut Tensors<'_>) -> TractResult<()> {
        let infos: Vec<_> = (0..self.inputs).map(|place| tensors.info(place)).collect();
        let runnable = self.optimise(&infos)?;
        let given = infos.iter().enumerate().map(|(place, info)| {
            let dims = dims(info);
            let tensor = match info.dtype {
                Dtype::F16 => Tensor::from_shape(&dims, tensors.values::<f16>(place)),
                Dtype::I32 => Tensor::from_shape(&dims, tensors.values::<i32>(place)),
                _ => Tensor::from_shape(&dims, tensors.values::<f32>(place)),
            };
            tensor.map(Into::into)
        });
        let given = given.collect::<TractResult<TVec<TValue>>>()?;
        for (found, place) in runnable.spawn()?.run(given)?.iter().zip(self.inputs..) {
            let info = tensors.info(place);
            if found.shape() != dims(&info) || found.datum_type() != datum(info.dtype) {
                return Err(TractError::msg(format!("output {place}: wanted {info}, found {found:?}")));
            }
            match info.dtype {
                Dtype::F16 => copy::<f16>(found, tensors.values_mut(place))?,
                Dtype::I32 => copy::<i32>(found, tensors.values_mut(place))?,
                _ => copy::<f32>(found, tensors.values_mut(place))?,
            }
        }
        Ok(())
    }
}

fn copy<T: Datum + Copy>(found: &Tensor, to: &mut [T]) -> TractResult<()> {
    let values = found.to_plain_array_view::<T>()?;
    to.iter_mut().zip(values.iter()).for_each(|(to, value)| *to = *value);
    Ok(())
}

fn datum(dtype: Dtype) -> DatumType {
    match dtype {
        Dtype::F16 => f16::datum_type(),
        Dtype::I32 => i32::datum_type(),
        _ => f32::datum_type(),
    }
}

fn dims(info: &TensorInfo) -> Vec<usize> {
    info.dims.iter().take(info.rank as usize).map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).collect()
}

/// A tensor as an ONNX file declares it; a dimension that isn't a number is any.
fn declared(info: &ValueInfoProto, output: bool) -> Option<Declared> {
    let type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    let dtype = match tensor.elem_type {
        1 => Dtype::F32,
        6 => Dtype::I32,
        10 => Dtype::F16,
        _ => return None,
    };
    let dim = |value: &Option<Dimension>| match value {
        Some(Dimension::DimValue(dim)) => usize::try_from(*dim).ok(),
        _ => Some(0),
    };
    let dims = tensor.shape.as_ref()?.dim.iter().map(|found| dim(&found.value)).collect::<Option<Vec<_>>>()?;
    let name = CString::new(info.name.as_str()).ok().filter(|_| dims.len() <= MAX_DIMS)?;
    Some(Declared { name, tensor: TensorInfo::new(dtype, &dims), output, alias: None })
}
