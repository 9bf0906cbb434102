//! One step of any sampler: guidance, then a linear update of the state slots (`diffusion::sampler`).

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// `new_slots = matrix . [slots.., output, noise]`, elementwise, in place. Operands: the slots, the network's output
/// ([2n, ..] when guided, without the prompt first), `noise` [n, ..], `matrix` [slots, slots + 2], `guidance` `[1]`.
#[derive(Clone, Debug)]
pub struct SamplerStep {
    /// Number of state slots.
    pub slots: usize,
    /// The output holds an unconditional half: `u + guidance * (c - u)` (Ho and Salimans 2022, arXiv 2207.12598).
    pub guided: bool,
}

/// Updates the stored `slots` in place. `guided`: the output holds an unconditional half.
#[allow(clippy::too_many_arguments, reason = "the operands of the op")]
pub fn sampler_step(
    g: &mut Graph,
    slots: &[Tensor],
    output: Tensor,
    noise: Tensor,
    matrix: Tensor,
    guidance: Tensor,
    guided: bool,
) -> Result<()> {
    let mut operands = slots.to_vec();
    operands.extend([output, noise, matrix, guidance]);
    g.push(SamplerStep { slots: slots.len(), guided }, &operands).map(drop)
}

impl Op for SamplerStep {
    fn name(&self) -> &'static str {
        "sampler_step"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let s = self.slots;
        let passes = if self.guided { 2 } else { 1 };
        let fits = inputs.len() == s + 4 && {
            let sample = &inputs[0].shape;
            // The network's output for as many samples as there are passes, each of the sample's own shape.
            let mut output = sample.to_vec();
            output.iter_mut().take(1).for_each(|n| *n *= passes);
            inputs[..s].iter().all(|slot| slot.shape == *sample)
                && *inputs[s].shape == output[..]
                && inputs[s + 1].shape.elements() == sample.elements()
                && inputs[s + 2].shape.elements() == s * (s + 2)
        };
        if !fits {
            let shapes: Vec<String> = inputs.iter().map(|i| i.shape.to_string()).collect();
            return Err(Error::op(self.name(), format!("operands are {}", shapes.join(", "))));
        }
        Ok(inputs[..s].iter().map(|i| (i.shape.clone(), DType::F32)).collect())
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        const NAMES: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];
        let s = self.slots;
        let count = l.input(0).shape.elements();
        let operands: Vec<_> = (0..s + 4).map(|i| l.input_slot(i)).collect();
        // Five slots and four more operands would bind nine buffers: matrix and guidance are packed into one by the
        // first stage.
        let packed = l.scratch(s * (s + 2) + 1);
        l.kernel(shader!("sampler_step"))
            .value("stage", "pack")
            .read("matrix", operands[s + 2])
            .read("guidance", operands[s + 3])
            .write("packed", packed)
            .u32("entries", s * (s + 2))
            .linear(1)?;
        let mut k = l.kernel(shader!("sampler_step")).value("stage", "step").value("S", s).value("guided", self.guided);
        for (name, slot) in NAMES.iter().zip(&operands[..s]) {
            k = k.write(name, *slot);
        }
        k.read("output", operands[s])
            .read("noise", operands[s + 1])
            .read("packed", packed)
            .u32("count", count)
            .linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let s = self.slots;
        let (output, noise, matrix, guidance) = (inputs[s], inputs[s + 1], inputs[s + 2], inputs[s + 3].data[0]);
        let n = inputs[0].data.len();
        let mut results: Vec<Array> = inputs[..s].iter().map(|&a| a.clone()).collect();
        for i in 0..n {
            let out = match self.guided {
                true => output.data[i] + guidance * (output.data[n + i] - output.data[i]),
                false => output.data[i],
            };
            let mut terms: Vec<f64> = inputs[..s].iter().map(|a| a.data[i]).collect();
            terms.extend([out, noise.data[i]]);
            for (row, result) in results.iter_mut().enumerate() {
                let coefficients = &matrix.data[row * (s + 2)..(row + 1) * (s + 2)];
                result.data[i] = coefficients.iter().zip(&terms).map(|(c, t)| c * t).sum();
            }
        }
        results
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        (0..self.slots).map(|i| (i, i)).collect()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (slots, guided) in [(1usize, true), (2, false), (5, true), (4, false)] {
        let mut inputs = vec![Given::normal([2, 3, 5]); slots];
        inputs.push(Given::normal([if guided { 4 } else { 2 }, 3, 5]));
        inputs.extend([
            Given::normal([2, 3, 5]),
            Given::normal([slots, slots + 2]),
            Given::Uniform([1].into(), 1.0, 8.0),
        ]);
        cases.push(Case::new(SamplerStep { slots, guided }, inputs));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output of twice the channels is no output of two passes.
    #[test]
    fn the_passes_are_told_not_guessed() {
        let step = |output: [usize; 4], guided: bool| {
            let mut g = Graph::new();
            let slot = g.stored("slot", [1, 4, 4, 4], DType::F32).expect("slot");
            let mut input = |name: &str, shape: &[usize]| g.input(name, shape, DType::F32);
            let (output, noise) = (input("output", &output), input("noise", &[1, 4, 4, 4]));
            let (matrix, guidance) = (input("matrix", &[1, 3]), input("guidance", &[1]));
            sampler_step(&mut g, &[slot], output, noise, matrix, guidance, guided)
        };
        assert!(step([1, 4, 4, 4], false).is_ok() && step([2, 4, 4, 4], true).is_ok());
        for (output, guided) in
            [([1, 4, 4, 8], false), ([1, 4, 4, 8], true), ([2, 4, 4, 4], false), ([1, 4, 4, 4], true)]
        {
            let error = step(output, guided).expect_err("another shape").to_string();
            assert!(error.contains("operands are"), "{error}");
        }
    }
}
