//! Conditioning of a UNet: the prompt's hidden states, and what the SDXL family adds to the time embedding
//! (`addition_embed_type: text_time`; Podell et al. 2023, arXiv 2307.01952, section 2.2).

use super::attention::Context;
use super::config::{AddedConfig, TIME_IDS, UnetConfig};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Linear, Mode, Scope};
use crate::ops::{Activation, Epilogue, join_rows, reshape, timestep_embedding, unary};

/// Conditioning of a prediction.
#[derive(Clone, Copy, Debug)]
pub struct Conditioning<'a> {
    /// Context of the cross-attentions.
    pub context: Context<'a>,
    /// Inputs of the embedding that is added to the time's, for models that have one.
    pub added: Option<Added>,
}

impl<'a> From<Context<'a>> for Conditioning<'a> {
    fn from(context: Context<'a>) -> Conditioning<'a> {
        Conditioning { context, added: None }
    }
}

/// Inputs of a `text_time` embedding.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    /// Pooled prompts `[n, pooled]`.
    pub pooled: Tensor,
    /// Pixels `[n, 6]` (f32): original height and width, top and left of the crop, target height and width.
    pub time_ids: Tensor,
}

/// `TimestepEmbedding` of the pooled prompt and the image's sizes.
#[derive(Clone, Debug)]
pub(super) struct AddedEmbedding {
    layers: [Linear; 2],
    config: AddedConfig,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    fused: bool,
}

impl AddedEmbedding {
    pub(super) fn new(scope: &Scope, unet: &UnetConfig, config: AddedConfig) -> AddedEmbedding {
        let (input, width) = (config.pooled + TIME_IDS * config.time_embed_dim, unet.time_embed_dim());
        AddedEmbedding {
            layers: [
                Linear::new(&scope.pp("linear_1"), input, width, true),
                Linear::new(&scope.pp("linear_2"), width, width, true),
            ],
            config,
            flip_sin_to_cos: unet.flip_sin_to_cos,
            freq_shift: unet.freq_shift,
            fused: scope.settings().mode == Mode::Inference,
        }
    }

    /// `[n, time_embed_dim]`, which belongs to the time embedding of `n` samples.
    pub(super) fn forward(&self, g: &mut Graph, added: Option<Added>, n: usize) -> Result<Tensor> {
        let AddedConfig { pooled: width, time_embed_dim: dim } = self.config;
        let Some(Added { pooled, time_ids }) = added else {
            let message =
                format!("the model adds a pooled prompt [{n}, {width}] and time ids [{n}, 6]; none are given");
            return Err(Error::op("unet", message));
        };
        if **g.shape(pooled) != [n, width] || **g.shape(time_ids) != [n, TIME_IDS] {
            let (pooled, ids) = (g.shape(pooled), g.shape(time_ids));
            let message =
                format!("pooled prompt is {pooled}, time ids are {ids}: expected [{n}, {width}] and [{n}, 6]");
            return Err(Error::op("unet", message));
        }
        let ids = reshape(g, time_ids, [n * TIME_IDS])?;
        let sines = timestep_embedding(g, ids, dim, self.flip_sin_to_cos, self.freq_shift)?;
        let h = join_columns(g, pooled, sines, [n, width, TIME_IDS * dim])?;
        let activation = self.fused.then_some(Activation::Silu);
        let mut h = self.layers[0].forward_with(g, h, Epilogue { activation, ..Epilogue::default() })?;
        if !self.fused {
            h = unary(g, h, Activation::Silu)?;
        }
        self.layers[1].forward(g, h)
    }
}

/// Columns of `a [n, first]`, then those of `b` as `[n, second]`: `[n, first + second]`.
fn join_columns(g: &mut Graph, a: Tensor, b: Tensor, [n, first, second]: [usize; 3]) -> Result<Tensor> {
    // As rows of the greatest width that divides both.
    let (mut width, mut rest) = (first, second);
    while rest > 0 {
        (width, rest) = (rest, width % rest);
    }
    let a = reshape(g, a, [n, first / width, width])?;
    let b = reshape(g, b, [n, second / width, width])?;
    let joined = join_rows(g, &[a, b])?;
    reshape(g, joined, [n, first + second])
}
