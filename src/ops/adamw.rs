//! AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) as torch.optim.AdamW computes it, on flat vectors in place.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Operands `param`, `m`, `v` (updated in place), `grad`, `clip` `[1]` and `hyper` `[8]`; results the updated three.
#[derive(Clone, Debug)]
pub struct AdamW;

/// Hyperparameters of one optimizer step, as the op reads them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWHyper {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Constant added to the root.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this optimizer step, from 1.
    pub step: usize,
}

impl AdamWHyper {
    /// Packs the `hyper` operand: lr / (1 - beta1^t), beta1, beta2, eps, 1 - lr * weight_decay, 1 / sqrt(1 - beta2^t),
    /// 1 - beta1, 1 - beta2 (in f32 `1 - 0.999` would be off by 1e-5).
    pub fn pack(&self) -> [f32; 8] {
        let t = self.step as f64;
        [
            self.lr / (1.0 - self.beta1.powf(t)),
            self.beta1,
            self.beta2,
            self.eps,
            1.0 - self.lr * self.weight_decay,
            1.0 / (1.0 - self.beta2.powf(t)).sqrt(),
            1.0 - self.beta1,
            1.0 - self.beta2,
        ]
        .map(|x| x as f32)
    }
}

/// Updates `param` and its moments in place; `grad` is multiplied by `clip` first.
#[allow(clippy::too_many_arguments, reason = "the operands of the op")]
pub fn adamw(
    g: &mut Graph,
    param: Tensor,
    m: Tensor,
    v: Tensor,
    grad: Tensor,
    clip: Tensor,
    hyper: Tensor,
) -> Result<()> {
    g.push(AdamW, &[param, m, v, grad, clip, hyper]).map(drop)
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let n = inputs[0].shape.elements();
        if inputs[1..4].iter().any(|i| i.shape.elements() != n) || inputs[5].shape.elements() != 8 {
            let shapes: Vec<String> = inputs.iter().map(|i| i.shape.to_string()).collect();
            return Err(Error::op(self.name(), format!("operands are {}", shapes.join(", "))));
        }
        Ok(inputs[..3].iter().map(|i| (i.shape.clone(), DType::F32)).collect())
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let vectors = l.input(0).shape.elements().div_ceil(4);
        let slots: Vec<_> = (0..6).map(|i| l.input_slot(i)).collect();
        l.kernel(shader!("adamw"))
            .write_as("param", slots[0], true)
            .write_as("m", slots[1], true)
            .write_as("v", slots[2], true)
            .read_as("grad", slots[3], true)
            .read("clip", slots[4])
            .read("hyper", slots[5])
            .u32("vectors", vectors)
            .linear(vectors.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (clip, h) = (inputs[4].data[0], &inputs[5].data);
        let (mut param, mut m, mut v) = (inputs[0].clone(), inputs[1].clone(), inputs[2].clone());
        for i in 0..param.data.len() {
            let g = inputs[3].data[i] * clip;
            m.data[i] = h[1] * m.data[i] + h[6] * g;
            v.data[i] = h[2] * v.data[i] + h[7] * g * g;
            param.data[i] = param.data[i] * h[4] - h[0] * m.data[i] / (v.data[i].sqrt() * h[5] + h[3]);
        }
        vec![param, m, v]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0), (1, 1), (2, 2)]
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    [1usize, 6, 500, 4 * 64 * 1000 + 2]
        .map(|n| {
            let normal = || Given::normal([n]);
            let hyper = Given::Uniform([8].into(), 0.1, 0.9);
            let clip = Given::Uniform([1].into(), 0.5, 1.0);
            Case::new(AdamW, [normal(), normal(), Given::Uniform([n].into(), 0.0, 1.0), normal(), clip, hyper])
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters after each of three steps of `torch.optim.AdamW([1, -0.5, 0.25], lr=0.01, weight_decay=0.1)` in f64.
    const GRADS: [[f64; 3]; 3] = [[0.5, -2.0, 0.0001], [0.1, 3.0, -0.0001], [-0.7, 0.0, 2e-09]];
    const TORCH: [[f64; 3]; 3] = [
        [0.9890000002, -0.48950000005, 0.2397509999],
        [0.979980590638, -0.491487518202, 0.240037512063],
        [0.980513282896, -0.492910772892, 0.240204177949],
    ];

    /// The largest difference from torch over three steps.
    fn off(change: impl Fn(&mut AdamWHyper)) -> f64 {
        let mut state = [vec![1.0, -0.5, 0.25], vec![0.0; 3], vec![0.0; 3]].map(|x| Array::new([3], x));
        let mut worst: f64 = 0.0;
        for (i, (grad, expected)) in GRADS.iter().zip(TORCH).enumerate() {
            let mut hyper =
                AdamWHyper { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: i + 1 };
            change(&mut hyper);
            let hyper = Array::from_f32([8], &hyper.pack());
            let (grad, clip) = (Array::new([3], grad.to_vec()), Array::new([1], vec![1.0]));
            let [param, m, v] = &state;
            let out = AdamW.reference(&[param, m, v, &grad, &clip, &hyper]);
            state = [out[0].clone(), out[1].clone(), out[2].clone()];
            worst = state[0].data.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(worst, f64::max);
        }
        worst
    }

    #[test]
    fn steps_as_torch_does() {
        assert!(off(|_| ()) < 1e-6, "{}", off(|_| ()));
        assert!(off(|h| h.weight_decay = 0.01) > 1e-4, "another decay must show");
        assert!(off(|h| h.beta1 = 0.8) > 1e-4, "another beta must show");
        assert!(off(|h| h.step += 1) > 1e-4, "another bias correction must show");
    }
}
