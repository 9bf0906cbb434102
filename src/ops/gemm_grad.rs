//! Gradient of [`Gemm`] by each of its operands.

use super::contraction::Operands;
use super::{
    AddKind, Conv, Gemm, Result, Rows, Tensor, Unary, WeightGrad, reshape, sum_per_sample, sum_rows,
    upsample_nearest_bwd,
};
use crate::error::Error;
use crate::graph::Vjp;

pub(super) fn gemm_vjp(gemm: &Gemm, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
    let mut dout = v.grad()?;
    if gemm.geglu {
        return Err(Error::op("linear", "a fused GEGLU pair has no gradient rule; record it apart"));
    }
    if gemm.batched {
        return batched_vjp(gemm, v, dout);
    }
    if let Some(activation) = gemm.activation {
        let before = v.g.push1(Gemm { activation: None, ..gemm.clone() }, &v.inputs)?;
        dout = v.g.push1(Unary { activation }, &[before, dout])?;
    }
    let mut grads: Vec<Option<Tensor>> = vec![None; v.inputs.len()];
    let x = v.shape(0);
    let at = gemm.operands();
    let first = InputChannels { first: 0, columns: x.last() };
    if v.needs(0) {
        grads[0] = Some(input_grad(gemm, v, dout, at.w, first)?);
    }
    if let Some(i) = at.x2.filter(|&i| v.needs(i)) {
        let second = InputChannels { first: x.last(), columns: v.shape(i).last() };
        grads[i] = Some(input_grad(gemm, v, dout, at.w, second)?);
    }
    if v.needs(at.w) {
        grads[at.w] = Some(weight_grad(gemm, v, dout, &at)?);
    }
    if let Some(i) = at.bias.filter(|&i| v.needs(i)) {
        grads[i] = Some(sum_rows(v.g, dout)?);
    }
    if let Some(i) = at.add.filter(|&i| v.needs(i)) {
        grads[i] = Some(match gemm.add {
            Some(AddKind::PerSample { offset: 0 }) if v.shape(i).last() == v.g.shape(dout).last() => {
                sum_per_sample(v.g, dout)?
            }
            Some(AddKind::PerSample { .. }) => {
                return Err(Error::op("linear", "no gradient rule for a slice of a per-sample addend"));
            }
            _ => dout,
        });
    }
    if let (Some(h), Some(u), Some(scale)) = (at.hidden, at.up, gemm.lora) {
        if v.needs(h) {
            let back = Gemm { k_major: true, alpha: scale, ..Gemm::new(Rows::Same) };
            grads[h] = Some(v.g.push1(back, &[dout, v.inputs[u]])?);
        }
        if v.needs(u) {
            let op = WeightGrad { rows: Rows::Same, kernel: [1, 1], alpha: scale, x2: false };
            grads[u] = Some(v.g.push1(op, &[dout, v.inputs[h]])?);
        }
    }
    Ok(grads)
}

/// Gradients of products of one row each: `a [b, 1, k]` times `w [b, k, n]`.
fn batched_vjp(gemm: &Gemm, v: &mut Vjp, dout: Tensor) -> Result<Vec<Option<Tensor>>> {
    let a = v.shape(0);
    let plain = Gemm { batched: true, k_major: true, alpha: gemm.alpha, ..Gemm::new(Rows::Same) };
    if *gemm != plain || a.len() != 3 || a[1] != 1 {
        return Err(Error::op("linear", "batched products have a gradient rule for single rows alone"));
    }
    let by_a = Gemm { k_major: false, ..plain.clone() };
    let by_a = v.needs(0).then(|| v.g.push1(by_a, &[dout, v.inputs[1]])).transpose()?;
    let by_w = if v.needs(1) {
        // A row's transpose is its renaming.
        let column = reshape(v.g, v.inputs[0], [a[0], a[2], 1])?;
        Some(v.g.push1(plain, &[column, dout])?)
    } else {
        None
    };
    Ok(vec![by_a, by_w])
}

/// The gradient by the weight.
fn weight_grad(gemm: &Gemm, v: &mut Vjp, dout: Tensor, at: &Operands) -> Result<Tensor> {
    let shape = v.shape(at.w);
    let kernel = if gemm.rows == Rows::Same { [1, 1] } else { [shape[1], shape[2]] };
    if gemm.k_major {
        return Err(Error::op("linear", "no gradient rule for a [k, n] operand"));
    }
    let op = WeightGrad { rows: gemm.rows.clone(), kernel, alpha: gemm.alpha, x2: gemm.x2 };
    let mut operands = vec![dout, v.inputs[0]];
    operands.extend(at.x2.map(|i| v.inputs[i]));
    v.g.push1(op, &operands)
}

/// Channels of the joined input.
#[derive(Clone, Copy)]
struct InputChannels {
    first: usize,
    columns: usize,
}

/// The gradient by some input channels.
fn input_grad(gemm: &Gemm, v: &mut Vjp, dout: Tensor, w: usize, channels: InputChannels) -> Result<Tensor> {
    let (w, InputChannels { first, columns }) = (v.inputs[w], channels);
    match &gemm.rows {
        Rows::Same => {
            let back = Gemm { k_major: !gemm.k_major, alpha: gemm.alpha, ..Gemm::new(Rows::Same) };
            v.g.push1(back, &[dout, w])
        }
        Rows::Conv(conv) => {
            let shape = v.shape(0);
            let up = 1 + usize::from(conv.upsample);
            let size = [shape[1] * up, shape[2] * up];
            // The transposed pass works on the enlarged image.
            let rows = Rows::Transposed { conv: Conv { upsample: false, ..*conv }, size, first, columns };
            let large = v.g.push1(Gemm { alpha: gemm.alpha, ..Gemm::new(rows) }, &[dout, w])?;
            if conv.upsample { upsample_nearest_bwd(v.g, large, [shape[1], shape[2]]) } else { Ok(large) }
        }
        Rows::Transposed { .. } => Err(Error::op("conv2d_transposed", "has no gradient rule")),
    }
}
