//! Evaluates a graph on the host with each op's f64 reference.

use std::collections::HashMap;

use super::{Graph, Tensor};
use crate::base::Array;
use crate::error::{Error, Result};

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
        let results = node.op.reference(&inputs);
        values.extend(node.outputs.iter().copied().zip(results));
    }
    Ok(values)
}
