//! AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) as torch.optim.AdamW computes it, on flat vectors in place.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{Launch, Op, TensorInfo};
use crate::shader;

/// Operands `param`, `m`, `v` (updated in place), `grad`, `clip` [1] and `hyper` [8]; results the updated three.
#[derive(Clone, Debug)]
pub struct AdamW;

/// The numbers of one update, as the op reads them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWHyper {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: usize,
}

impl AdamWHyper {
    /// The `hyper` operand: lr / (1 - beta1^t), beta1, beta2, eps, 1 - lr * weight_decay, 1 / sqrt(1 - beta2^t),
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
pub fn adamw(g: &mut Graph, param: Tensor, m: Tensor, v: Tensor, grad: Tensor, clip: Tensor, hyper: Tensor) -> Result<()> {
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
    [1usize, 6, 500]
        .map(|n| {
            let normal = || Given::normal([n]);
            let hyper = Given::Uniform([8].into(), 0.1, 0.9);
            let clip = Given::Uniform([1].into(), 0.5, 1.0);
            Case::new(AdamW, [normal(), normal(), Given::Uniform([n].into(), 0.0, 1.0), normal(), clip, hyper])
        })
        .to_vec()
}
