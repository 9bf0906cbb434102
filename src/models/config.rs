//! `config.json` of the three parts, as diffusers and transformers write it. What would change the image and is not
//! supported is refused by name.

mod check;
mod depths;
mod per_block;
#[cfg(test)]
mod tests;
mod unet;

use check::read;
pub(super) use check::{CHANNELS, Check, LAYERS};
pub use depths::{Depth, Depths};
pub use per_block::PerBlock;
use serde::Deserialize;
use serde_json::{Value, json};
pub(super) use unet::TIME_IDS;
pub use unet::{AddedConfig, UnetConfig};

use crate::error::Result;
use crate::gpu::Colours;
use crate::ops::Activation;

/// Most tokens of a vocabulary, and of a prompt.
const TOKENS: usize = 1 << 20;

/// An autoencoder's `config.json` (`AutoencoderKL`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Down blocks, from the highest resolution down.
    pub down_block_types: Vec<String>,
    /// Up blocks, from the lowest resolution up.
    pub up_block_types: Vec<String>,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in an encoder block; a decoder block has one more.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents times this have about unit variance.
    pub scaling_factor: f64,
    /// A convolution of one pixel behind the encoder.
    pub use_quant_conv: bool,
    /// A convolution of one pixel in front of the decoder.
    pub use_post_quant_conv: bool,
    /// Attention at the lowest resolution.
    pub mid_block_add_attention: bool,
    /// About what colour a latent is: red, green and blue in [-1, 1] for one of each (scaled) channel, and, where there
    /// is a further row, for none. Fitted by least squares on images and their latents.
    pub latent_rgb_factors: Vec<[f32; 3]>,
}

/// Of Stable Diffusion 1.x and 2.x, as ComfyUI (`latent_formats.py`) has them.
const LATENT_RGB_FACTORS: [[f32; 3]; 4] =
    [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]];

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            latent_rgb_factors: LATENT_RGB_FACTORS.into(),
        }
    }
}

impl VaeConfig {
    /// The colours of `latents` (NHWC, scaled), 8 bits each: a rough preview that costs nothing.
    pub fn preview(&self, latents: &[f32]) -> Vec<u8> {
        let none = self.latent_rgb_factors.get(self.latent_channels).copied().unwrap_or_default();
        let pixel = |latent: &[f32]| {
            (0..3)
                .map(|c| none[c] + latent.iter().zip(&self.latent_rgb_factors).map(|(x, f)| x * f[c]).sum::<f32>())
                .collect::<Vec<f32>>()
        };
        latents.chunks(self.latent_channels).flat_map(pixel).map(|x| ((x + 1.0) * 127.5).round() as u8).collect()
    }

    /// The same for a texture: latents times `scale`.
    pub(crate) fn colours(&self, scale: f32) -> Colours {
        let row = |c: usize| self.latent_rgb_factors.get(c).copied().unwrap_or_default();
        Colours {
            rows: std::array::from_fn(|c| if c < self.latent_channels { row(c).map(|x| x * scale) } else { [0.0; 3] }),
            bias: row(self.latent_channels),
            channels: self.latent_channels as u32,
        }
    }

    /// Reads the text of `path`.
    pub fn parse(path: &str, text: &str) -> Result<VaeConfig> {
        let allowed = [
            ("act_fn", vec![json!("silu"), json!("swish")]),
            ("shift_factor", vec![Value::Null, json!(0), json!(0.0)]),
            ("latents_mean", vec![Value::Null]),
            ("latents_std", vec![Value::Null]),
        ];
        let config: VaeConfig = read(path, text, &allowed)?;
        let check = Check { path };
        let blocks = config.block_out_channels.len();
        check.channels(&config.block_out_channels)?;
        check.blocks(&config.down_block_types, "down_block_types", &["DownEncoderBlock2D"], blocks)?;
        check.blocks(&config.up_block_types, "up_block_types", &["UpDecoderBlock2D"], blocks)?;
        for (name, value, most) in [
            ("in_channels", config.in_channels, CHANNELS),
            ("out_channels", config.out_channels, CHANNELS),
            ("layers_per_block", config.layers_per_block, LAYERS),
            ("latent_channels", config.latent_channels, CHANNELS),
        ] {
            check.count(name, value, most)?;
        }
        for &channels in &config.block_out_channels {
            check.divides("norm_num_groups", config.norm_num_groups, channels)?;
        }
        check.eps("scaling_factor", config.scaling_factor)?;
        Ok(config)
    }

    /// Pixels of an image along each side of a latent's pixel.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// Class of a text encoder that has a text projection.
const PROJECTING: &str = "CLIPTextModelWithProjection";

/// A text encoder's `config.json` (`CLIPTextModel` or `CLIPTextModelWithProjection`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TextEncoderConfig {
    /// Classes that the file describes: `CLIPTextModel`, or `CLIPTextModelWithProjection`.
    pub architectures: Vec<String>,
    /// Width of the text projection, where there is one.
    pub projection_dim: usize,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Longest prompt, in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers, by transformers' name.
    pub hidden_act: String,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        TextEncoderConfig {
            architectures: Vec::new(),
            projection_dim: 512,
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl TextEncoderConfig {
    /// Reads the text of `path`.
    pub fn parse(path: &str, text: &str) -> Result<TextEncoderConfig> {
        let config: TextEncoderConfig = read(path, text, &[])?;
        let check = Check { path };
        for (name, value, most) in [
            ("vocab_size", config.vocab_size, TOKENS),
            ("hidden_size", config.hidden_size, CHANNELS),
            ("intermediate_size", config.intermediate_size, CHANNELS),
            ("num_hidden_layers", config.num_hidden_layers, LAYERS),
            ("max_position_embeddings", config.max_position_embeddings, TOKENS),
        ] {
            check.count(name, value, most)?;
        }
        check.narrow_heads(config.num_attention_heads, config.hidden_size)?;
        check.activation(&config.hidden_act)?;
        check.eps("layer_norm_eps", config.layer_norm_eps)?;
        if config.projection().is_some() {
            check.count("projection_dim", config.projection_dim, CHANNELS)?;
        }
        Ok(config)
    }

    /// Width of the pooled prompt, if the class has a text projection.
    pub fn projection(&self) -> Option<usize> {
        self.architectures.iter().any(|class| class == PROJECTING).then_some(self.projection_dim)
    }

    /// Activation of the feed-forward layers.
    pub fn activation(&self) -> Activation {
        Activation::from_name(&self.hidden_act).unwrap_or(Activation::QuickGelu)
    }
}
