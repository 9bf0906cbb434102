//! Tensors under another shape.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// Input 0 under another shape; costs nothing.
#[derive(Clone, Debug)]
pub struct Reshape {
    /// Extents of the result.
    pub shape: Shape,
}

/// Records `x` as `shape`, which must have as many elements.
pub fn reshape(g: &mut Graph, x: Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    g.push1(Reshape { shape: shape.into() }, &[x])
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let x = inputs[0];
        if x.shape.elements() != self.shape.elements() {
            return Err(Error::op(self.name(), format!("x is {}, which does not fill {}", x.shape, self.shape)));
        }
        Ok(vec![(self.shape.clone(), x.dtype)])
    }

    fn launch(&self, _: &mut Launch) -> Result<()> {
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![Array::new(self.shape.clone(), inputs[0].data.clone())]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (shape, dout) = (v.shape(0), v.grad()?);
        Ok(vec![Some(reshape(v.g, dout, shape)?)])
    }

    fn flops(&self, _: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        0
    }

    fn alias(&self) -> Option<usize> {
        Some(0)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let to = |shape: Shape, given| Case::new(Reshape { shape }, [given]);
    vec![
        to([6].into(), Given::normal([2, 3])).grads([0]),
        to([1, 1].into(), Given::normal([1])).grads([0]),
        to([5, 1, 7].into(), Given::normal([7, 5])).grads([0]),
        to([3, 3].into(), Given::half([9])),
    ]
}
