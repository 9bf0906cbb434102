//! The autoencoder's blocks.

use super::attention::{DIFFUSERS, SelfAttention};
use super::resnet::{ResnetBlock, Upsampler, downsampler};
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, GroupNorm, Scope};
use crate::ops::reshape;

/// Added to the variance in every norm of the autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// Residual blocks of one resolution.
fn resnets(scope: &Scope, count: usize, input: usize, output: usize, groups: usize) -> Vec<ResnetBlock> {
    let from = |i: usize| if i == 0 { input } else { output };
    let scope = scope.pp("resnets");
    (0..count).map(|i| ResnetBlock::new(&scope.pp(i), [from(i), output], groups, EPS, None)).collect()
}

fn run(resnets: &[ResnetBlock], g: &mut Graph, x: Tensor) -> Result<Tensor> {
    resnets.iter().try_fold(x, |x, resnet| resnet.forward(g, x, None, None))
}

/// `DownEncoderBlock2D`.
#[derive(Clone, Debug)]
pub(super) struct DownEncoderBlock {
    resnets: Vec<ResnetBlock>,
    downsamplers: Option<Conv2d>,
}

impl DownEncoderBlock {
    pub(super) fn new(scope: &Scope, layers: usize, channels: [usize; 2], groups: usize, last: bool) -> Self {
        let [input, output] = channels;
        DownEncoderBlock {
            resnets: resnets(scope, layers, input, output, groups),
            downsamplers: (!last).then(|| downsampler(scope, output, 0)),
        }
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let x = run(&self.resnets, g, x)?;
        self.downsamplers.as_ref().map_or(Ok(x), |conv| conv.forward(g, x))
    }
}

/// `UpDecoderBlock2D`.
#[derive(Clone, Debug)]
pub(super) struct UpDecoderBlock {
    resnets: Vec<ResnetBlock>,
    upsamplers: Option<Upsampler>,
}

impl UpDecoderBlock {
    pub(super) fn new(scope: &Scope, layers: usize, channels: [usize; 2], groups: usize, last: bool) -> Self {
        let [input, output] = channels;
        UpDecoderBlock {
            resnets: resnets(scope, layers, input, output, groups),
            upsamplers: (!last).then(|| Upsampler::new(scope, output)),
        }
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let x = run(&self.resnets, g, x)?;
        self.upsamplers.as_ref().map_or(Ok(x), |up| up.forward(g, x, None))
    }
}

/// Attention of one head over all pixels.
#[derive(Clone, Debug)]
struct PixelAttention {
    group_norm: GroupNorm,
    attention: SelfAttention,
}

/// `UNetMidBlock2D`.
#[derive(Clone, Debug)]
pub(super) struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Option<PixelAttention>,
}

impl MidBlock {
    pub(super) fn new(scope: &Scope, channels: usize, groups: usize, attention: bool) -> MidBlock {
        let pixels = scope.pp("attentions").pp(0);
        MidBlock {
            resnets: resnets(scope, 2, channels, channels, groups),
            attentions: attention.then(|| PixelAttention {
                group_norm: GroupNorm::new(&pixels.pp("group_norm"), channels, groups, EPS),
                attention: SelfAttention::new(&pixels, &DIFFUSERS, channels, 1, true, false),
            }),
        }
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let mut x = run(&self.resnets[..1], g, x)?;
        if let Some(PixelAttention { group_norm, attention }) = &self.attentions {
            let shape = g.shape(x).clone();
            let tokens = [shape[0], shape[1] * shape[2], shape[3]];
            let h = group_norm.forward(g, x)?;
            let (h, residual) = (reshape(g, h, tokens)?, reshape(g, x, tokens)?);
            let h = attention.forward(g, h, residual)?;
            x = reshape(g, h, shape)?;
        }
        run(&self.resnets[1..], g, x)
    }
}
