//! Softmax over the last dimension, f32.

use super::team::Team;
use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// Operand `x` [.., C]; result of the same shape, rows that sum to one.
#[derive(Clone, Debug)]
pub struct Softmax;

/// Operands: the softmax `y` and dout; result the gradient by x.
#[derive(Clone, Debug)]
pub struct SoftmaxBackward;

/// Softmax over the last dimension.
pub fn softmax(g: &mut Graph, x: Tensor) -> Result<Tensor> {
    g.push1(Softmax, &[x])
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (rows, columns) = (l.input(0).shape.rows(), l.input(0).shape.last());
        let (x, out) = (l.input_slot(0), l.output_slot(0));
        let team = Team::choose(l.caps, columns);
        let k = l
            .kernel(shader!("softmax"))
            .value("backward", false)
            .value("TEAM", team.threads)
            .value("WG", team.workgroup)
            .read("x", x)
            .write("out", out);
        k.u32("rows", rows).u32("columns", columns).linear(team.workgroups(rows))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let mut out = inputs[0].clone();
        let c = out.shape.last();
        for row in out.data.chunks_mut(c) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|x| *x = (*x - largest).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let operands = [v.outputs[0], v.grad()?];
        Ok(vec![Some(v.g.push1(SoftmaxBackward, &operands)?)])
    }

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        5 * outputs[0].shape.elements() as u64
    }
}

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (rows, columns) = (l.input(0).shape.rows(), l.input(0).shape.last());
        let (y, dout, dx) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        let team = Team::choose(l.caps, columns);
        let k = l
            .kernel(shader!("softmax"))
            .value("backward", true)
            .value("TEAM", team.threads)
            .value("WG", team.workgroup);
        let k = k.read("y", y).read("dout", dout).write("dx", dx);
        k.u32("rows", rows).u32("columns", columns).linear(team.workgroups(rows))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (y, mut dx) = (inputs[0], inputs[1].clone());
        let c = y.shape.last();
        for (row, y) in dx.data.chunks_mut(c).zip(y.data.chunks(c)) {
            let sum: f64 = row.iter().zip(y).map(|(d, y)| d * y).sum();
            row.iter_mut().zip(y).for_each(|(d, y)| *d = y * (*d - sum));
        }
        vec![dx]
    }

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        4 * outputs[0].shape.elements() as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (m, n) in [(1usize, 1usize), (3, 5), (70, 33), (4, 1000), (0, 7), (2, 70_000)] {
        cases.push(Case::new(Softmax, [Given::Normal([m, n].into(), 20.0)]));
        cases.push(Case::new(SoftmaxBackward, [Given::Uniform([m, n].into(), 0.0, 1.0), Given::normal([m, n])]));
    }
    cases.push(Case::new(Softmax, [Given::normal([6, 9])]).grads([0]));
    // More workgroups than one dimension of a grid takes.
    cases.push(Case::new(Softmax, [Given::normal([65_536 * 32 + 3, 2])]));
    cases
}
