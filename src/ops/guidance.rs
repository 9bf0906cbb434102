//! Guidance whose result keeps the spread of the prompt's own output (Lin et al. 2023, arXiv 2305.08891, section 3.4).

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Values that one thread sums.
const CHUNK: usize = 64;
/// Threads of a workgroup.
const GROUP: usize = 32;

/// Operands: the network's output `[2n, ..]`, without the prompt first, and `[scale, rescale]`; result `[n, ..]`.
#[derive(Clone, Debug)]
pub struct RescaledGuidance;

/// Records `rescale * g * std(c) / std(g) + (1 - rescale) * g` `[n, ..]` of `g = u + scale * (c - u)`, where `output`
/// `[2n, ..]` holds `u` and then `c`, and the standard deviations are over all but the first axis: diffusers'
/// `rescale_noise_cfg`. `guidance` `[2]` holds `scale` and `rescale`. A sample without spread keeps its values.
///
/// # Errors
/// [`Error::Op`] on operands of other shapes.
pub fn rescaled_guidance(g: &mut Graph, output: Tensor, guidance: Tensor) -> Result<Tensor> {
    g.push1(RescaledGuidance, &[output, guidance])
}

impl Op for RescaledGuidance {
    fn name(&self) -> &'static str {
        "rescaled_guidance"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let mut shape = inputs.first().map_or(Vec::new(), |output| output.shape.to_vec());
        let even = shape.first().is_some_and(|n| n % 2 == 0);
        if inputs.len() != 2 || !even || inputs[1].shape.elements() != 2 {
            let shapes: Vec<String> = inputs.iter().map(|i| i.shape.to_string()).collect();
            let problem = format!("takes outputs [2n, ..] and a scale with a rescale [2], not {}", shapes.join(", "));
            return Err(Error::op(self.name(), problem));
        }
        shape[0] /= 2;
        Ok(vec![(shape.into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (count, samples) = (l.output(0).shape.elements(), l.output(0).shape.to_vec()[0]);
        let each = count / samples;
        let threads = each.div_ceil(GROUP * CHUNK) * GROUP;
        let (output, guidance, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        let (partial, factor) = (l.scratch(4 * samples * threads), l.scratch(samples));
        l.kernel(shader!("guidance"))
            .value("stage", "sums")
            .read("output", output)
            .read("guidance", guidance)
            .write("partial", partial)
            .u32("count", count)
            .u32("samples", samples)
            .u32("each", each)
            .u32("threads", threads)
            .u32("chunk", CHUNK)
            .linear(samples * threads / GROUP)?;
        l.kernel(shader!("guidance"))
            .value("stage", "factor")
            .read("partial", partial)
            .read("guidance", guidance)
            .write("factor", factor)
            .u32("samples", samples)
            .u32("each", each)
            .u32("threads", threads)
            .linear(samples.div_ceil(GROUP))?;
        l.kernel(shader!("guidance"))
            .value("stage", "apply")
            .read("output", output)
            .read("guidance", guidance)
            .read("factor", factor)
            .write("out", out)
            .u32("count", count)
            .u32("each", each)
            .linear(count.div_ceil(GROUP))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (output, scale, rescale) = (inputs[0], inputs[1].data[0], inputs[1].data[1]);
        let mut shape = output.shape.to_vec();
        shape[0] /= 2;
        let (without, with_prompt) = output.data.split_at(output.data.len() / 2);
        let each = without.len() / shape[0];
        let sample = |(u, c): (&[f64], &[f64])| {
            let guided: Vec<f64> = u.iter().zip(c).map(|(u, c)| u + scale * (c - u)).collect();
            let spread = deviation(&guided);
            let ratio = if spread > 0.0 { deviation(c) / spread } else { 1.0 };
            guided.into_iter().map(move |g| g * (rescale * ratio + 1.0 - rescale))
        };
        let data = without.chunks(each).zip(with_prompt.chunks(each)).flat_map(sample).collect();
        vec![Array::new(shape, data)]
    }
}

/// Root of the sum of squared distances from the mean; the divisor of a standard deviation cancels in their ratio.
fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>().sqrt()
}

/// Test cases: less than a thread sums, several workgroups a sample, and full rescaling of one sample.
pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], guidance| Case::new(RescaledGuidance, [Given::normal(shape), guidance]);
    let drawn = |low, high| Given::Uniform([2].into(), low, high);
    vec![
        case([4, 3, 5, 2], drawn(0.3, 0.9)),
        case([6, 37, 29, 4], drawn(2.0, 7.0)),
        case([2, 8, 8, 4], Given::Uniform([2].into(), 1.0, 1.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of diffusers 0.42.1: `rescale_noise_cfg(u + 5 * (c - u), c, guidance_rescale=0.7)`.
    #[test]
    fn is_diffusers() {
        let output = Array::new([2, 1, 4], vec![0.5, -1.0, 0.25, 2.0, 1.0, -1.5, 0.75, 0.5]);
        let result = RescaledGuidance.reference(&[&output, &Array::new([2], vec![5.0, 0.7])]);
        let expected = [1.453659060, -1.695935570, 1.332520805, -2.665041611];
        for (got, expected) in result[0].data.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} against {expected}");
        }
        assert_eq!(*result[0].shape, [1, 1, 4][..]);
    }

    #[test]
    fn a_sample_without_spread_keeps_its_values() {
        let output = Array::new([2, 3], vec![0.5, 0.5, 0.5, 1.0, 1.0, 1.0]);
        let result = RescaledGuidance.reference(&[&output, &Array::new([2], vec![3.0, 1.0])]);
        assert_eq!(result[0].data, [2.0, 2.0, 2.0]);
    }
}
