//! Descriptions of models and LoRAs as data: one schema for the library, `--json` and the page.

use crate::io::lora_file::Layout;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::diffusion::Prediction;
use crate::error::{Message, Result, Words};
use crate::family::Family;
use crate::io::{Checkpoint, LoraFile, ModelModules, PartId, Weights};
use crate::models::{UnetConfig, VaeConfig};

use super::model::Model;
use super::options::ModelOptions;

/// Description of a model: what its files hold and how it runs where nothing is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename = "model")]
pub struct ModelReport {
    /// Name of its file or folder.
    pub model: String,
    /// "diffusers folder" or "single-file checkpoint".
    pub layout: &'static str,
    /// "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion XL", or a small model of these.
    pub family: &'static str,
    /// Weights of each part, by the part's name in a diffusers folder.
    pub parts: BTreeMap<&'static str, PartReport>,
    /// Parameters of all parts.
    pub parameters: usize,
    /// Bytes of all parts in their files.
    pub bytes: usize,
    /// Class of its scheduler.
    pub scheduler: String,
    /// What the network predicts; `None` where neither files nor options say.
    pub prediction: Option<Prediction>,
    /// Native image height in pixels; `None` for a configuration that is not supported.
    pub pixels: Option<usize>,
    /// Pixels of a latent's side; `None` for a configuration that is not supported.
    pub factor: Option<usize>,
    /// Whether it is an inpainting model: its UNet reads a mask and masked latents beside its latents.
    pub inpaints: bool,
    /// Width of the text encoder's hidden states.
    pub context_width: Option<u64>,
    /// Layers that a LoRA can change.
    pub lora_layers: usize,
    /// Default sampler steps; `None` where the model cannot be used.
    pub steps: Option<usize>,
    /// Default guidance; `None` where the model cannot be used.
    pub guidance: Option<f64>,
    /// Default sampler; `None` where the model cannot be used.
    pub sampler: Option<&'static str>,
    /// Reason why no job can use it.
    pub cannot_be_used: Option<Message>,
    /// Facts on its files.
    pub notes: Vec<Message>,
    /// Digest that tells its weights from others'.
    pub fingerprint: String,
}

/// Weights of a part of a model.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// Parameters.
    pub parameters: usize,
    /// Parameters of each element type.
    pub types: BTreeMap<&'static str, usize>,
    /// Bytes in its files.
    pub bytes: usize,
}

impl ModelReport {
    /// Description of the files of `checkpoint`, without the defaults of a model that can be used.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for files that cannot be read.
    pub fn of_files(checkpoint: &Checkpoint) -> Result<ModelReport> {
        let parts: BTreeMap<_, _> =
            checkpoint.parts().map(|(part, weights)| (part.name(), part_report(weights))).collect();
        let text = |config: &Value, name: &str| config.get(name).and_then(Value::as_str).map(str::to_owned);
        let scheduler = checkpoint.scheduler();
        let context_width = checkpoint.part(PartId::UNET)?.config().get("cross_attention_dim").and_then(Value::as_u64);
        let prediction = match text(scheduler, "prediction_type").as_deref() {
            _ if !checkpoint.prediction_known() => None,
            Some("v_prediction") => Some(Prediction::V),
            Some("sample") => Some(Prediction::Sample),
            Some("epsilon") | None => Some(Prediction::Epsilon),
            Some(_) => None,
        };
        Ok(ModelReport {
            model: checkpoint.name().to_owned(),
            layout: if checkpoint.folder().is_some() { "diffusers folder" } else { "single-file checkpoint" },
            family: match Family::of(checkpoint) {
                family if context_width == Some(family.context_width as u64) => family.name,
                family if family.encoders.len() > 1 => "small Stable Diffusion XL",
                _ => "small Stable Diffusion",
            },
            parameters: parts.values().map(|part| part.parameters).sum(),
            bytes: parts.values().map(|part| part.bytes).sum(),
            parts,
            scheduler: text(scheduler, "_class_name").unwrap_or_else(|| "unnamed".into()),
            prediction,
            pixels: native_size(checkpoint).map(|[_, height]| height),
            factor: vae(checkpoint).map(|vae| vae.factor()),
            inpaints: inpaints(checkpoint),
            context_width,
            lora_layers: checkpoint.modules().of(PartId::UNET).count(),
            steps: None,
            guidance: None,
            sampler: None,
            cannot_be_used: None,
            notes: checkpoint.notes().to_vec(),
            fingerprint: checkpoint.fingerprint()?,
        })
    }

    /// JSON of the report with its texts in `words`.
    pub fn to_json(&self, words: &dyn Words) -> Value {
        // Nothing in a report fails to serialize.
        let mut said = serde_json::to_value(self).unwrap_or_default();
        said["notes"] = self.notes.iter().map(|note| note.in_words(words)).collect();
        said["cannot_be_used"] = self.cannot_be_used.as_ref().map(|fault| fault.in_words(words)).into();
        said
    }
}

fn part_report(weights: &Weights) -> PartReport {
    let (mut types, mut bytes) = (BTreeMap::new(), 0);
    for tensor in weights.iter() {
        *types.entry(tensor.dtype.name()).or_default() += tensor.elements();
        bytes += tensor.byte_len();
    }
    PartReport { parameters: weights.parameters(), types, bytes }
}

fn inpaints(checkpoint: &Checkpoint) -> bool {
    let config = |part: PartId, field: &str| checkpoint.part(part).ok()?.config().get(field)?.as_u64();
    let channels = |part: PartId, field: &str| config(part, field).unwrap_or(4);
    channels(PartId::UNET, "in_channels") == 2 * channels(PartId::VAE, "latent_channels") + 1
}

fn vae(checkpoint: &Checkpoint) -> Option<VaeConfig> {
    let part = checkpoint.part(PartId::VAE).ok()?;
    VaeConfig::parse(part.config_source().name(), &part.config().to_string()).ok()
}

/// Native width and height in pixels of the images of `checkpoint`; `None` for a configuration that is not supported.
pub fn native_size(checkpoint: &Checkpoint) -> Option<[usize; 2]> {
    let part = checkpoint.part(PartId::UNET).ok()?;
    let unet = UnetConfig::parse(part.config_source().name(), &part.config().to_string()).ok()?;
    let [height, width] = unet.latent_size();
    vae(checkpoint).map(|vae| [width * vae.factor(), height * vae.factor()])
}

impl Model {
    /// Description of the model as `options` opened it.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a scheduler that is not supported, [`Error::File`](crate::Error::File) for
    /// files that cannot be read.
    pub fn report(&self, options: &ModelOptions) -> Result<ModelReport> {
        let files = ModelReport::of_files(&self.checkpoint)?;
        let recipe = self.usual_recipe(options)?;
        Ok(ModelReport {
            prediction: options.prediction.or(files.prediction),
            steps: Some(recipe.steps),
            guidance: Some(recipe.guidance),
            sampler: Some(recipe.trajectory.kind.name()),
            ..files
        })
    }
}

/// Description of a LoRA file, by itself or beside a model.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename = "lora")]
pub struct LoraReport {
    /// Name of its file or folder.
    pub file: String,
    /// Its layout; a letter in JSON, as `inspect` explains it.
    pub layout: Option<Layout>,
    /// Layers of each kind: "LoRA", "LoCon", "LoHa", "LoKr" or others.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Largest rank.
    pub rank: usize,
    /// Family that it was made for, where its keys tell.
    pub made_for: Option<String>,
    /// Layers of the UNet.
    pub unet_layers: usize,
    /// Layers of the text encoders.
    pub text_encoder_layers: usize,
    /// Layers of the second text encoder, among those.
    pub second_text_encoder_layers: usize,
    /// Parameters.
    pub parameters: usize,
    /// Metadata of its files.
    pub metadata: BTreeMap<String, String>,
    /// Layers of the model that it changes; present with a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<Vec<String>>,
    /// Keys that the model has no layer for; present with a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmatched: Option<Vec<String>>,
    /// Layers whose size is another than the model's; present with a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatched: Option<Vec<String>>,
    /// Keys of no known layer; present without a model, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Vec<String>>,
}

impl LoraReport {
    /// Description of `lora`; with the layers of a model, of how it fits them.
    pub fn new(lora: &LoraFile, modules: Option<&ModelModules>) -> LoraReport {
        let in_part = |part| lora.layers().iter().filter(|key| key.part == part).count();
        let fits = modules.map(|modules| lora.match_report(modules));
        let foreign = (fits.is_none() && !lora.foreign.is_empty()).then(|| lora.foreign.clone());
        LoraReport {
            file: lora.name.clone(),
            layout: lora.layout,
            kinds: lora.kinds(),
            rank: lora.rank(),
            made_for: lora.made_for(),
            unet_layers: in_part(PartId::UNET),
            text_encoder_layers: lora.layers().iter().filter(|key| key.part.is_text_encoder()).count(),
            second_text_encoder_layers: in_part(PartId::TEXT_ENCODER_2),
            parameters: lora.parameters(),
            metadata: lora.metadata.clone(),
            matched: fits.as_ref().map(|fits| fits.matched.iter().map(ToString::to_string).collect()),
            unmatched: fits.as_ref().map(|fits| fits.unmatched.clone()),
            mismatched: fits.as_ref().map(|fits| fits.mismatched.iter().map(ToString::to_string).collect()),
            foreign,
        }
    }
}
