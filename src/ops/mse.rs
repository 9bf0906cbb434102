//! Weighted mean squared error, per sample.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// Elements that one thread sums.
const CHUNK: usize = 256;

/// Operands `pred`, `target` [n, ..], `weights` `[n]`; results `sum_i weights[i] * mse_i` `[1]` and `mse_i` `[n]`.
#[derive(Clone, Debug)]
pub struct WeightedMse;

/// Gradient by `pred`. Operands pred, target, weights, gradient of the total.
#[derive(Clone, Debug)]
pub struct WeightedMseBackward;

/// Records the weighted sum of each sample's mean squared error `[1]`, and those errors `[n]`.
pub fn weighted_mse(g: &mut Graph, pred: Tensor, target: Tensor, weights: Tensor) -> Result<(Tensor, Tensor)> {
    let results = g.push(WeightedMse, &[pred, target, weights])?;
    Ok((results[0], results[1]))
}

fn per_sample(shape: &Shape) -> usize {
    shape.elements() / shape.first().copied().unwrap_or(1).max(1)
}

impl Op for WeightedMse {
    fn name(&self) -> &'static str {
        "weighted_mse"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let (pred, target, weights) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
        if pred != target || pred.is_empty() || weights.elements() != pred[0] {
            return Err(Error::op(self.name(), format!("pred is {pred}, target {target}, weights {weights}")));
        }
        Ok(vec![([1].into(), DType::F32), ([pred[0]].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let shape = l.input(0).shape.clone();
        let (n, each) = (shape[0], per_sample(&shape));
        let chunks = each.div_ceil(CHUNK).max(1);
        let partial = l.scratch(n * chunks);
        let (pred, target, weights) = (l.input_slot(0), l.input_slot(1), l.input_slot(2));
        let (total, errors) = (l.output_slot(0), l.output_slot(1));
        l.kernel(shader!("mse"))
            .value("stage", "partial")
            .read("pred", pred)
            .read("aim", target)
            .write("partial", partial)
            .u32("n", n)
            .u32("each", each)
            .u32("chunks", chunks)
            .u32("chunk", CHUNK)
            .linear((n * chunks).div_ceil(32))?;
        l.kernel(shader!("mse"))
            .value("stage", "join")
            .read("partial", partial)
            .read("weights", weights)
            .write("total", total)
            .write("errors", errors)
            .u32("n", n)
            .u32("each", each)
            .u32("chunks", chunks)
            .linear(1)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (pred, target, weights) = (inputs[0], inputs[1], inputs[2]);
        let each = per_sample(&pred.shape);
        let errors: Vec<f64> = (pred.data.chunks(each).zip(target.data.chunks(each)))
            .map(|(p, t)| p.iter().zip(t).map(|(p, t)| (p - t).powi(2)).sum::<f64>() / each as f64)
            .collect();
        let total = errors.iter().zip(&weights.data).map(|(e, w)| e * w).sum();
        vec![Array::new([1], vec![total]), Array::new([errors.len()], errors)]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let operands = [v.inputs[0], v.inputs[1], v.inputs[2], v.grad()?];
        Ok(vec![Some(v.g.push1(WeightedMseBackward, &operands)?), None, None])
    }
}

impl Op for WeightedMseBackward {
    fn name(&self) -> &'static str {
        "weighted_mse_backward"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let shape = l.input(0).shape.clone();
        let (pred, target, weights, dtotal, out) =
            (l.input_slot(0), l.input_slot(1), l.input_slot(2), l.input_slot(3), l.output_slot(0));
        l.kernel(shader!("mse"))
            .value("stage", "backward")
            .read("pred", pred)
            .read("aim", target)
            .read("weights", weights)
            .read("dtotal", dtotal)
            .write("dpred", out)
            .u32("count", shape.elements())
            .u32("each", per_sample(&shape))
            .linear(shape.elements().div_ceil(32))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (pred, target, weights, dtotal) = (inputs[0], inputs[1], inputs[2], inputs[3].data[0]);
        let each = per_sample(&pred.shape);
        let mut out = pred.clone();
        for (i, (o, t)) in out.data.iter_mut().zip(&target.data).enumerate() {
            *o = 2.0 * (*o - t) / each as f64 * weights.data[i / each] * dtotal;
        }
        vec![out]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[1usize, 1], [3, 7], [2, 900]] {
        let weights = Given::Uniform([shape[0]].into(), 0.1, 2.0);
        let inputs = [Given::normal(shape), Given::normal(shape), weights];
        cases.push(Case::new(WeightedMse, inputs.clone()).grads([0]).primary(1));
        let mut inputs = inputs.to_vec();
        inputs.push(Given::normal([1]));
        cases.push(Case::new(WeightedMseBackward, inputs));
    }
    cases
}
