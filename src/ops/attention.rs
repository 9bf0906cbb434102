//! Attention without the score matrix: online softmax forward (Milakov and Gimelshein 2018, arXiv 1805.02867) and the
//! recomputing backward of FlashAttention (Dao et al. 2022, arXiv 2205.14135). f32 logits, softmax and sums.

use super::attention_backward::AttentionBackward;
use super::attention_wide::attention_wide;
use super::{Attention, AttentionSpec, Case, Given, Graph, Heads, Result, Tensor, WIDEST_HEAD, attention_launch};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// `softmax(scale * q k^T) v` for every head: -> [n, tokens_q, heads * head_dim].
pub fn attention(g: &mut Graph, q: Heads, k: Heads, v: Heads, spec: AttentionSpec) -> Result<Tensor> {
    if spec.head_dim > WIDEST_HEAD {
        return attention_wide(g, [q, k, v], spec);
    }
    let op = Attention { spec, offsets: [q.offset, k.offset, v.offset] };
    Ok(g.push(op, &[q.tensor, k.tensor, v.tensor])?[0])
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let d = self.dims([&inputs[0].shape, &inputs[1].shape, &inputs[2].shape])?;
        Ok(vec![
            ([d.n, d.queries, self.spec.heads * self.spec.head_dim].into(), DType::F32),
            ([d.n, self.spec.heads, d.queries].into(), DType::F32),
        ])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let d = self.dims([&l.input(0).shape, &l.input(1).shape, &l.input(2).shape])?;
        attention_launch::forward(self, l, &d)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Ok(d) = self.dims([&inputs[0].shape, &inputs[1].shape, &inputs[2].shape]) else { return Vec::new() };
        let s = &self.spec;
        let columns = s.heads * s.head_dim;
        let mut out = Array::zeros([d.n, d.queries, columns]);
        let mut lse = Array::zeros([d.n, s.heads, d.queries]);
        for n in 0..d.n {
            for head in 0..s.heads {
                for (i, row) in self.logits(inputs, &d, n, head).iter().enumerate() {
                    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = row.iter().map(|x| (x - largest).exp()).sum();
                    lse.data[(n * s.heads + head) * d.queries + i] = largest + total.ln();
                    for (j, x) in row.iter().enumerate() {
                        let weight = (x - largest).exp() / total;
                        for c in 0..s.head_dim {
                            let v = (n * d.keys + j) * d.widths[2] + self.offsets[2] + head * s.head_dim + c;
                            out.data[(n * d.queries + i) * columns + head * s.head_dim + c] +=
                                weight * inputs[2].data[v];
                        }
                    }
                }
            }
        }
        vec![out, lse]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let columns = self.spec.heads * self.spec.head_dim;
        if self.offsets != [0; 3] || (0..3).any(|i| v.shape(i).last() != columns) {
            return Err(Error::op(
                self.name(),
                "no gradient rule for heads inside a wider row; record q, k and v apart",
            ));
        }
        let operands = [v.inputs[0], v.inputs[1], v.inputs[2], v.outputs[0], v.outputs[1], v.grad()?];
        let grads = v.g.push(AttentionBackward { forward: self.clone() }, &operands)?;
        Ok(grads.into_iter().map(Some).collect())
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        let (q, k) = (&inputs[0].shape, &inputs[1].shape);
        (4 * q[0] * q[1] * k[1] * self.spec.heads * self.spec.head_dim) as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, queries, keys, heads, head_dim, causal) in [
        (1usize, 1usize, 1usize, 1usize, 1usize, false),
        (2, 9, 7, 3, 8, false),
        (1, 7, 7, 2, 3, true),
        (2, 33, 77, 2, 12, false),
        (1, 77, 77, 2, 8, true),
        (1, 64, 64, 2, 32, false),
        (1, 20, 18, 1, 64, false),
        (1, 5, 6, 1, 160, false),
        (1, 130, 77, 2, 40, false),
        (1, 70, 130, 1, 80, false),
        (1, 40, 40, 1, 16, true),
        (1, 41, 33, 1, 100, false),
    ] {
        let spec = AttentionSpec { heads, head_dim, scale: 1.0 / (head_dim as f64).sqrt(), causal };
        let columns = heads * head_dim;
        let op = Attention { spec, offsets: [0; 3] };
        let inputs = [
            Given::normal([n, queries, columns]),
            Given::normal([n, keys, columns]),
            Given::normal([n, keys, columns]),
        ];
        cases.push(Case::new(op.clone(), inputs.clone()).grads([0, 1, 2]).primary(1));
        let mut inputs = inputs.to_vec();
        inputs.push(Given::normal([n, queries, columns]));
        inputs.push(Given::Uniform([n, heads, queries].into(), 3.0, 5.0));
        inputs.push(Given::normal([n, queries, columns]));
        cases.push(Case::new(AttentionBackward { forward: op }, inputs));
        let offsets = [0, columns, 2 * columns + 4];
        let wide = 3 * columns + 8;
        let op = Attention { spec, offsets };
        cases.push(Case::new(
            op,
            [Given::normal([n, queries, wide]), Given::normal([n, keys, wide]), Given::normal([n, keys, wide])],
        ));
    }
    // Logits far apart: an online softmax without its running maximum would overflow.
    let spec = AttentionSpec { heads: 1, head_dim: 4, scale: 30.0, causal: false };
    let inputs = [Given::normal([1, 10, 4]), Given::normal([1, 12, 4]), Given::normal([1, 12, 4])];
    cases.push(Case::new(Attention { spec, offsets: [0; 3] }, inputs).tolerance(2e-5));
    cases
}
