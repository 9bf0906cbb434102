//! The norm of all gradients together, and the factor that clips it (torch.nn.utils.clip_grad_norm_).

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::graph::{Launch, Op, TensorInfo};
use crate::shader;

/// Elements that one thread sums up.
const CHUNK: usize = 512;

/// Operands: the gradients, then `max_norm` [1]; results the norm [1] and `min(1, max_norm / (norm + 1e-6))` [1].
#[derive(Clone, Debug)]
pub struct ClipGradNorm;

/// The norm of `grads` together and the factor that brings it down to `max_norm`.
pub fn clip_grad_norm(g: &mut Graph, grads: &[Tensor], max_norm: Tensor) -> Result<(Tensor, Tensor)> {
    let mut operands = grads.to_vec();
    operands.push(max_norm);
    let results = g.push(ClipGradNorm, &operands)?;
    Ok((results[0], results[1]))
}

impl Op for ClipGradNorm {
    fn name(&self) -> &'static str {
        "clip_grad_norm"
    }

    fn infer(&self, _: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![([1].into(), DType::F32), ([1].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let grads = l.input_count() - 1;
        let sizes: Vec<usize> = (0..grads).map(|i| l.input(i).shape.elements()).collect();
        let pieces: usize = sizes.iter().map(|n| n.div_ceil(CHUNK)).sum();
        let partial = l.scratch(pieces);
        let mut first = 0;
        for (i, &n) in sizes.iter().enumerate() {
            let slot = l.input_slot(i);
            let threads = n.div_ceil(CHUNK);
            l.kernel(shader!("clip_grad_norm"))
                .value("stage", "partial")
                .read("grad", slot)
                .write("partial", partial)
                .u32("count", n)
                .u32("chunk", CHUNK)
                .u32("first", first)
                .u32("threads", threads)
                .linear(threads.div_ceil(32))?;
            first += threads;
        }
        let (max_norm, norm, clip) = (l.input_slot(grads), l.output_slot(0), l.output_slot(1));
        l.kernel(shader!("clip_grad_norm"))
            .value("stage", "join")
            .read("partial", partial)
            .read("max_norm", max_norm)
            .write("norm", norm)
            .write("clip", clip)
            .u32("pieces", pieces)
            .linear(1)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Some((max_norm, grads)) = inputs.split_last() else { return Vec::new() };
        let norm = grads.iter().flat_map(|g| &g.data).map(|x| x * x).sum::<f64>().sqrt();
        let clip = (max_norm.data[0] / (norm + 1e-6)).min(1.0);
        vec![Array::new([1], vec![norm]), Array::new([1], vec![clip])]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(ClipGradNorm, [Given::normal([1]), Given::Uniform([1].into(), 0.1, 0.2)]),
        Case::new(ClipGradNorm, [Given::normal([3000]), Given::normal([77]), Given::Uniform([1].into(), 1.0, 2.0)]),
        Case::new(ClipGradNorm, [Given::normal([20]), Given::Uniform([1].into(), 100.0, 200.0)]),
    ]
}
