//! Settings that all layers of a model share: storage, mode, and adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{DType, block8};

/// Purpose of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Few dispatches: weights that read the same input are stacked, activations sit in epilogues.
    #[default]
    Inference,
    /// One parameter per checkpoint tensor, and only ops that have gradient rules.
    Training,
}

/// Settings that all layers of a model share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Storage of matrices, kernels and the token table; biases, norms and position tables stay f32.
    pub dtype: DType,
    /// Layers, by path from the part on, that stay in eight bits where `dtype` is four: those that lose most.
    pub eight_bits: Arc<BTreeSet<String>>,
    /// Purpose of the model.
    pub mode: Mode,
    /// Low-rank adapters that are trained beside the weights.
    pub lora: Option<LoraSpec>,
    /// Low-rank adapters that are applied beside the weights.
    pub adapters: Arc<Ranks>,
    /// Whether a transformer is a segment around its blocks', so that gradient checkpointing keeps no input of a block
    /// and runs all but one of them once more. See [`Graph::segment`](crate::graph::Graph::segment).
    pub nested_segments: bool,
}

/// Ranks of applied adapters by the layer's path from the part on (`unet.mid_block.attentions.0.proj_in`). The factor of
/// the product is part of the `up` factors.
pub type Ranks = BTreeMap<String, usize>;

impl Settings {
    /// Storage of rows of `columns` that the layers at `paths` share: half precision where blocks do not fill them.
    pub(super) fn storage<'p>(&self, columns: usize, mut paths: impl Iterator<Item = &'p str>) -> DType {
        match self.dtype {
            // Rows that only blocks of four bits would fill are those of small layers, which q8 keeps in half precision.
            DType::Q4 | DType::Q8 if !columns.is_multiple_of(block8::VALUES) => DType::F16,
            DType::Q4 if paths.any(|path| self.eight_bits.contains(path)) => DType::Q8,
            dtype => dtype,
        }
    }

    /// Rank of the adapter beside the layer at `path`, and the factor of its product.
    pub(super) fn adapter(&self, path: &str) -> Option<(usize, f64)> {
        let trained = self.lora.as_ref().filter(|spec| spec.covers(path)).map(|spec| (spec.rank, spec.scale()));
        trained.or_else(|| self.adapters.get(path).map(|rank| (*rank, 1.0)))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            dtype: DType::F32,
            eight_bits: Arc::default(),
            mode: Mode::Inference,
            lora: None,
            adapters: Arc::default(),
            nested_segments: false,
        }
    }
}

/// Layers that get an adapter.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// `to_q`, `to_k`, `to_v`, `to_out.0` of the UNet's attentions; `q_proj`, `k_proj`, `v_proj`, `out_proj` of the
    /// text encoders'.
    Attention,
    /// Every linear layer and convolution inside the UNet's down, mid and up blocks; the text encoders as for
    /// `Attention`.
    All,
    /// These, by path from the part on: `unet.mid_block.attentions.0.proj_in`.
    Listed(BTreeSet<String>),
}

impl Targets {
    /// Returns whether the layer at `path` (from the part on) is one of them.
    pub fn covers(&self, path: &str) -> bool {
        let attention = |names: &[&str]| names.iter().any(|n| path.strip_suffix(n).is_some_and(|p| p.ends_with('.')));
        match (self, path.split_once('.')) {
            (Targets::Listed(paths), _) => paths.contains(path),
            (Targets::Attention, Some(("unet", _))) => attention(&["to_q", "to_k", "to_v", "to_out.0"]),
            (Targets::All, Some(("unet", rest))) => {
                ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|block| rest.starts_with(block))
            }
            (_, Some(("text_encoder" | "text_encoder_2", _))) => attention(&["q_proj", "k_proj", "v_proj", "out_proj"]),
            _ => false,
        }
    }
}

/// Adapters of one model part.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    /// Inner size of the two factors.
    pub rank: usize,
    /// The product counts `alpha / rank`.
    pub alpha: f64,
    /// Layers that have an adapter.
    pub targets: Targets,
}

impl LoraSpec {
    /// Returns whether the layer at `path` (from the part on) has an adapter.
    pub fn covers(&self, path: &str) -> bool {
        self.targets.covers(path)
    }

    /// Factor of the product.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_published_ones() {
        let q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
        let out = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0";
        let conv = "unet.up_blocks.1.resnets.0.conv1";
        let text = "text_encoder.text_model.encoder.layers.0.self_attn.out_proj";
        assert!(Targets::Attention.covers(q) && Targets::Attention.covers(out) && Targets::Attention.covers(text));
        assert!(Targets::All.covers(&text.replacen("text_encoder", "text_encoder_2", 1)));
        assert!(!Targets::Attention.covers(conv) && Targets::All.covers(conv) && Targets::All.covers(q));
        for outside in ["unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_1", "vae.decoder.conv_in"] {
            assert!(!Targets::All.covers(outside), "{outside}");
        }
        assert!(!Targets::All.covers("text_encoder.text_model.encoder.layers.0.mlp.fc1"));
        let listed = Targets::Listed([conv.to_string()].into());
        assert!(listed.covers(conv) && !listed.covers(q));
    }
}
