//! The autoencoder's blocks.

use super::attention::{OF_VAE, SelfAttention};
use super::bands::Bands;
use super::resnet::{ResnetBlock, Upsampler, downsampler};
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, GroupNorm, Scope};
use crate::ops::reshape;

/// Added to the variance in every norm of the autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// Memory limits of the autoencoder's feature maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes of a map that is still made whole; a larger one is made in bands.
    pub(super) whole: usize,
    /// Bytes of a band.
    pub(super) band: usize,
    /// Bytes of the map that has all pixels and the fewest channels: the largest that has to be kept.
    pub(super) largest: usize,
}

impl Room {
    /// Bytes that a layer's input and what it makes may take together.
    fn together(&self) -> usize {
        self.largest + self.largest / 2
    }
}

/// A feature map between two blocks.
#[derive(Clone)]
pub(super) enum Map<'m> {
    Whole(Tensor),
    Bands(Bands<'m>),
}

impl<'m> Map<'m> {
    /// `layer` over the map.
    pub(super) fn conv(self, g: &mut Graph, layer: &'m Conv2d, room: Room) -> Result<Map<'m>> {
        let bands = match &self {
            Map::Whole(x) => Bands::whole(g, *x, room.band)?.conv(layer),
            Map::Bands(x) => x.clone().conv(layer),
        };
        let large = 4 * bands.shape.iter().product::<usize>() > room.whole;
        match (self, large) {
            (Map::Whole(x), false) => Ok(Map::Whole(layer.forward(g, x)?)),
            (Map::Bands(_), false) => Ok(Map::Whole(bands.joined(g)?)),
            (_, true) => Ok(Map::Bands(bands.stored_within(g, room.largest)?)),
        }
    }

    fn resnets(self, g: &mut Graph, resnets: &'m [ResnetBlock], room: Room) -> Result<Map<'m>> {
        resnets.iter().try_fold(self, |x, resnet| match x {
            Map::Whole(x) => Ok(Map::Whole(resnet.forward(g, x, None, None)?)),
            Map::Bands(x) => Ok(Map::Bands(x.resnet(g, resnet, room.together())?)),
        })
    }

    /// Records the map as one tensor.
    pub(super) fn whole(self, g: &mut Graph) -> Result<Tensor> {
        match self {
            Map::Whole(x) => Ok(x),
            Map::Bands(x) => x.joined(g),
        }
    }

    /// `conv` over the SiLU of `norm`, whole: the decoder's last layers.
    pub(super) fn finish(self, g: &mut Graph, norm: &'m GroupNorm, conv: &'m Conv2d) -> Result<Tensor> {
        match self {
            Map::Whole(x) => {
                let h = norm.forward_silu(g, x, None)?;
                conv.forward(g, h)
            }
            Map::Bands(x) => x.norm_silu(g, norm)?.conv(conv).joined(g),
        }
    }
}

/// Residual blocks of one resolution.
fn resnets(scope: &Scope, count: usize, input: usize, output: usize, groups: usize) -> Vec<ResnetBlock> {
    let from = |i: usize| if i == 0 { input } else { output };
    let scope = scope.pp("resnets");
    (0..count).map(|i| ResnetBlock::new(&scope.pp(i), [from(i), output], groups, EPS, None)).collect()
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

    pub(super) fn forward<'m>(&'m self, g: &mut Graph, x: Map<'m>, room: Room) -> Result<Map<'m>> {
        let x = x.resnets(g, &self.resnets, room)?;
        self.downsamplers.as_ref().map_or(Ok(x.clone()), |conv| x.conv(g, conv, room))
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

    pub(super) fn forward<'m>(&'m self, g: &mut Graph, x: Map<'m>, room: Room) -> Result<Map<'m>> {
        let x = x.resnets(g, &self.resnets, room)?;
        self.upsamplers.as_ref().map_or(Ok(x.clone()), |up| x.conv(g, &up.doubling, room))
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
                attention: SelfAttention::new(&pixels, &OF_VAE, channels, 1),
            }),
        }
    }

    /// Attention needs the whole map, which is small here.
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let run = |g: &mut Graph, resnet: &ResnetBlock, x: Tensor| resnet.forward(g, x, None, None);
        let mut x = self.resnets[..1].iter().try_fold(x, |x, resnet| run(g, resnet, x))?;
        if let Some(PixelAttention { group_norm, attention }) = &self.attentions {
            let shape = g.shape(x).clone();
            let tokens = [shape[0], shape[1] * shape[2], shape[3]];
            let h = group_norm.forward(g, x)?;
            let (h, residual) = (reshape(g, h, tokens)?, reshape(g, x, tokens)?);
            let h = attention.forward(g, h, residual)?;
            x = reshape(g, h, shape)?;
        }
        self.resnets[1..].iter().try_fold(x, |x, resnet| run(g, resnet, x))
    }
}
