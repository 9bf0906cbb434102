//! Multiply-adds in registers and nothing else: the peak of an adapter's arithmetic.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Independent chains of a thread.
const CHAINS: usize = 16;

/// Operand x `[n]`; result `[n]` after `rounds` times sixteen chains of `v = v * 0.5 + x`.
#[derive(Clone, Debug)]
pub struct FmaPeak {
    /// Rounds of the loop.
    pub rounds: usize,
}

/// Runs `rounds` rounds of sixteen multiply-adds on every element of x.
pub fn fma_peak(g: &mut Graph, x: Tensor, rounds: usize) -> Result<Tensor> {
    g.push1(FmaPeak { rounds }, &[x])
}

impl Op for FmaPeak {
    fn name(&self) -> &'static str {
        "fma_peak"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let n = l.output(0).shape.elements();
        let (x, out) = (l.input_slot(0), l.output_slot(0));
        l.kernel(shader!("fma_peak"))
            .value("CHAINS", CHAINS)
            .read("x", x)
            .write("out", out)
            .u32("count", n)
            .u32("rounds", self.rounds)
            .linear(n.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let chain = |x: f64, c: usize| (0..self.rounds).fold(c as f64, |v, _| v * 0.5 + x);
        vec![inputs[0].map(|x| (0..CHAINS).map(|c| chain(x, c)).sum())]
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        (inputs[0].shape.elements() * self.rounds * CHAINS * 2) as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new(FmaPeak { rounds: 5 }, [Given::normal([70])])]
}
