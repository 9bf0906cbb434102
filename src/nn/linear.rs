//! Linear layers.

use super::{Adapter, Pack, Param, Scope};
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::ops::{Epilogue, linear};

/// `x . weight^T + bias`, with its adapter where the model has one there.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Option<Param>,
    /// Runs beside the weight.
    pub lora: Option<Adapter>,
}

impl Linear {
    /// Creates a layer from `input` to `output` channels.
    pub fn new(scope: &Scope, input: usize, output: usize, bias: bool) -> Linear {
        Linear::packed(scope, &[output, input], Pack::AsIs, bias)
    }

    /// Creates a layer from a convolution of one pixel, as checkpoints of the first generation have it.
    pub fn pixel(scope: &Scope, input: usize, output: usize, bias: bool) -> Linear {
        Linear::packed(scope, &[output, input, 1, 1], Pack::Pixel, bias)
    }

    fn packed(scope: &Scope, shape: &[usize], pack: Pack, bias: bool) -> Linear {
        Linear {
            weight: scope.weight(shape, pack),
            bias: bias.then(|| scope.vector("bias", shape[0])),
            lora: Adapter::new(scope, shape, pack),
        }
    }

    /// Layers that read the same input, stacked into one that `scope` holds as `key`; `layers` with their output
    /// channels.
    pub fn stacked(scope: &Scope, key: &str, layers: &[(Scope, usize)], input: usize, bias: bool) -> Linear {
        Linear {
            weight: scope.stacked(key, "weight", layers, Some(input)),
            bias: bias.then(|| scope.stacked(key, "bias", layers, None)),
            lora: Adapter::stacked(scope, key, layers, input),
        }
    }

    /// Output channels.
    pub fn output(&self) -> usize {
        self.weight.shape[0]
    }

    /// `x [.., in] -> [.., out]`
    pub fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        self.forward_with(g, x, Epilogue::default())
    }

    /// Records the layer with what `epilogue` adds. Bias and LoRA come from this layer.
    pub fn forward_with(&self, g: &mut Graph, x: Tensor, epilogue: Epilogue) -> Result<Tensor> {
        let weight = self.weight.get(g)?;
        let bias = self.bias.as_ref().map(|b| b.get(g)).transpose()?;
        let lora = self.lora.as_ref().map(|l| l.linear(g, x)).transpose()?;
        linear(g, x, weight, Epilogue { bias, lora, ..epilogue })
    }
}
