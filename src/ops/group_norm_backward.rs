//! Gradients of group norm from its saved statistics: by the inputs and, if they are trained, by gamma and beta.

use super::group_norm_sizes::{Dims, joined};
use super::reduce::launch_sum_rows;
use super::team::Team;
use super::{Activation, Case, Given, GroupNorm, Result};
use crate::base::{Array, DType, Shape};
use crate::gpu::shader;
use crate::graph::{KernelLaunch, Launch, Op, Slot, TensorInfo};

/// Operands: the forward's (x, `[x2]`, gamma, beta), its statistics, dout. Results: dx, `[dx2]` if `dx`; dgamma, dbeta
/// if `params`.
#[derive(Clone, Debug)]
pub struct GroupNormBackward {
    /// The forward op.
    pub forward: GroupNorm,
    /// Computes the gradients by x and x2.
    pub dx: bool,
    /// Computes the gradients by gamma and beta.
    pub params: bool,
}

impl GroupNormBackward {
    fn dims(&self, x: &Shape, x2: &Shape) -> Result<Dims> {
        Dims::new(x, self.forward.x2.then_some(x2), self.forward.groups)
    }

    /// Binds all operands, with `stats` for the statistics.
    fn sources<'l, 'a>(&self, k: KernelLaunch<'l, 'a>, slots: &[Slot], stats: Slot, vec: bool) -> KernelLaunch<'l, 'a> {
        let next = usize::from(self.forward.x2);
        let k = k.read_as("x", slots[0], vec);
        let k = if next > 0 { k.read_as("x2", slots[1], vec) } else { k };
        let k = k.read_as("gamma", slots[1 + next], vec).read_as("beta", slots[2 + next], vec);
        k.read_as("stats", stats, true).read_as("dout", slots[4 + next], vec)
    }
}

impl Op for GroupNormBackward {
    fn name(&self) -> &'static str {
        "group_norm_backward"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let next = usize::from(self.forward.x2);
        let mut like = Vec::new();
        if self.dx {
            like.extend(0..=next);
        }
        if self.params {
            like.extend([1 + next, 2 + next]);
        }
        Ok(like.into_iter().map(|i| (inputs[i].shape.clone(), DType::F32)).collect())
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let f = &self.forward;
        let next = usize::from(f.x2);
        let d = self.dims(&l.input(0).shape, &l.input(1).shape)?;
        let vec = d.width() == 4;
        let slots: Vec<Slot> = (0..l.input_count()).map(|i| l.input_slot(i)).collect();
        let blocks = d.sum_blocks();
        let sums = d.samples * blocks.count * d.channels();
        let (dz, dz_xhat) = (l.scratch(sums), l.scratch(sums));
        let team = Team::choose(l.caps, blocks.count * d.channels() / d.groups);

        let k = l.kernel(shader!("group_norm_bwd")).value("stage", "sums");
        let k = f.values(k, &d, team);
        let k = self.sources(k, &slots, slots[3 + next], vec).write_as("dz", dz, vec).write_as("dz_xhat", dz_xhat, vec);
        d.uniforms(k, blocks).linear(d.threads(blocks).div_ceil(64))?;

        if self.dx {
            let groups = d.samples * d.groups;
            let with_means = l.scratch(8 * groups);
            let k = f.values(l.kernel(shader!("group_norm_bwd")).value("stage", "join"), &d, team);
            let k = k.read("gamma", slots[1 + next]).read("dz", dz).read("dz_xhat", dz_xhat);
            let k = k.read_as("stats", slots[3 + next], true).write_as("with_means", with_means, true);
            d.uniforms(k, blocks).linear(team.workgroups(groups))?;
            let (dx, dx2) = (l.output_slot(0), f.x2.then(|| l.output_slot(1)));
            let blocks = d.apply_blocks(l.caps);
            let k = l.kernel(shader!("group_norm_bwd")).value("stage", "apply");
            let k = f.values(k, &d, team);
            let k = self.sources(k, &slots, with_means, vec).write_as("dx", dx, vec);
            let k = if let Some(dx2) = dx2 { k.write_as("dx2", dx2, vec) } else { k };
            d.uniforms(k, blocks).linear(d.threads(blocks).div_ceil(64))?;
        }
        if self.params {
            let first = if self.dx { 1 + next } else { 0 };
            let extents = (1, d.samples * blocks.count, d.channels());
            for (i, sums) in [dz_xhat, dz].into_iter().enumerate() {
                let out = l.output_slot(first + i);
                launch_sum_rows(l, sums, out, extents)?;
            }
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let f = &self.forward;
        let next = usize::from(f.x2);
        let Ok(d) = self.dims(&inputs[0].shape, &inputs[1].shape) else { return Vec::new() };
        let x = joined(inputs[0], f.x2.then(|| inputs[1]));
        let (gamma, beta, stats, dout) = (inputs[1 + next], inputs[2 + next], inputs[3 + next], inputs[4 + next]);
        let (c, per) = (d.channels(), d.channels() / d.groups);
        let group = |i: usize| i / (d.pixels * c) * d.groups + i % c / per;
        let rstd = |i: usize| stats.data[group(i) * 4 + 2];
        let (mut dz, mut xhat) = (dout.data.clone(), x.data.clone());
        // Sums of the gradient by xhat, and of it times xhat, by group.
        let mut sums = vec![[0.0; 2]; d.samples * d.groups];
        let mut params = [Array::zeros([c]), Array::zeros([c])];
        for i in 0..x.data.len() {
            let mean = stats.data[group(i) * 4] + stats.data[group(i) * 4 + 1];
            xhat[i] = (x.data[i] - mean) * rstd(i);
            let z = xhat[i] * gamma.data[i % c] + beta.data[i % c];
            dz[i] *= if f.silu { Activation::Silu.derivative(z) } else { 1.0 };
            sums[group(i)][0] += dz[i] * gamma.data[i % c];
            sums[group(i)][1] += dz[i] * gamma.data[i % c] * xhat[i];
            params[0].data[i % c] += dz[i] * xhat[i];
            params[1].data[i % c] += dz[i];
        }
        let count = (d.pixels * per) as f64;
        let by_x = |i: usize| {
            let [s1, s2] = sums[group(i)];
            rstd(i) * (dz[i] * gamma.data[i % c] - s1 / count - xhat[i] * s2 / count)
        };
        let part = |first: usize, shape: &Shape| {
            let width = shape.last();
            let at = |i: usize| i / width * c + first + i % width;
            Array::new(shape.clone(), (0..shape.elements()).map(|i| by_x(at(i))).collect())
        };
        let mut results = Vec::new();
        if self.dx {
            results.push(part(0, &inputs[0].shape));
            results.extend(f.x2.then(|| part(d.c1, &inputs[1].shape)));
        }
        if self.params {
            results.extend(params);
        }
        results
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        let dout = inputs.last().map_or(0, |t| t.shape.elements());
        16 * dout as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, c2, groups) in [
        ([2usize, 3, 4, 8], 0usize, 4usize),
        ([1, 1, 1, 6], 0, 3),
        ([2, 5, 3, 12], 4, 8),
        ([1, 20, 30, 8], 8, 4),
        ([3, 7, 11, 6], 3, 1),
        ([1, 40, 41, 64], 0, 2),
    ] {
        for (silu, dx, params) in [(false, true, false), (true, true, true), (true, false, true)] {
            let channels = shape[3] + c2;
            let mut inputs = vec![Given::normal(shape)];
            inputs.extend((c2 > 0).then(|| Given::normal([shape[0], shape[1], shape[2], c2])));
            inputs.extend([Given::normal([channels]), Given::normal([channels])]);
            inputs.push(Given::Uniform([shape[0], groups, 4].into(), 0.2, 1.5));
            inputs.push(Given::normal([shape[0], shape[1], shape[2], channels]));
            let forward = GroupNorm { groups, eps: 1e-5, silu, x2: c2 > 0 };
            cases.push(Case::new(GroupNormBackward { forward, dx, params }, inputs));
        }
    }
    cases
}
