//! The op contract. Adding an op is `src/ops/<op>.rs`, `shaders/<op>.wgsl` and its name in the registry.

use std::fmt::Debug;

use super::{Graph, Launch, Tensor, TensorInfo};
use crate::base::{Array, DType, Shape};
use crate::error::{Error, Result};

/// A differentiable operation on tensors of static shape.
pub trait Op: Debug + Send + Sync {
    /// Name, as in `src/ops/<name>.rs`.
    fn name(&self) -> &'static str;

    /// Shape rule: result shapes and types, or an error that names the argument and the shapes.
    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>>;

    /// Emits the dispatches that compute the outputs. Runs without a GPU.
    fn launch(&self, launch: &mut Launch) -> Result<()>;

    /// The same in naive f64: the oracle for the kernel and for finite differences.
    fn reference(&self, inputs: &[&Array]) -> Vec<Array>;

    /// Vector-Jacobian product: records the gradient of each input that [`Vjp::needs`] one.
    fn vjp(&self, vjp: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let _ = vjp;
        Err(Error::op(self.name(), "has no gradient rule"))
    }

    /// Floating-point operations (a multiply-add is two), for plans and benches.
    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        let _ = inputs;
        outputs.iter().map(|t| t.shape.elements() as u64).sum()
    }

    /// `Some(i)`: output 0 is input `i` under another shape, no dispatch.
    fn alias(&self) -> Option<usize> {
        None
    }

    /// Pairs `(output, input)` whose memory is the same: the kernel updates the input in place. A plan refuses a node that
    /// reads the input later, and [`super::grad`] an update, inside a segment that it would record twice, of what is not
    /// computed there.
    fn in_place(&self) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Says that element `i` of a result depends on no element of the operands but `i`, so that the result may lie in an
    /// operand's memory ([`super::Graph::assign`]).
    fn is_elementwise(&self) -> bool {
        false
    }
}

/// What an op's gradient rule sees.
pub struct Vjp<'a> {
    /// The graph to record into.
    pub g: &'a mut Graph,
    /// The node's operands.
    pub inputs: Vec<Tensor>,
    /// The node's results.
    pub outputs: Vec<Tensor>,
    /// Gradient of the loss by each result, where there is one.
    pub grads: Vec<Option<Tensor>>,
    needs: Vec<bool>,
}

impl<'a> Vjp<'a> {
    pub(crate) fn new(
        g: &'a mut Graph,
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
        grads: Vec<Option<Tensor>>,
        needs: Vec<bool>,
    ) -> Self {
        Vjp { g, inputs, outputs, grads, needs }
    }

    /// Whether input `i` is on a path to a trainable tensor.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// The gradient of the first result.
    pub fn grad(&self) -> Result<Tensor> {
        self.grads.first().copied().flatten().ok_or_else(|| Error::op("grad", "the op's first result has no gradient"))
    }

    /// The shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.g.shape(self.inputs[i]).clone()
    }
}
