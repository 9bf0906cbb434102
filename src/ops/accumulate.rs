//! Sums of gradients over micro-batches, kept in place.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// `target += value` in place; with a third operand `keep [1]`, `target = value` where that is 0.
#[derive(Clone, Debug)]
pub struct Accumulate;

/// Adds `value` to the stored tensor `target`, in place, and returns it. `keep` (`[1]`) tells the first of a series
/// from the others: where it is 0, the target's old values are forgotten, whatever they are.
pub fn accumulate(g: &mut Graph, target: Tensor, value: Tensor, keep: Option<Tensor>) -> Result<Tensor> {
    let mut inputs = vec![target, value];
    inputs.extend(keep);
    g.push1(Accumulate, &inputs)
}

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let (target, value) = (inputs[0], inputs[1]);
        if target.shape.elements() != value.shape.elements() || target.dtype != DType::F32 {
            let message = format!("target is {:?} {}, value {}", target.dtype, target.shape, value.shape);
            return Err(Error::op(self.name(), message));
        }
        Ok(vec![(target.shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let vectors = l.input(0).shape.elements().div_ceil(4);
        let keep = l.input_count() == 3;
        let (target, value, flag) = (l.input_slot(0), l.input_slot(1), l.input_slot(l.input_count() - 1));
        let k = l.kernel(shader!("accumulate")).value("keep", keep);
        let k = k.write_as("sum", target, true).read_as("value", value, true);
        let k = if keep { k.read("flag", flag) } else { k };
        k.u32("vectors", vectors).linear(vectors.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let keep = inputs.get(2).is_none_or(|k| k.data[0] != 0.0);
        let old = inputs[0].data.iter().map(|&x| if keep { x } else { 0.0 });
        vec![Array::new(inputs[0].shape.clone(), old.zip(&inputs[1].data).map(|(a, b)| a + b).collect())]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [1usize, 6, 1030] {
        cases.push(Case::new(Accumulate, [Given::normal([n]), Given::normal([n])]));
        for keep in [0.0, 1.0] {
            let keep = Given::Uniform([1].into(), keep, keep);
            cases.push(Case::new(Accumulate, [Given::normal([n]), Given::normal([n]), keep]));
        }
    }
    // More workgroups than one dimension of a dispatch takes.
    let n = 4 * 64 * 65536;
    cases.push(Case::new(Accumulate, [Given::normal([n]), Given::normal([n])]));
    cases
}
