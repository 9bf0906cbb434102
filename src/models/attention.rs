//! Attention layers (Vaswani et al. 2017, arXiv 1706.03762).

use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Linear, Scope};
use crate::ops::{Addend, AttentionSpec, Epilogue, Heads, WIDEST_HEAD, attention};

/// What the projections are called in a checkpoint.
pub(super) struct Names {
    q: &'static str,
    k: &'static str,
    v: &'static str,
    out: &'static str,
}

/// In diffusers' models.
pub(super) const DIFFUSERS: Names = Names { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0" };
/// In transformers' CLIP.
pub(super) const CLIP: Names = Names { q: "q_proj", k: "k_proj", v: "v_proj", out: "out_proj" };

/// Keys and values of one cross-attention: they depend on the prompt alone.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue {
    /// `[n, tokens, ..]`
    pub key: Heads,
    /// `[n, tokens, ..]`
    pub value: Heads,
}

/// What the cross-attentions look at.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// The text encoder's output `[n, tokens, width]`.
    Hidden(Tensor),
    /// What [`super::UNet::context`] made of it once.
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
    fn new(
        scope: &Scope,
        key: &str,
        names: &[&str],
        input: usize,
        output: usize,
        bias: bool,
        stack: bool,
    ) -> Projections {
        if stack && scope.fuses(names) {
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
    /// `bias`: of the projections; the output layer always has one.
    pub(super) fn new(scope: &Scope, names: &Names, channels: usize, heads: usize, bias: bool, causal: bool) -> Self {
        let spec = spec(channels, heads, causal);
        let (qkv, stack) = ([names.q, names.k, names.v], spec.head_dim <= WIDEST_HEAD);
        SelfAttention {
            to_qkv: Projections::new(scope, "to_qkv", &qkv, channels, channels, bias, stack),
            to_out: Linear::new(&scope.pp(names.out), channels, channels, true),
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
    /// Which of the model's cross-attentions this is.
    index: usize,
}

impl CrossAttention {
    pub(super) fn new(scope: &Scope, channels: usize, context: usize, heads: usize, index: usize) -> Self {
        let Names { q, k, v, out } = DIFFUSERS;
        let spec = spec(channels, heads, false);
        CrossAttention {
            to_q: Linear::new(&scope.pp(q), channels, channels, false),
            to_kv: Projections::new(scope, "to_kv", &[k, v], context, channels, false, spec.head_dim <= WIDEST_HEAD),
            to_out: Linear::new(&scope.pp(out), channels, channels, true),
            spec,
            index,
        }
    }

    /// Whether keys and values are one tensor, side by side.
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
