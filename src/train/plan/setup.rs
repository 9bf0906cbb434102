//! What a training step is recorded for.

use crate::io::PartId;
use crate::models::{TextEncoderConfig, UnetConfig};
use crate::nn::{LoraSpec, Settings};
use crate::train::Optimizer;

/// Models, batches and optimizer of a training step.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The UNet.
    pub unet: UnetConfig,
    /// The text encoders, where they are trained too.
    pub texts: Vec<TrainedText>,
    /// Adapters of the UNet; `None` trains every weight.
    pub lora: Option<LoraSpec>,
    /// Adapters of the text encoders.
    pub text_lora: Option<LoraSpec>,
    /// Storage of frozen weights, without adapters.
    pub storage: Settings,
    /// Samples of a micro-batch: instances, then class images.
    pub samples: [usize; 2],
    /// Latent height, width and channels.
    pub latent: [usize; 3],
    /// Heights and widths of the other latents that are trained on.
    pub more_sizes: Vec<[usize; 2]>,
    /// Every sample has a prompt of its own.
    pub captions: bool,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Gradient checkpointing.
    pub checkpoint: Recomputed,
    /// Micro-batches an update.
    pub accumulate: usize,
    /// Who updates.
    pub optimizer: Optimizer,
    /// Update each layer within the backward pass; gradients are not kept.
    pub fused: bool,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Gradients are clipped to this norm.
    pub max_grad_norm: f64,
}

/// Activations that the backward pass makes again instead of finding them kept, by the memory that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recomputed {
    /// None: each is kept.
    None,
    /// All but the inputs of residual blocks and transformer blocks: one more forward pass.
    Blocks,
    /// The inputs of a deep transformer's blocks as well: two more forward passes of these.
    Nested,
}

/// Text encoder that is trained.
#[derive(Clone, Debug)]
pub struct TrainedText {
    /// Part that it is.
    pub part: PartId,
    /// Its configuration.
    pub config: TextEncoderConfig,
    /// Layers whose result is not read, as in [`Taps`](crate::models::Taps).
    pub skip: Option<usize>,
    /// Whether the pooled embedding is read.
    pub pooled: bool,
    /// Id of the token at a prompt's end.
    pub end: u32,
}

impl Setup {
    /// Samples of a micro-batch.
    pub fn batch(&self) -> usize {
        self.samples[0] + self.samples[1]
    }

    /// Prompts of a micro-batch: the instances', and the class's where there are class images, or one a sample.
    pub fn prompts(&self) -> usize {
        match (self.captions, self.samples[1]) {
            (true, _) => self.batch(),
            (false, 0) => 1,
            (false, _) => 2,
        }
    }
}
