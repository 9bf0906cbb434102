//! Sum, product and scaled sums of two tensors of one shape.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// `alpha * a + beta * b`.
#[derive(Clone, Debug)]
pub struct WeightedSum {
    /// Factor of `a`.
    pub alpha: f64,
    /// Factor of `b`.
    pub beta: f64,
}

/// `a + b`, elementwise.
pub fn add(g: &mut Graph, a: Tensor, b: Tensor) -> Result<Tensor> {
    g.push1(WeightedSum { alpha: 1.0, beta: 1.0 }, &[a, b])
}

/// `factor * x`.
pub fn scale(g: &mut Graph, x: Tensor, factor: f64) -> Result<Tensor> {
    g.push1(WeightedSum { alpha: factor, beta: 0.0 }, &[x])
}

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        if let [a, b] = inputs
            && a.shape.elements() != b.shape.elements()
        {
            return Err(Error::op(self.name(), format!("a is {}, b is {}", a.shape, b.shape)));
        }
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let vectors = l.output(0).shape.elements().div_ceil(4);
        let two = l.input_count() == 2;
        let (a, b, out) = (l.input_slot(0), l.input_slot(l.input_count() - 1), l.output_slot(0));
        let k = l.kernel(shader!("weighted_sum")).value("two", two).read_as("a", a, true);
        let k = if two { k.read_as("b", b, true) } else { k };
        k.write_as("out", out, true)
            .u32("vectors", vectors)
            .f32("alpha", self.alpha)
            .f32("beta", self.beta)
            .linear(vectors.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut out = inputs[0].map(|a| self.alpha * a);
        if let Some(b) = inputs.get(1) {
            out.data.iter_mut().zip(&b.data).for_each(|(o, b)| *o += self.beta * b);
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let dout = v.grad()?;
        let mut grads = Vec::with_capacity(v.inputs.len());
        for (i, factor) in [self.alpha, self.beta].into_iter().take(v.inputs.len()).enumerate() {
            grads.push(match (v.needs(i), factor == 1.0) {
                (false, _) => None,
                (true, true) => Some(dout),
                (true, false) => Some(scale(v.g, dout, factor)?),
            });
        }
        Ok(grads)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [1usize, 6, 1030] {
        let op = WeightedSum { alpha: 0.5, beta: -2.0 };
        cases.push(Case::new(op.clone(), [Given::normal([n]), Given::normal([n])]).grads([0, 1]));
        cases.push(Case::new(op, [Given::normal([n])]).grads([0]));
    }
    cases
}
