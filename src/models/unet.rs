//! `UNet2DConditionModel`: predicts the noise or velocity in latents (Rombach et al. 2022, arXiv 2112.10752).

use super::attention::CrossAttention;
pub use super::attention::{Context, KeyValue};
use super::build::Build;
use super::conditioning::{AddedEmbedding, Conditioning};
use super::config::UnetConfig;
use super::resnet::Time;
use super::unet_blocks::{DownBlock, Shared, UNetMidBlock, UpBlock};
use crate::base::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, GroupNorm, Linear, Mode, Scope};
use crate::ops::{Activation, Addend, Epilogue, Heads, WIDEST_HEAD, timestep_embedding, unary};

/// Input of a UNet: the noised latents, and what is concatenated behind their channels.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Noised latents `[n, h, w, latent channels]`, or all input channels in one tensor.
    pub latents: Tensor,
    /// Further channels `[n, h, w, c]`: an inpainting model's mask and masked latents.
    pub extra: Option<Tensor>,
}

impl From<Tensor> for Sample {
    fn from(latents: Tensor) -> Sample {
        Sample { latents, extra: None }
    }
}

/// The UNet.
#[derive(Clone, Debug)]
pub struct UNet {
    /// Its configuration.
    pub config: UnetConfig,
    conv_in: Conv2d,
    time_embedding: [Linear; 2],
    add_embedding: Option<AddedEmbedding>,
    time_projections: Option<Linear>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<UNetMidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    fused: bool,
}

impl UNet {
    /// Builds it at `scope`, whose settings say for what.
    pub fn new(scope: &Scope, config: UnetConfig) -> Result<UNet> {
        let (first, time_dim) = (config.block_out_channels[0], config.time_embed_dim());
        let widest = config.widest_head();
        if widest > WIDEST_HEAD && scope.settings().mode == Mode::Training {
            let message = format!(
                "attention_head_dim gives heads of {widest} columns; wider than {WIDEST_HEAD} cannot be trained"
            );
            return Err(Error::file(format!("{}/config.json", scope.path()), message));
        }
        let mut build = Build::new(&config);
        let (down, up) = (scope.pp("down_blocks"), scope.pp("up_blocks"));
        let blocks = config.block_out_channels.len();
        let conv_in = Conv2d::same(&scope.pp("conv_in"), config.in_channels, first, 3);
        let embedding = scope.pp("time_embedding");
        let time_embedding = [
            Linear::new(&embedding.pp("linear_1"), first, time_dim, true),
            Linear::new(&embedding.pp("linear_2"), time_dim, time_dim, true),
        ];
        let add_embedding = config.added().map(|added| AddedEmbedding::new(&scope.pp("add_embedding"), &config, added));
        let down_blocks = (0..blocks).map(|i| DownBlock::new(&down.pp(i), i, &mut build)).collect();
        let mid_block = UNetMidBlock::new(&scope.pp("mid_block"), &mut build);
        let up_blocks = (0..blocks).map(|i| UpBlock::new(&up.pp(i), i, &mut build)).collect();
        let projections = build.time_projections;
        let time_projections =
            (!projections.is_empty()).then(|| Linear::stacked(scope, "time_emb_projs", &projections, time_dim, true));
        Ok(UNet {
            conv_in,
            time_embedding,
            add_embedding,
            time_projections,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(&scope.pp("conv_norm_out"), first, config.norm_num_groups, config.norm_eps),
            conv_out: Conv2d::same(&scope.pp("conv_out"), first, config.out_channels, 3),
            fused: scope.settings().mode == Mode::Inference,
            config,
        })
    }

    fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        let down = self.down_blocks.iter().flat_map(DownBlock::cross_attentions);
        let mid = self.mid_block.iter().flat_map(UNetMidBlock::cross_attentions);
        down.chain(mid).chain(self.up_blocks.iter().flat_map(UpBlock::cross_attentions))
    }

    /// Keys and values of every cross-attention for `hidden [n, tokens, width]`: they do not change while an image is
    /// sampled.
    pub fn context(&self, g: &mut Graph, hidden: Tensor) -> Result<Vec<KeyValue>> {
        self.cross_attentions().map(|attention| attention.key_value(g, hidden)).collect()
    }

    /// Keys and values that [`Denoiser::store_context`](super::Denoiser::store_context) left for `n` prompts of `tokens`
    /// tokens; [`UNet::context_tensors`] says how much room they need.
    pub fn stored_context(&self, g: &mut Graph, n: usize, tokens: usize) -> Result<Vec<KeyValue>> {
        let mut list = Vec::new();
        for (i, attention) in self.cross_attentions().enumerate() {
            let channels = attention.channels();
            list.push(if attention.stacked() {
                let tensor = g.stored(&context_key(i), [n, tokens, 2 * channels], DType::F32)?;
                KeyValue { key: Heads { tensor, offset: 0 }, value: Heads { tensor, offset: channels } }
            } else {
                let [key, value] = apart_keys(i).map(|key| g.stored(&key, [n, tokens, channels], DType::F32));
                KeyValue { key: key?.into(), value: value?.into() }
            });
        }
        Ok(list)
    }

    /// Keys and bytes of what [`Denoiser::store_context`](super::Denoiser::store_context) writes, for
    /// [`crate::gpu::Store::allocate`].
    pub fn context_tensors(&self, n: usize, tokens: usize) -> Vec<(String, u64)> {
        let tensors = |(i, attention): (usize, &CrossAttention)| {
            let columns = attention.channels();
            match attention.stacked() {
                true => vec![(context_key(i), DType::F32.bytes(n * tokens * 2 * columns))],
                false => apart_keys(i).map(|key| (key, DType::F32.bytes(n * tokens * columns))).into(),
            }
        };
        self.cross_attentions().enumerate().flat_map(tensors).collect()
    }

    /// Records the prediction for `sample`, whose channels add up to `in_channels`, at `timestep [n]` (f32): `[n, h, w,
    /// out_channels]`. A [`Context`] is all the conditioning of a model without added embeddings.
    ///
    /// # Errors
    /// [`Error::Op`] if shapes do not fit the configuration, or the conditioning lacks what [`UnetConfig::added`] asks
    /// for.
    pub fn forward<'a>(
        &self,
        g: &mut Graph,
        sample: impl Into<Sample>,
        timestep: Tensor,
        conditioning: impl Into<Conditioning<'a>>,
    ) -> Result<Tensor> {
        let Conditioning { context, added } = conditioning.into();
        let Sample { latents, extra } = sample.into();
        let (shape, time) = (g.shape(latents).clone(), g.shape(timestep));
        let channels = shape.last() + extra.map_or(0, |extra| g.shape(extra).last());
        if shape.len() != 4 || channels != self.config.in_channels || **time != [shape[0]] {
            let message = format!(
                "sample is {shape} with {channels} channels in all, timestep is {time}: expected [n, h, w, c], {} and [n]",
                self.config.in_channels
            );
            return Err(Error::op("unet", message));
        }
        let added = match &self.add_embedding {
            Some(embedding) => Some(embedding.forward(g, added, shape[0])?),
            None => None,
        };
        let shared = Shared { time: self.time(g, timestep, added)?, context };
        let mut x = self.conv_in.forward_with(g, latents, extra, Epilogue::default())?;
        let mut skips = vec![x];
        for block in &self.down_blocks {
            x = block.forward(g, x, shared, &mut skips)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(g, x, shared)?;
        }
        for block in &self.up_blocks {
            x = block.forward(g, x, shared, &mut skips)?;
        }
        let h = self.conv_norm_out.forward_silu(g, x, None)?;
        self.conv_out.forward(g, h)
    }

    /// Records the time embedding, with `added` before its last SiLU, and its projections for the residual blocks, all
    /// of which read that SiLU.
    fn time(&self, g: &mut Graph, timestep: Tensor, added: Option<Tensor>) -> Result<Time> {
        let UnetConfig { flip_sin_to_cos, freq_shift, block_out_channels, .. } = &self.config;
        let mut h = timestep_embedding(g, timestep, block_out_channels[0], *flip_sin_to_cos, *freq_shift)?;
        for (layer, add) in self.time_embedding.iter().zip([None, added]) {
            let (activation, add) = (self.fused.then_some(Activation::Silu), add.map(Addend::Full));
            h = layer.forward_with(g, h, Epilogue { activation, add, ..Epilogue::default() })?;
            if !self.fused {
                h = unary(g, h, Activation::Silu)?;
            }
        }
        let projections = self.time_projections.as_ref().map(|layer| layer.forward(g, h)).transpose()?;
        Ok(Time { embedding: h, projections })
    }
}

fn context_key(i: usize) -> String {
    format!("context.{i}")
}

/// Names of keys and values, if they are separate.
fn apart_keys(i: usize) -> [String; 2] {
    ["key", "value"].map(|which| format!("context.{i}.{which}"))
}

#[cfg(test)]
mod tests {
    use super::super::Denoiser as _;
    use super::*;
    use crate::nn::Settings;

    fn wide(mode: Mode) -> Result<UNet> {
        let text = r#"{"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
            "block_out_channels": [200], "attention_head_dim": 1, "norm_num_groups": 8, "cross_attention_dim": 24}"#;
        let scope = Scope::new("unet", Settings { mode, ..Settings::default() });
        UNet::new(&scope, UnetConfig::parse("unet/config.json", text)?)
    }

    /// A head too wide for the attention kernel wants keys and values apart, stored ones too.
    #[test]
    fn a_single_wide_head_is_recorded() {
        let unet = wide(Mode::Inference).expect("a UNet");
        let mut context = Graph::new();
        let hidden = context.input("hidden", [2, 7, 24], DType::F32);
        unet.store_context(&mut context, hidden).expect("keys and values");
        let mut g = Graph::new();
        let sample = g.input("sample", [2, 4, 4, 4], DType::F32);
        let timestep = g.input("timestep", [2], DType::F32);
        let pairs = unet.stored_context(&mut g, 2, 7).expect("stored keys and values");
        let out = unet.forward(&mut g, sample, timestep, Context::KeyValues(&pairs)).expect("a prediction");
        assert_eq!(**g.shape(out), [2, 4, 4, 4]);
        // What is read is what was written.
        let room: std::collections::BTreeMap<String, u64> = unet.context_tensors(2, 7).into_iter().collect();
        for graph in [&context, &g] {
            let found = graph.stored_tensors().filter(|(key, _)| key.starts_with("context."));
            let found: std::collections::BTreeMap<String, u64> =
                found.map(|(key, t)| (key.to_owned(), DType::F32.bytes(graph.shape(t).elements()))).collect();
            assert_eq!(found, room);
        }
        let hidden = g.input("hidden", [2, 7, 24], DType::F32);
        unet.forward(&mut g, sample, timestep, Context::Hidden(hidden)).expect("a prediction");
    }

    #[test]
    fn a_wide_head_is_not_trained() {
        let error = wide(Mode::Training).expect_err("no gradients").to_string();
        assert!(error.starts_with("unet/config.json: ") && error.contains("heads of 200 columns"), "{error}");
    }
}
