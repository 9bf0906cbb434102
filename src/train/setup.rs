//! A training job's options: what decides the result, what they mean for the plan.

use crate::error::{Error, Result, message, option};
use crate::nn::LoraSpec;
use crate::pipeline::Model;
use crate::pipeline::check::LONGEST_SIDE;
use crate::pipeline::memory::{Phase, Way};
use crate::pipeline::reads::Reads;
use crate::pipeline::text::TextModel;
use crate::train::Setup;
use crate::train::plan::{Recomputed, TrainedText};

use super::options::{CLASS_PICTURES, STEPS};
use super::state::VIEWS;
use super::views::MOST_VIEWS;
use super::{Checkpointing, Crop, Method, Stop, Targets, TrainOptions};

/// Evaluations of a run that is to end on its plateau, where nothing says how often it is evaluated.
const PLATEAU_EVALUATIONS: usize = 20;

impl TrainOptions {
    /// Parts of the model that the job reads.
    pub(crate) fn reads(&self) -> Reads {
        let pictures = self.replay.is_none();
        let made = self.class_prompt.is_some() && self.class_images.is_none();
        Reads {
            text: pictures || self.text_encoder,
            unet: true,
            encoder: pictures,
            decoder: pictures && (made || !self.sample_prompts.is_empty() || self.evaluates_every().is_some()),
        }
    }

    /// Learning rate of the UNet.
    pub fn rate(&self) -> f64 {
        self.lr.unwrap_or(match self.method {
            Method::Lora => 1e-4,
            Method::Full => 5e-6,
        })
    }

    /// Optimizer steps between evaluations: what is asked for, else a share of the run where its end depends on them. `None`
    /// for a run that is not evaluated.
    pub(crate) fn evaluates_every(&self) -> Option<usize> {
        let for_plateau = self.stop == Stop::Plateau && self.replay.is_none();
        let share = || (self.steps.unwrap_or(STEPS) / PLATEAU_EVALUATIONS).max(1);
        self.evaluate_every.or_else(|| for_plateau.then(share))
    }

    /// The options that decide the result, for `--resume`.
    pub(super) fn deciding(&self) -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(self).map_err(|e| Error::Internal(e.to_string()))?;
        if let Some(map) = value.as_object_mut() {
            // A changed option is called by its own name, whichever struct holds it.
            if let Some(serde_json::Value::Object(model)) = map.remove("model") {
                map.extend(model);
            }
            let samples = ["sample_prompts", "sample_every", "evaluate_every", "vision", "clip", "stop", "keep_out"];
            for free in ["resume", "force", "save_every", "out", "format", "memory"].iter().chain(&samples) {
                map.remove(*free);
            }
            // What is kept out of the training decides, for whatever reason it is.
            let kept_out = self.kept_out_of_folder();
            if kept_out > 0 {
                map.insert("keep_out".into(), kept_out.into());
            }
            map.insert("lr".into(), self.rate().into());
            if self.crop == Crop::Random && self.replay.is_none() {
                map.insert(VIEWS.into(), MOST_VIEWS.into());
            }
            if self.class_images.is_none() {
                map.insert("class_count".into(), self.class_count.unwrap_or(CLASS_PICTURES).into());
            }
        }
        Ok(value)
    }

    /// Height and width of the images that are trained on.
    ///
    /// # Errors
    /// [`Error::Usage`] for a `--resolution` that the model cannot take.
    pub(super) fn side(&self, model: &Model) -> Result<usize> {
        let native = model.native_side();
        let side = self.resolution.unwrap_or(native);
        model.size(Some(side), None).map_err(|_| {
            let (factor, most) = (model.factor(), LONGEST_SIDE);
            let problem = format!("must be a multiple of {factor}, such as {native}, at most {most}");
            Error::value("resolution", side, problem)
        })?;
        Ok(side)
    }

    /// Options with which `largest`, its largest phase, would take less memory.
    pub(super) fn smaller(&self, largest: &Phase) -> Vec<Way> {
        let mut ways: Vec<Way> = Vec::new();
        let full = self.method == Method::Full;
        let smaller = self.model.dtype.smaller().filter(|_| !largest.is_autoencoder());
        if let Some(dtype) = smaller.filter(|_| largest.is_text() || !full) {
            ways.push((largest.weights, option("dtype") + format!(" {dtype}").as_str()));
        }
        if largest.is_text() {
            return ways;
        }
        ways.push((largest.working(), message!["a lower ", option("resolution")]));
        if largest.is_autoencoder() {
            return ways;
        }
        if matches!(self.checkpointing, Checkpointing::Off | Checkpointing::Blocks) {
            ways.push((largest.working(), option("checkpointing") + " on"));
        }
        if self.batch > 1 {
            ways.push((largest.working(), message!["a lower ", option("batch"), " with ", option("accumulate")]));
        }
        if !self.optimizer.packed() {
            ways.push((largest.optimizer, option("optimizer") + " adamw8bit"));
        }
        if !self.fused_update && self.accumulate == 1 {
            ways.push((largest.optimizer, option("fused_update")));
        }
        match full {
            true => ways.push((largest.weights + largest.optimizer, option("method") + " lora")),
            false => ways.push((largest.optimizer, message!["a lower ", option("rank")])),
        }
        ways.push((largest.decoding, message!["no ", option("sample_prompts")]));
        ways
    }

    /// Adapters of the UNet.
    pub(crate) fn lora(&self) -> Option<LoraSpec> {
        let targets = match self.targets {
            Targets::Attention => crate::nn::Targets::Attention,
            Targets::All => crate::nn::Targets::All,
        };
        (self.method == Method::Lora).then(|| LoraSpec {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(self.rank as f64),
            targets,
        })
    }

    pub(crate) fn setup(
        &self,
        model: &Model,
        caps: &crate::gpu::Caps,
        samples: [usize; 2],
        latent: [usize; 3],
        tokens: usize,
    ) -> Setup {
        let lora = self.lora();
        Setup {
            unet: model.unet.clone(),
            texts: if self.text_encoder { model.texts.iter().map(trained).collect() } else { Vec::new() },
            text_lora: lora.clone().filter(|_| self.text_encoder),
            lora,
            storage: model.settings(caps, &Default::default()),
            samples,
            latent,
            more_sizes: Vec::new(),
            captions: false,
            tokens,
            checkpoint: match self.checkpointing {
                Checkpointing::Auto | Checkpointing::Off => Recomputed::None,
                Checkpointing::Blocks => Recomputed::Blocks,
                Checkpointing::On => Recomputed::Nested,
            },
            accumulate: self.accumulate,
            optimizer: self.optimizer,
            fused: self.fused_update,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }
}

/// A text encoder of a model, as one that is trained.
fn trained(text: &TextModel) -> TrainedText {
    let TextModel { place, config, .. } = text;
    let pooled = text.pooled_width().is_some();
    TrainedText { part: place.part, config: config.clone(), skip: place.skip, pooled, end: text.end() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::WeightType;

    #[test]
    fn a_run_that_ends_on_its_plateau_is_evaluated() {
        let every = |job: TrainOptions| job.evaluates_every();
        assert_eq!(every(TrainOptions::default()), None);
        let plateau = TrainOptions { stop: Stop::Plateau, ..TrainOptions::default() };
        assert_eq!(every(plateau.clone()), Some(20), "a twentieth of 400 steps");
        assert_eq!(every(TrainOptions { steps: Some(1500), ..plateau.clone() }), Some(75));
        assert_eq!(every(TrainOptions { steps: Some(3), ..plateau.clone() }), Some(1));
        assert_eq!(every(TrainOptions { evaluate_every: Some(7), ..plateau.clone() }), Some(7));
        assert_eq!(every(TrainOptions { replay: Some("r".into()), ..plateau }), None);
    }

    #[test]
    fn what_decides_the_result_is_named_as_the_options_are() {
        let job = TrainOptions::default();
        let mut other = job.clone();
        (other.model.memory, other.resume, other.save_every) = (Some(1 << 30), true, Some(5));
        assert_eq!(job.deciding().unwrap(), other.deciding().unwrap());
        other.model.dtype = WeightType::Q8;
        let (was, is) = (job.deciding().unwrap(), other.deciding().unwrap());
        assert_ne!(was["dtype"], is["dtype"]);
    }
}
