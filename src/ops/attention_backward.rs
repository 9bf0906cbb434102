//! Gradients of attention, from recomputed scores (FlashAttention, Dao et al. 2022, arXiv 2205.14135). Test cases are
//! those of [`super::attention`].

use super::{Attention, Result, attention_launch};
use crate::base::{Array, DType, Shape};
use crate::graph::{Launch, Op, TensorInfo};

/// Gradients of attention. Operands q, k, v, result, log-sum-exp, dout; results dq, dk, dv.
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    /// The forward op.
    pub forward: Attention,
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(inputs[..3].iter().map(|i| (i.shape.clone(), DType::F32)).collect())
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let d = self.forward.dims([&l.input(0).shape, &l.input(1).shape, &l.input(2).shape])?;
        attention_launch::backward(&self.forward, l, &d)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let f = &self.forward;
        let s = f.spec;
        let Ok(d) = f.dims([&inputs[0].shape, &inputs[1].shape, &inputs[2].shape]) else { return Vec::new() };
        let (q, k, v, o, lse, dout) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5]);
        let columns = s.heads * s.head_dim;
        let mut grads = [q, k, v].map(|t| Array::zeros(t.shape.clone()));
        for n in 0..d.n {
            for head in 0..s.heads {
                let logits = f.logits(inputs, &d, n, head);
                let at = |tokens: usize, token: usize, c: usize| (n * tokens + token) * columns + head * s.head_dim + c;
                for (i, row) in logits.iter().enumerate() {
                    let delta: f64 =
                        (0..s.head_dim).map(|c| o.data[at(d.queries, i, c)] * dout.data[at(d.queries, i, c)]).sum();
                    for (j, x) in row.iter().enumerate() {
                        let weight = (x - lse.data[(n * s.heads + head) * d.queries + i]).exp();
                        let dp: f64 =
                            (0..s.head_dim).map(|c| dout.data[at(d.queries, i, c)] * v.data[at(d.keys, j, c)]).sum();
                        let ds = weight * (dp - delta) * s.scale;
                        for c in 0..s.head_dim {
                            grads[0].data[at(d.queries, i, c)] += ds * k.data[at(d.keys, j, c)];
                            grads[1].data[at(d.keys, j, c)] += ds * q.data[at(d.queries, i, c)];
                            grads[2].data[at(d.keys, j, c)] += weight * dout.data[at(d.queries, i, c)];
                        }
                    }
                }
            }
        }
        grads.to_vec()
    }

    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        // Seven products of the score matrix's size where the forward pass has two.
        self.forward.flops(inputs, outputs) * 7 / 2
    }
}
