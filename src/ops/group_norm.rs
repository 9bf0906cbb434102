//! Group normalisation (Wu and He 2018, arXiv 1803.08494) over NHWC, optionally of two joined inputs and with SiLU.
//!
//! Statistics are f32, mean first and then the centred squares, in chunks of pixels that Chan's formula joins.

use super::{Activation, Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{KernelLaunch, Launch, Op, Slot, TensorInfo, Vjp};
use crate::shader;

/// Pixels that one thread sums up.
const CHUNK: usize = 256;

/// Operands `x` [n,h,w,c1], [`x2` [n,h,w,c2]], `gamma`, `beta` [c1+c2]; results y [n,h,w,c1+c2] and the statistics
/// [n, groups, 2] (mean, 1 / standard deviation).
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// SiLU behind it.
    pub silu: bool,
    /// A second source of channels.
    pub x2: bool,
}

/// Normalises groups of channels: x [n,h,w,c1] (joined with x2 [n,h,w,c2]) -> [n,h,w,c1+c2].
#[allow(clippy::too_many_arguments, reason = "the arguments of torch.nn.functional.group_norm, and the second input")]
pub fn group_norm(
    g: &mut Graph,
    x: Tensor,
    x2: Option<Tensor>,
    gamma: Tensor,
    beta: Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let mut operands = vec![x];
    operands.extend(x2);
    operands.extend([gamma, beta]);
    Ok(g.push(GroupNorm { groups, eps, silu, x2: x2.is_some() }, &operands)?[0])
}

/// Extents shared by forward and backward.
struct Dims {
    samples: usize,
    pixels: usize,
    c1: usize,
    c2: usize,
    groups: usize,
    chunks: usize,
}

impl Dims {
    fn new(x: &Shape, x2: Option<&Shape>, groups: usize) -> Result<Dims> {
        let (c1, c2) = (x.last(), x2.map_or(0, Shape::last));
        if x.len() < 2 || x2.is_some_and(|s| s.rows() != x.rows()) {
            let message = format!("x is {x}, x2 is {}", x2.map_or_else(|| "none".into(), Shape::to_string));
            return Err(Error::op("group_norm", message));
        }
        if groups == 0 || !(c1 + c2).is_multiple_of(groups) {
            return Err(Error::op("group_norm", format!("{groups} groups do not divide {} channels", c1 + c2)));
        }
        let pixels = x.rows() / x[0].max(1);
        Ok(Dims { samples: x[0], pixels, c1, c2, groups, chunks: pixels.div_ceil(CHUNK).max(1) })
    }

    fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        k.u32("samples", self.samples)
            .u32("pixels", self.pixels)
            .u32("c1", self.c1)
            .u32("c2", self.c2)
            .u32("groups", self.groups)
            .u32("chunks", self.chunks)
            .u32("chunk", CHUNK)
    }

    fn channels(&self) -> usize {
        self.c1 + self.c2
    }

    /// Values that a group of one sample has.
    fn count(&self) -> usize {
        self.pixels * self.channels() / self.groups
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let x2 = self.x2.then(|| &inputs[1].shape);
        let d = Dims::new(&inputs[0].shape, x2, self.groups)?;
        let (gamma, beta) = (&inputs[1 + usize::from(self.x2)].shape, &inputs[2 + usize::from(self.x2)].shape);
        if gamma.elements() != d.channels() || beta.elements() != d.channels() {
            let message = format!("gamma is {gamma}, beta {beta}, there are {} channels", d.channels());
            return Err(Error::op(self.name(), message));
        }
        Ok(vec![
            (inputs[0].shape.with_last(d.channels()), DType::F32),
            ([d.samples, self.groups, 2].into(), DType::F32),
        ])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let x2 = self.x2.then(|| l.input(1).shape.clone());
        let d = Dims::new(&l.input(0).shape.clone(), x2.as_ref(), self.groups)?;
        let next = usize::from(self.x2);
        let (x, x2, gamma, beta) =
            (l.input_slot(0), self.x2.then(|| l.input_slot(1)), l.input_slot(1 + next), l.input_slot(2 + next));
        let (y, stats) = (l.output_slot(0), l.output_slot(1));
        let partial = if d.chunks > 1 { l.scratch(d.samples * d.groups * d.chunks * 2) } else { stats };
        let threads = d.samples * d.groups * d.chunks;
        let k = l.kernel(shader!("group_norm")).value("stage", "partial").value("whole", d.chunks == 1);
        let k = sources(k.value("x2", self.x2), x, x2).write("partial", partial);
        d.uniforms(k).f32("eps", self.eps).linear(threads.div_ceil(64))?;
        if d.chunks > 1 {
            let k = l.kernel(shader!("group_norm")).value("stage", "join").value("x2", self.x2);
            let k = k.read("partial", partial).write("stats", stats);
            d.uniforms(k).f32("eps", self.eps).linear((d.samples * d.groups).div_ceil(64))?;
        }
        let vectors = d.c1.is_multiple_of(4) && d.c2.is_multiple_of(4);
        let threads = (d.samples * d.pixels * d.channels()).div_ceil(if vectors { 4 } else { 1 });
        let k = l.kernel(shader!("group_norm")).value("stage", "apply").value("x2", self.x2);
        let k = k.value("silu", self.silu).value("vec", vectors).read_as("x", x, vectors);
        let k = if let Some(x2) = x2 { k.read_as("x2", x2, vectors) } else { k };
        let k = k.read("gamma", gamma).read("beta", beta).read("stats", stats).write_as("y", y, vectors);
        d.uniforms(k).u32("threads", threads).linear(threads.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let next = usize::from(self.x2);
        let Ok(d) = Dims::new(&inputs[0].shape, self.x2.then(|| &inputs[1].shape), self.groups) else { return Vec::new() };
        let x = joined(inputs[0], self.x2.then(|| inputs[1]));
        let (gamma, beta) = (inputs[1 + next], inputs[2 + next]);
        let mut stats = Array::zeros([d.samples, d.groups, 2]);
        let mut y = x.clone();
        let (c, per) = (d.channels(), d.channels() / d.groups);
        for n in 0..d.samples {
            for group in 0..d.groups {
                let at = |i: usize| (n * d.pixels + i / per) * c + group * per + i % per;
                let count = d.count();
                let mean = (0..count).map(|i| x.data[at(i)]).sum::<f64>() / count as f64;
                let variance = (0..count).map(|i| (x.data[at(i)] - mean).powi(2)).sum::<f64>() / count as f64;
                let rstd = 1.0 / (variance + self.eps).sqrt();
                stats.data[(n * d.groups + group) * 2] = mean;
                stats.data[(n * d.groups + group) * 2 + 1] = rstd;
                for i in 0..count {
                    let channel = group * per + i % per;
                    let z = (x.data[at(i)] - mean) * rstd * gamma.data[channel] + beta.data[channel];
                    y.data[at(i)] = if self.silu { Activation::Silu.value(z) } else { z };
                }
            }
        }
        vec![y, stats]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let next = usize::from(self.x2);
        let dout = v.grad()?;
        let mut operands = v.inputs.clone();
        operands.extend([v.outputs[1], dout]);
        let mut grads = vec![None; v.inputs.len()];
        if v.needs(0) || (self.x2 && v.needs(1)) {
            let back = v.g.push(GroupNormBackward { forward: self.clone() }, &operands)?;
            for (i, gradient) in back.into_iter().enumerate() {
                grads[i] = Some(gradient);
            }
        }
        if v.needs(1 + next) || v.needs(2 + next) {
            let back = v.g.push(GroupNormParamGrad { forward: self.clone() }, &operands)?;
            grads[1 + next] = Some(back[0]);
            grads[2 + next] = Some(back[1]);
        }
        Ok(grads)
    }

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        8 * outputs[0].shape.elements() as u64
    }
}

fn sources<'l, 'a>(k: KernelLaunch<'l, 'a>, x: Slot, x2: Option<Slot>) -> KernelLaunch<'l, 'a> {
    let k = k.read("x", x);
    if let Some(x2) = x2 { k.read("x2", x2) } else { k }
}

/// The channels of both, side by side.
fn joined(x: &Array, x2: Option<&Array>) -> Array {
    let Some(x2) = x2 else { return x.clone() };
    let (c1, c2) = (x.shape.last(), x2.shape.last());
    let mut data = Vec::with_capacity(x.data.len() + x2.data.len());
    for (a, b) in x.data.chunks(c1).zip(x2.data.chunks(c2)) {
        data.extend_from_slice(a);
        data.extend_from_slice(b);
    }
    Array::new(x.shape.with_last(c1 + c2), data)
}

/// The gradient by x (and x2). Operands: the forward's, its statistics, dout.
#[derive(Clone, Debug)]
pub struct GroupNormBackward {
    /// The forward op.
    pub forward: GroupNorm,
}

/// The gradient by gamma and beta. Operands: the forward's, its statistics, dout.
#[derive(Clone, Debug)]
pub struct GroupNormParamGrad {
    /// The forward op.
    pub forward: GroupNorm,
}

/// What both backward ops compute per element, in f64: normalised value and gradient by the affine result.
fn backward_parts(f: &GroupNorm, inputs: &[&Array]) -> Option<(Dims, Vec<f64>, Vec<f64>)> {
    let next = usize::from(f.x2);
    let d = Dims::new(&inputs[0].shape, f.x2.then(|| &inputs[1].shape), f.groups).ok()?;
    let x = joined(inputs[0], f.x2.then(|| inputs[1]));
    let (gamma, beta, stats, dout) = (inputs[1 + next], inputs[2 + next], inputs[3 + next], inputs[4 + next]);
    let (c, per) = (d.channels(), d.channels() / d.groups);
    let (mut xhat, mut dz) = (vec![0.0; x.data.len()], vec![0.0; x.data.len()]);
    for i in 0..x.data.len() {
        let (n, channel) = (i / (d.pixels * c), i % c);
        let s = (n * d.groups + channel / per) * 2;
        xhat[i] = (x.data[i] - stats.data[s]) * stats.data[s + 1];
        let z = xhat[i] * gamma.data[channel] + beta.data[channel];
        dz[i] = dout.data[i] * if f.silu { Activation::Silu.derivative(z) } else { 1.0 };
    }
    Some((d, xhat, dz))
}

impl Op for GroupNormBackward {
    fn name(&self) -> &'static str {
        "group_norm_backward"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(inputs[..1 + usize::from(self.forward.x2)].iter().map(|i| (i.shape.clone(), DType::F32)).collect())
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let f = &self.forward;
        let next = usize::from(f.x2);
        let shape2 = f.x2.then(|| l.input(1).shape.clone());
        let d = Dims::new(&l.input(0).shape.clone(), shape2.as_ref(), f.groups)?;
        let slots: Vec<Slot> = (0..l.input_count()).map(|i| l.input_slot(i)).collect();
        let x2 = f.x2.then(|| slots[1]);
        let partial = l.scratch(d.samples * d.groups * d.chunks * 2);
        let sums = if d.chunks > 1 { l.scratch(d.samples * d.groups * 2) } else { partial };
        let (dx, dx2) = (l.output_slot(0), f.x2.then(|| l.output_slot(1)));
        let bind = |k| {
            let k: KernelLaunch = sources(k, slots[0], x2);
            k.read("gamma", slots[1 + next])
                .read("beta", slots[2 + next])
                .read("stats", slots[3 + next])
                .read("dout", slots[4 + next])
        };
        let k = l.kernel(shader!("group_norm_bwd")).value("stage", "partial").value("x2", f.x2).value("silu", f.silu);
        let threads = d.samples * d.groups * d.chunks;
        d.uniforms(bind(k).write("sums", partial)).linear(threads.div_ceil(64))?;
        if d.chunks > 1 {
            let k = l.kernel(shader!("group_norm_bwd")).value("stage", "join").value("x2", f.x2).value("silu", f.silu);
            let k = k.read("partial", partial).write("sums", sums);
            d.uniforms(k).linear((d.samples * d.groups).div_ceil(64))?;
        }
        // One pass for each source: a dispatch that wrote both would bind nine buffers.
        for (second, out) in [(false, Some(dx)), (true, dx2)] {
            let Some(out) = out else { continue };
            let channels = if second { d.c2 } else { d.c1 };
            let threads = d.samples * d.pixels * channels;
            let k = l.kernel(shader!("group_norm_bwd")).value("stage", "apply").value("x2", false).value("silu", f.silu);
            let k = k
                .read("x", if second { slots[1] } else { slots[0] })
                .read("gamma", slots[1 + next])
                .read("beta", slots[2 + next])
                .read("stats", slots[3 + next])
                .read("dout", slots[4 + next])
                .read("sums", sums)
                .write("dx", out);
            d.uniforms(k)
                .u32("width", channels)
                .u32("first", if second { d.c1 } else { 0 })
                .u32("threads", threads)
                .linear(threads.div_ceil(64))?;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let next = usize::from(self.forward.x2);
        let Some((d, xhat, dz)) = backward_parts(&self.forward, inputs) else { return Vec::new() };
        let (gamma, stats) = (inputs[1 + next], inputs[3 + next]);
        let (c, per) = (d.channels(), d.channels() / d.groups);
        let mut dx = vec![0.0; xhat.len()];
        for n in 0..d.samples {
            for group in 0..d.groups {
                let at = |i: usize| (n * d.pixels + i / per) * c + group * per + i % per;
                let g = |i: usize| dz[at(i)] * gamma.data[group * per + i % per];
                let count = d.count();
                let s1 = (0..count).map(g).sum::<f64>() / count as f64;
                let s2 = (0..count).map(|i| g(i) * xhat[at(i)]).sum::<f64>() / count as f64;
                let rstd = stats.data[(n * d.groups + group) * 2 + 1];
                for i in 0..count {
                    dx[at(i)] = rstd * (g(i) - s1 - xhat[at(i)] * s2);
                }
            }
        }
        let split = |first: usize, width: usize, shape: &Shape| {
            let data = dx.chunks(c).flat_map(|row| row[first..first + width].to_vec()).collect();
            Array::new(shape.clone(), data)
        };
        let mut results = vec![split(0, d.c1, &inputs[0].shape)];
        results.extend(self.forward.x2.then(|| split(d.c1, d.c2, &inputs[1].shape)));
        results
    }
}

impl Op for GroupNormParamGrad {
    fn name(&self) -> &'static str {
        "group_norm_param_grad"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let gamma = &inputs[1 + usize::from(self.forward.x2)].shape;
        Ok(vec![(gamma.clone(), DType::F32), (gamma.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let f = &self.forward;
        let next = usize::from(f.x2);
        let shape2 = f.x2.then(|| l.input(1).shape.clone());
        let d = Dims::new(&l.input(0).shape.clone(), shape2.as_ref(), f.groups)?;
        let slots: Vec<Slot> = (0..l.input_count()).map(|i| l.input_slot(i)).collect();
        // Partial sums per chunk of rows and channel, joined by a second pass: gamma's first, then beta's.
        let rows = d.samples * d.pixels;
        let pieces = rows.div_ceil(CHUNK).max(1);
        let partial = l.scratch(pieces * d.channels() * 2);
        let (dgamma, dbeta) = (l.output_slot(0), l.output_slot(1));
        let k = l.kernel(shader!("group_norm_bwd")).value("stage", "params").value("x2", f.x2).value("silu", f.silu);
        let k = sources(k, slots[0], f.x2.then(|| slots[1]))
            .read("gamma", slots[1 + next])
            .read("beta", slots[2 + next])
            .read("stats", slots[3 + next])
            .read("dout", slots[4 + next])
            .write("sums", partial);
        d.uniforms(k).u32("pieces", pieces).linear((pieces * d.channels()).div_ceil(64))?;
        let k = l.kernel(shader!("group_norm_bwd")).value("stage", "join_params").value("x2", f.x2).value("silu", f.silu);
        let k = k.read("partial", partial).write("dgamma", dgamma).write("dbeta", dbeta);
        d.uniforms(k).u32("pieces", pieces).linear(d.channels().div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let Some((d, xhat, dz)) = backward_parts(&self.forward, inputs) else { return Vec::new() };
        let c = d.channels();
        let (mut dgamma, mut dbeta) = (Array::zeros([c]), Array::zeros([c]));
        for i in 0..xhat.len() {
            dgamma.data[i % c] += dz[i] * xhat[i];
            dbeta.data[i % c] += dz[i];
        }
        vec![dgamma, dbeta]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, c2, groups) in
        [([2usize, 3, 4, 8], 0usize, 4usize), ([1, 1, 1, 6], 0, 3), ([2, 5, 3, 12], 4, 8), ([1, 20, 30, 8], 8, 4), ([2, 2, 2, 5], 1, 3)]
    {
        for silu in [false, true] {
            let op = GroupNorm { groups, eps: 1e-5, silu, x2: c2 > 0 };
            let channels = shape[3] + c2;
            let mut inputs = vec![Given::normal(shape)];
            let second = [shape[0], shape[1], shape[2], c2];
            inputs.extend((c2 > 0).then(|| Given::normal(second)));
            inputs.extend([Given::normal([channels]), Given::normal([channels])]);
            let by: Vec<usize> = (0..inputs.len()).collect();
            cases.push(Case::new(op.clone(), inputs.clone()).grads(by).primary(1));
            inputs.push(Given::Uniform([shape[0], groups, 2].into(), 0.2, 1.5));
            inputs.push(Given::normal([shape[0], shape[1], shape[2], channels]));
            cases.push(Case::new(GroupNormBackward { forward: op.clone() }, inputs.clone()));
            cases.push(Case::new(GroupNormParamGrad { forward: op }, inputs));
        }
    }
    // A mean far above the spread: what sums of squares would lose.
    let op = GroupNorm { groups: 2, eps: 1e-5, silu: false, x2: false };
    let inputs = [Given::Uniform([1, 9, 40, 8].into(), 100.0, 101.0), Given::normal([8]), Given::normal([8])];
    cases.push(Case::new(op, inputs).tolerance(1e-4));
    cases
}
