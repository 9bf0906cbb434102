//! Configuration of an image tower, whatever its kind.

use serde_json::Value;

use super::fields::{ClipVision, Dinov2, Sides, Vit};
use crate::base::json;
use crate::error::{Error, Result};
use crate::models::config::{CHANNELS, Check, LAYERS};
use crate::ops::Activation;

/// Most pixels of a side of an image or a patch.
const PIXELS: usize = 1 << 14;

/// Kind of image tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionKind {
    /// `ViTModel`: DINO and others.
    Vit,
    /// `Dinov2Model`
    Dinov2,
    /// `Dinov2WithRegistersModel`
    Dinov2WithRegisters,
    /// The image side of `CLIPModel`.
    Clip,
}

/// Image tower: a transformer over patches of the image and a class token.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Kind.
    pub kind: VisionKind,
    /// Channels.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Channels inside the feed-forward layers.
    pub inner: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Whether the feed-forward layers are gated (SwiGLU).
    pub gated: bool,
    /// Added to the variance in norms.
    pub eps: f64,
    /// Pixels down and across of the images whose positions were trained.
    pub image: [usize; 2],
    /// Pixels down and across of a patch.
    pub patch: [usize; 2],
    /// Channels of an image.
    pub channels: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Register tokens.
    pub registers: usize,
    /// Width of the projected class token, where it is projected.
    pub projection: Option<usize>,
}

impl VisionConfig {
    /// Reads the fields `json` of `path` as an image tower of `kind`. A CLIP's tower is projected if `projection` says to what
    /// width.
    ///
    /// # Errors
    /// [`Error::File`] that names the field.
    pub fn parse(path: &str, json: &Value, kind: VisionKind, projection: Option<usize>) -> Result<VisionConfig> {
        let config = match kind {
            VisionKind::Vit => vit(path, json)?,
            VisionKind::Dinov2 | VisionKind::Dinov2WithRegisters => dinov2(path, json, kind)?,
            VisionKind::Clip => VisionConfig { projection, ..clip(path, json)? },
        };
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &str) -> Result<()> {
        let check = Check { path };
        for (name, value, most) in [
            ("hidden_size", self.hidden_size, CHANNELS),
            ("num_hidden_layers", self.layers, LAYERS),
            ("intermediate_size", self.inner, CHANNELS),
            ("image_size", self.image[0].min(self.image[1]), PIXELS),
            ("image_size", self.image[0].max(self.image[1]), PIXELS),
            ("patch_size", self.patch[0].min(self.patch[1]), PIXELS),
            ("patch_size", self.patch[0].max(self.patch[1]), PIXELS),
            ("num_channels", self.channels, CHANNELS),
            ("projection_dim", self.projection.unwrap_or(1), CHANNELS),
        ] {
            check.count(name, value, most)?;
        }
        check.narrow_heads(self.heads, self.hidden_size)?;
        check.eps("layer_norm_eps", self.eps)?;
        if self.registers > CHANNELS {
            return check.fail(format!("num_register_tokens is {}, must be at most {CHANNELS}", self.registers));
        }
        let ([height, width], [down, across]) = (self.image, self.patch);
        if down > height || across > width {
            return check.fail(format!("patch_size is {down}x{across}, more than image_size, {height}x{width}"));
        }
        Ok(())
    }

    /// Patches down and across of an image of the trained size.
    pub fn trained_grid(&self) -> [usize; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }

    /// Values of a patch.
    pub fn patch_values(&self) -> usize {
        self.channels * self.patch[0] * self.patch[1]
    }

    /// Width of an embedding.
    pub fn width(&self) -> usize {
        self.projection.unwrap_or(self.hidden_size)
    }

    /// Whether the branches of a layer are scaled by a factor per channel (LayerScale, Touvron et al. 2021, arXiv 2103.17239).
    pub fn layer_scale(&self) -> bool {
        matches!(self.kind, VisionKind::Dinov2 | VisionKind::Dinov2WithRegisters)
    }
}

fn fields<T: serde::de::DeserializeOwned>(path: &str, json: &Value) -> Result<T> {
    json::fields(json).map_err(|e| Error::file(path, e))
}

fn vit(path: &str, json: &Value) -> Result<VisionConfig> {
    let vit: Vit = fields(path, json)?;
    Ok(VisionConfig {
        kind: VisionKind::Vit,
        hidden_size: vit.hidden_size,
        layers: vit.num_hidden_layers,
        heads: vit.num_attention_heads,
        inner: vit.intermediate_size,
        activation: Check { path }.activation(&vit.hidden_act)?,
        gated: false,
        eps: vit.layer_norm_eps,
        image: vit.image_size.get(),
        patch: vit.patch_size.get(),
        channels: vit.num_channels,
        qkv_bias: vit.qkv_bias,
        registers: 0,
        projection: None,
    })
}

fn dinov2(path: &str, json: &Value, kind: VisionKind) -> Result<VisionConfig> {
    let v2: Dinov2 = fields(path, json)?;
    let registers = kind == VisionKind::Dinov2WithRegisters;
    if !(v2.mlp_ratio > 0.0 && v2.mlp_ratio * v2.hidden_size as f64 <= CHANNELS as f64) {
        let message = format!("mlp_ratio is {}, must be above 0 and give at most {CHANNELS} channels", v2.mlp_ratio);
        return Err(Error::file(path, message));
    }
    let inner = (v2.hidden_size as f64 * v2.mlp_ratio) as usize;
    Ok(VisionConfig {
        kind,
        hidden_size: v2.hidden_size,
        layers: v2.num_hidden_layers,
        heads: v2.num_attention_heads,
        // A gate takes a third of the channels, which keeps the number of parameters.
        inner: if v2.use_swiglu_ffn { (inner * 2 / 3).next_multiple_of(8) } else { inner },
        activation: if v2.use_swiglu_ffn { Activation::Silu } else { Check { path }.activation(&v2.hidden_act)? },
        gated: v2.use_swiglu_ffn,
        eps: v2.layer_norm_eps,
        image: v2.image_size.get(),
        patch: v2.patch_size.map_or([if registers { 16 } else { 14 }; 2], Sides::get),
        channels: v2.num_channels,
        qkv_bias: v2.qkv_bias,
        registers: if registers { v2.num_register_tokens } else { 0 },
        projection: None,
    })
}

fn clip(path: &str, json: &Value) -> Result<VisionConfig> {
    let clip: ClipVision = fields(path, json)?;
    Ok(VisionConfig {
        kind: VisionKind::Clip,
        hidden_size: clip.hidden_size,
        layers: clip.num_hidden_layers,
        heads: clip.num_attention_heads,
        inner: clip.intermediate_size,
        activation: Check { path }.activation(&clip.hidden_act)?,
        gated: false,
        eps: clip.layer_norm_eps,
        image: clip.image_size.get(),
        patch: clip.patch_size.get(),
        channels: clip.num_channels,
        qkv_bias: true,
        registers: 0,
        projection: Some(clip.projection_dim),
    })
}
