//! `config.json` of a UNet.

use serde::Deserialize;
use serde_json::{Value, json};

use super::check::{CHANNELS, Check, LAYERS, read};
use super::depths::Depths;
use super::per_block::PerBlock;
use crate::error::{Error, Result};

/// Most pixels of a latent's side.
const SAMPLE_SIZE: usize = 4096;
/// Numbers of a `text_time` embedding's sizes: original height and width, crop's top and left, target height and width.
pub(in crate::low_level::models) const TIME_IDS: usize = 6;

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
    /// `UNetMidBlock2DCrossAttn`; `UNetMidBlock2D`, one residual block; or none.
    pub mid_block_type: Option<String>,
    /// `UpBlock2D` or `CrossAttnUpBlock2D`, from the lowest resolution up.
    pub up_block_types: Vec<String>,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in a down block; an up block has one more.
    pub layers_per_block: PerBlock,
    /// 1, or 0 for a row and a column behind the image only.
    pub downsample_padding: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in residual blocks.
    pub norm_eps: f64,
    /// Width of the text encoder's output.
    pub cross_attention_dim: PerBlock,
    /// Transformer blocks of each attention, from the highest resolution down; the last one's also in the middle.
    pub transformer_layers_per_block: Depths,
    /// Transformer blocks of each attention on the way up, from the lowest resolution; without them
    /// `transformer_layers_per_block` backwards.
    pub reverse_transformer_layers_per_block: Option<Depths>,
    /// The number of heads, under the name that it got by mistake.
    pub attention_head_dim: PerBlock,
    /// Projections around the transformers are linear layers, not convolutions of one pixel.
    pub use_linear_projection: bool,
    /// `text_time`: pooled prompt and sizes of the image are added to the time embedding.
    pub addition_embed_type: Option<String>,
    /// Sines and cosines of each of the six numbers of a `text_time` embedding's sizes.
    pub addition_time_embed_dim: Option<usize>,
    /// Width of the pooled prompt and of those sines and cosines together.
    pub projection_class_embeddings_input_dim: Option<usize>,
}

/// Inputs of a `text_time` embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedConfig {
    /// Width of the pooled prompt.
    pub pooled: usize,
    /// Sines and cosines of each of the six numbers of the image's sizes.
    pub time_embed_dim: usize,
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
            transformer_layers_per_block: Depths::default(),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerBlock::One(8),
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
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
        ("addition_embed_type", vec![json!("text_time"), Value::Null]),
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
        ("mid_block_type", vec![json!("UNetMidBlock2DCrossAttn"), json!("UNetMidBlock2D"), Value::Null]),
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
            ("attention_head_dim", &config.attention_head_dim, CHANNELS),
        ] {
            check.per_block(name, field, blocks, most)?;
        }
        config.check_depths(&check)?;
        config.check_added(&check)?;
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

    /// Checks that every attention has a depth.
    fn check_depths(&self, check: &Check) -> Result<()> {
        let (name, reverse) = ("transformer_layers_per_block", "reverse_transformer_layers_per_block");
        let last = self.block_out_channels.len() - 1;
        let down = &self.transformer_layers_per_block;
        // Blocks without attention have an entry too, which says nothing.
        let layers = |i: usize| self.layers_per_block.get(i);
        let in_down = |i: usize| if self.down_block_types[i].starts_with("CrossAttn") { layers(i) } else { 0 };
        check.depths(name, down, last + 1, &|i| in_down(i).max(usize::from(i == last && self.middle_attends())))?;
        match &self.reverse_transformer_layers_per_block {
            Some(up) => check.depths(reverse, up, last + 1, &|i| {
                if self.up_block_types[i].starts_with("CrossAttn") { layers(last - i) + 1 } else { 0 }
            }),
            None if down.nested() => {
                check.fail(format!("{name} has a list for a block: {reverse}, which it needs then, is missing"))
            }
            None => Ok(()),
        }
    }

    /// Checks the sizes of a `text_time` embedding.
    fn check_added(&self, check: &Check) -> Result<()> {
        if self.addition_embed_type.is_none() {
            return Ok(());
        }
        let (sines, width) = ("addition_time_embed_dim", "projection_class_embeddings_input_dim");
        let missing = |name: &str| format!("{name} is missing; addition_embed_type \"text_time\" needs it");
        let Some(dim) = self.addition_time_embed_dim else { return check.fail(missing(sines)) };
        let Some(input) = self.projection_class_embeddings_input_dim else { return check.fail(missing(width)) };
        check.count(sines, dim, CHANNELS)?;
        check.count(width, input, CHANNELS)?;
        if (dim / 2) as f64 <= self.freq_shift {
            return check.fail(format!("{sines} is {dim}, too small for a freq_shift of {}", self.freq_shift));
        }
        if input <= TIME_IDS * dim {
            let least = TIME_IDS * dim;
            return check.fail(format!("{width} is {input}, must be above {TIME_IDS} times {sines}, {least}"));
        }
        Ok(())
    }

    /// Widths of the pooled prompt and of the image's sizes, if both are added to the time embedding.
    pub fn added(&self) -> Option<AddedConfig> {
        self.addition_embed_type.as_ref()?;
        let (time_embed_dim, width) = (self.addition_time_embed_dim?, self.projection_class_embeddings_input_dim?);
        Some(AddedConfig { pooled: width.checked_sub(TIME_IDS * time_embed_dim)?, time_embed_dim })
    }

    /// Transformer blocks of attention `layer` of up block `i`, counted from the lowest resolution.
    pub(in crate::low_level::models) fn up_depth(&self, i: usize, layer: usize) -> usize {
        match &self.reverse_transformer_layers_per_block {
            Some(depths) => depths.get(i, layer),
            None => self.transformer_layers_per_block.get(self.block_out_channels.len() - 1 - i, layer),
        }
    }

    /// Returns whether any attention has several transformer blocks.
    pub fn deep_transformers(&self) -> bool {
        let depths =
            std::iter::once(&self.transformer_layers_per_block).chain(&self.reverse_transformer_layers_per_block);
        depths.flat_map(Depths::values).any(|depth| depth > 1)
    }

    /// Returns whether the middle has attention.
    pub(in crate::low_level::models) fn middle_attends(&self) -> bool {
        self.mid_block_type.as_ref().is_some_and(|kind| kind == "UNetMidBlock2DCrossAttn")
    }

    /// Whether a diffusers older than `major.minor` wrote it.
    fn before(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.diffusers_version.iter().flat_map(|v| v.split('.')).map(|n| n.parse::<u32>().ok());
        matches!((numbers.next(), numbers.next()), (Some(Some(a)), Some(Some(b))) if (a, b) < (major, minor))
    }

    /// Whether the blocks of resolution `i`, from the highest down, have attention.
    fn attends(&self, i: usize) -> bool {
        let last = self.block_out_channels.len() - 1;
        let middle = i == last && self.middle_attends();
        middle
            || self.down_block_types[i].starts_with("CrossAttn")
            || self.up_block_types[last - i].starts_with("CrossAttn")
    }

    /// The widest head of its attentions, in columns.
    pub(in crate::low_level::models) fn widest_head(&self) -> usize {
        let blocks = self.block_out_channels.iter().enumerate().filter(|(i, _)| self.attends(*i));
        blocks.map(|(i, channels)| channels / self.attention_head_dim.get(i)).max().unwrap_or(0)
    }

    /// Height and width of the latents that it was made for.
    pub fn latent_size(&self) -> [usize; 2] {
        self.sample_size.as_ref().map_or([64; 2], |size| [size.get(0), size.get(1)])
    }

    /// Whether the input is that of an inpainting model for latents of `latent` channels: the latents, a mask, and the
    /// latents of the image with the mask cut out.
    pub fn inpaints(&self, latent: usize) -> bool {
        self.in_channels == 2 * latent + 1
    }

    /// Width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.block_out_channels[0] * 4
    }
}
