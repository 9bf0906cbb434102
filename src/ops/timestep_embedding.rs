//! Sinusoidal embedding of timesteps, as diffusers' `get_timestep_embedding` has it (Ho et al. 2020, arXiv 2006.11239).

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// Sines and cosines of `t` times `dim / 2` frequencies that fall geometrically from 1 to (about) 1/10000.
#[derive(Clone, Debug)]
pub struct TimestepEmbedding {
    /// Width of the embedding.
    pub dim: usize,
    /// Cosines first (as Stable Diffusion's UNet has it), else sines first.
    pub flip_sin_to_cos: bool,
    /// diffusers' `downscale_freq_shift`: the exponent is `-ln(10000) i / (dim / 2 - freq_shift)`.
    pub freq_shift: f64,
}

/// `t [B]` (at least 0, fractions allowed) `-> [B, dim]`.
pub fn timestep_embedding(
    g: &mut Graph,
    t: Tensor,
    dim: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
) -> Result<Tensor> {
    g.push1(TimestepEmbedding { dim, flip_sin_to_cos, freq_shift }, &[t])
}

impl TimestepEmbedding {
    /// The frequencies in f32, with the roundings that diffusers' f32 arithmetic gives them.
    fn frequencies(&self) -> Vec<f32> {
        let half = self.dim / 2;
        let (top, below) = (-(10000f64.ln()) as f32, (half as f64 - self.freq_shift) as f32);
        (0..half).map(|i| (top * i as f32 / below).exp()).collect()
    }
}

impl Op for TimestepEmbedding {
    fn name(&self) -> &'static str {
        "timestep_embedding"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let t = inputs[0];
        if t.shape.len() != 1 || self.dim == 0 || (self.dim / 2) as f64 <= self.freq_shift {
            let message = format!("t is {}, the width {}, the shift {}", t.shape, self.dim, self.freq_shift);
            return Err(Error::op(self.name(), message));
        }
        Ok(vec![([t.shape[0], self.dim].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        // Turns a unit of t, in units of 2^-32: multiplied by a whole t modulo 2^32, they are reduced exactly.
        let turns: Vec<u32> = (self.frequencies().iter())
            .map(|&f| (f64::from(f) / std::f64::consts::TAU * 4294967296.0).round() as u32)
            .collect();
        let count = l.output(0).shape.elements();
        let (t, out) = (l.input_slot(0), l.output_slot(0));
        l.kernel(shader!("timestep_embedding"))
            .read("t", t)
            .write("out", out)
            .u32("count", count)
            .u32("dim", self.dim)
            .u32("flip", usize::from(self.flip_sin_to_cos))
            .table(turns)
            .linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let frequencies = self.frequencies();
        let mut out = Array::zeros([inputs[0].data.len(), self.dim]);
        for (row, &t) in out.data.chunks_mut(self.dim).zip(&inputs[0].data) {
            let half = frequencies.len();
            for (i, &f) in frequencies.iter().enumerate() {
                let (sin, cos) = (t * f64::from(f)).sin_cos();
                (row[i], row[half + i]) = if self.flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
            }
        }
        vec![out]
    }

    fn vjp(&self, _: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        Err(Error::op(self.name(), "has no gradient rule: timesteps are not trained"))
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dim, freq_shift) in [(2usize, 0.0), (7, 0.0), (24, 1.0), (320, 0.0)] {
        for flip_sin_to_cos in [false, true] {
            let op = TimestepEmbedding { dim, flip_sin_to_cos, freq_shift };
            cases.push(Case::new(op.clone(), [Given::Uniform([1].into(), 0.0, 1.0)]));
            // Sizes of images may be negative where a crop begins outside: the kernel counts turns modulo 2^32.
            cases.push(Case::new(op, [Given::Uniform([40].into(), -1000.0, 1000.0)]));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `diffusers.models.embeddings.get_timestep_embedding(torch.tensor([0., 1., 500.25, 999.]), 8, ...)`.
    #[test]
    fn agrees_with_diffusers() {
        let t = Array::new([4], vec![0.0, 1.0, 500.25, 999.0]);
        for (flip_sin_to_cos, freq_shift, expected) in DIFFUSERS {
            let op = TimestepEmbedding { dim: 8, flip_sin_to_cos, freq_shift };
            let got = op.reference(&[&t]).remove(0);
            for (g, e) in got.data.iter().zip(expected) {
                assert!((g - e).abs() < 4e-5, "{g} {e}");
            }
            let wrong = TimestepEmbedding { dim: 8, flip_sin_to_cos: !flip_sin_to_cos, freq_shift };
            let got = wrong.reference(&[&t]).remove(0);
            assert!(got.data.iter().zip(expected).any(|(g, e)| (g - e).abs() > 1e-2));
        }
    }

    const DIFFUSERS: [(bool, f64, [f64; 32]); 2] = [
        (
            true,
            0.0,
            [
                1.0000000, 1.0000000, 1.0000000, 1.0000000, 0.0000000, 0.0000000, 0.0000000, 0.0000000, 0.5403023,
                0.9950042, 0.9999500, 0.9999995, 0.8414710, 0.0998334, 0.0099998, 0.0010000, -0.7406439, 0.9712226,
                0.2860587, 0.8774627, -0.6718977, -0.2381735, -0.9582121, 0.4796449, 0.9996498, 0.8074551, -0.8444698,
                0.5411435, -0.0264608, -0.5899291, -0.5356032, 0.8409302,
            ],
        ),
        (
            false,
            1.0,
            [
                0.0000000, 0.0000000, 0.0000000, 0.0000000, 1.0000000, 1.0000000, 1.0000000, 1.0000000, 0.8414710,
                0.0463992, 0.0021544, 0.0001000, 0.5403023, 0.9989229, 0.9999977, 1.0000000, -0.6718977, -0.9419530,
                0.8808979, 0.0500041, -0.7406439, -0.3357447, 0.4733062, 0.9987490, -0.0264608, 0.6848614, 0.8356485,
                0.0997339, 0.9996498, -0.7286733, -0.5492647, 0.9950141,
            ],
        ),
    ];
}
