//! Softmax over the last dimension, f32.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::graph::{Launch, Op, TensorInfo};
use crate::shader;

/// Operand `x` [.., C]; result of the same shape, rows that sum to one.
#[derive(Clone, Debug)]
pub struct Softmax;

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
        let x = l.input(0).shape.clone();
        let (slot, out) = (l.input_slot(0), l.output_slot(0));
        l.kernel(shader!("softmax"))
            .read("x", slot)
            .write("out", out)
            .u32("rows", x.rows())
            .u32("c", x.last())
            .linear(x.rows().div_ceil(32))
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

    fn flops(&self, _: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        5 * outputs[0].shape.elements() as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    [(1usize, 1usize), (3, 5), (70, 33)].map(|(m, n)| Case::new(Softmax, [Given::Normal([m, n].into(), 20.0)])).to_vec()
}
