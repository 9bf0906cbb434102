//! `Transformer2DModel`: self-attention over pixels, cross-attention to the prompt, a gated feed-forward layer.

use super::attention::{Context, CrossAttention, OF_UNET, SelfAttention};
use super::build::Build;
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::nn::{GroupNorm, LayerNorm, Linear, Mode, Scope};
use crate::ops::{Addend, Epilogue, geglu, join_rows, reshape, slice_rows};

/// Largest hidden values of a feed-forward layer in bytes: one binding at WebGPU's default limits.
const HIDDEN_BYTES: usize = 128 << 20;

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

    /// `x` and `residual` are `[n, tokens, c]`. A hidden layer of more than `most` bytes is made for some tokens at a
    /// time.
    fn forward(&self, g: &mut Graph, x: Tensor, residual: Tensor, most: usize) -> Result<Tensor> {
        let shape = g.shape(x).clone();
        let (samples, tokens) = (shape[0], shape[1]);
        let width = self.proj.output() / if self.fused { 2 } else { 1 };
        let parts = (4 * samples * tokens * width).div_ceil(most).clamp(1, tokens.max(1));
        if parts == 1 {
            return self.layers(g, x, residual);
        }
        let count = tokens.div_ceil(parts);
        let mut made = Vec::with_capacity(parts);
        for first in (0..tokens).step_by(count) {
            let count = count.min(tokens - first);
            let (x, residual) = (slice_rows(g, x, first, count)?, slice_rows(g, residual, first, count)?);
            made.push(self.layers(g, x, residual)?);
        }
        join_rows(g, &made)
    }

    fn layers(&self, g: &mut Graph, x: Tensor, residual: Tensor) -> Result<Tensor> {
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
    path: String,
}

impl BasicTransformerBlock {
    fn new(scope: &Scope, channels: usize, heads: usize, context: usize, build: &mut Build) -> Self {
        let norm = |name: &str| LayerNorm::new(&scope.pp(name), channels, 1e-5);
        BasicTransformerBlock {
            norm1: norm("norm1"),
            attn1: SelfAttention::new(&scope.pp("attn1"), &OF_UNET, channels, heads),
            norm2: norm("norm2"),
            attn2: CrossAttention::new(&scope.pp("attn2"), channels, context, heads, build.next_cross_attention()),
            norm3: norm("norm3"),
            ff: FeedForward::new(&scope.pp("ff"), channels),
            path: scope.path().to_string(),
        }
    }

    fn forward(&self, g: &mut Graph, x: Tensor, context: Context) -> Result<Tensor> {
        let h = self.norm1.forward(g, x)?;
        let x = self.attn1.forward(g, h, x)?;
        let h = self.norm2.forward(g, x)?;
        let x = self.attn2.forward(g, h, context, x)?;
        let h = self.norm3.forward(g, x)?;
        self.ff.forward(g, h, x, HIDDEN_BYTES)
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
    /// Whether the whole is a segment around its blocks'.
    nested: bool,
}

impl Transformer2D {
    /// Creates a transformer of `depth` blocks for the resolution `block` (from the highest down).
    pub(super) fn new(scope: &Scope, block: usize, depth: usize, build: &mut Build) -> Transformer2D {
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
            nested: scope.settings().nested_segments || depth == 1,
        }
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.transformer_blocks.iter().map(|b| &b.attn2)
    }

    /// `x [n, h, w, c]` -> the same shape.
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, context: Context) -> Result<Tensor> {
        match self.nested {
            true => g.segment(&self.path, |g| self.record(g, x, context)),
            false => self.record(g, x, context),
        }
    }

    fn record(&self, g: &mut Graph, x: Tensor, context: Context) -> Result<Tensor> {
        let shape = g.shape(x).clone();
        let tokens = [shape[0], shape[1] * shape[2], shape[3]];
        let (mut h, residual) = self.segment(g, "in", |g| {
            let h = self.norm.forward(g, x)?;
            let (h, residual) = (reshape(g, h, tokens)?, reshape(g, x, tokens)?);
            Ok((self.proj_in.forward(g, h)?, residual))
        })?;
        for block in &self.transformer_blocks {
            // One block is all that the transformer's own segment holds while it is differentiated.
            h = match self.transformer_blocks.len() {
                1 => block.forward(g, h, context)?,
                _ => g.segment(&block.path, |g| block.forward(g, h, context))?,
            };
        }
        let residual = Epilogue { add: Some(Addend::Full(residual)), ..Epilogue::default() };
        let h = self.proj_out.forward_with(g, h, residual)?;
        reshape(g, h, shape)
    }

    /// Records `f` as a segment of its own where none is around it.
    fn segment<T>(&self, g: &mut Graph, name: &str, f: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        match self.nested {
            true => f(g),
            false => g.segment(&format!("{}.{name}", self.path), f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::{Array, DType};
    use crate::graph::eval;
    use crate::nn::Settings;
    use crate::ops::oracle::Random;
    use crate::ops::{Given, dot, grad};

    /// The layer's result and the gradient by its first weight, with a hidden layer of at most `most` bytes at a time.
    fn run(mode: Mode, most: usize) -> (usize, [Array; 2]) {
        let scope = Scope::new("unet", Settings { mode, ..Settings::default() });
        let layer = FeedForward::new(&scope, 8);
        let mut g = Graph::new();
        let x = g.input("x", [2, 11, 8], DType::F32);
        let residual = g.input("residual", [2, 11, 8], DType::F32);
        let out = layer.forward(&mut g, x, residual, most).unwrap();
        let loss = dot(&mut g, out, out).unwrap();
        let weight = scope.params()[0].get(&mut g).unwrap();
        let gradient = match mode {
            Mode::Training => grad(&mut g, loss, &[weight], false).unwrap()[0],
            Mode::Inference => loss,
        };
        let mut random = Random::new(3);
        let mut tensors = vec![x, residual];
        tensors.extend(scope.params().iter().map(|p| p.get(&mut g).unwrap()));
        let given: HashMap<Tensor, Array> =
            tensors.into_iter().map(|t| (t, random.operand(&Given::normal(g.shape(t).clone())))).collect();
        let nodes = g.nodes().len();
        let values = eval(&g, given).unwrap();
        (nodes, [values[&out].clone(), values[&gradient].clone()])
    }

    #[test]
    fn some_tokens_at_a_time_give_what_all_give() {
        for mode in [Mode::Inference, Mode::Training] {
            let (few, whole) = run(mode, usize::MAX);
            for most in [1, 1500, 2500] {
                let (nodes, parts) = run(mode, most);
                assert!(nodes > few, "{most}: nothing was split");
                for (a, b) in whole.iter().zip(&parts) {
                    let largest = a.data.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                    let worst = a.data.iter().zip(&b.data).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
                    assert!(worst < 1e-9 * largest && largest > 0.0, "{most}: {worst} of {largest}");
                }
            }
        }
    }
}
