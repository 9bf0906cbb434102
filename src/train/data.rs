//! Where a training's batches come from: images and prompts, encoded once, or a replay file.

use std::path::Path;

use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result, message, option};
use crate::pipeline::Model;
use crate::train::micro_batch::micro_batch;
use crate::train::{Conditioning, Dataset, MicroBatch, Replay};

use super::TrainOptions;
use super::samples::SamplePrompts;

/// What a training run feeds on.
pub(super) struct Run {
    pub batches: Batches,
    /// Instance and class samples of a micro-batch.
    pub samples: [usize; 2],
    /// Height, width and channels.
    pub latent: [usize; 3],
    pub tokens: usize,
    pub conditioning: Conditioning,
    pub sample_prompts: Option<SamplePrompts>,
    /// Prompts of evaluations.
    pub evaluation_prompts: Option<SamplePrompts>,
}

/// Where the batches come from.
pub(super) enum Batches {
    Pictures(Dataset),
    Replay(Replay),
}

impl Batches {
    pub fn micro_batch(&self, index: usize, job: &TrainOptions, schedule: &NoiseSchedule) -> Result<MicroBatch> {
        let draw = match self {
            Batches::Pictures(data) => data.draw(index),
            Batches::Replay(file) => file.draw(index)?,
        };
        Ok(micro_batch(&draw, schedule, job.min_snr, job.prior_weight))
    }
}

impl TrainOptions {
    /// The batches of the replay file at `path`, which must be of `model`.
    pub(super) fn open_replay(&self, model: &Model, path: &Path) -> Result<Run> {
        let file = Replay::open(path)?;
        let conditioning = file.conditioning()?;
        let tokens = match (&conditioning, self.text_encoder) {
            (Conditioning::Context { hidden, tokens, .. }, false) => {
                let prompts = if file.samples()[1] > 0 { 2 } else { 1 };
                if hidden.len() != prompts * tokens * model.context_width() {
                    return Err(Error::file(
                        path,
                        format!("context is not {} wide: made for another model", model.context_width()),
                    ));
                }
                *tokens
            }
            (Conditioning::Ids { ids, tokens }, true) => {
                for (ids, text) in ids.iter().zip(&model.texts) {
                    let (vocabulary, positions) = (text.config.vocab_size, text.config.max_position_embeddings);
                    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                        return Err(Error::file(path, format!("holds token id {id}: the model has {vocabulary}")));
                    }
                    if *tokens > positions {
                        let message = format!("has {tokens} tokens a prompt: the model takes {positions}");
                        return Err(Error::file(path, message));
                    }
                }
                *tokens
            }
            (Conditioning::Ids { .. }, false) => {
                return Err(Error::file(path, message!["holds token ids: give ", option("text_encoder")]));
            }
            (Conditioning::Context { .. }, true) => {
                return Err(Error::file(path, message!["holds no token ids: leave ", option("text_encoder"), " out"]));
            }
        };
        file.check_added(model.pooled_width(), model.texts.len())?;
        let (channels, own) = (file.latent()[2], model.vae.latent_channels);
        if channels != own {
            return Err(Error::file(path, format!("latents of {channels} channels, the model has {own}")));
        }
        if file.masked() != model.inpaints() {
            let message = match model.inpaints() {
                true => {
                    "has no masks ('I.instance.mask|masked_latents'), which an inpainting model is trained with".into()
                }
                false => message!["has masks ('0.instance.mask'): ", option("model"), " is not an inpainting model"],
            };
            return Err(Error::file(path, message));
        }
        Ok(Run {
            samples: file.samples(),
            latent: file.latent(),
            tokens,
            conditioning,
            batches: Batches::Replay(file),
            sample_prompts: None,
            evaluation_prompts: None,
        })
    }
}
