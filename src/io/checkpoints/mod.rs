//! A diffusion model in files: its parts, configurations, scheduler and tokenizers, whatever layout they came in. `family`
//! opens checkpoints, for only families tell what a folder or a file is.

mod bundle;
pub(crate) mod discover;
mod modules;
pub mod names;
mod part;
mod save;
mod weights;
pub(crate) mod wrappers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use bundle::Bundle;
pub use modules::ModelModules;
pub use names::{Names, Stored};
pub use part::PartId;
pub use save::{diffusers_folder_files, write_diffusers_folder};
pub use weights::Weights;

use super::source::object;
use super::tokenizer::ClipTokenizer;
use super::tokenizer_files::TokenizerFiles;
use super::{ModuleKey, SafeTensors, Source};
use crate::error::{Error, Message, Result};

/// An opened model: configurations parsed, weight files opened and their headers checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub(crate) name: String,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) model_index: Source,
    pub(crate) parts: BTreeMap<PartId, Weights>,
    pub(crate) scheduler_source: Source,
    pub(crate) scheduler: Value,
    /// Tokenizers by folder.
    pub(crate) tokenizers: BTreeMap<&'static str, TokenizerFiles>,
    /// Source of the prediction type, if any.
    pub(crate) prediction_by: Option<String>,
    pub(crate) notes: Vec<Message>,
}

impl Checkpoint {
    /// Opens a model inside the binary.
    ///
    /// # Errors
    /// [`Error::File`] with the bundle's name in place of the folder, for JSON or safetensors that are malformed.
    pub fn embedded(bundle: &Bundle) -> Result<Checkpoint> {
        let source = |file: &str, bytes| Source::from_static(format!("{}/{file}", bundle.name), bytes);
        let part = |part: PartId, (config, weights)| {
            let config = source(&format!("{part}/config.json"), config);
            let weights = source(&format!("{part}/{}.safetensors", part.stem()), weights);
            Weights::new(part, format!("{}/{part}", bundle.name), config, vec![SafeTensors::from_source(weights)?])
        };
        let parts =
            [(PartId::TEXT_ENCODER, bundle.text_encoder), (PartId::UNET, bundle.unet), (PartId::VAE, bundle.vae)];
        let parts = parts.into_iter().map(|(id, files)| Ok((id, part(id, files)?))).collect::<Result<_>>()?;
        let scheduler_source = source("scheduler/scheduler_config.json", bundle.scheduler);
        let files = bundle.tokenizer.iter().map(|(file, bytes)| (*file, source(&format!("tokenizer/{file}"), bytes)));
        let tokenizer = TokenizerFiles::new(format!("{}/tokenizer", bundle.name), files);
        Ok(Checkpoint {
            name: bundle.name.into(),
            folder: None,
            model_index: source("model_index.json", bundle.model_index),
            parts,
            scheduler: object(&scheduler_source)?,
            scheduler_source,
            tokenizers: [("tokenizer", tokenizer)].into(),
            prediction_by: Some("its scheduler_config.json".into()),
            notes: Vec::new(),
        })
    }

    /// The folder or file as the user named it, or the bundle's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder, unless the model is a single file or inside the binary.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Returns whether the model has that part.
    pub fn has(&self, part: PartId) -> bool {
        self.parts.contains_key(&part)
    }

    /// Configuration and tensors of one part.
    ///
    /// # Errors
    /// [`Error::File`] if the model has no such part.
    pub fn part(&self, part: PartId) -> Result<&Weights> {
        self.parts.get(&part).ok_or_else(|| Error::file(&self.name, format!("has no part {part}")))
    }

    /// All parts, in the order of their names.
    pub fn parts(&self) -> impl Iterator<Item = (PartId, &Weights)> {
        self.parts.iter().map(|(id, weights)| (*id, weights))
    }

    /// Field `name` of `model_index.json`.
    pub fn index_field(&self, name: &str) -> Option<Value> {
        object(&self.model_index).ok()?.get(name).cloned()
    }

    /// `scheduler_config.json`.
    pub fn scheduler(&self) -> &Value {
        &self.scheduler
    }

    /// Name of the scheduler's configuration in messages: its path, or that of the single file.
    pub fn scheduler_name(&self) -> &str {
        self.scheduler_source.name()
    }

    /// Returns whether the model says what its denoiser predicts. A single file may not: then [`Checkpoint::scheduler`]
    /// says epsilon, and [`Checkpoint::predicts_velocity`] corrects it.
    pub fn prediction_known(&self) -> bool {
        self.prediction_by.is_some()
    }

    /// Replaces the scheduler's configuration, in what is written of the model too.
    pub(crate) fn set_scheduler(&mut self, scheduler: Value) {
        let text = format!("{scheduler:#}\n").into_bytes();
        self.scheduler_source = Source::from_bytes(self.scheduler_source.name(), text);
        self.scheduler = scheduler;
    }

    /// Returns the source of the prediction type, if there is one.
    pub fn prediction_by(&self) -> Option<&str> {
        self.prediction_by.as_deref()
    }

    /// Facts about the files that their user should know: what was guessed, and what was left out.
    pub fn notes(&self) -> &[Message] {
        &self.notes
    }

    /// The model's only tokenizer, or its first.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer's files are incomplete or malformed.
    pub fn tokenizer(&self) -> Result<ClipTokenizer> {
        self.tokenizer_in("tokenizer")
    }

    /// The tokenizer of the folder `folder`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or its files are incomplete or malformed.
    pub fn tokenizer_in(&self, folder: &str) -> Result<ClipTokenizer> {
        let files = self.tokenizers.get(folder);
        let files = files.ok_or_else(|| Error::file(&self.name, format!("has no {folder}")))?;
        ClipTokenizer::from_files(files)
    }

    /// The layers that a LoRA file is matched against.
    pub fn modules(&self) -> ModelModules {
        let mut modules = ModelModules::default();
        for part in PartId::ADAPTED {
            let Some(weights) = self.parts.get(&part) else { continue };
            let of_part = |path: &String| ModuleKey { part, path: path.clone() };
            let (layers, norms) = (weights.modules(), weights.norms());
            for path in layers.keys().chain(norms.keys()) {
                let length = weights.find(&format!("{path}.bias")).map(|bias| bias.elements());
                modules.biases.extend(length.map(|n| (of_part(path), n)));
            }
            modules.norms.extend(norms.iter().map(|(path, shape)| (of_part(path), shape.clone())));
            modules.layers.insert(part, layers);
        }
        modules
    }

    /// A short name for exactly these weights, to key caches with: the SHA-256 of all configurations and of the first
    /// 256 bytes of every tensor, 16 hexadecimal digits. Reads a few hundred pages instead of gigabytes.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(&*self.scheduler_source.bytes()?);
        for weights in self.parts.values() {
            hash.update(&*weights.config_source().bytes()?);
            for tensor in weights.iter() {
                hash.update(tensor.name.as_bytes());
                hash.update(&*tensor.first_bytes(256)?);
            }
        }
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }
}
