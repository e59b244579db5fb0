//! ONNX's `TensorScatter`, which tract lacks: rows of one sequence in place of a cache's.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::{ScatterElements, ScatterReduction};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math;
use tract_onnx::tract_hir::internal::*;

/// Of the axis before the last.
const AXIS: usize = 2;

/// A cache `[1, heads, S, d]`, rows `[1, heads, T, d]`, and where the first of them goes, `[1]` i64.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct TensorScatter;

pub(super) fn tensor_scatter(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    match (node.get_attr_opt::<i64>("axis")?, node.get_attr_opt::<&str>("mode")?) {
        (Some(-2) | None, Some("linear") | None) => Ok((expand(TensorScatter), vec![])),
        found => bail!("TensorScatter: wanted axis -2 and mode linear, found {found:?}"),
    }
}

impl Expansion for TensorScatter {
    fn name(&self) -> StaticName {
        "TensorScatter".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let Some(shape) = model.outlet_fact(inputs[1])?.shape.as_concrete().filter(|shape| shape.len() == 4).map(<[usize]>::to_vec) else {
            bail!("TensorScatter: wanted rows of four known dimensions");
        };
        let rows =
            (0..shape.iter().product()).map(|at: usize| i64::try_from(at / shape[3] % shape[AXIS])).collect::<Result<Vec<_>, _>>()?;
        let rows = model.add_const(format!("{name}.rows"), Tensor::from_shape(&shape, &rows)?)?;
        // What is i64 in the graph is a dimension in tract.
        let first = model.wire_node(format!("{name}.first"), cast(i64::datum_type()), &[inputs[2]])?[0];
        let places = wire_with_rank_broadcast(format!("{name}.places"), model, math::add(), &[rows, first])?;
        model.wire_node(name, ScatterElements::new(AXIS, ScatterReduction::None), &[inputs[0], places[0], inputs[1]])
    }
}
