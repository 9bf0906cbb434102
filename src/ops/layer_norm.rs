//! Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over the last dimension. Statistics as in group norm: the
//! mean as its distance from the row's first value.

use super::reduce::launch_sum_rows;
use super::team::Team;
use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::gpu::{AdapterClass, Caps};
use crate::graph::{KernelLaunch, Launch, Op, TensorInfo, Vjp};

/// Operands `x` [.., C], `gamma`, `beta` `[C]`; results y [.., C] and the statistics [rows, 4]: first value, mean less
/// that, 1 / standard deviation, zero.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Constant added to the variance.
    pub eps: f64,
}

/// Operands: x, gamma, statistics, dout. Results: dx if `dx`; dgamma, dbeta if `params`.
#[derive(Clone, Debug)]
pub struct LayerNormBackward {
    /// Computes the gradient by x.
    pub dx: bool,
    /// Computes the gradients by gamma and beta.
    pub params: bool,
}

/// Normalises the last dimension of x [.., C].
pub fn layer_norm(g: &mut Graph, x: Tensor, gamma: Tensor, beta: Tensor, eps: f64) -> Result<Tensor> {
    Ok(g.push(LayerNorm { eps }, &[x, gamma, beta])?[0])
}

/// Distribution of a row over threads.
struct Layout {
    /// Columns per vector.
    width: usize,
    /// Rows that a workgroup reduces at a time; gamma and beta are read once for all.
    rows: usize,
    /// Vectors that a thread keeps of each row; with 0 it reads them again.
    slots: usize,
    team: Team,
}

impl Layout {
    /// Chooses a layout for rows of `columns`. Software drivers read again rather than unroll: they compile every
    /// access for every lane.
    fn choose(caps: &Caps, columns: usize) -> Layout {
        let width = if columns.is_multiple_of(4) { 4 } else { 1 };
        let team = Team::choose(caps, columns);
        let slots = (columns / width).div_ceil(team.threads);
        match caps.class {
            AdapterClass::Gpu if slots <= 16 => Layout { width, rows: 1, slots, team },
            _ => Layout { width, rows: 4, slots: 0, team: Team { threads: 1, workgroup: 8 } },
        }
    }

    fn vec(&self) -> bool {
        self.width == 4
    }

    /// Sets the template's values.
    fn values<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        let k = k.value("W", self.width).value("ROWS", self.rows).value("SLOTS", self.slots);
        k.value("TEAM", self.team.threads).value("WG", self.team.workgroup)
    }

    fn workgroups(&self, rows: usize) -> usize {
        self.team.workgroups(rows.div_ceil(self.rows))
    }
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [x, gamma, beta] = [0, 1, 2].map(|i| &inputs[i].shape);
        if gamma.elements() != x.last() || beta.elements() != x.last() {
            return Err(Error::op(self.name(), format!("x is {x}, gamma {gamma}, beta {beta}")));
        }
        Ok(vec![(x.clone(), DType::F32), ([x.rows(), 4].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (rows, c) = (l.input(0).shape.rows(), l.input(0).shape.last());
        let (x, gamma, beta) = (l.input_slot(0), l.input_slot(1), l.input_slot(2));
        let (y, stats) = (l.output_slot(0), l.output_slot(1));
        let layout = Layout::choose(l.caps, c);
        let vec = layout.vec();
        layout
            .values(l.kernel(shader!("layer_norm")))
            .read_as("x", x, vec)
            .read_as("gamma", gamma, vec)
            .read_as("beta", beta, vec)
            .write_as("y", y, vec)
            .write_as("stats", stats, true)
            .u32("rows", rows)
            .u32("columns", c / layout.width)
            .f32("count", c as f64)
            .f32("eps", self.eps)
            .linear(layout.workgroups(rows))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        let c = x.shape.last();
        let (mut y, mut stats) = (x.clone(), Array::zeros([x.shape.rows(), 4]));
        for (row, (values, out)) in x.data.chunks(c).zip(y.data.chunks_mut(c)).enumerate() {
            let mean = values.iter().sum::<f64>() / c as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            let rstd = 1.0 / (variance + self.eps).sqrt();
            stats.data[row * 4..row * 4 + 3].copy_from_slice(&[values[0], mean - values[0], rstd]);
            for (i, (o, v)) in out.iter_mut().zip(values).enumerate() {
                *o = (v - mean) * rstd * gamma.data[i] + beta.data[i];
            }
        }
        vec![y, stats]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let operands = [v.inputs[0], v.inputs[1], v.outputs[1], v.grad()?];
        let (dx, params) = (v.needs(0), v.needs(1) || v.needs(2));
        let mut back = v.g.push(LayerNormBackward { dx, params }, &operands)?.into_iter();
        let by_x = if dx { back.next() } else { None };
        Ok(vec![by_x, back.next(), back.next()])
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
        let mut results = Vec::new();
        results.extend(self.dx.then(|| (inputs[0].shape.clone(), DType::F32)));
        if self.params {
            results.extend([0, 1].map(|_| (inputs[1].shape.clone(), DType::F32)));
        }
        Ok(results)
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (rows, c) = (l.input(0).shape.rows(), l.input(0).shape.last());
        let (x, gamma, stats, dout) = (l.input_slot(0), l.input_slot(1), l.input_slot(2), l.input_slot(3));
        let layout = Layout::choose(l.caps, c);
        let vec = layout.vec();
        if self.dx {
            let dx = l.output_slot(0);
            layout
                .values(l.kernel(shader!("layer_norm_bwd")).value("stage", "x"))
                .read_as("x", x, vec)
                .read_as("gamma", gamma, vec)
                .read_as("stats", stats, true)
                .read_as("dout", dout, vec)
                .write_as("dx", dx, vec)
                .u32("rows", rows)
                .u32("columns", c / layout.width)
                .f32("count", c as f64)
                .linear(layout.workgroups(rows))?;
        }
        if self.params {
            let block = rows.isqrt().clamp(8, 256);
            let blocks = rows.div_ceil(block);
            let (d, d_xhat) = (l.scratch(blocks * c), l.scratch(blocks * c));
            layout
                .values(l.kernel(shader!("layer_norm_bwd")).value("stage", "params"))
                .read_as("x", x, vec)
                .read_as("stats", stats, true)
                .read_as("dout", dout, vec)
                .write_as("d", d, vec)
                .write_as("d_xhat", d_xhat, vec)
                .u32("rows", rows)
                .u32("columns", c / layout.width)
                .u32("blocks", blocks)
                .u32("block", block)
                .linear((blocks * c / layout.width).div_ceil(64))?;
            for (i, sums) in [d_xhat, d].into_iter().enumerate() {
                let out = l.output_slot(usize::from(self.dx) + i);
                launch_sum_rows(l, sums, out, (1, blocks, c))?;
            }
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (x, gamma, stats, dout) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let c = x.shape.last();
        let mut dx = x.clone();
        let mut params = [Array::zeros([c]), Array::zeros([c])];
        for row in 0..x.shape.rows() {
            let (mean, rstd) = (stats.data[row * 4] + stats.data[row * 4 + 1], stats.data[row * 4 + 2]);
            let xhat = |i: usize| (x.data[row * c + i] - mean) * rstd;
            let g = |i: usize| dout.data[row * c + i] * gamma.data[i];
            let s1 = (0..c).map(g).sum::<f64>() / c as f64;
            let s2 = (0..c).map(|i| g(i) * xhat(i)).sum::<f64>() / c as f64;
            for i in 0..c {
                dx.data[row * c + i] = rstd * (g(i) - s1 - xhat(i) * s2);
                params[0].data[i] += dout.data[row * c + i] * xhat(i);
                params[1].data[i] += dout.data[row * c + i];
            }
        }
        let mut results = Vec::new();
        results.extend(self.dx.then_some(dx));
        if self.params {
            results.extend(params);
        }
        results
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        12 * inputs[0].shape.elements() as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, c) in [(1usize, 1usize), (3, 5), (40, 12), (300, 40), (7, 129), (5, 1280), (2, 5000), (0, 8)] {
        let inputs = [Given::normal([rows, c]), Given::normal([c]), Given::normal([c])];
        // One value is its own mean: the gradient is zero divided by nothing but eps.
        let case = Case::new(LayerNorm { eps: 1e-5 }, inputs).primary(1);
        cases.push(if c > 1 && rows > 0 { case.grads([0, 1, 2]) } else { case });
        let statistics = Given::Uniform([rows, 4].into(), 0.2, 1.5);
        let inputs = [Given::normal([rows, c]), Given::normal([c]), statistics, Given::normal([rows, c])];
        for (dx, params) in [(true, false), (false, true), (true, true)] {
            cases.push(Case::new(LayerNormBackward { dx, params }, inputs.clone()));
        }
    }
    // A mean far above the spread: what sums of squares, or a mean in one f32, would lose.
    let x = Given::Uniform([9, 320].into(), 1000.0, 1001.0);
    cases.push(Case::new(LayerNorm { eps: 1e-5 }, [x, Given::normal([320]), Given::normal([320])]));
    // More workgroups than one dimension of a grid takes.
    let x = Given::normal([65_536 * 32 + 3, 2]);
    cases.push(Case::new(LayerNorm { eps: 1e-5 }, [x, Given::normal([2]), Given::normal([2])]));
    cases
}
