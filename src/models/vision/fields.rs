//! `config.json` of each kind of image tower as transformers' classes have it (5.23), with their defaults.

use serde::Deserialize;

/// Pixels down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a list of two: height and width")]
pub(super) enum Sides {
    Square(usize),
    Each([usize; 2]),
}

impl Sides {
    /// Pixels down and across.
    pub fn get(self) -> [usize; 2] {
        match self {
            Sides::Square(side) => [side; 2],
            Sides::Each(sides) => sides,
        }
    }
}

/// `ViTConfig`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Vit {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    pub image_size: Sides,
    pub patch_size: Sides,
    pub num_channels: usize,
    pub qkv_bias: bool,
}

impl Default for Vit {
    fn default() -> Vit {
        Vit {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            image_size: Sides::Square(224),
            patch_size: Sides::Square(16),
            num_channels: 3,
            qkv_bias: true,
        }
    }
}

/// `Dinov2Config` and `Dinov2WithRegistersConfig`, which differ in the default of `patch_size`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Dinov2 {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub mlp_ratio: f64,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    pub image_size: Sides,
    pub patch_size: Option<Sides>,
    pub num_channels: usize,
    pub qkv_bias: bool,
    pub use_swiglu_ffn: bool,
    pub num_register_tokens: usize,
}

impl Default for Dinov2 {
    fn default() -> Dinov2 {
        Dinov2 {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-6,
            image_size: Sides::Square(224),
            patch_size: None,
            num_channels: 3,
            qkv_bias: true,
            use_swiglu_ffn: false,
            num_register_tokens: 4,
        }
    }
}

/// `CLIPVisionConfig`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct ClipVision {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub projection_dim: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    pub image_size: Sides,
    pub patch_size: Sides,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
}

impl Default for ClipVision {
    fn default() -> ClipVision {
        ClipVision {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: Sides::Square(224),
            patch_size: Sides::Square(32),
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}
