//! Norm of all gradients together, and the factor that clips it (torch.nn.utils.clip_grad_norm_).

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Values that one thread sums.
const CHUNK: usize = 512;
/// Threads of a workgroup.
const GROUP: usize = 32;

/// Operands: the gradients, then `max_norm` `[1]`; results the norm `[1]` and `min(1, max_norm / (norm + 1e-6))` `[1]`.
#[derive(Clone, Debug)]
pub struct ClipGradNorm;

/// Records the norm of `grads` together and the factor that scales it down to `max_norm`.
pub fn clip_grad_norm(g: &mut Graph, grads: &[Tensor], max_norm: Tensor) -> Result<(Tensor, Tensor)> {
    let mut operands = grads.to_vec();
    operands.push(max_norm);
    let results = g.push(ClipGradNorm, &operands)?;
    Ok((results[0], results[1]))
}

/// Norm and factor from the sum of all squares: operands `squares` `[1]` and `max_norm` `[1]`.
#[derive(Clone, Debug)]
pub struct ClipFactor;

/// Records the root of `squares` `[1]` and the factor that scales such a norm down to `max_norm`.
pub fn clip_factor(g: &mut Graph, squares: Tensor, max_norm: Tensor) -> Result<(Tensor, Tensor)> {
    let results = g.push(ClipFactor, &[squares, max_norm])?;
    Ok((results[0], results[1]))
}

impl Op for ClipFactor {
    fn name(&self) -> &'static str {
        "clip_factor"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        if inputs.len() != 2 || inputs.iter().any(|i| i.shape.elements() != 1) {
            return Err(Error::op(self.name(), "takes a sum of squares [1] and a largest norm [1]"));
        }
        Ok(vec![([1].into(), DType::F32), ([1].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (squares, max_norm) = (l.input_slot(0), l.input_slot(1));
        let (norm, clip) = (l.output_slot(0), l.output_slot(1));
        let k = l.kernel(shader!("clip_grad_norm")).value("stage", "join").read("partial", squares);
        let k = k.read("max_norm", max_norm).write("norm", norm).write("clip", clip);
        k.u32("pieces", 1).linear(1)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let norm = inputs[0].data[0].sqrt();
        let factor = (inputs[1].data[0] / (norm + 1e-6)).min(1.0);
        vec![Array::new([1], vec![norm]), Array::new([1], vec![factor])]
    }
}

impl Op for ClipGradNorm {
    fn name(&self) -> &'static str {
        "clip_grad_norm"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        if inputs.len() < 2 || inputs[inputs.len() - 1].shape.elements() != 1 {
            let shapes: Vec<String> = inputs.iter().map(|i| i.shape.to_string()).collect();
            return Err(Error::op(
                self.name(),
                format!("takes gradients and a largest norm [1], not {}", shapes.join(", ")),
            ));
        }
        Ok(vec![([1].into(), DType::F32), ([1].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let grads = l.input_count() - 1;
        let sizes: Vec<usize> = (0..grads).map(|i| l.input(i).shape.elements()).collect();
        let threads = |n: usize| n.div_ceil(GROUP * CHUNK) * GROUP;
        let mut pieces: usize = sizes.iter().map(|&n| threads(n)).sum();
        let mut partial = l.scratch(pieces);
        let mut first = 0;
        for (i, &n) in sizes.iter().enumerate() {
            let slot = l.input_slot(i);
            l.kernel(shader!("clip_grad_norm"))
                .value("stage", "partial")
                .read("grad", slot)
                .write("partial", partial)
                .u32("count", n)
                .u32("chunk", CHUNK)
                .u32("first", first)
                .u32("threads", threads(n))
                .linear(threads(n) / GROUP)?;
            first += threads(n);
        }
        while pieces > CHUNK {
            let fewer = pieces.div_ceil(CHUNK);
            let folded = l.scratch(fewer);
            l.kernel(shader!("clip_grad_norm"))
                .value("stage", "fold")
                .read("partial", partial)
                .write("folded", folded)
                .u32("count", pieces)
                .u32("threads", fewer)
                .linear(fewer.div_ceil(GROUP))?;
            (pieces, partial) = (fewer, folded);
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
    let case = |sizes: &[usize], largest: f64| {
        let mut inputs: Vec<Given> = sizes.iter().map(|&n| Given::normal([n])).collect();
        inputs.push(Given::Uniform([1].into(), largest / 2.0, largest));
        Case::new(ClipGradNorm, inputs)
    };
    vec![
        case(&[1], 0.2),
        case(&[3000, 77], 2.0),
        case(&[20], 200.0),
        case(&[GROUP * CHUNK - 1, 5, GROUP * CHUNK + 1], 1.0),
        // More partial sums than one thread joins, twice.
        case(&[GROUP * CHUNK * 20 + 3], 1.0),
        case(&[64; 40], 1e6),
        case(&[8_400_000], 1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `clip_grad_norm_([tensor([3., 4.]), tensor([12.])], 6.5)` returns 13 and leaves `[1.5, 2, 6]`.
    #[test]
    fn clips_as_torch_does() {
        let given = [vec![3.0, 4.0], vec![12.0], vec![6.5]].map(|x| Array::new([x.len()], x));
        let out = ClipGradNorm.reference(&given.iter().collect::<Vec<_>>());
        assert!((out[0].data[0] - 13.0).abs() < 1e-12);
        assert!((out[1].data[0] - 0.5).abs() < 1e-6);
        assert!(out[1].data[0] < 0.5, "torch adds 1e-6 to the norm");
    }
}
