//! Attention layers (Vaswani et al. 2017, arXiv 1706.03762).

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Linear, Scope};
use crate::ops::{Addend, AttentionSpec, Epilogue, Heads, WIDEST_HEAD, attention};

/// Names of the projections in a checkpoint.
struct Names {
    q: &'static str,
    k: &'static str,
    v: &'static str,
    out: &'static str,
}

/// Names in diffusers' models.
const DIFFUSERS: Names = Names { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0" };
/// Names in transformers' CLIP.
const CLIP: Names = Names { q: "q_proj", k: "k_proj", v: "v_proj", out: "out_proj" };
/// Names of transformers 5, which image towers have here.
const VISION: Names = Names { q: "q_proj", k: "k_proj", v: "v_proj", out: "o_proj" };

/// A model's kind of self-attention.
pub(super) struct SelfAttentionKind {
    names: Names,
    /// The projections have biases; the output layer always has one.
    bias: bool,
    /// A token sees only those up to its own position.
    causal: bool,
}

/// The text encoder's.
pub(super) const OF_TEXT: SelfAttentionKind = SelfAttentionKind { names: CLIP, bias: true, causal: true };
/// The UNet's.
pub(super) const OF_UNET: SelfAttentionKind = SelfAttentionKind { names: DIFFUSERS, bias: false, causal: false };
/// An image tower's.
pub(super) const OF_VISION: SelfAttentionKind = SelfAttentionKind { names: VISION, bias: true, causal: false };
/// That of an image tower whose queries, keys and values have no biases.
pub(super) const OF_VISION_UNBIASED: SelfAttentionKind =
    SelfAttentionKind { names: VISION, bias: false, causal: false };
/// The autoencoder's.
pub(super) const OF_VAE: SelfAttentionKind = SelfAttentionKind { names: DIFFUSERS, bias: true, causal: false };

/// Keys and values of one cross-attention: they depend on the prompt alone.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue {
    /// `[n, tokens, ..]`
    pub key: Heads,
    /// `[n, tokens, ..]`
    pub value: Heads,
}

/// Context of the cross-attentions.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// The text encoder's output `[n, tokens, width]`.
    Hidden(Tensor),
    /// Keys and values that [`super::UNet::context`] computed once.
    KeyValues(&'a [KeyValue]),
}

fn whole(tensor: Tensor) -> Heads {
    Heads { tensor, offset: 0 }
}

/// Projections that read one input, in one layer or apart.
#[derive(Clone, Debug)]
enum Projections {
    /// Stacked: results side by side, each `.1` channels wide.
    Stacked(Box<Linear>, usize),
    Apart(Vec<Linear>),
}

impl Projections {
    /// The layers `names` from `input` to `output` channels each; stacked as `key` where there is one and they fuse.
    fn new(scope: &Scope, key: Option<&str>, names: &[&str], [input, output]: [usize; 2], bias: bool) -> Projections {
        if let Some(key) = key.filter(|_| scope.fuses(names)) {
            let layers: Vec<(Scope, usize)> = names.iter().map(|n| (scope.pp(n), output)).collect();
            return Projections::Stacked(Box::new(Linear::stacked(scope, key, &layers, input, bias)), output);
        }
        Projections::Apart(names.iter().map(|n| Linear::new(&scope.pp(n), input, output, bias)).collect())
    }

    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Vec<Heads>> {
        match self {
            Projections::Stacked(layer, width) => {
                let tensor = layer.forward(g, x)?;
                Ok((0..layer.output() / width).map(|i| Heads { tensor, offset: i * width }).collect())
            }
            Projections::Apart(layers) => layers.iter().map(|l| Ok(whole(l.forward(g, x)?))).collect(),
        }
    }
}

fn spec(channels: usize, heads: usize, causal: bool) -> AttentionSpec {
    let head_dim = channels / heads.max(1);
    AttentionSpec { heads, head_dim, scale: (head_dim as f64).powf(-0.5), causal }
}

/// Tokens look at each other.
#[derive(Clone, Debug)]
pub(super) struct SelfAttention {
    to_qkv: Projections,
    to_out: Linear,
    spec: AttentionSpec,
}

impl SelfAttention {
    /// The layer at `scope`, of `channels` in `heads`.
    pub(super) fn new(scope: &Scope, kind: &SelfAttentionKind, channels: usize, heads: usize) -> Self {
        let spec = spec(channels, heads, kind.causal);
        let Names { q, k, v, out } = kind.names;
        let key = (spec.head_dim <= WIDEST_HEAD).then_some("to_qkv");
        SelfAttention {
            to_qkv: Projections::new(scope, key, &[q, k, v], [channels; 2], kind.bias),
            to_out: Linear::new(&scope.pp(out), channels, channels, true),
            spec,
        }
    }

    /// `x [n, t, c] -> residual + attention(x)`
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, residual: Tensor) -> Result<Tensor> {
        let [q, k, v] = self.to_qkv.forward(g, x)?[..] else {
            return Err(Error::op("attention", "needs queries, keys and values"));
        };
        let h = attention(g, q, k, v, self.spec)?;
        self.to_out.forward_with(g, h, Epilogue { add: Some(Addend::Full(residual)), ..Epilogue::default() })
    }
}

/// Pixels look at the prompt.
#[derive(Clone, Debug)]
pub(super) struct CrossAttention {
    to_q: Linear,
    to_kv: Projections,
    to_out: Linear,
    spec: AttentionSpec,
    /// Index among the model's cross-attentions.
    index: usize,
}

impl CrossAttention {
    pub(super) fn new(scope: &Scope, channels: usize, context: usize, heads: usize, index: usize) -> Self {
        let Names { q, k, v, out } = DIFFUSERS;
        let spec = spec(channels, heads, false);
        let key = (spec.head_dim <= WIDEST_HEAD).then_some("to_kv");
        CrossAttention {
            to_q: Linear::new(&scope.pp(q), channels, channels, false),
            to_kv: Projections::new(scope, key, &[k, v], [context, channels], false),
            to_out: Linear::new(&scope.pp(out), channels, channels, true),
            spec,
            index,
        }
    }

    /// Returns whether keys and values are one tensor, side by side.
    pub(super) fn stacked(&self) -> bool {
        matches!(self.to_kv, Projections::Stacked(..))
    }

    /// Channels of the keys, and of the values.
    pub(super) fn channels(&self) -> usize {
        self.spec.heads * self.spec.head_dim
    }

    /// Keys and values of `context [n, tokens, width]`.
    pub(super) fn key_value(&self, g: &mut Graph, context: Tensor) -> Result<KeyValue> {
        match self.to_kv.forward(g, context)?[..] {
            [key, value] => Ok(KeyValue { key, value }),
            _ => Err(Error::op("attention", "needs keys and values")),
        }
    }

    /// `x [n, t, c] -> residual + attention(x, context)`
    pub(super) fn forward(&self, g: &mut Graph, x: Tensor, context: Context, residual: Tensor) -> Result<Tensor> {
        let KeyValue { key, value } = match context {
            Context::Hidden(hidden) => self.key_value(g, hidden)?,
            Context::KeyValues(list) => *list.get(self.index).ok_or_else(|| {
                let message = format!("{} keys and values given, number {} wanted", list.len(), self.index);
                Error::op("attention", message)
            })?,
        };
        let q = whole(self.to_q.forward(g, x)?);
        let h = attention(g, q, key, value, self.spec)?;
        self.to_out.forward_with(g, h, Epilogue { add: Some(Addend::Full(residual)), ..Epilogue::default() })
    }
}
