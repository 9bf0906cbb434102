//! Sums: of products, of rows, of each sample's rows. The order is fixed, without atomics, so that a run repeats bit
//! for bit.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, Slot, TensorInfo, Vjp};

/// Workgroups of the first stage of a dot product.
const DOT_WORKGROUPS: usize = 512;
/// Smallest number of rows per thread for which a second stage pays off.
const BLOCK_ROWS: usize = 32;

/// `sum(a * b)` over all elements: `[1]`.
#[derive(Clone, Debug)]
pub struct Dot;

/// Records the sum of `a * b` over all elements, a tensor `[1]`.
pub fn dot(g: &mut Graph, a: Tensor, b: Tensor) -> Result<Tensor> {
    g.push1(Dot, &[a, b])
}

impl Op for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [a, b] = inputs else { return Err(Error::op(self.name(), "takes a and b")) };
        if a.shape.elements() != b.shape.elements() {
            return Err(Error::op(self.name(), format!("a is {}, b is {}", a.shape, b.shape)));
        }
        Ok(vec![([1].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let count = l.input(0).shape.elements();
        let groups = count.div_ceil(64 * 16).clamp(1, DOT_WORKGROUPS);
        let (a, b, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        let partial = if groups == 1 { out } else { l.scratch(groups) };
        l.kernel(shader!("dot"))
            .value("two", true)
            .read("a", a)
            .read("b", b)
            .write("out", partial)
            .u32("count", count)
            .u32("stride", groups * 64)
            .grid([groups, 1, 1])?;
        if groups == 1 {
            return Ok(());
        }
        let k = l.kernel(shader!("dot")).value("two", false).read("a", partial).write("out", out);
        k.u32("count", groups).u32("stride", 64).grid([1, 1, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a * b).sum();
        vec![Array::new([1], vec![sum])]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (a, b, dout) = (v.inputs[0], v.inputs[1], v.grad()?);
        let da = if v.needs(0) { Some(scale_by(v.g, b, dout)?) } else { None };
        let db = if v.needs(1) { Some(scale_by(v.g, a, dout)?) } else { None };
        Ok(vec![da, db])
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        2 * inputs[0].shape.elements() as u64
    }
}

/// `x * factor`, the factor a tensor of one element.
#[derive(Clone, Debug)]
pub struct ScaleBy;

/// `x * factor`, elementwise; `factor` holds one element on the GPU.
pub fn scale_by(g: &mut Graph, x: Tensor, factor: Tensor) -> Result<Tensor> {
    g.push1(ScaleBy, &[x, factor])
}

impl Op for ScaleBy {
    fn name(&self) -> &'static str {
        "scale_by"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [x, factor] = inputs else { return Err(Error::op(self.name(), "takes x and a factor")) };
        if factor.shape.elements() != 1 {
            return Err(Error::op(self.name(), format!("the factor is {}, expected one element", factor.shape)));
        }
        Ok(vec![(x.shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let vectors = l.output(0).shape.elements().div_ceil(4);
        let (x, factor, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        let k = l.kernel(shader!("scale_by")).read_as("x", x, true).read("factor", factor).write_as("out", out, true);
        k.u32("vectors", vectors).linear(vectors.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        vec![inputs[0].map(|x| x * inputs[1].data[0])]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (x, factor, dout) = (v.inputs[0], v.inputs[1], v.grad()?);
        let dx = if v.needs(0) { Some(scale_by(v.g, dout, factor)?) } else { None };
        let dfactor = if v.needs(1) { Some(dot(v.g, dout, x)?) } else { None };
        Ok(vec![dx, dfactor])
    }
}

/// Adds the rows of a tensor, all of them or those of each sample.
#[derive(Clone, Debug)]
pub struct SumRows {
    /// Keeps the first dimension.
    pub per_sample: bool,
}

/// `x [.., N] -> [N]`: the sum of all rows, as a bias's gradient is.
pub fn sum_rows(g: &mut Graph, x: Tensor) -> Result<Tensor> {
    g.push1(SumRows { per_sample: false }, &[x])
}

/// `x [n, .., N] -> [n, N]`: the sum of each sample's rows, the gradient of what was added to every row of a sample.
pub fn sum_per_sample(g: &mut Graph, x: Tensor) -> Result<Tensor> {
    g.push1(SumRows { per_sample: true }, &[x])
}

impl SumRows {
    /// Samples, rows of each, columns.
    fn extents(&self, x: &Shape) -> (usize, usize, usize) {
        let samples = if self.per_sample { x.first().copied().unwrap_or(1) } else { 1 };
        (samples, x.rows().checked_div(samples).unwrap_or(0), x.last())
    }
}

impl Op for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [x] = inputs else { return Err(Error::op(self.name(), "takes x")) };
        if self.per_sample && x.shape.len() < 2 {
            return Err(Error::op(self.name(), format!("x is {}, expected [samples, .., columns]", x.shape)));
        }
        let (samples, _, columns) = self.extents(&x.shape);
        let shape: Shape = if self.per_sample { [samples, columns].into() } else { [columns].into() };
        Ok(vec![(shape, DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let extents = self.extents(&l.input(0).shape);
        let (x, out) = (l.input_slot(0), l.output_slot(0));
        launch_sum_rows(l, x, out, extents)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (samples, rows, columns) = self.extents(&inputs[0].shape);
        let mut sum = vec![0.0; samples * columns];
        for (row, values) in inputs[0].data.chunks(columns.max(1)).enumerate() {
            let sums = &mut sum[row / rows * columns..];
            sums.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        }
        let shape: Shape = if self.per_sample { [samples, columns].into() } else { [columns].into() };
        vec![Array::new(shape, sum)]
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        inputs[0].shape.elements() as u64
    }
}

/// Emits the sum of `x [samples, rows, columns]` (f32) over its rows into `out [samples, columns]`: in one stage, or
/// for many rows in two, about a square root of them each, which also keeps rounding small.
pub(super) fn launch_sum_rows(
    l: &mut Launch,
    x: Slot,
    out: Slot,
    (samples, rows, columns): (usize, usize, usize),
) -> Result<()> {
    let block_rows = if rows <= 2 * BLOCK_ROWS { rows } else { BLOCK_ROWS.max(rows.isqrt()) };
    let blocks = rows.div_ceil(block_rows.max(1)).max(1);
    let partial = if blocks == 1 { out } else { l.scratch(samples * blocks * columns) };
    let vec4 = columns.is_multiple_of(4);
    let columns = if vec4 { columns / 4 } else { columns };
    let mut stage = |from: Slot, to: Slot, rows: usize, blocks: usize, block_rows: usize| {
        let threads = samples * blocks * columns;
        l.kernel(shader!("sum_rows"))
            .value("vec4", vec4)
            .read_as("x", from, vec4)
            .write_as("out", to, vec4)
            .u32("threads", threads)
            .u32("columns", columns)
            .u32("blocks", blocks)
            .u32("block_rows", block_rows)
            .u32("rows", rows)
            .linear(threads.div_ceil(64))
    };
    stage(x, partial, rows, blocks, block_rows)?;
    if blocks > 1 { stage(partial, out, blocks, 1, blocks) } else { Ok(()) }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [1usize, 7, 64, 1030, 70_001] {
        let check = Case::new(Dot, [Given::normal([n]), Given::normal([n])]);
        cases.push(if n < 2000 { check.grads([0, 1]) } else { check });
    }
    cases.push(Case::new(Dot, [Given::normal([0]), Given::normal([0])]));
    for n in [1usize, 9, 300] {
        cases.push(Case::new(ScaleBy, [Given::normal([n]), Given::normal([1])]).grads([0, 1]));
    }
    for shape in [vec![1, 1], vec![5, 3], vec![2, 33, 7, 12], vec![3, 1000, 5], vec![700, 64], vec![0, 6]] {
        cases.push(Case::new(SumRows { per_sample: false }, [Given::normal(shape.clone())]));
        cases.push(Case::new(SumRows { per_sample: true }, [Given::normal(shape)]));
    }
    // More workgroups than one dimension of a grid takes.
    let wide = 65_536 * 64 + 5;
    cases.push(Case::new(SumRows { per_sample: true }, [Given::normal([1, 1, wide])]));
    cases
}
