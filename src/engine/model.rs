//! A model as a job opens it: configurations, tokenizer, weights with LoRA files merged in.

use std::ops::Range;
use std::path::Path;

use crate::base::DType;
use crate::diffusion::{Prediction, ScheduleConfig};
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::gpu::{AdapterClass, Caps, Store};
use crate::io::safetensors::first_non_finite;
use crate::io::{Checkpoint, ClipTokenizer, LoraFile, ModuleKey, Part};
use crate::job::{LoraArg, ModelOptions, WeightType};
use crate::models::{TextEncoderConfig, UnetConfig, VaeConfig};
use crate::nn::{Param, lora, weights};

use super::check::LONGEST_SIDE;
use super::recipe::Recipe;

/// An opened model.
pub struct Model {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) text: TextEncoderConfig,
    pub(crate) unet: UnetConfig,
    pub(crate) vae: VaeConfig,
    pub(crate) schedule: ScheduleConfig,
    pub(crate) tokenizer: ClipTokenizer,
    pub(crate) loras: Vec<(LoraFile, f64)>,
    weight_type: WeightType,
}

/// The checkpoint that `path` names, a folder or a file, or the bundled one.
pub fn open_checkpoint(path: Option<&Path>) -> Result<Checkpoint> {
    match path {
        Some(path) => Checkpoint::open(path),
        #[cfg(feature = "bundled")]
        None => Checkpoint::embedded(&crate::io::bundled::MODEL),
        #[cfg(not(feature = "bundled"))]
        None => Err(Error::Usage("this build holds no model: give one with --model".into())),
    }
}

impl Model {
    /// Opens what `options` name and every LoRA; the weights themselves stay where they are.
    pub fn open(options: &ModelOptions, loras: &[LoraArg], listener: Listener<'_>) -> Result<Model> {
        let mut checkpoint = open_checkpoint(options.model.as_deref())?;
        if options.prediction == Some(Prediction::V) && !checkpoint.prediction_known() {
            checkpoint.predicts_velocity();
        }
        let text_of = |part: Part| {
            let weights = checkpoint.part(part);
            (weights.config_source().name().to_owned(), weights.config().to_string())
        };
        let (path, config) = text_of(Part::TextEncoder);
        let text = TextEncoderConfig::parse(&path, &config)?;
        let (path, config) = text_of(Part::Unet);
        let unet = UnetConfig::parse(&path, &config)?;
        let (path, config) = text_of(Part::Vae);
        let vae = VaeConfig::parse(&path, &config)?;
        let mut schedule = ScheduleConfig::from_json(&checkpoint.scheduler().to_string(), checkpoint.scheduler_name())?;
        if let Some(prediction) = options.prediction {
            schedule.prediction_type = prediction;
        }
        let tokenizer = checkpoint.tokenizer()?;
        let (given, taken) = (tokenizer.length(), text.max_position_embeddings);
        if given > taken {
            let message = format!("the tokenizer gives {given} tokens a prompt, the text encoder takes {taken}");
            return Err(Error::file(checkpoint.name(), format!("{message}: parts of different models")));
        }
        let (given, taken) = (text.hidden_size, unet.cross_attention_dim.get(0));
        if given != taken {
            let message = format!("the text encoder gives {given} columns, the UNet reads {taken}");
            return Err(Error::file(checkpoint.name(), format!("{message}: parts of different models")));
        }
        let modules = checkpoint.modules();
        let mut opened = Vec::with_capacity(loras.len());
        for lora in loras {
            let file = LoraFile::open(&lora.path, Some(&modules))?;
            let report = file.match_report(&modules);
            report.check()?;
            listener(Event::Note(format!("LoRA {}: {} layers", lora.path.display(), report.matched.len())));
            if let Some(first) = report.unmatched.first() {
                let (path, count) = (lora.path.display(), report.unmatched.len());
                listener(Event::Warning(format!("{path}: {count} keys match nothing in the model, such as {first}")));
            }
            opened.push((file, lora.scale));
        }
        let weight_type = options.dtype;
        Ok(Model { checkpoint, text, unet, vae, schedule, tokenizer, loras: opened, weight_type })
    }

    /// Settles that a single file's network predicts velocities.
    pub(crate) fn predicts_velocity(&mut self) -> Result<()> {
        self.checkpoint.predicts_velocity();
        let config = self.checkpoint.part(Part::Unet);
        self.unet = UnetConfig::parse(config.config_source().name(), &config.config().to_string())?;
        let name = self.checkpoint.scheduler_name();
        self.schedule = ScheduleConfig::from_json(&self.checkpoint.scheduler().to_string(), name)?;
        Ok(())
    }

    /// What its network predicts.
    #[cfg_attr(not(feature = "web"), allow(dead_code, reason = "the page asks for it"))]
    pub(crate) fn prediction(&self) -> Prediction {
        self.schedule.prediction_type
    }

    /// Storage of the large weights on an adapter with `caps`.
    pub fn dtype(&self, caps: &Caps) -> DType {
        match self.weight_type {
            WeightType::F32 => DType::F32,
            WeightType::F16 => DType::F16,
            WeightType::Q8 => DType::Q8,
            WeightType::Auto if caps.class == AdapterClass::Cpu => DType::F32,
            WeightType::Auto => DType::F16,
        }
    }

    /// Storage of the autoencoder's weights: few, and each counts in every pixel, so eight bits are not for them.
    pub fn vae_dtype(&self, caps: &Caps) -> DType {
        match self.dtype(caps) {
            DType::Q8 => DType::F16,
            dtype => dtype,
        }
    }

    /// How it samples where nothing is asked for.
    #[cfg_attr(not(feature = "web"), allow(dead_code, reason = "the page asks for it"))]
    pub(crate) fn usual_recipe(&self, options: &ModelOptions) -> Result<Recipe> {
        Recipe::new(self, &Default::default(), options.prediction, None)
    }

    /// Pixels of a latent's side.
    pub fn factor(&self) -> usize {
        self.vae.factor()
    }

    /// Pixels of a side of the pictures that it was made for.
    pub fn native_side(&self) -> usize {
        self.unet.sample_size.as_ref().map_or(64, |s| s.get(0)) * self.factor()
    }

    /// Width of the hidden states that the UNet reads.
    pub fn context_width(&self) -> usize {
        self.unet.cross_attention_dim.get(0)
    }

    /// Width and height in pixels, by default what the model was made for.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no multiple of the model's factor, or more than 8192.
    pub fn size(&self, width: Option<usize>, height: Option<usize>) -> Result<[usize; 2]> {
        let factor = self.factor();
        let native = self.native_side();
        for (name, side) in [("--width", width), ("--height", height)] {
            if let Some(side) = side.filter(|s| *s == 0 || *s > LONGEST_SIDE || !s.is_multiple_of(factor)) {
                let message = format!("must be a multiple of {factor}, such as {native}, at most {LONGEST_SIDE}");
                return Err(Error::Usage(format!("{name} {side}: {message}")));
            }
        }
        Ok([width.unwrap_or(native), height.unwrap_or(native)])
    }

    /// Token ids of `prompt`; says what was cut.
    pub fn tokens(&self, prompt: &str, listener: Listener<'_>) -> Result<Vec<u32>> {
        let encoded = self.tokenizer.encode(prompt)?;
        if let Some(cut) = &encoded.truncated {
            let length = self.tokenizer.length();
            listener(Event::Warning(format!("the prompt is longer than {length} tokens; this is cut: {cut}")));
        }
        Ok(encoded.ids)
    }

    /// Loads every one of `params` into `store`, merging the LoRA files.
    pub async fn load(&self, store: &mut Store, label: &str, params: &[Param]) -> Result<()> {
        let rows = |key: &str, shape: &[usize], rows: Range<usize>| -> Result<Vec<f32>> {
            let (part, name) = key.split_once('.').unwrap_or(("", key));
            let part = Part::ALL.into_iter().find(|p| p.name() == part);
            let part = part.ok_or_else(|| Error::file(self.checkpoint.name(), format!("has no part for {key}")))?;
            let weights = self.checkpoint.part(part);
            let tensor = weights.get_shaped(name, shape)?;
            let some = tensor.rows(rows.start, rows.len());
            let some = some.ok_or_else(|| tensor.error(format!("has shape {:?}, no rows {rows:?}", tensor.shape)))?;
            let mut values = some.to_f32()?;
            if let Some(i) = first_non_finite(&values) {
                let element = rows.start * (values.len() / rows.len().max(1)) + i;
                let message = format!("holds {} (element {element}): the file is damaged, get it again", values[i]);
                return Err(tensor.renamed(weights.stored_name(name)).error(message));
            }
            weights.release(&some);
            self.merge(key, shape, rows, &mut values)?;
            Ok(values)
        };
        weights::load(store, label, params, &rows).await
    }

    /// Adds what the LoRA files say of the rows `rows` of the tensor `key` of `shape`.
    fn merge(&self, key: &str, shape: &[usize], rows: Range<usize>, values: &mut [f32]) -> Result<()> {
        let Some((part, (path, which))) = key.split_once('.').and_then(|(part, k)| Some((part, k.rsplit_once('.')?)))
        else {
            return Ok(());
        };
        let Some(part) = Part::ALL.into_iter().find(|p| p.name() == part) else { return Ok(()) };
        let module = ModuleKey { part, path: path.to_string() };
        for (file, scale) in &self.loras {
            let (found, change) = (file.modules.get(&module), file.changes.get(&module));
            if let Some(found) = found.filter(|_| which == "weight") {
                let scale = scale * f64::from(found.scale());
                lora::merge(values, shape, rows.clone(), &found.down.data, &found.up.data, scale)?;
            }
            let fits = match (change, which) {
                (Some(change), "weight") => change.add_to_weight(values, rows.clone(), *scale),
                (Some(change), "bias") => change.add_to_bias(values, rows.clone(), *scale),
                _ => true,
            };
            if !fits {
                let message = format!("layer '{module}' does not fit a {which} of {shape:?}: it is of another model");
                return Err(Error::file(&file.name, message));
            }
            // The factors are finite, their product need not be.
            if (found.is_some() || change.is_some()) && values.iter().any(|x| !x.is_finite()) {
                let message = format!("layer '{module}' times {scale} is more than f32 holds: give a smaller scale");
                return Err(Error::file(&file.name, message));
            }
        }
        Ok(())
    }
}
