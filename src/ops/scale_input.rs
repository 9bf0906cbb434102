//! Input of the UNet, made of a sampler's state.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Operands `x` `[n, ..]` and `factor` `[1]`; result `factor * x`, `copies` times along the batch.
#[derive(Clone, Debug)]
pub struct ScaleInput {
    /// Copies along the batch: 2 for guided sampling, else 1.
    pub copies: usize,
}

/// `factor * x`, `copies` times along the batch: [copies * n, ..].
pub fn scale_input(g: &mut Graph, x: Tensor, factor: Tensor, copies: usize) -> Result<Tensor> {
    g.push1(ScaleInput { copies }, &[x, factor])
}

impl Op for ScaleInput {
    fn name(&self) -> &'static str {
        "scale_input"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let mut shape = inputs[0].shape.to_vec();
        if let Some(n) = shape.first_mut() {
            *n *= self.copies;
        }
        Ok(vec![(shape.into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (count, each) = (l.output(0).shape.elements(), l.input(0).shape.elements());
        let (x, factor, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        l.kernel(shader!("scale_input"))
            .read("x", x)
            .read("factor", factor)
            .write("out", out)
            .u32("count", count)
            .u32("each", each)
            .linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut shape = inputs[0].shape.to_vec();
        shape[0] *= self.copies;
        let data = inputs[0].data.repeat(self.copies).into_iter().map(|x| x * inputs[1].data[0]).collect();
        vec![Array::new(shape, data)]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    [1usize, 2].map(|copies| Case::new(ScaleInput { copies }, [Given::normal([3, 7]), Given::normal([1])])).to_vec()
}
