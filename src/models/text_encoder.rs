//! CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020).

use super::attention::{OF_TEXT, SelfAttention};
use super::config::TextEncoderConfig;
use crate::base::DType;
use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::nn::{Embedding, LayerNorm, Linear, Mode, Scope};
use crate::ops::{Activation, Addend, Epilogue, embedding, unary};

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

/// The text encoder.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    /// Its configuration.
    pub config: TextEncoderConfig,
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
}

impl TextEncoder {
    /// Builds it at `scope`. Parameters carry the prefix `text_model.`, whether or not the checkpoint does.
    pub fn new(scope: &Scope, config: TextEncoderConfig) -> Result<TextEncoder> {
        let model = scope.pp("text_model");
        let (tables, layers) = (model.pp("embeddings"), model.pp("encoder").pp("layers"));
        let TextEncoderConfig { vocab_size, max_position_embeddings, hidden_size, layer_norm_eps, .. } = config;
        let dtype = tables.pp("token_embedding").storage(hidden_size);
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
            config,
        })
    }

    /// `ids [n, tokens]` (U32) -> `[n, tokens, hidden_size]`
    pub fn forward(&self, g: &mut Graph, ids: Tensor) -> Result<Tensor> {
        let (table, positions) = (self.token_embedding.weight.get(g)?, self.position_embedding.weight.get(g)?);
        let mut h = embedding(g, table, ids, Some(positions))?;
        for layer in &self.layers {
            h = layer.forward(g, h)?;
        }
        self.final_layer_norm.forward(g, h)
    }
}
