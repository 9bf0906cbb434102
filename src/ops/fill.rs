//! Constant tensors.

use super::{Case, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// Tensor with one value in every element.
#[derive(Debug)]
pub struct Fill {
    /// Extents.
    pub shape: Shape,
    /// The value.
    pub value: f64,
}

/// Records a tensor of `shape` filled with `value`.
pub fn fill(g: &mut Graph, shape: impl Into<Shape>, value: f64) -> Result<Tensor> {
    g.push1(Fill { shape: shape.into(), value }, &[])
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, _: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(self.shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let n = self.shape.elements();
        let out = l.output_slot(0);
        l.kernel(shader!("fill")).write("out", out).u32("count", n).f32("value", self.value).linear(n.div_ceil(64))
    }

    fn reference(&self, _: &[&Array]) -> Vec<Array> {
        vec![Array::zeros(self.shape.clone()).map(|_| self.value)]
    }

    fn vjp(&self, _: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    [1usize, 5, 64, 1000].map(|n| Case::new(Fill { shape: [n].into(), value: 1.5 }, [])).to_vec()
}
