//! `AutoencoderKL`: between images and latents (Kingma and Welling 2013, arXiv 1312.6114; Rombach et al. 2022).

use super::config::VaeConfig;
use super::vae_blocks::{DownEncoderBlock, EPS, Map, MidBlock, Room, UpDecoderBlock};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, GroupNorm, Linear, Scope};

/// Encoder: from images to the moments of latents.
#[derive(Clone, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownEncoderBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Option<Linear>,
}

impl Encoder {
    /// Builds it at the autoencoder's `scope`.
    pub fn new(scope: &Scope, config: &VaeConfig) -> Encoder {
        let (vae, scope) = (scope, scope.pp("encoder"));
        let VaeConfig { block_out_channels: sizes, norm_num_groups: groups, layers_per_block: layers, .. } = config;
        let (last, moments) = (sizes[sizes.len() - 1], 2 * config.latent_channels);
        let down = scope.pp("down_blocks");
        let block = |i: usize| {
            let channels = [sizes[i.saturating_sub(1)], sizes[i]];
            DownEncoderBlock::new(&down.pp(i), *layers, channels, *groups, i + 1 == sizes.len())
        };
        Encoder {
            conv_in: Conv2d::same(&scope.pp("conv_in"), config.in_channels, sizes[0], 3),
            down_blocks: (0..sizes.len()).map(block).collect(),
            mid_block: MidBlock::new(&scope.pp("mid_block"), last, *groups, config.mid_block_add_attention),
            conv_norm_out: GroupNorm::new(&scope.pp("conv_norm_out"), last, *groups, EPS),
            conv_out: Conv2d::same(&scope.pp("conv_out"), last, moments, 3),
            quant_conv: config.use_quant_conv.then(|| Linear::pixel(&vae.pp("quant_conv"), moments, moments, true)),
        }
    }

    fn forward(&self, g: &mut Graph, image: Tensor, room: Room) -> Result<Tensor> {
        let mut x = Map::Whole(image).conv(g, &self.conv_in, room)?;
        for block in &self.down_blocks {
            x = block.forward(g, x, room)?;
        }
        let x = x.whole(g)?;
        let x = self.mid_block.forward(g, x)?;
        let h = self.conv_norm_out.forward_silu(g, x, None)?;
        let h = self.conv_out.forward(g, h)?;
        self.quant_conv.as_ref().map_or(Ok(h), |conv| conv.forward(g, h))
    }
}

/// Decoder: from latents to images.
#[derive(Clone, Debug)]
pub struct Decoder {
    post_quant_conv: Option<Linear>,
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpDecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Builds it at the autoencoder's `scope`.
    pub fn new(scope: &Scope, config: &VaeConfig) -> Decoder {
        let (vae, scope) = (scope, scope.pp("decoder"));
        let VaeConfig { norm_num_groups: groups, latent_channels: latent, .. } = config;
        let sizes: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = sizes[sizes.len() - 1];
        let up = scope.pp("up_blocks");
        let block = |i: usize| {
            let channels = [sizes[i.saturating_sub(1)], sizes[i]];
            UpDecoderBlock::new(&up.pp(i), config.layers_per_block + 1, channels, *groups, i + 1 == sizes.len())
        };
        Decoder {
            post_quant_conv: (config.use_post_quant_conv)
                .then(|| Linear::pixel(&vae.pp("post_quant_conv"), *latent, *latent, true)),
            conv_in: Conv2d::same(&scope.pp("conv_in"), *latent, sizes[0], 3),
            mid_block: MidBlock::new(&scope.pp("mid_block"), sizes[0], *groups, config.mid_block_add_attention),
            up_blocks: (0..sizes.len()).map(block).collect(),
            conv_norm_out: GroupNorm::new(&scope.pp("conv_norm_out"), last, *groups, EPS),
            conv_out: Conv2d::same(&scope.pp("conv_out"), last, config.out_channels, 3),
        }
    }

    fn forward(&self, g: &mut Graph, latent: Tensor, room: Room) -> Result<Tensor> {
        let x = self.post_quant_conv.as_ref().map_or(Ok(latent), |conv| conv.forward(g, latent))?;
        let x = self.conv_in.forward(g, x)?;
        let mut x = Map::Whole(self.mid_block.forward(g, x)?);
        for block in &self.up_blocks {
            x = block.forward(g, x, room)?;
        }
        x.finish(g, &self.conv_norm_out, &self.conv_out)
    }
}

/// Feature maps are made whole up to a size, and above it in bands of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Bytes of a map that is still made whole.
    pub whole: usize,
    /// Bytes of a band, at most: it is a sixteenth of the largest map, which keeps half a dozen of them small beside
    /// it.
    pub band: usize,
}

impl Default for MapSizes {
    /// The three whole maps that a residual block holds at a time stay below a quarter of a gigabyte; bands, and what
    /// is made of several of them, stay far below WebGPU's default binding.
    fn default() -> Self {
        MapSizes { whole: 64 << 20, band: 32 << 20 }
    }
}

/// Autoencoder. A half that is not needed has no parameters.
#[derive(Clone, Debug)]
pub struct Vae {
    /// Its configuration.
    pub config: VaeConfig,
    maps: MapSizes,
    encoder: Option<Encoder>,
    decoder: Option<Decoder>,
}

impl Vae {
    /// Builds both halves at `scope`.
    pub fn new(scope: &Scope, config: VaeConfig) -> Result<Vae> {
        let (encoder, decoder) = (Some(Encoder::new(scope, &config)), Some(Decoder::new(scope, &config)));
        Ok(Vae { config, maps: MapSizes::default(), encoder, decoder })
    }

    /// Builds the encoder alone.
    pub fn encoder(scope: &Scope, config: VaeConfig) -> Result<Vae> {
        let encoder = Some(Encoder::new(scope, &config));
        Ok(Vae { encoder, decoder: None, maps: MapSizes::default(), config })
    }

    /// Builds the decoder alone.
    pub fn decoder(scope: &Scope, config: VaeConfig) -> Result<Vae> {
        let decoder = Some(Decoder::new(scope, &config));
        Ok(Vae { decoder, encoder: None, maps: MapSizes::default(), config })
    }

    /// Returns this autoencoder with other limits on its feature maps.
    pub fn with_maps(self, maps: MapSizes) -> Vae {
        Vae { maps, ..self }
    }

    /// `image [n, h, w, 3]` in [-1, 1] -> the posterior's moments `[n, h/f, w/f, 2 * latent_channels]`: means, then
    /// logarithms of variances, which the caller clamps to [-30, 20] as diffusers does.
    pub fn encode(&self, g: &mut Graph, image: Tensor) -> Result<Tensor> {
        let shape = g.shape(image).clone();
        let factor = self.config.factor();
        if shape.len() != 4 || shape[3] != self.config.in_channels || shape[1] < factor || shape[2] < factor {
            let message = format!("image is {shape}: expected [n, h, w, c] of at least {factor} pixels a side");
            return Err(Error::op("vae", message));
        }
        let room = self.room([shape[0], shape[1], shape[2]]);
        self.encoder.as_ref().ok_or_else(|| Error::op("vae", "was built without its encoder"))?.forward(g, image, room)
    }

    /// `latent [n, h, w, latent_channels]`, divided by the scaling factor, -> an image `[n, h*f, w*f, 3]`, about in
    /// [-1, 1].
    pub fn decode(&self, g: &mut Graph, latent: Tensor) -> Result<Tensor> {
        let (shape, factor) = (g.shape(latent).clone(), self.config.factor());
        if shape.len() != 4 || shape[3] != self.config.latent_channels {
            let channels = self.config.latent_channels;
            return Err(Error::op("vae", format!("latent is {shape}: expected [n, h, w, {channels}]")));
        }
        let room = self.room([shape[0], shape[1] * factor, shape[2] * factor]);
        self.decoder.as_ref().ok_or_else(|| Error::op("vae", "was built without its decoder"))?.forward(g, latent, room)
    }

    /// Returns the memory limits for images of `[n, h, w]`.
    fn room(&self, [n, h, w]: [usize; 3]) -> Room {
        let channels = self.config.block_out_channels.first().copied().unwrap_or(1);
        let largest = 4 * n * h * w * channels;
        Room { whole: self.maps.whole, band: self.maps.band.min(largest / 16), largest }
    }
}
