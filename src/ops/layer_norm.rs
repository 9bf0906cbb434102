//! Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over the last dimension.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{Launch, Op, TensorInfo, Vjp};
use crate::shader;

/// Rows that one thread sums up for the gradient by gamma and beta.
const CHUNK: usize = 128;

/// Operands `x` [.., C], `gamma`, `beta` [C]; results y [.., C] and the statistics [rows, 2] (mean, 1 / standard
/// deviation).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

/// The gradient by x. Operands: x, gamma, statistics, dout.
#[derive(Clone, Debug)]
pub struct LayerNormBackward;

/// The gradient by gamma and beta. Operands: x, gamma, statistics, dout.
#[derive(Clone, Debug)]
pub struct LayerNormParamGrad;

/// Normalises the last dimension of x [.., C].
pub fn layer_norm(g: &mut Graph, x: Tensor, gamma: Tensor, beta: Tensor, eps: f64) -> Result<Tensor> {
    Ok(g.push(LayerNorm { eps }, &[x, gamma, beta])?[0])
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let x = &inputs[0].shape;
        if inputs[1].shape.elements() != x.last() || inputs[2].shape.elements() != x.last() {
            let message = format!("x is {x}, gamma {}, beta {}", inputs[1].shape, inputs[2].shape);
            return Err(Error::op(self.name(), message));
        }
        Ok(vec![(x.clone(), DType::F32), ([x.rows(), 2].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let x = l.input(0).shape.clone();
        let (xs, gamma, beta, y, stats) =
            (l.input_slot(0), l.input_slot(1), l.input_slot(2), l.output_slot(0), l.output_slot(1));
        l.kernel(shader!("layer_norm"))
            .value("stage", "forward")
            .read("x", xs)
            .read("gamma", gamma)
            .read("beta", beta)
            .write("y", y)
            .write("stats", stats)
            .u32("rows", x.rows())
            .u32("c", x.last())
            .f32("eps", self.eps)
            .linear(x.rows().div_ceil(32))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        let c = x.shape.last();
        let (mut y, mut stats) = (x.clone(), Array::zeros([x.shape.rows(), 2]));
        for (row, (values, out)) in x.data.chunks(c).zip(y.data.chunks_mut(c)).enumerate() {
            let mean = values.iter().sum::<f64>() / c as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            let rstd = 1.0 / (variance + self.eps).sqrt();
            stats.data[row * 2..row * 2 + 2].copy_from_slice(&[mean, rstd]);
            for (i, (o, v)) in out.iter_mut().zip(values).enumerate() {
                *o = (v - mean) * rstd * gamma.data[i] + beta.data[i];
            }
        }
        vec![y, stats]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let operands = [v.inputs[0], v.inputs[1], v.outputs[1], v.grad()?];
        let mut grads = vec![None; 3];
        if v.needs(0) {
            grads[0] = Some(v.g.push1(LayerNormBackward, &operands)?);
        }
        if v.needs(1) || v.needs(2) {
            let back = v.g.push(LayerNormParamGrad, &operands)?;
            (grads[1], grads[2]) = (Some(back[0]), Some(back[1]));
        }
        Ok(grads)
    }

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        8 * outputs[0].shape.elements() as u64
    }
}

impl Op for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let x = l.input(0).shape.clone();
        let (xs, gamma, stats, dout, dx) =
            (l.input_slot(0), l.input_slot(1), l.input_slot(2), l.input_slot(3), l.output_slot(0));
        l.kernel(shader!("layer_norm"))
            .value("stage", "backward")
            .read("x", xs)
            .read("gamma", gamma)
            .read("stats", stats)
            .read("dout", dout)
            .write("dx", dx)
            .u32("rows", x.rows())
            .u32("c", x.last())
            .linear(x.rows().div_ceil(32))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, gamma, stats, dout) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let c = x.shape.last();
        let mut dx = x.clone();
        for row in 0..x.shape.rows() {
            let (mean, rstd) = (stats.data[row * 2], stats.data[row * 2 + 1]);
            let xhat = |i: usize| (x.data[row * c + i] - mean) * rstd;
            let g = |i: usize| dout.data[row * c + i] * gamma.data[i];
            let s1 = (0..c).map(g).sum::<f64>() / c as f64;
            let s2 = (0..c).map(|i| g(i) * xhat(i)).sum::<f64>() / c as f64;
            for i in 0..c {
                dx.data[row * c + i] = rstd * (g(i) - s1 - xhat(i) * s2);
            }
        }
        vec![dx]
    }
}

impl Op for LayerNormParamGrad {
    fn name(&self) -> &'static str {
        "layer_norm_param_grad"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[1].shape.clone(), DType::F32), (inputs[1].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let x = l.input(0).shape.clone();
        let pieces = x.rows().div_ceil(CHUNK).max(1);
        let partial = l.scratch(pieces * x.last() * 2);
        let (xs, stats, dout) = (l.input_slot(0), l.input_slot(2), l.input_slot(3));
        let (dgamma, dbeta) = (l.output_slot(0), l.output_slot(1));
        l.kernel(shader!("layer_norm"))
            .value("stage", "params")
            .read("x", xs)
            .read("stats", stats)
            .read("dout", dout)
            .write("partial", partial)
            .u32("rows", x.rows())
            .u32("c", x.last())
            .u32("pieces", pieces)
            .u32("chunk", CHUNK)
            .linear((pieces * x.last()).div_ceil(32))?;
        l.kernel(shader!("layer_norm"))
            .value("stage", "join")
            .read("partial", partial)
            .write("dgamma", dgamma)
            .write("dbeta", dbeta)
            .u32("c", x.last())
            .u32("pieces", pieces)
            .linear(x.last().div_ceil(32))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, stats, dout) = (inputs[0], inputs[2], inputs[3]);
        let c = x.shape.last();
        let (mut dgamma, mut dbeta) = (Array::zeros([c]), Array::zeros([c]));
        for (i, d) in dout.data.iter().enumerate() {
            let row = i / c * 2;
            dgamma.data[i % c] += d * (x.data[i] - stats.data[row]) * stats.data[row + 1];
            dbeta.data[i % c] += d;
        }
        vec![dgamma, dbeta]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, c) in [(1usize, 1usize), (3, 5), (40, 12), (300, 40), (7, 129)] {
        let inputs = [Given::normal([rows, c]), Given::normal([c]), Given::normal([c])];
        // One value is its own mean: the gradient is zero divided by nothing but eps.
        let case = Case::new(LayerNorm { eps: 1e-5 }, inputs).primary(1);
        cases.push(if c > 1 { case.grads([0, 1, 2]) } else { case });
        let inputs =
            [Given::normal([rows, c]), Given::normal([c]), Given::Uniform([rows, 2].into(), 0.2, 1.5), Given::normal([rows, c])];
        cases.push(Case::new(LayerNormBackward, inputs.clone()));
        cases.push(Case::new(LayerNormParamGrad, inputs));
    }
    cases
}
