//! Evaluates a graph on the host with each op's f64 reference.

use std::collections::HashMap;

use super::{Graph, Op, Tensor, TensorInfo};
use crate::base::Array;
use crate::error::{Error, Result};

/// Computes the results of `op` for `inputs` by its reference, as many and of such shapes as its shape rule says.
///
/// # Errors
/// [`Error::Op`] where the reference gives another number of results or of elements than `outputs`: a comparison would
/// leave out what is missing.
pub(crate) fn reference(op: &dyn Op, inputs: &[&Array], outputs: &[&TensorInfo]) -> Result<Vec<Array>> {
    let results = op.reference(inputs);
    if results.len() != outputs.len() {
        let message = format!("its reference gives {} results, its shape rule {}", results.len(), outputs.len());
        return Err(Error::op(op.name(), message));
    }
    for (i, (result, output)) in results.iter().zip(outputs).enumerate() {
        let (given, wanted) = (&result.shape, &output.shape);
        if result.data.len() != wanted.elements() {
            return Err(Error::op(op.name(), format!("its reference gives {given} for result {i}, not {wanted}")));
        }
    }
    Ok(results)
}

/// Computes every tensor that depends only on `given` (inputs and stored tensors), with the ops' f64 references.
///
/// # Errors
/// [`Error::Op`](crate::error::Error::Op) if a reference does not match its op's shape rule.
pub fn eval(graph: &Graph, given: HashMap<Tensor, Array>) -> Result<HashMap<Tensor, Array>> {
    let mut values = given;
    for node in &graph.nodes {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for t in &node.inputs {
            let value = values.get(t);
            inputs.push(value.ok_or_else(|| Error::op("eval", format!("{} has no value", graph.info(*t).name)))?);
        }
        let outputs: Vec<&TensorInfo> = node.outputs.iter().map(|&t| graph.info(t)).collect();
        let results = reference(&*node.op, &inputs, &outputs)?;
        values.extend(node.outputs.iter().copied().zip(results));
    }
    Ok(values)
}
