//! Group normalisation (Wu and He 2018, arXiv 1803.08494) over NHWC, optionally of two joined inputs and with SiLU.
//!
//! Statistics are f32: each column's block of rows is summed from a shift, its first value, and the blocks are joined
//! by the formula of Chan, Golub and LeVeque (1979). The mean is kept as its distance from the group's first value, so
//! that inputs whose mean is far above their spread lose nothing.

use super::group_norm_sizes::{Dims, joined};
use super::team::Team;
use super::{Activation, Case, Given, Graph, GroupNorm, GroupNormBackward, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::Access;
use crate::gpu::shader;
use crate::graph::{Launch, Op, Slot, TensorInfo, Vjp};

/// Normalises groups of channels: x `[n,h,w,c1]` (joined with x2 `[n,h,w,c2]`) -> [n,h,w,c1+c2].
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
            ([d.samples, self.groups, 4].into(), DType::F32),
        ])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let x2 = self.x2.then(|| l.input(1).shape.clone());
        let d = Dims::new(&l.input(0).shape.clone(), x2.as_ref(), self.groups)?;
        let next = usize::from(self.x2);
        let (x, x2, gamma, beta) =
            (l.input_slot(0), self.x2.then(|| l.input_slot(1)), l.input_slot(1 + next), l.input_slot(2 + next));
        let (y, stats) = (l.output_slot(0), l.output_slot(1));
        if d.walked_by_one_thread(l.caps) {
            return self.walk(l, &d, (x, x2), stats, Then::Apply { gamma, beta, y });
        }
        self.launch_moments(l, &d, (x, x2), stats, false)?;
        let vec = d.width() == 4;
        let blocks = d.apply_blocks(l.caps);
        let team = Team::choose(l.caps, blocks.count);
        let k = l.kernel(shader!("group_norm")).value("stage", "apply");
        let k = self.values(k, &d, team).read_as("x", x, vec);
        let k = if let Some(x2) = x2 { k.read_as("x2", x2, vec) } else { k };
        let k = k
            .read_as("gamma", gamma, vec)
            .read_as("beta", beta, vec)
            .read_as("stats", stats, true)
            .write_as("y", y, vec);
        d.uniforms(k, blocks).linear(d.threads(blocks).div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let next = usize::from(self.x2);
        let Ok(d) = Dims::new(&inputs[0].shape, self.x2.then(|| &inputs[1].shape), self.groups) else {
            return Vec::new();
        };
        let x = joined(inputs[0], self.x2.then(|| inputs[1]));
        let (gamma, beta) = (inputs[1 + next], inputs[2 + next]);
        let mut stats = Array::zeros([d.samples, d.groups, 4]);
        let mut y = x.clone();
        let (c, per) = (d.channels(), d.channels() / d.groups);
        for n in 0..d.samples {
            for group in 0..d.groups {
                let at = |i: usize| (n * d.pixels + i / per) * c + group * per + i % per;
                let count = d.count();
                let mean = (0..count).map(|i| x.data[at(i)]).sum::<f64>() / count as f64;
                let variance = (0..count).map(|i| (x.data[at(i)] - mean).powi(2)).sum::<f64>() / count as f64;
                let rstd = 1.0 / (variance + self.eps).sqrt();
                let first = x.data[at(0)];
                let at_group = (n * d.groups + group) * 4;
                stats.data[at_group..at_group + 3].copy_from_slice(&[first, mean - first, rstd]);
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
        let dx = v.needs(0) || (self.x2 && v.needs(1));
        let params = v.needs(1 + next) || v.needs(2 + next);
        let back = v.g.push(GroupNormBackward { forward: self.clone(), dx, params }, &operands)?;
        let (by_x, by_params) = back.split_at(if dx { 1 + next } else { 0 });
        grads.iter_mut().zip(by_x).for_each(|(g, t)| *g = Some(*t));
        grads[1 + next..].iter_mut().zip(by_params).for_each(|(g, t)| *g = Some(*t));
        Ok(grads)
    }

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        8 * outputs[0].shape.elements() as u64
    }
}

impl GroupNorm {
    /// Computes the statistics of every group into `stats`: as results of this op, or with `moments` as
    /// [`super::GroupNormMoments`] has them.
    pub(super) fn launch_moments(
        &self,
        l: &mut Launch,
        d: &Dims,
        (x, x2): (Slot, Option<Slot>),
        stats: Slot,
        moments: bool,
    ) -> Result<()> {
        if let Some(width) = d.small_group() {
            if d.is_walked(l.caps) {
                let then = if moments { Then::Moments } else { Then::Statistics };
                return self.walk(l, d, (x, x2), stats, then);
            }
            let team = Team::of_rows(l.caps, d.pixels);
            let k = l.kernel(shader!("group_norm")).value("stage", "group");
            let k = self.values(k, d, team).value("moments", moments).value("W", width);
            let k = k.value("PER", d.channels() / d.groups / width).read_as("x", x, width == 4);
            let k = if let Some(x2) = x2 { k.read_as("x2", x2, width == 4) } else { k };
            let k = k.write_as("stats", stats, true).u32("samples", d.samples).u32("rows", d.pixels);
            let k = k.u32("columns1", d.c1 / width).u32("columns2", d.c2 / width).u32("groups", d.groups);
            let k = k.u32("per", d.channels() / d.groups).f32("eps", self.eps);
            return k.linear(team.workgroups(d.samples * d.groups));
        }
        let (vec, blocks) = (d.width() == 4, d.sum_blocks());
        let partial = l.scratch(3 * d.samples * blocks.count * d.channels());
        let team = Team::choose(l.caps, blocks.count * d.channels() / d.groups);
        let k = l.kernel(shader!("group_norm")).value("stage", "partial");
        let k = self.values(k, d, team).read_as("x", x, vec);
        let k = if let Some(x2) = x2 { k.read_as("x2", x2, vec) } else { k };
        d.uniforms(k.write_as("partial", partial, vec), blocks).linear(d.threads(blocks).div_ceil(64))?;
        let k = l.kernel(shader!("group_norm")).value("stage", "join");
        let k = self.values(k, d, team).value("moments", moments);
        let k = k.read("partial", partial).write_as("stats", stats, true);
        d.uniforms(k, blocks).f32("eps", self.eps).linear(team.workgroups(d.samples * d.groups))
    }

    /// Computes the statistics of small groups by loops along their rows, on software drivers, and what is asked for then.
    fn walk(&self, l: &mut Launch, d: &Dims, (x, x2): (Slot, Option<Slot>), stats: Slot, then: Then) -> Result<()> {
        let (width, vectors) = d.walked();
        let (vec, team) = (width == 4, d.walkers(l.caps));
        let applies = matches!(then, Then::Apply { .. });
        let k = (l.kernel(shader!("group_norm")).value("stage", "walk").value("W", width))
            .value("TEAM", team.threads)
            .value("WG", team.workgroup)
            .value("applies", applies)
            .read_as("x", x, vec);
        let k = match x2 {
            Some(x2) => k.read_as("x2", x2, vec),
            None => k.absent("x2", DType::F32, vec, Access::ReadWrite),
        };
        let k = match then {
            Then::Apply { gamma, beta, y } => {
                let k = k.read_as("gamma", gamma, vec).read_as("beta", beta, vec).write_as("y", y, vec);
                k.u32("silu", usize::from(self.silu))
            }
            Then::Moments => k.u32("moments", 1),
            Then::Statistics => k.u32("moments", 0),
        };
        let k = k.write_as("stats", stats, true).u32("samples", d.samples).u32("rows", d.pixels);
        let k = k.u32("columns1", d.c1 / width).u32("columns2", d.c2 / width).u32("groups", d.groups);
        let k = k.u32("per", d.channels() / d.groups).u32("vectors", vectors).u32("passes", 2);
        k.f32("eps", self.eps).linear(team.workgroups(d.samples * d.groups))
    }
}

/// What follows the mean and the squares of a group that is walked.
enum Then {
    /// They are kept, with a count.
    Moments,
    /// They become this op's statistics.
    Statistics,
    /// The same, and this op's result with them.
    Apply {
        /// Factors of the channels.
        gamma: Slot,
        /// What is added to them.
        beta: Slot,
        /// The result.
        y: Slot,
    },
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, c2, groups) in [
        ([2usize, 3, 4, 8], 0usize, 4usize),
        ([1, 1, 1, 6], 0, 3),
        ([2, 5, 3, 12], 4, 8),
        ([1, 20, 30, 8], 8, 4),
        ([2, 2, 2, 5], 1, 3),
        ([3, 7, 11, 6], 3, 1),
        // Groups that reach across both sources, in scalars and in vectors; more rows than one thread of a CPU walks.
        ([2, 6, 6, 10], 14, 4),
        ([1, 8, 9, 12], 20, 2),
        ([1, 60, 70, 20], 12, 4),
        ([1, 40, 41, 64], 0, 2),
        // Lanes of one thread each on both sides of the sources' seam: together they walk as far as both.
        ([1, 37, 40, 64], 32, 3),
        // More channels in a group than a software driver has spelt out.
        ([2, 3, 4, 26], 13, 3),
        // At and beyond the rows that are walked at once.
        ([1, 128, 128, 4], 0, 2),
        ([1, 130, 257, 4], 0, 2),
    ] {
        for silu in [false, true] {
            let op = GroupNorm { groups, eps: 1e-5, silu, x2: c2 > 0 };
            let channels = shape[3] + c2;
            let mut inputs = vec![Given::normal(shape)];
            inputs.extend((c2 > 0).then(|| Given::normal([shape[0], shape[1], shape[2], c2])));
            inputs.extend([Given::normal([channels]), Given::normal([channels])]);
            let by: Vec<usize> = (0..inputs.len()).collect();
            cases.push(Case::new(op, inputs).grads(by).primary(1));
        }
    }
    // A mean far above the spread: what sums of squares, or a mean in one f32, would lose.
    for low in [100.0, -1000.0] {
        let op = GroupNorm { groups: 2, eps: 1e-5, silu: false, x2: true };
        let x = |c: usize| Given::Uniform([1, 9, 40, c].into(), low, low + 1.0);
        cases.push(Case::new(op, [x(8), x(4), Given::normal([12]), Given::normal([12])]));
    }
    // More workgroups than one dimension of a grid takes.
    let op = GroupNorm { groups: 1, eps: 1e-5, silu: false, x2: false };
    cases.push(Case::new(op, [Given::normal([840_000, 1, 1, 5]), Given::normal([5]), Given::normal([5])]));
    cases
}
