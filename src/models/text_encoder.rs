//! CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020).

use super::attention::{OF_TEXT, SelfAttention};
use super::config::TextEncoderConfig;
use crate::base::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Embedding, LayerNorm, Linear, Mode, Scope};
use crate::ops::{Activation, Addend, Epilogue, MatmulSpec, embedding, matmul, reshape, unary};

#[derive(Clone, Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    fused: bool,
    path: String,
}

impl EncoderLayer {
    fn new(scope: &Scope, config: &TextEncoderConfig) -> EncoderLayer {
        let TextEncoderConfig { hidden_size: c, intermediate_size: inner, layer_norm_eps: eps, .. } = *config;
        let mlp = scope.pp("mlp");
        EncoderLayer {
            layer_norm1: LayerNorm::new(&scope.pp("layer_norm1"), c, eps),
            self_attn: SelfAttention::new(&scope.pp("self_attn"), &OF_TEXT, c, config.num_attention_heads),
            layer_norm2: LayerNorm::new(&scope.pp("layer_norm2"), c, eps),
            fc1: Linear::new(&mlp.pp("fc1"), c, inner, true),
            fc2: Linear::new(&mlp.pp("fc2"), inner, c, true),
            activation: config.activation(),
            fused: scope.settings().mode == Mode::Inference,
            path: scope.path().to_string(),
        }
    }

    fn forward(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        g.segment(&self.path, |g| {
            let h = self.layer_norm1.forward(g, x)?;
            let x = self.self_attn.forward(g, h, x)?;
            let h = self.layer_norm2.forward(g, x)?;
            let activation = self.fused.then_some(self.activation);
            let mut h = self.fc1.forward_with(g, h, Epilogue { activation, ..Epilogue::default() })?;
            if !self.fused {
                h = unary(g, h, self.activation)?;
            }
            self.fc2.forward_with(g, h, Epilogue { add: Some(Addend::Full(x)), ..Epilogue::default() })
        })
    }
}

/// States of a text encoder to be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Hidden states: with `None` the last layer's, after the final norm; with `Some(k)` the input of the `k`-th layer
    /// from the end, without that norm (`hidden_states[-(k + 1)]` in transformers; `Some(0)` is the last layer's result).
    pub skip: Option<usize>,
    /// Selection `[n, 1, tokens]` (f32) of each prompt's end token, 1 there and 0 elsewhere, from which the pooled prompt
    /// is made.
    pub ends: Option<Tensor>,
}

/// Results of a text encoder.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    /// `[n, tokens, hidden_size]`
    pub hidden: Tensor,
    /// Text projection of the end token's last state after the final norm, `[n, projection_dim]`.
    pub pooled: Option<Tensor>,
}

/// The text encoder.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    /// Its configuration.
    pub config: TextEncoderConfig,
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
}

impl TextEncoder {
    /// Builds it at `scope`. Parameters carry the prefix `text_model.`, whether or not the checkpoint does, but for
    /// `text_projection`.
    pub fn new(scope: &Scope, config: TextEncoderConfig) -> Result<TextEncoder> {
        let model = scope.pp("text_model");
        let (tables, layers) = (model.pp("embeddings"), model.pp("encoder").pp("layers"));
        let TextEncoderConfig { vocab_size, max_position_embeddings, hidden_size, layer_norm_eps, .. } = config;
        let dtype = scope.storage(hidden_size);
        Ok(TextEncoder {
            token_embedding: Embedding::new(&tables.pp("token_embedding"), vocab_size, hidden_size, dtype),
            position_embedding: Embedding::new(
                &tables.pp("position_embedding"),
                max_position_embeddings,
                hidden_size,
                DType::F32,
            ),
            layers: (0..config.num_hidden_layers).map(|i| EncoderLayer::new(&layers.pp(i), &config)).collect(),
            final_layer_norm: LayerNorm::new(&model.pp("final_layer_norm"), hidden_size, layer_norm_eps),
            text_projection: (config.projection())
                .map(|width| Linear::new(&scope.pp("text_projection"), hidden_size, width, false)),
            config,
        })
    }

    /// `ids [n, tokens]` (U32) -> the last states after the final norm, `[n, tokens, hidden_size]`.
    pub fn forward(&self, g: &mut Graph, ids: Tensor) -> Result<Tensor> {
        Ok(self.encode(g, ids, Taps::default())?.hidden)
    }

    /// Records the states of `ids [n, tokens]` (U32) that `taps` ask for, and nothing that they do not depend on:
    /// parameters of layers behind them are not in `g` ([`Scope::params_in`]).
    ///
    /// # Errors
    /// [`Error::Op`] if there are fewer layers than `taps` skip, there is no text projection to pool by, or the end
    /// tokens' shape does not fit.
    pub fn encode(&self, g: &mut Graph, ids: Tensor, taps: Taps) -> Result<Encoded> {
        let layers = self.layers.len();
        let Some(run) = layers.checked_sub(taps.skip.unwrap_or(0)) else {
            let message = format!("{} of {layers} layers cannot be skipped", taps.skip.unwrap_or(0));
            return Err(Error::op("text_encoder", message));
        };
        let (table, positions) = (self.token_embedding.weight.get(g)?, self.position_embedding.weight.get(g)?);
        let mut h = embedding(g, table, ids, Some(positions))?;
        let mut hidden = h;
        let needed = if taps.ends.is_some() { layers } else { run };
        for (i, layer) in self.layers[..needed].iter().enumerate() {
            h = layer.forward(g, h)?;
            if i + 1 == run {
                hidden = h;
            }
        }
        if taps.skip.is_none() {
            h = self.final_layer_norm.forward(g, h)?;
            hidden = h;
        }
        let pooled = taps.ends.map(|ends| self.pool(g, h, ends, taps.skip.is_some())).transpose()?;
        Ok(Encoded { hidden, pooled })
    }

    /// Text projection of the rows that `ends [n, 1, tokens]` select from the last states `last`, after the final norm if
    /// `norm`.
    fn pool(&self, g: &mut Graph, last: Tensor, ends: Tensor, norm: bool) -> Result<Tensor> {
        let shape = g.shape(last).clone();
        let Some(projection) = &self.text_projection else {
            let message = "has no text_projection: config.json names no architecture CLIPTextModelWithProjection";
            return Err(Error::op("text_encoder", message));
        };
        if **g.shape(ends) != [shape[0], 1, shape[1]] {
            let message = format!("end tokens are {}, states are {shape}: expected [n, 1, tokens]", g.shape(ends));
            return Err(Error::op("text_encoder", message));
        }
        let mut rows = matmul(g, ends, last, MatmulSpec { transpose_b: false, batched: true, alpha: 1.0 })?;
        if norm {
            rows = self.final_layer_norm.forward(g, rows)?;
        }
        let rows = reshape(g, rows, [shape[0], shape[2]])?;
        projection.forward(g, rows)
    }

    /// Records the final norm of `hidden`, for models that normalize states of earlier layers too.
    pub fn normalize(&self, g: &mut Graph, hidden: Tensor) -> Result<Tensor> {
        self.final_layer_norm.forward(g, hidden)
    }
}
