//! A Stable Diffusion model: a diffusers folder, a single file in the original layout, or the same parts inside the
//! binary.

mod bundle;
mod discover;
mod modules;
pub mod original;
mod part;
mod save;
mod weights;
mod wrappers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use bundle::Bundle;
pub use modules::ModelModules;
pub use part::Part;
pub use save::{diffusers_folder_files, write_diffusers_folder};
pub use weights::Weights;

use super::source::object;
use super::tokenizer::ClipTokenizer;
use super::tokenizer_files::TokenizerFiles;
use super::{ModuleKey, SafeTensors, Source, files};
use crate::error::{Message, Result};

/// An opened model: configurations parsed, weight files opened and their headers checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    name: String,
    folder: Option<PathBuf>,
    model_index: Source,
    parts: [Weights; 3],
    scheduler_source: Source,
    scheduler: Value,
    tokenizer: TokenizerFiles,
    /// What says what the network predicts.
    prediction_by: Option<String>,
    /// A single file's.
    generation: original::Generation,
    notes: Vec<Message>,
}

impl Checkpoint {
    /// Opens the diffusers folder or the single file `path`.
    ///
    /// # Errors
    /// [`Error::File`] in one line with the remedy: not there, a pickle, a model of another family, a part or file
    /// missing, JSON or safetensors malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let folder = path.as_ref();
        if files::is_file(folder) {
            discover::refuse_part_of_folder(folder)?;
            let file = original::open(folder)?;
            return Ok(Checkpoint {
                name: folder.display().to_string(),
                folder: None,
                model_index: file.model_index,
                parts: file.parts,
                scheduler_source: file.scheduler_source,
                scheduler: file.scheduler,
                tokenizer: file.tokenizer,
                prediction_by: file.prediction_by,
                generation: file.generation,
                notes: file.notes,
            });
        }
        let model_index = discover::model_index(folder)?;
        let mut notes = Vec::new();
        let mut part = |part| discover::weights(folder, part, &mut notes);
        let parts = [part(Part::TextEncoder)?, part(Part::Unet)?, part(Part::Vae)?];
        let scheduler_source = discover::required(&folder.join("scheduler").join("scheduler_config.json"))?;
        let tokenizer = TokenizerFiles::open(folder.join("tokenizer"))?;
        let name = folder.display().to_string();
        let mut scheduler = object(&scheduler_source)?;
        discover::check_classes(&object(&model_index)?, model_index.name(), &parts, &mut scheduler, &mut notes)?;
        Ok(Checkpoint {
            name,
            folder: Some(folder.into()),
            model_index,
            parts,
            scheduler_source,
            scheduler,
            tokenizer,
            prediction_by: Some("its scheduler_config.json".into()),
            generation: original::Generation::First,
            notes,
        })
    }

    /// Opens a model inside the binary.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], with the bundle's name in place of the folder.
    pub fn embedded(bundle: &Bundle) -> Result<Checkpoint> {
        let source = |file: &str, bytes| Source::from_static(format!("{}/{file}", bundle.name), bytes);
        let part = |part: Part, (config, weights)| {
            let config = source(&format!("{part}/config.json"), config);
            let weights = source(&format!("{part}/{}.safetensors", part.stem()), weights);
            Weights::new(part, format!("{}/{part}", bundle.name), config, vec![SafeTensors::from_source(weights)?])
        };
        let parts = [
            part(Part::TextEncoder, bundle.text_encoder)?,
            part(Part::Unet, bundle.unet)?,
            part(Part::Vae, bundle.vae)?,
        ];
        let scheduler_source = source("scheduler/scheduler_config.json", bundle.scheduler);
        let files = bundle.tokenizer.iter().map(|(file, bytes)| (*file, source(&format!("tokenizer/{file}"), bytes)));
        Ok(Checkpoint {
            name: bundle.name.into(),
            folder: None,
            model_index: source("model_index.json", bundle.model_index),
            parts,
            scheduler: object(&scheduler_source)?,
            scheduler_source,
            tokenizer: TokenizerFiles::new(format!("{}/tokenizer", bundle.name), files),
            prediction_by: Some("its scheduler_config.json".into()),
            generation: original::Generation::First,
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

    /// Configuration and tensors of one part.
    pub fn part(&self, part: Part) -> &Weights {
        match part {
            Part::TextEncoder => &self.parts[0],
            Part::Unet => &self.parts[1],
            Part::Vae => &self.parts[2],
        }
    }

    /// `scheduler_config.json`.
    pub fn scheduler(&self) -> &Value {
        &self.scheduler
    }

    /// What messages call the scheduler's configuration: its path, or that of the single file.
    pub fn scheduler_name(&self) -> &str {
        self.scheduler_source.name()
    }

    /// Whether the model says what its network predicts. A single file may not: then [`Checkpoint::scheduler`] says
    /// epsilon, and [`Checkpoint::predicts_velocity`] corrects it.
    pub fn prediction_known(&self) -> bool {
        self.prediction_by.is_some()
    }

    /// What says what the network predicts, if anything does.
    pub fn prediction_by(&self) -> Option<&str> {
        self.prediction_by.as_deref()
    }

    /// Facts about the files that their user should know: what was guessed, and what was left out.
    pub fn notes(&self) -> &[Message] {
        &self.notes
    }

    /// Settles that a single file's network predicts velocities. In the second generation that makes it a model for 768
    /// pixels.
    pub fn predicts_velocity(&mut self) {
        let Checkpoint { parts: [_, unet, _], scheduler, generation, .. } = self;
        unet.change_config(|config| original::velocity(scheduler, config, *generation));
        let text = self.scheduler.to_string().into_bytes();
        self.scheduler_source = Source::from_bytes(self.scheduler_source.name(), text);
        self.prediction_by = Some("the prediction that was asked for, or one of the network".into());
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::File`] when the tokenizer's files are incomplete or malformed.
    pub fn tokenizer(&self) -> Result<ClipTokenizer> {
        ClipTokenizer::from_files(&self.tokenizer)
    }

    /// The layers that a LoRA file is matched against.
    pub fn modules(&self) -> ModelModules {
        let modules = |part| self.part(part).modules();
        let (unet, text_encoder) = (modules(Part::Unet), modules(Part::TextEncoder));
        let (mut norms, mut biases) = (BTreeMap::new(), BTreeMap::new());
        for (part, paths) in [(Part::Unet, &unet), (Part::TextEncoder, &text_encoder)] {
            let of_part = |path: &String| ModuleKey { part, path: path.clone() };
            let own = self.part(part).norms();
            for path in paths.keys().chain(own.keys()) {
                let length = self.part(part).find(&format!("{path}.bias")).map(|bias| bias.elements());
                biases.extend(length.map(|n| (of_part(path), n)));
            }
            norms.extend(own.iter().map(|(path, shape)| (of_part(path), shape.clone())));
        }
        ModelModules { unet, text_encoder, norms, biases }
    }

    /// A short name for exactly these weights, to key caches with: the SHA-256 of all configurations and of the first
    /// 256 bytes of every tensor, 16 hexadecimal digits. Reads a few hundred pages instead of gigabytes.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(&*self.scheduler_source.bytes()?);
        for weights in &self.parts {
            hash.update(&*weights.config_source().bytes()?);
            for tensor in weights.iter() {
                hash.update(tensor.name.as_bytes());
                hash.update(&*tensor.first_bytes(256)?);
            }
        }
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }
}
