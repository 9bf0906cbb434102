//! Who updates the parameters: AdamW, with moments in f32 or in eight bits.

pub use super::Optimizer;
use crate::base::DType;
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::ops::{AdamWHyper, adamw, adamw8bit, moment_words};

/// Inputs of an update, and how they are used.
#[derive(Clone)]
pub(super) struct UpdateInputs {
    optimizer: Optimizer,
    /// Gradients are clipped to this norm.
    pub max_norm: Tensor,
    /// By group of parameters.
    pub hyper: Vec<Tensor>,
}

impl UpdateInputs {
    pub fn new<'a>(g: &mut Graph, optimizer: Optimizer, groups: impl Iterator<Item = &'a str>) -> UpdateInputs {
        let max_norm = g.input("max norm", [1], DType::F32);
        let numbers = if optimizer == Optimizer::AdamW { 8 } else { 9 };
        UpdateInputs { optimizer, max_norm, hyper: groups.map(|label| g.input(label, [numbers], DType::F32)).collect() }
    }

    /// Records `update`, of gradients that are multiplied by `clip`.
    pub fn record(&self, g: &mut Graph, update: ParamUpdate<'_>, clip: Tensor) -> Result<()> {
        let ParamUpdate { group, key, param, gradient } = update;
        let (elements, hyper) = (g.shape(param).elements(), self.hyper[group]);
        let (shape, dtype) = match self.optimizer {
            Optimizer::AdamW => (elements, DType::F32),
            Optimizer::AdamW8bit => (moment_words(elements), DType::U32),
        };
        let (m, v) = (g.stored(&format!("m.{key}"), [shape], dtype)?, g.stored(&format!("v.{key}"), [shape], dtype)?);
        match self.optimizer {
            Optimizer::AdamW => adamw(g, param, m, v, gradient, clip, hyper),
            Optimizer::AdamW8bit => adamw8bit(g, param, m, v, gradient, clip, hyper),
        }
    }
}

/// Update of parameters by their gradient.
pub(super) struct ParamUpdate<'a> {
    /// Group of the parameters, which decides their learning rate.
    pub group: usize,
    /// Key of their moments, which are stored as `m.KEY` and `v.KEY`.
    pub key: &'a str,
    /// Parameters.
    pub param: Tensor,
    /// Gradient of the loss by them.
    pub gradient: Tensor,
}

impl Optimizer {
    /// Bytes of one moment of `elements` parameters.
    pub fn moment_bytes(self, elements: usize) -> u64 {
        match self {
            Optimizer::AdamW => DType::F32.bytes(elements),
            Optimizer::AdamW8bit => DType::U32.bytes(moment_words(elements)),
        }
    }

    /// Whether moments are words that are no numbers.
    pub fn packed(self) -> bool {
        self == Optimizer::AdamW8bit
    }

    /// The numbers of update `step` (from 0).
    pub fn hyper(self, lr: f64, weight_decay: f64, step: usize) -> Vec<f32> {
        let hyper = AdamWHyper { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step: step + 1 };
        let mut numbers = hyper.pack().to_vec();
        if self == Optimizer::AdamW8bit {
            numbers.push((step + 1) as f32);
        }
        numbers
    }
}
