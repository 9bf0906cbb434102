//! Convolutions.

use super::{Adapter, Pack, Param, Scope};
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::ops::{Conv, Epilogue, conv2d};

/// A 2-D convolution over channels-last images, with its adapter where the model has one there.
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// `[out, kh, kw, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Param,
    /// Stride and padding.
    pub conv: Conv,
    /// Runs beside the weight.
    pub lora: Option<Adapter>,
}

impl Conv2d {
    /// Creates a convolution with a square window of `kernel` pixels; `input` counts the channels of both inputs.
    pub fn new(scope: &Scope, input: usize, output: usize, kernel: usize, conv: Conv) -> Conv2d {
        let shape = [output, input, kernel, kernel];
        Conv2d {
            weight: scope.weight(&shape, Pack::Conv),
            bias: scope.vector("bias", output),
            conv,
            lora: Adapter::new(scope, &shape, Pack::Conv),
        }
    }

    /// Stride 1 and the padding that keeps the size.
    pub fn same(scope: &Scope, input: usize, output: usize, kernel: usize) -> Conv2d {
        Conv2d::new(scope, input, output, kernel, Conv::same(kernel))
    }

    /// Channels of its result.
    pub fn channels(&self) -> usize {
        self.bias.elements()
    }

    /// `x [n, h, w, in] -> [n, oh, ow, out]`
    pub fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        self.forward_with(g, x, None, Epilogue::default())
    }

    /// Records the convolution of `x`, and of `x2` if it holds the last input channels, with what `epilogue` adds. Bias
    /// and LoRA come from this layer.
    pub fn forward_with(&self, g: &mut Graph, x: Tensor, x2: Option<Tensor>, epilogue: Epilogue) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(g)?, self.bias.get(g)?);
        let lora = self.lora.as_ref().map(|l| l.conv(g, x, x2, self.conv)).transpose()?;
        conv2d(g, x, x2, weight, self.conv, Epilogue { bias: Some(bias), lora, ..epilogue })
    }
}
