//! Contract of an operation. A new op is `src/ops/<op>.rs`, `shaders/<op>.wgsl` and its name in `src/ops/mod.rs`.

use std::fmt::Debug;

use super::{Graph, Launch, Tensor, TensorInfo};
use crate::base::{Array, DType, Shape};
use crate::error::{Error, Result};

/// Differentiable operation on tensors of static shape.
pub trait Op: Debug + Send + Sync {
    /// Name, as in `src/ops/<name>.rs`.
    fn name(&self) -> &'static str;

    /// Shape rule: returns the shapes and types of the results.
    ///
    /// # Errors
    /// [`Error::Op`](crate::error::Error::Op) that names the argument and the shapes.
    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>>;

    /// Emits the dispatches that compute the outputs. Runs without a GPU.
    fn launch(&self, launch: &mut Launch) -> Result<()>;

    /// Computes the results naively in f64: the oracle for the kernel and for finite differences.
    fn reference(&self, inputs: &[&Array]) -> Vec<Array>;

    /// Vector-Jacobian product: records the gradient of each input that [`Vjp::needs`] one.
    fn vjp(&self, vjp: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let _ = vjp;
        Err(Error::op(self.name(), "has no gradient rule"))
    }

    /// Number of floating-point operations (a multiply-add counts as two), for plans and benchmarks.
    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        let _ = inputs;
        outputs.iter().map(|t| t.shape.elements() as u64).sum()
    }

    /// Input whose memory output 0 is, under another shape and without a dispatch, if any.
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

/// Context of an op's gradient rule.
pub struct Vjp<'a> {
    /// The graph to record into.
    pub g: &'a mut Graph,
    /// The node's operands.
    pub inputs: Vec<Tensor>,
    /// The node's results.
    pub outputs: Vec<Tensor>,
    /// Gradient of the loss by each result, if it has one.
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

    /// Returns whether input `i` is on a path to a trainable tensor.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// Returns the gradient of the first result.
    ///
    /// # Errors
    /// [`Error::Op`](crate::error::Error::Op) if it has none.
    pub fn grad(&self) -> Result<Tensor> {
        self.grads.first().copied().flatten().ok_or_else(|| Error::op("grad", "the op's first result has no gradient"))
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.g.shape(self.inputs[i]).clone()
    }
}
