//! Group normalisation of a feature map that is never in memory at once: the moments of its strips of rows are merged,
//! then each strip is normalised by them. The result is that of [`super::GroupNorm`] over the whole map.

use super::group_norm_sizes::Dims;
use super::team::Team;
use super::{Activation, Case, Given, Graph, GroupNorm, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// Values per group: its first value, the mean minus that, the sum of squared distances to the mean, the count.
const MOMENTS: usize = 4;

/// Moments of every group of a strip.
#[derive(Clone, Debug)]
pub struct GroupNormMoments {
    /// Groups of channels.
    pub groups: usize,
}

/// Merged moments of two strips.
#[derive(Clone, Debug)]
pub struct MergeMoments;

/// Strip normalised by given moments.
#[derive(Clone, Debug)]
pub struct GroupNormApply {
    /// Groups of channels.
    pub groups: usize,
    /// Constant added to the variance.
    pub eps: f64,
    /// Applies SiLU to the result.
    pub silu: bool,
}

/// Records the moments of the strip x `[n, rows, w, c]`: `[n, groups, 4]`.
pub fn group_norm_moments(g: &mut Graph, x: Tensor, groups: usize) -> Result<Tensor> {
    g.push1(GroupNormMoments { groups }, &[x])
}

/// Records the merged moments of `a` and `b` (`[n, groups, 4]`).
pub fn merge_moments(g: &mut Graph, a: Tensor, b: Tensor) -> Result<Tensor> {
    g.push1(MergeMoments, &[a, b])
}

/// Normalises the strip x `[n, rows, w, c]` by `moments` `[n, groups, 4]` of the whole map; `gamma` and `beta` are
/// `[c]`.
#[allow(clippy::too_many_arguments, reason = "the operands of the op")]
pub fn group_norm_apply(
    g: &mut Graph,
    op: GroupNormApply,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    moments: Tensor,
) -> Result<Tensor> {
    g.push1(op, &[x, gamma, beta, moments])
}

impl Op for GroupNormMoments {
    fn name(&self) -> &'static str {
        "group_norm_moments"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [x] = inputs else { return Err(Error::op(self.name(), "takes x")) };
        let d = Dims::new(&x.shape, None, self.groups)?;
        if d.pixels == 0 {
            return Err(Error::op(self.name(), format!("x is {}: nothing to normalise by", x.shape)));
        }
        Ok(vec![([d.samples, self.groups, MOMENTS].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let d = Dims::new(&l.input(0).shape.clone(), None, self.groups)?;
        let (x, moments) = (l.input_slot(0), l.output_slot(0));
        let norm = GroupNorm { groups: self.groups, eps: 0.0, silu: false, x2: false };
        norm.launch_moments(l, &d, (x, None), moments, true)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = inputs[0];
        let Ok(d) = Dims::new(&x.shape, None, self.groups) else { return Vec::new() };
        let mut out = Array::zeros([d.samples, d.groups, MOMENTS]);
        let (c, per) = (d.channels(), d.channels() / d.groups);
        for n in 0..d.samples {
            for group in 0..d.groups {
                let value = |i: usize| x.data[(n * d.pixels + i / per) * c + group * per + i % per];
                let count = d.pixels * per;
                let mean = (0..count).map(value).sum::<f64>() / count as f64;
                let squares = (0..count).map(|i| (value(i) - mean).powi(2)).sum::<f64>();
                let at = (n * d.groups + group) * MOMENTS;
                out.data[at..at + MOMENTS].copy_from_slice(&[value(0), mean - value(0), squares, count as f64]);
            }
        }
        vec![out]
    }

    fn vjp(&self, _: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        Err(Error::op(self.name(), "has no gradient rule: bands are for inference"))
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        4 * inputs[0].shape.elements() as u64
    }
}

impl Op for MergeMoments {
    fn name(&self) -> &'static str {
        "merge_moments"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [a, b] = inputs else { return Err(Error::op(self.name(), "takes a and b")) };
        if a.shape != b.shape || a.shape.last() != MOMENTS {
            return Err(Error::op(self.name(), format!("a is {}, b is {}", a.shape, b.shape)));
        }
        Ok(vec![(a.shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (a, b, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        let count = l.input(0).shape.rows();
        let k = l.kernel(shader!("merge_moments")).read_as("a", a, true).read_as("b", b, true);
        k.write_as("out", out, true).u32("count", count).linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut out = inputs[0].clone();
        for (a, b) in out.data.chunks_exact_mut(MOMENTS).zip(inputs[1].data.chunks_exact(MOMENTS)) {
            let (count, d) = (a[3] + b[3], b[0] + b[1] - a[0] - a[1]);
            a[1] += d * b[3] / count;
            a[2] += b[2] + d * d * a[3] * b[3] / count;
            a[3] = count;
        }
        vec![out]
    }

    fn vjp(&self, _: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        Err(Error::op(self.name(), "has no gradient rule: bands are for inference"))
    }
}

impl Op for GroupNormApply {
    fn name(&self) -> &'static str {
        "group_norm_apply"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [x, gamma, beta, moments] = inputs else {
            return Err(Error::op(self.name(), "takes x, gamma, beta and moments"));
        };
        let d = Dims::new(&x.shape, None, self.groups)?;
        let wanted: Shape = [d.samples, self.groups, MOMENTS].into();
        if gamma.shape.elements() != d.channels() || beta.shape.elements() != d.channels() || moments.shape != wanted {
            let message =
                format!("x is {}, gamma {}, beta {}, moments {}", x.shape, gamma.shape, beta.shape, moments.shape);
            return Err(Error::op(self.name(), message));
        }
        Ok(vec![(x.shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let d = Dims::new(&l.input(0).shape.clone(), None, self.groups)?;
        let (x, gamma, beta, moments) = (l.input_slot(0), l.input_slot(1), l.input_slot(2), l.input_slot(3));
        let (y, vec, blocks) = (l.output_slot(0), d.width() == 4, d.apply_blocks(l.caps));
        let norm = GroupNorm { groups: self.groups, eps: self.eps, silu: self.silu, x2: false };
        let team = Team::choose(l.caps, blocks.count);
        let k = l.kernel(shader!("group_norm")).value("stage", "apply");
        let k = norm.values(k, &d, team).value("moments", true).read_as("x", x, vec);
        let k = k.read_as("gamma", gamma, vec).read_as("beta", beta, vec).read_as("stats", moments, true);
        let k = d.uniforms(k.write_as("y", y, vec), blocks).f32("eps", self.eps);
        k.linear(d.threads(blocks).div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, gamma, beta, moments) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let Ok(d) = Dims::new(&x.shape, None, self.groups) else { return Vec::new() };
        let mut y = x.clone();
        let (c, per) = (d.channels(), d.channels() / d.groups);
        for (i, value) in y.data.iter_mut().enumerate() {
            let (sample, channel) = (i / c / d.pixels.max(1), i % c);
            let m = &moments.data[(sample * d.groups + channel / per) * MOMENTS..][..MOMENTS];
            let z = (*value - m[0] - m[1]) / (m[2] / m[3] + self.eps).sqrt() * gamma.data[channel] + beta.data[channel];
            *value = if self.silu { Activation::Silu.value(z) } else { z };
        }
        vec![y]
    }

    fn vjp(&self, _: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        Err(Error::op(self.name(), "has no gradient rule: bands are for inference"))
    }

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        4 * outputs[0].shape.elements() as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, groups) in
        [([2usize, 3, 4, 8], 4usize), ([1, 1, 1, 6], 3), ([1, 20, 30, 8], 4), ([2, 7, 11, 5], 1), ([1, 300, 257, 4], 2)]
    {
        cases.push(Case::new(GroupNormMoments { groups }, [Given::normal(shape)]));
        let moments = Given::Uniform([shape[0], groups, MOMENTS].into(), 0.5, 2.0);
        cases.push(Case::new(MergeMoments, [moments.clone(), moments.clone()]));
        for silu in [false, true] {
            let op = GroupNormApply { groups, eps: 1e-6, silu };
            let inputs = [Given::normal(shape), Given::normal([shape[3]]), Given::normal([shape[3]]), moments.clone()];
            cases.push(Case::new(op, inputs));
        }
    }
    // A mean far above the spread.
    let x = Given::Uniform([1, 9, 40, 8].into(), 1000.0, 1001.0);
    cases.push(Case::new(GroupNormMoments { groups: 2 }, [x]));
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::graph::eval;

    /// Bands give what the whole map gives.
    #[test]
    fn bands_give_what_the_whole_gives() {
        let (n, h, w, c, groups, eps) = (2, 7, 3, 8, 4, 1e-6);
        let values = |count: usize, seed: usize| -> Vec<f64> {
            (0..count).map(|i| (((i + 3) * (seed + 7919)) % 1009) as f64 / 100.0 - 4.0).collect()
        };
        let x = Array::new([n, h, w, c], values(n * h * w * c, 1));
        let (gamma, beta) = (Array::new([c], values(c, 2)), Array::new([c], values(c, 3)));
        let whole = GroupNorm { groups, eps, silu: true, x2: false }.reference(&[&x, &gamma, &beta]).remove(0);
        let mut g = Graph::new();
        let mut given = HashMap::new();
        let (gamma_t, beta_t) = (g.input("gamma", [c], DType::F32), g.input("beta", [c], DType::F32));
        given.extend([(gamma_t, gamma), (beta_t, beta)]);
        let mut bands = Vec::new();
        for (first, rows) in [(0, 3), (3, 1), (4, 3)] {
            let band = |n: usize| &x.data[(n * h + first) * w * c..][..rows * w * c];
            let t = g.input(&format!("band {first}"), [n, rows, w, c], DType::F32);
            given.insert(t, Array::new([n, rows, w, c], (0..n).flat_map(|n| band(n).to_vec()).collect()));
            bands.push((t, first, rows));
        }
        let all = bands.iter().map(|b| group_norm_moments(&mut g, b.0, groups).unwrap()).collect::<Vec<_>>();
        let moments = all[1..].iter().fold(all[0], |a, b| merge_moments(&mut g, a, *b).unwrap());
        let op = GroupNormApply { groups, eps, silu: true };
        let outs: Vec<_> = (bands.iter())
            .map(|b| (group_norm_apply(&mut g, op.clone(), b.0, gamma_t, beta_t, moments).unwrap(), b.1, b.2))
            .collect();
        let results = eval(&g, given).unwrap();
        for (t, first, rows) in outs {
            for n in 0..n {
                let expected = &whole.data[(n * h + first) * w * c..][..rows * w * c];
                let got = &results[&t].data[n * rows * w * c..][..rows * w * c];
                for (a, b) in got.iter().zip(expected) {
                    assert!((a - b).abs() < 1e-12, "{a} instead of {b}");
                }
            }
        }
    }
}
