//! A model as a job opens it: configurations, tokenizer, weights with LoRA files merged in.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::base::DType;
use crate::diffusion::{Prediction, ScheduleConfig};
use crate::error::{Error, Result, message};
use crate::event::{Event, Listener};
use crate::family::Family;
use crate::gpu::{AdapterClass, Caps};
use crate::io::{Checkpoint, LoraFile, PartId};
use crate::models::{UnetConfig, VaeConfig};
use crate::nn::{Ranks, Settings};

use super::check::{LONGEST_SIDE, check_loras};
use super::fits::{check_channels, check_texts};
use super::image_plans::LastPlans;
use super::resident::Resident;
use super::text::{TextModel, Tokens};
use super::{LoraArg, ModelOptions, WeightType};

/// Open model: its configuration, its tokenizer, and its LoRAs. Weights are read when a job needs them.
///
/// Models with other LoRAs ([`Model::with_loras`]) share its files, and its weights on the device.
pub struct Model {
    opened: Arc<Opened>,
    pub(crate) loras: Vec<(Arc<LoraFile>, f64)>,
    /// Whether the LoRAs are merged into the weights when these are loaded.
    pub(crate) merges: bool,
}

/// What a model's files hold.
#[doc(hidden)]
pub struct Opened {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) family: &'static Family,
    /// Text encoders, whose hidden states lie side by side.
    pub(crate) texts: Vec<TextModel>,
    pub(crate) unet: UnetConfig,
    pub(crate) vae: VaeConfig,
    pub(crate) schedule: ScheduleConfig,
    /// Whether an empty negative prompt stands for zeros instead of its encoding.
    pub(crate) zeros: bool,
    weight_type: WeightType,
    pub(super) eight_bits: OnceLock<Arc<BTreeSet<String>>>,
    pub(crate) resident: Resident,
    pub(super) plans: LastPlans,
}

#[allow(clippy::arc_with_non_send_sync, reason = "in a page, where wgpu's objects belong to one thread, so do models")]
fn share(opened: Opened) -> Arc<Opened> {
    Arc::new(opened)
}

impl Deref for Model {
    type Target = Opened;

    fn deref(&self) -> &Opened {
        &self.opened
    }
}

/// Opens the checkpoint at `path`, a folder or a file, or the built-in one.
///
/// # Errors
/// [`Error::File`] if `path` is missing, malformed or of an unsupported family; [`Error::Usage`] without `path` if this build
/// has no built-in model.
pub fn open_checkpoint(path: Option<&Path>) -> Result<Checkpoint> {
    match path {
        Some(path) => Checkpoint::open(path),
        #[cfg(feature = "bundled")]
        None => Checkpoint::embedded(&crate::io::bundled::MODEL),
        #[cfg(not(feature = "bundled"))]
        None => {
            let problem = message!["this build holds no model: give one with ", crate::error::option("model")];
            Err(Error::usage("model", problem))
        }
    }
}

/// Reads the configuration of `part`: `parse` gets the name of the file that holds it, and its JSON.
fn config_of<T>(checkpoint: &Checkpoint, part: PartId, parse: impl Fn(&str, &str) -> Result<T>) -> Result<T> {
    let weights = checkpoint.part(part)?;
    parse(weights.config_source().name(), &weights.config().to_string())
}

/// Tells of dropouts that configurations ask for.
fn say_dropout(checkpoint: &Checkpoint, family: &Family, listener: Listener<'_>) -> Result<()> {
    for part in family.encoders.iter().map(|encoder| encoder.part).chain([PartId::UNET]) {
        let (config, path) = (checkpoint.part(part)?.config(), checkpoint.part(part)?.config_source().name());
        for field in ["dropout", "attention_dropout"] {
            if let Some(share) = config.get(field).and_then(serde_json::Value::as_f64).filter(|share| *share != 0.0) {
                let note = format!("{path}: {field} {share} is not used: trainings drop nothing out");
                listener(Event::Note(note.into()));
            }
        }
    }
    Ok(())
}

impl Model {
    /// Opens the model that `options` names and all `loras`; their weights stay on disk. Unlike
    /// [`Engine::open`](crate::Engine::open), it does not run the UNet to find out what it predicts.
    ///
    /// # Errors
    /// If a file is missing, malformed or unsupported, or no layer of a LoRA matches the model.
    pub fn open(options: &ModelOptions, loras: &[LoraArg], listener: Listener<'_>) -> Result<Model> {
        check_loras(loras)?;
        let checkpoint = open_checkpoint(options.model.as_deref())?;
        let mut checkpoint = checkpoint.with_parts(options.unet.as_deref(), options.vae.as_deref())?;
        for note in checkpoint.notes() {
            listener(Event::Note(note.clone()));
        }
        if options.prediction == Some(Prediction::V) && !checkpoint.prediction_known() {
            checkpoint.predicts_velocity();
        }
        let family = Family::of(&checkpoint);
        let texts = TextModel::all(family, &checkpoint)?;
        let unet = config_of(&checkpoint, PartId::UNET, UnetConfig::parse)?;
        let vae = config_of(&checkpoint, PartId::VAE, VaeConfig::parse)?;
        let mut schedule = ScheduleConfig::from_json(&checkpoint.scheduler().to_string(), checkpoint.scheduler_name())?;
        if let Some(prediction) = options.prediction {
            schedule.prediction_type = prediction;
        }
        say_dropout(&checkpoint, family, listener)?;
        for note in texts.iter().flat_map(|text| text.tokenizer.notes()) {
            listener(Event::Warning(note.as_str().into()));
        }
        check_texts(checkpoint.name(), &texts, &unet)?;
        check_channels(checkpoint.name(), &unet, &vae)?;
        log::debug!(target: "portray::open", "{}", checkpoint.name());
        let opened = Opened {
            // diffusers' pipeline of the family has it so where its file says nothing.
            zeros: family.zeros_for_empty_prompt
                && checkpoint.index_field("force_zeros_for_empty_prompt").is_none_or(|zeros| zeros != false),
            family,
            checkpoint,
            texts,
            unet,
            vae,
            schedule,
            weight_type: options.dtype,
            eight_bits: OnceLock::new(),
            resident: Resident::default(),
            plans: LastPlans::default(),
        };
        let model = Model { opened: share(opened), loras: Vec::new(), merges: false };
        if loras.is_empty() { Ok(model) } else { model.with_loras(loras, listener) }
    }

    /// Returns this model with `loras` instead of its own LoRAs. Both share the files and the weights on the device.
    ///
    /// # Errors
    /// [`Error::File`] if a file is not a LoRA of this model.
    pub fn with_loras(&self, loras: &[LoraArg], listener: Listener<'_>) -> Result<Model> {
        let modules = self.checkpoint.modules();
        let mut opened = Vec::with_capacity(loras.len());
        for lora in loras {
            let file = LoraFile::open(&lora.path, Some(&modules))?;
            let report = file.match_report(&modules);
            report.check()?;
            let layers = format!(": {} layers", report.matched.len());
            listener(Event::Note(message!["LoRA ", crate::error::path(&lora.path), layers]));
            if let Some(listed) = report.listed_unmatched() {
                let count = report.unmatched.len();
                let left_out = format!(": {count} keys match nothing in the model and are left out: {listed}");
                listener(Event::Warning(crate::error::path(&lora.path) + left_out));
            }
            let known = self.loras.iter().map(|(known, _)| known).find(|known| ***known == file);
            opened.push((known.cloned().unwrap_or_else(|| Arc::new(file)), lora.scale));
        }
        Ok(Model { opened: self.opened.clone(), loras: opened, merges: self.merges })
    }

    /// The same model with its LoRAs merged into the weights when these are loaded, or beside them as adapters: merged
    /// ones cost a step nothing, and other ones load all weights anew.
    pub fn merging(self, merges: bool) -> Model {
        Model { merges, ..self }
    }

    /// The checkpoint, saying what the UNet predicts as this model is used: with a prediction that was asked for, too.
    pub(crate) fn trained_checkpoint(&self) -> Checkpoint {
        let mut checkpoint = self.checkpoint.clone();
        let own = checkpoint.scheduler().get("prediction_type").and_then(|name| name.as_str()).unwrap_or("epsilon");
        let used = self.schedule.prediction_type.diffusers_name();
        if own != used {
            let mut scheduler = checkpoint.scheduler().clone();
            scheduler["prediction_type"] = used.into();
            checkpoint.set_scheduler(scheduler);
        }
        checkpoint
    }

    /// Settles that a single file's network predicts velocities: before the model is shared.
    pub(crate) fn predicts_velocity(&mut self) -> Result<()> {
        let shared = || Error::op("open", "the model is in use already");
        let opened = Arc::get_mut(&mut self.opened).ok_or_else(shared)?;
        opened.checkpoint.predicts_velocity();
        opened.unet = config_of(&opened.checkpoint, PartId::UNET, UnetConfig::parse)?;
        let name = opened.checkpoint.scheduler_name();
        opened.schedule = ScheduleConfig::from_json(&opened.checkpoint.scheduler().to_string(), name)?;
        Ok(())
    }

    /// The settings of the model's parts on an adapter with `caps`, its LoRAs beside the weights by `ranks`.
    pub(crate) fn settings(&self, caps: &Caps, ranks: &Arc<Ranks>) -> Settings {
        let dtype = self.dtype(caps);
        Settings { dtype, eight_bits: self.eight_bits(dtype), adapters: ranks.clone(), ..Settings::default() }
    }

    /// Names what decides the images that it makes without a LoRA: its weights, and a prediction that is not its own.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let fingerprint = self.checkpoint.fingerprint()?;
        let (own, name) = (self.checkpoint.scheduler().to_string(), self.checkpoint.scheduler_name());
        let used = self.schedule.prediction_type;
        let differs = ScheduleConfig::from_json(&own, name)?.prediction_type != used;
        Ok(if differs { format!("{fingerprint} {used:?}") } else { fingerprint })
    }

    /// Storage type of the large weights on an adapter with `caps`.
    pub fn dtype(&self, caps: &Caps) -> DType {
        match self.weight_type {
            WeightType::F32 => DType::F32,
            WeightType::F16 => DType::F16,
            WeightType::Q8 => DType::Q8,
            WeightType::Q4 => DType::Q4,
            WeightType::Auto if caps.class == AdapterClass::Cpu => DType::F32,
            WeightType::Auto => DType::F16,
        }
    }

    /// Storage type of the large weights that was asked for.
    pub(crate) fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Storage type of the autoencoder's weights. Never blocks: there are few of them, and each affects every pixel.
    pub fn vae_dtype(&self, caps: &Caps) -> DType {
        match self.dtype(caps) {
            DType::Q8 | DType::Q4 => DType::F16,
            dtype => dtype,
        }
    }

    /// Image pixels per side of one latent pixel.
    pub fn factor(&self) -> usize {
        self.vae.factor()
    }

    /// Whether it is an inpainting model.
    pub fn inpaints(&self) -> bool {
        self.unet.inpaints(self.vae.latent_channels)
    }

    /// Channels that the UNet reads beside the latents': those of [`Masked::extra`](super::Masked::extra), or none.
    pub(crate) fn extra_channels(&self) -> usize {
        self.unet.in_channels.saturating_sub(self.vae.latent_channels)
    }

    /// Native image height in pixels (usually equal to the width).
    pub fn native_side(&self) -> usize {
        self.unet.latent_size()[0] * self.factor()
    }

    /// Width of the pooled embedding that the UNet reads beside an image's sizes; `None` for a family without one.
    pub fn pooled_width(&self) -> Option<usize> {
        self.unet.added().map(|added| added.pooled)
    }

    /// Width of the hidden states that the UNet's cross-attention reads.
    pub fn context_width(&self) -> usize {
        self.unet.cross_attention_dim.get(0)
    }

    /// Returns `[width, height]` in pixels, by default the model's native size.
    ///
    /// # Errors
    /// [`Error::Usage`] if a side is not a multiple of [`Model::factor`] or is above 8192.
    pub fn size(&self, width: Option<usize>, height: Option<usize>) -> Result<[usize; 2]> {
        let factor = self.factor();
        let native = self.unet.latent_size().map(|side| side * factor);
        let side = |name: &'static str, given: Option<usize>, native: usize| {
            let side = given.unwrap_or(native);
            if side == 0 || !side.is_multiple_of(factor) {
                return Err(Error::value(name, side, format!("must be a multiple of {factor}, such as {native}")));
            }
            if side > LONGEST_SIDE {
                let own = if given.is_none() { ", the model's own size" } else { "" };
                return Err(Error::value(name, format!("{side}{own}"), format!("must be at most {LONGEST_SIDE}")));
            }
            Ok(side)
        };
        Ok([side("width", width, native[1])?, side("height", height, native[0])?])
    }

    /// Returns the token ids of `prompt` for each text encoder, each id a row of its embedding. Tells `listener` if the prompt
    /// was truncated.
    ///
    /// # Errors
    /// [`Error::File`] if a tokenizer gives a token that its text encoder does not know.
    pub fn tokens(&self, prompt: &str, listener: Listener<'_>) -> Result<Tokens> {
        let mut tokens = Tokens::with_capacity(self.texts.len());
        for (encoder, TextModel { config, tokenizer, .. }) in self.texts.iter().enumerate() {
            let encoded = tokenizer.encode(prompt)?;
            let rows = config.vocab_size;
            if let Some(id) = encoded.ids.iter().find(|&&id| id as usize >= rows) {
                let known = format!("the text encoder knows {rows} (0 to {})", rows - 1);
                let message = format!("the tokenizer gives token {id}, {known}: parts of different models");
                return Err(Error::file(self.checkpoint.name(), message));
            }
            let added = tokenizer.added(&encoded.ids);
            if !added.is_empty() && encoder == 0 {
                listener(Event::Note(format!("words that the model's tokenizer adds: {}", added.join(", ")).into()));
            }
            // All cut at the same place: they differ in padding.
            if let Some(cut) = encoded.truncated.as_ref().filter(|_| encoder == 0) {
                let length = tokenizer.length();
                let message = format!("the prompt is longer than {length} tokens; this is cut: {cut}");
                listener(Event::Warning(message.into()));
            }
            tokens.push(encoded.ids);
        }
        Ok(tokens)
    }
}

#[cfg(test)]
#[cfg(feature = "bundled")]
mod bundled_tests {
    use super::*;
    use crate::event::Flow;

    /// The model's own data, before anything shares it.
    fn own(model: &mut Model) -> &mut Opened {
        Arc::get_mut(&mut model.opened).expect("not shared")
    }

    fn bundled() -> Model {
        Model::open(&ModelOptions::default(), &[], &mut |_| Flow::Continue).expect("the bundled model")
    }

    #[test]
    fn sides_have_a_limit() {
        let mut model = bundled();
        let native = model.native_side();
        assert_eq!(model.size(None, Some(8192)).expect("a size"), [native, 8192]);
        for side in [0, native + 1, 8192 + model.factor(), usize::MAX - usize::MAX % model.factor()] {
            let error = model.size(Some(side), None).expect_err("no size");
            assert!(error.exit_code() == 2 && error.to_string().starts_with("width "), "{error}");
        }
        own(&mut model).unet.sample_size = Some(crate::models::config::PerBlock::Each(vec![16, 24]));
        assert_eq!(model.size(None, None).expect("a size"), [24 * model.factor(), 16 * model.factor()]);
        own(&mut model).unet.sample_size = Some(crate::models::config::PerBlock::One(4096));
        let error = model.size(None, None).expect_err("too large").to_string();
        assert!(error.contains("the model's own size") && error.contains("at most 8192"), "{error}");
    }

    #[test]
    fn tokens_are_rows_of_the_table() {
        let mut model = bundled();
        own(&mut model).texts[0].config.vocab_size = 49407;
        let error = model.tokens("a dog", &mut |_| Flow::Continue).expect_err("no such row").to_string();
        assert!(error.contains("token 49407") && error.contains("knows 49407 (0 to 49406)"), "{error}");
    }
}
