//! Contraction behind linear layers, matrix products and convolutions (implicit GEMM), with fused epilogues.
//!
//! `out[m, n] = act(alpha * sum_{tap, k} a(m, tap, k) * w(tap, k, n) + bias + addend + lora)`.

use std::sync::Arc;

use super::contraction::Dims;
use super::{Activation, AddKind, Case, Gemm, Result, Rows};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{Launch, Op, Tensor, TensorInfo, Vjp};

impl Op for Gemm {
    fn name(&self) -> &'static str {
        self.name_of()
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let at = self.operands();
        if inputs.len() != at.count {
            return Err(Error::op(self.name(), format!("{} operands, expected {}", inputs.len(), at.count)));
        }
        let shape = |i: usize| &inputs[i].shape;
        let d = self.dims(shape(0), at.x2.map(shape), shape(at.w))?;
        let columns = if self.geglu { 2 * d.n } else { d.n };
        let wrong = |what: &str, s: &Shape| Err(Error::op(self.name(), format!("{what} is {s}, the result {}", d.out)));
        if let Some(bias) = at.bias.map(shape).filter(|s| s.elements() != columns) {
            return wrong("bias", bias);
        }
        match (self.add, at.add.map(shape)) {
            (Some(AddKind::Full), Some(s)) if s.elements() != d.out.elements() => return wrong("addend", s),
            (Some(AddKind::PerSample { offset }), Some(s)) if s.rows() != d.out[0] || offset + d.n > s.last() => {
                return wrong("per-sample addend", s);
            }
            _ => {}
        }
        if let (Some(hidden), Some(up)) = (at.hidden.map(shape), at.up.map(shape))
            && (hidden.rows() != d.m || up.rows() != columns || hidden.last() != up.last())
        {
            return Err(Error::op(
                self.name(),
                format!("LoRA hidden {hidden} and up {up} do not fit the result {}", d.out),
            ));
        }
        Ok(vec![(d.out, DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let at = self.operands();
        let dims = self.dims(&l.input(0).shape, at.x2.map(|i| &l.input(i).shape), &l.input(at.w).shape)?;
        super::gemm_launch::launch(self, l, &at, &dims)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let at = self.operands();
        let (x, w) = (inputs[0], inputs[at.w]);
        let Ok(d) = self.dims(&x.shape, at.x2.map(|i| &inputs[i].shape), &w.shape) else { return Vec::new() };
        let columns = if self.geglu { 2 * d.n } else { d.n };
        let mut out = Array::zeros(d.out.clone());
        let samples = d.out[0].max(1);
        for batch in 0..d.batch {
            for m in 0..d.m {
                let mut row = vec![0.0; columns];
                for tap in 0..d.taps {
                    let Some(from) = self.source_row(&d, m, tap) else { continue };
                    for (k, value) in (0..d.c1 + d.c2).map(|k| (k, operand(inputs, at.x2, &d, batch * d.m + from, k))) {
                        let base = batch * (w.data.len() / d.batch) + d.b_col0 + tap * d.b_tap + k * d.b_k;
                        for (n, r) in row.iter_mut().enumerate() {
                            *r += value * w.data[base + n * d.b_n];
                        }
                    }
                }
                for (n, r) in row.iter_mut().enumerate() {
                    *r *= self.alpha;
                    *r += at.bias.map_or(0.0, |i| inputs[i].data[n]);
                    if let (Some(h), Some(u), Some(scale)) = (at.hidden, at.up, self.lora) {
                        let rank = inputs[u].shape.last();
                        let sum: f64 =
                            (0..rank).map(|j| inputs[h].data[m * rank + j] * inputs[u].data[n * rank + j]).sum();
                        *r += scale * sum;
                    }
                    *r += match (self.add, at.add) {
                        (Some(AddKind::Full), Some(i)) => inputs[i].data[(batch * d.m + m) * d.n + n],
                        (Some(AddKind::PerSample { offset }), Some(i)) => {
                            let row = (batch * d.m + m) / (d.batch * d.m / samples).max(1);
                            inputs[i].data[row * inputs[i].shape.last() + offset + n]
                        }
                        _ => 0.0,
                    };
                    *r = self.activation.map_or(*r, |a| a.value(*r));
                }
                for n in 0..d.n {
                    let gate = if self.geglu { Activation::Gelu.value(row[d.n + n]) } else { 1.0 };
                    out.data[(batch * d.m + m) * d.n + n] = row[n] * gate;
                }
            }
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        super::gemm_grad::gemm_vjp(self, v)
    }

    fn adding(&self) -> Option<(Arc<dyn Op>, usize)> {
        let plain = self.add.is_none() && self.activation.is_none() && !self.geglu && !self.batched;
        let op = Gemm { add: Some(AddKind::Full), ..self.clone() };
        let place = op.operands().add?;
        plain.then(|| (Arc::new(op) as Arc<dyn Op>, place))
    }

    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        let at = self.operands();
        let k = inputs[0].shape.last() + at.x2.map_or(0, |i| inputs[i].shape.last());
        let w = &inputs[at.w].shape;
        let taps = if self.rows == Rows::Same { 1 } else { w[1] * w[2] };
        let rank = at.up.map_or(0, |i| inputs[i].shape.last());
        let pair = if self.geglu { 2 } else { 1 };
        2 * (outputs[0].shape.elements() * (k * taps + rank) * pair) as u64
    }
}

/// Element `k` of row `row` of the joined input channels.
fn operand(inputs: &[&Array], x2: Option<usize>, d: &Dims, row: usize, k: usize) -> f64 {
    match x2 {
        Some(i) if k >= d.c1 => inputs[i].data[row * d.c2 + k - d.c1],
        _ => inputs[0].data[row * d.c1 + k],
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    super::gemm_cases::gemm_cases()
}
