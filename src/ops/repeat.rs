//! Rows along the batch, repeated consecutively (`torch.repeat_interleave` on dimension 0), and their sum back.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// `[n, ..] -> [n * times, ..]`, each row `times` times in a row; or with `backward` `[n * times, ..] -> [n, ..]`, the
/// sum of each run of `times` rows.
#[derive(Clone, Debug)]
pub struct Repeat {
    /// Repetitions of each row.
    pub times: usize,
    /// Sums instead of repeating.
    pub backward: bool,
}

/// `x [n, ..] -> [n * times, ..]`: row 0 `times` times, then row 1, and so on.
pub fn repeat(g: &mut Graph, x: Tensor, times: usize) -> Result<Tensor> {
    if times == 1 {
        return Ok(x);
    }
    g.push1(Repeat { times, backward: false }, &[x])
}

impl Op for Repeat {
    fn name(&self) -> &'static str {
        "repeat"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let x = &inputs[0].shape;
        let mut shape = x.to_vec();
        match shape.first_mut() {
            Some(n) if self.times > 0 && !self.backward => *n *= self.times,
            Some(n) if self.times > 0 && n.is_multiple_of(self.times) => *n /= self.times,
            _ => return Err(Error::op(self.name(), format!("x is {x}, which {} times do not fit", self.times))),
        }
        Ok(vec![(shape.into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let shape = &l.output(0).shape;
        let count = shape.elements();
        let row = count / shape[0].max(1);
        let (x, out) = (l.input_slot(0), l.output_slot(0));
        l.kernel(shader!("repeat"))
            .value("backward", self.backward)
            .read("x", x)
            .write("out", out)
            .u32("count", count)
            .u32("row", row)
            .u32("times", self.times)
            .linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = inputs[0];
        let mut shape = x.shape.to_vec();
        let row = x.data.len() / shape[0].max(1);
        if !self.backward {
            shape[0] *= self.times;
            let data = x.data.chunks(row.max(1)).flat_map(|r| r.repeat(self.times)).collect();
            return vec![Array::new(shape, data)];
        }
        shape[0] /= self.times;
        let mut out = Array::zeros(shape);
        for (i, value) in x.data.iter().enumerate() {
            out.data[i / row / self.times * row + i % row] += value;
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let dout = v.grad()?;
        let other = Repeat { times: self.times, backward: !self.backward };
        Ok(vec![Some(v.g.push1(other, &[dout])?)])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, times) in [([1usize, 1, 1], 1usize), ([2, 3, 5], 3), ([3, 1, 4], 2), ([1, 7, 9], 5)] {
        cases.push(Case::new(Repeat { times, backward: false }, [Given::normal(shape)]).grads([0]));
        let tall = [shape[0] * times, shape[1], shape[2]];
        cases.push(Case::new(Repeat { times, backward: true }, [Given::normal(tall)]).grads([0]));
    }
    cases.push(Case::new(Repeat { times: 2, backward: false }, [Given::half([3, 5])]));
    // More workgroups than one dimension of a dispatch takes.
    cases.push(Case::new(Repeat { times: 65, backward: false }, [Given::normal([1, 64 * 1024 + 1])]));
    cases
}
