//! `Transformer2DModel`: self-attention over pixels, cross-attention to the prompt, a gated feed-forward layer.

use super::attention::{Context, CrossAttention, DIFFUSERS, SelfAttention};
use super::unet_blocks::Build;
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::nn::{GroupNorm, LayerNorm, Linear, Mode, Scope};
use crate::ops::{Addend, Epilogue, geglu, reshape};

/// Linear layers, GEGLU between them: `c -> 4c -> c`.
#[derive(Clone, Debug)]
struct FeedForward {
    proj: Linear,
    out: Linear,
    fused: bool,
}

impl FeedForward {
    fn new(scope: &Scope, channels: usize) -> FeedForward {
        let (net, inner) = (scope.pp("net"), 4 * channels);
        FeedForward {
            proj: Linear::new(&net.pp(0).pp("proj"), channels, 2 * inner, true),
            out: Linear::new(&net.pp(2), inner, channels, true),
            fused: scope.settings().mode == Mode::Inference,
        }
    }

    fn forward(&self, g: &mut Graph, x: Tensor, residual: Tensor) -> Result<Tensor> {
        let mut h = self.proj.forward_with(g, x, Epilogue { geglu: self.fused, ..Epilogue::default() })?;
        if !self.fused {
            h = geglu(g, h)?;
        }
        self.out.forward_with(g, h, Epilogue { add: Some(Addend::Full(residual)), ..Epilogue::default() })
    }
}

#[derive(Clone, Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn new(scope: &Scope, channels: usize, heads: usize, context: usize, build: &mut Build) -> Self {
        let norm = |name: &str| LayerNorm::new(&scope.pp(name), channels, 1e-5);
        BasicTransformerBlock {
            norm1: norm("norm1"),
            attn1: SelfAttention::new(&scope.pp("attn1"), &DIFFUSERS, channels, heads, false, false),
            norm2: norm("norm2"),
            attn2: CrossAttention::new(&scope.pp("attn2"), channels, context, heads, build.next_cross_attention()),
            norm3: norm("norm3"),
            ff: FeedForward::new(&scope.pp("ff"), channels),
        }
    }

    fn forward(&self, g: &mut Graph, x: Tensor, context: Context) -> Result<Tensor> {
        let h = self.norm1.forward(g, x)?;
        let x = self.attn1.forward(g, h, x)?;
        let h = self.norm2.forward(g, x)?;
        let x = self.attn2.forward(g, h, context, x)?;
        let h = self.norm3.forward(g, x)?;
        self.ff.forward(g, h, x)
    }
}

/// Transformer blocks over the pixels of a feature map, between two projections.
#[derive(Clone, Debug)]
pub(super) struct Transformer2D {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Linear,
    path: String,
}

impl Transformer2D {
    /// For the features of block `block` (from the highest resolution down).
    pub(super) fn new(scope: &Scope, block: usize, build: &mut Build) -> Transformer2D {
        let config = build.config;
        let channels = config.block_out_channels[block];
        let (heads, context) = (config.attention_head_dim.get(block), config.cross_attention_dim.get(block));
        let linear = config.use_linear_projection;
        let project = |name: &str| {
            let scope = scope.pp(name);
            if linear {
                Linear::new(&scope, channels, channels, true)
            } else {
                Linear::pixel(&scope, channels, channels, true)
            }
        };
        let depth = config.transformer_layers_per_block.get(block);
        let blocks = scope.pp("transformer_blocks");
        let (proj_in, proj_out) = (project("proj_in"), project("proj_out"));
        Transformer2D {
            norm: GroupNorm::new(&scope.pp("norm"), channels, config.norm_num_groups, 1e-6),
            proj_in,
            transformer_blocks: (0..depth)
                .map(|i| BasicTransformerBlock::new(&blocks.pp(i), channels, heads, context, build))
                .collect(),
            proj_out,
            path: scope.path().to_string(),
        }
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.transformer_blocks.iter().map(|b| &b.attn2)
    }

    /// `x [n, h, w, c]` -> the same shape.
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, context: Context) -> Result<Tensor> {
        g.segment(&self.path, |g| {
            let shape = g.shape(x).clone();
            let h = self.norm.forward(g, x)?;
            let tokens = [shape[0], shape[1] * shape[2], shape[3]];
            let (h, residual) = (reshape(g, h, tokens)?, reshape(g, x, tokens)?);
            let mut h = self.proj_in.forward(g, h)?;
            for block in &self.transformer_blocks {
                h = block.forward(g, h, context)?;
            }
            let residual = Epilogue { add: Some(Addend::Full(residual)), ..Epilogue::default() };
            let h = self.proj_out.forward_with(g, h, residual)?;
            reshape(g, h, shape)
        })
    }
}
