//! The UNet's down, mid and up blocks.

use super::attention::{Context, CrossAttention};
use super::build::Build;
use super::resnet::{ResnetBlock, Time, Upsampler, downsampler};
use super::transformer::Transformer2D;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, Scope};

/// Inputs that all blocks share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) time: Time,
    pub(super) context: Context<'a>,
}

/// `CrossAttnDownBlock2D`, or `DownBlock2D` where it has no attentions.
#[derive(Clone, Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer2D>,
    downsamplers: Option<Conv2d>,
}

impl DownBlock {
    /// Block `block`; all but the last halve the resolution.
    pub(super) fn new(scope: &Scope, block: usize, build: &mut Build) -> DownBlock {
        let config = build.config;
        let channels = config.block_out_channels[block];
        let input = config.block_out_channels[block.saturating_sub(1)];
        let cross = config.down_block_types[block] == "CrossAttnDownBlock2D";
        let mut down = DownBlock { resnets: Vec::new(), attentions: Vec::new(), downsamplers: None };
        for i in 0..config.layers_per_block.get(block) {
            let from = if i == 0 { input } else { channels };
            down.resnets.push(build.resnet(&scope.pp("resnets").pp(i), from, channels));
            if cross {
                let depth = config.transformer_layers_per_block.get(block, i);
                down.attentions.push(Transformer2D::new(&scope.pp("attentions").pp(i), block, depth, build));
            }
        }
        if block + 1 < config.block_out_channels.len() {
            down.downsamplers = Some(downsampler(scope, channels, config.downsample_padding));
        }
        down
    }

    /// Runs `x` through, keeping every result for the way up.
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, shared: Shared, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        let mut x = x;
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(g, x, None, Some(shared.time))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(g, x, shared.context)?;
            }
            skips.push(x);
        }
        if let Some(conv) = &self.downsamplers {
            x = conv.forward(g, x)?;
            skips.push(x);
        }
        Ok(x)
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.attentions.iter().flat_map(Transformer2D::cross_attentions)
    }
}

/// `UNetMidBlock2DCrossAttn`, or `UNetMidBlock2D`: the first residual block alone.
#[derive(Clone, Debug)]
pub(super) struct UNetMidBlock {
    resnet: ResnetBlock,
    attention: Option<(Transformer2D, ResnetBlock)>,
}

impl UNetMidBlock {
    /// Creates the middle of the UNet, if its configuration has one.
    pub(super) fn new(scope: &Scope, build: &mut Build) -> Option<UNetMidBlock> {
        let config = build.config;
        let block = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[block];
        config.mid_block_type.as_ref()?;
        let resnets = scope.pp("resnets");
        let resnet = build.resnet(&resnets.pp(0), channels, channels);
        let attention = config.middle_attends().then(|| {
            let depth = config.transformer_layers_per_block.get(block, 0);
            let attention = Transformer2D::new(&scope.pp("attentions").pp(0), block, depth, build);
            (attention, build.resnet(&resnets.pp(1), channels, channels))
        });
        Some(UNetMidBlock { resnet, attention })
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, shared: Shared) -> Result<Tensor> {
        let x = self.resnet.forward(g, x, None, Some(shared.time))?;
        match &self.attention {
            Some((attention, resnet)) => {
                let x = attention.forward(g, x, shared.context)?;
                resnet.forward(g, x, None, Some(shared.time))
            }
            None => Ok(x),
        }
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.attention.iter().flat_map(|(attention, _)| attention.cross_attentions())
    }
}

/// `CrossAttnUpBlock2D`, or `UpBlock2D` where it has no attentions.
#[derive(Clone, Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer2D>,
    upsamplers: Option<Upsampler>,
}

impl UpBlock {
    /// Up block `i`, counted from the lowest resolution; all but the last double it.
    pub(super) fn new(scope: &Scope, i: usize, build: &mut Build) -> UpBlock {
        let config = build.config;
        let sizes = &config.block_out_channels;
        let block = sizes.len() - 1 - i;
        let (channels, input, skip) =
            (sizes[block], sizes[(block + 1).min(sizes.len() - 1)], sizes[block.saturating_sub(1)]);
        let cross = config.up_block_types[i] == "CrossAttnUpBlock2D";
        let layers = config.layers_per_block.get(block) + 1;
        let mut up = UpBlock { resnets: Vec::new(), attentions: Vec::new(), upsamplers: None };
        for j in 0..layers {
            let from = if j == 0 { input } else { channels } + if j + 1 == layers { skip } else { channels };
            up.resnets.push(build.resnet(&scope.pp("resnets").pp(j), from, channels));
            if cross {
                let depth = config.up_depth(i, j);
                up.attentions.push(Transformer2D::new(&scope.pp("attentions").pp(j), block, depth, build));
            }
        }
        if block > 0 {
            up.upsamplers = Some(Upsampler::new(scope, channels));
        }
        up
    }

    /// Runs `x` through, taking back what the way down kept.
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, shared: Shared, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        let mut x = x;
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().ok_or_else(|| Error::op("unet", "more blocks on the way up than down"))?;
            x = resnet.forward(g, x, Some(skip), Some(shared.time))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(g, x, shared.context)?;
            }
        }
        match &self.upsamplers {
            Some(upsampler) => {
                // Where a size was odd on the way down, the next skip is one pixel short of twice this one.
                let size = skips.last().map(|&skip| [g.shape(skip)[1], g.shape(skip)[2]]);
                upsampler.forward(g, x, size)
            }
            None => Ok(x),
        }
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.attentions.iter().flat_map(Transformer2D::cross_attentions)
    }
}
