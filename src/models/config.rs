//! `config.json` of the three parts, as diffusers and transformers write it. What would change the picture and is not
//! supported is refused by name.

mod check;
mod per_block;
#[cfg(test)]
mod tests;

use check::{CHANNELS, Check, LAYERS, read};
pub use per_block::PerBlock;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::gpu::Colours;
use crate::ops::{Activation, WIDEST_HEAD};

/// Most pixels of a latent's side.
const SAMPLE_SIZE: usize = 4096;
/// Most tokens of a vocabulary, and of a prompt.
const TOKENS: usize = 1 << 20;

/// A UNet's `config.json` (`UNet2DConditionModel`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct UnetConfig {
    /// Height and width of the latents that it was made for: one number for both, or one for each.
    pub sample_size: Option<PerBlock>,
    /// The diffusers that wrote the file.
    #[serde(rename = "_diffusers_version")]
    pub diffusers_version: Option<String>,
    /// Channels of the input: the latents', and in an inpainting model those of the mask and the masked latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Cosines first in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Shift of its frequencies.
    pub freq_shift: f64,
    /// `CrossAttnDownBlock2D` or `DownBlock2D`, from the highest resolution down.
    pub down_block_types: Vec<String>,
    /// `UNetMidBlock2DCrossAttn`, or none.
    pub mid_block_type: Option<String>,
    /// `UpBlock2D` or `CrossAttnUpBlock2D`, from the lowest resolution up.
    pub up_block_types: Vec<String>,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in a down block; an up block has one more.
    pub layers_per_block: PerBlock,
    /// 1, or 0 for a row and a column behind the picture only.
    pub downsample_padding: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in residual blocks.
    pub norm_eps: f64,
    /// Width of the text encoder's output.
    pub cross_attention_dim: PerBlock,
    /// Transformer blocks of each attention.
    pub transformer_layers_per_block: PerBlock,
    /// The number of heads, under the name that it got by mistake.
    pub attention_head_dim: PerBlock,
    /// Projections around the transformers are linear layers, not convolutions of one pixel.
    pub use_linear_projection: bool,
}

impl Default for UnetConfig {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        let (cross_down, cross_up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
        UnetConfig {
            sample_size: None,
            diffusers_version: None,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: names(&[cross_down, cross_down, cross_down, "DownBlock2D"]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".into()),
            up_block_types: names(&["UpBlock2D", cross_up, cross_up, cross_up]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::One(2),
            downsample_padding: 1,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::One(1280),
            transformer_layers_per_block: PerBlock::One(1),
            attention_head_dim: PerBlock::One(8),
            use_linear_projection: false,
        }
    }
}

/// Fields of a UNet's file that are read from no struct, with the values that are supported.
fn unet_fields() -> Vec<(&'static str, Vec<Value>)> {
    let none = || vec![Value::Null];
    vec![
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("center_input_sample", vec![json!(false)]),
        ("only_cross_attention", vec![json!(false)]),
        ("mid_block_only_cross_attention", vec![Value::Null, json!(false)]),
        ("dual_cross_attention", vec![json!(false)]),
        ("cross_attention_norm", none()),
        ("class_embed_type", none()),
        ("num_class_embeds", none()),
        ("addition_embed_type", none()),
        ("encoder_hid_dim", none()),
        ("encoder_hid_dim_type", none()),
        ("resnet_time_scale_shift", vec![json!("default")]),
        ("resnet_skip_time_act", vec![json!(false)]),
        ("resnet_out_scale_factor", vec![json!(1), json!(1.0)]),
        ("mid_block_scale_factor", vec![json!(1), json!(1.0)]),
        ("time_embedding_type", vec![json!("positional")]),
        ("time_embedding_dim", none()),
        ("time_embedding_act_fn", none()),
        ("timestep_post_act", none()),
        ("time_cond_proj_dim", none()),
        ("conv_in_kernel", vec![json!(3)]),
        ("conv_out_kernel", vec![json!(3)]),
        ("attention_type", vec![json!("default")]),
        ("num_attention_heads", none()),
        ("reverse_transformer_layers_per_block", none()),
        ("mid_block_type", vec![json!("UNetMidBlock2DCrossAttn"), Value::Null]),
        ("downsample_padding", vec![json!(0), json!(1)]),
    ]
}

impl UnetConfig {
    /// Reads the text of `path`.
    pub fn parse(path: &str, text: &str) -> Result<UnetConfig> {
        let mut config: UnetConfig = read(path, text, &unet_fields())?;
        let check = Check { path };
        let blocks = config.block_out_channels.len();
        check.channels(&config.block_out_channels)?;
        check.blocks(&config.down_block_types, "down_block_types", &["CrossAttnDownBlock2D", "DownBlock2D"], blocks)?;
        check.blocks(&config.up_block_types, "up_block_types", &["CrossAttnUpBlock2D", "UpBlock2D"], blocks)?;
        for (name, field, most) in [
            ("layers_per_block", &config.layers_per_block, LAYERS),
            ("cross_attention_dim", &config.cross_attention_dim, CHANNELS),
            ("transformer_layers_per_block", &config.transformer_layers_per_block, LAYERS),
            ("attention_head_dim", &config.attention_head_dim, CHANNELS),
        ] {
            check.per_block(name, field, blocks, most)?;
        }
        if let Some(size) = &config.sample_size {
            check.per_block("sample_size", size, 2, SAMPLE_SIZE)?;
        }
        check.count("in_channels", config.in_channels, CHANNELS)?;
        check.count("out_channels", config.out_channels, CHANNELS)?;
        check.eps("norm_eps", config.norm_eps)?;
        for (i, &channels) in config.block_out_channels.iter().enumerate() {
            check.divides("norm_num_groups", config.norm_num_groups, channels)?;
            let (name, heads) = ("attention_head_dim (the number of heads)", config.attention_head_dim.get(i));
            check.divides(name, heads, channels)?;
            if config.attends(i) {
                check.heads(name, heads, channels)?;
            }
        }
        if ((config.block_out_channels[0] / 2) as f64) <= config.freq_shift || !config.freq_shift.is_finite() {
            return Err(Error::file(path, format!("freq_shift is {}, too large", config.freq_shift)));
        }
        // Early files say 32 of models that were made for 64; diffusers' pipeline corrects them alike.
        if matches!(config.sample_size, Some(PerBlock::One(..64))) && config.before(0, 9) {
            config.sample_size = Some(PerBlock::One(64));
        }
        Ok(config)
    }

    /// Whether a diffusers older than `major.minor` wrote it.
    fn before(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.diffusers_version.iter().flat_map(|v| v.split('.')).map(|n| n.parse::<u32>().ok());
        matches!((numbers.next(), numbers.next()), (Some(Some(a)), Some(Some(b))) if (a, b) < (major, minor))
    }

    /// Whether the blocks of resolution `i`, from the highest down, have attention.
    fn attends(&self, i: usize) -> bool {
        let last = self.block_out_channels.len() - 1;
        let middle = i == last && self.mid_block_type.is_some();
        middle
            || self.down_block_types[i].starts_with("CrossAttn")
            || self.up_block_types[last - i].starts_with("CrossAttn")
    }

    /// The widest head of its attentions, in columns.
    pub(super) fn widest_head(&self) -> usize {
        let blocks = self.block_out_channels.iter().enumerate().filter(|(i, _)| self.attends(*i));
        blocks.map(|(i, channels)| channels / self.attention_head_dim.get(i)).max().unwrap_or(0)
    }

    /// Height and width of the latents that it was made for.
    pub fn latent_size(&self) -> [usize; 2] {
        self.sample_size.as_ref().map_or([64; 2], |size| [size.get(0), size.get(1)])
    }

    /// Whether the input is that of an inpainting model for latents of `latent` channels: the latents, a mask, and the
    /// latents of the picture with the mask cut out.
    pub fn inpaints(&self, latent: usize) -> bool {
        self.in_channels == 2 * latent + 1
    }

    /// Width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.block_out_channels[0] * 4
    }
}

/// An autoencoder's `config.json` (`AutoencoderKL`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
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
    /// is a further row, for none. Fitted by least squares on pictures and their latents.
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

    /// Pixels of a picture along each side of a latent's pixel.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// A text encoder's `config.json` (`CLIPTextModel`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TextEncoderConfig {
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
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        TextEncoderConfig {
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
        let allowed = [("hidden_act", vec![json!("quick_gelu"), json!("gelu")])];
        let config: TextEncoderConfig = read(path, text, &allowed)?;
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
        let heads = config.num_attention_heads;
        check.divides("num_attention_heads", heads, config.hidden_size)?;
        if config.hidden_size / heads > WIDEST_HEAD {
            let message = format!("num_attention_heads is {heads} for {} channels", config.hidden_size);
            return Err(Error::file(path, format!("{message}: heads wider than {WIDEST_HEAD} are not supported")));
        }
        check.eps("layer_norm_eps", config.layer_norm_eps)?;
        Ok(config)
    }

    /// Activation of the feed-forward layers.
    pub fn activation(&self) -> Activation {
        if self.hidden_act == "gelu" { Activation::Gelu } else { Activation::QuickGelu }
    }
}
