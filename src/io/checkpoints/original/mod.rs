//! Single-file checkpoints in the original layout: family, configurations and names are read off the tensors, so that the
//! rest of the engine sees the same three parts as in a diffusers folder.

mod configs;
mod family;
mod names;

use std::path::Path;

use serde_json::Value;

pub use crate::io::families::TAKES;
pub(super) use configs::velocity;
pub use family::other;
pub use names::{Names, Structure, TextFlavour, Third};

use super::{Part, Weights, object};
use crate::error::Result;
use crate::io::tokenizer::TokenizerFiles;
use crate::io::{SafeTensors, Source};
use configs::Configs;

/// A single file, seen as the parts of a diffusers folder.
pub(super) struct SingleFile {
    pub model_index: Source,
    pub parts: [Weights; 3],
    pub scheduler_source: Source,
    pub scheduler: Value,
    pub tokenizer: TokenizerFiles,
    /// Whether the file says what the network predicts; where it does not, the scheduler says epsilon.
    pub prediction_known: bool,
}

/// Opens the checkpoint at `path`.
pub(super) fn open(path: &Path) -> Result<SingleFile> {
    let source = Source::open(path)?;
    family::refuse_other_formats(path, &source)?;
    let file = SafeTensors::from_source(source)?;
    let flavour = family::flavour(&file)?;
    let structure = configs::structure(&file, flavour)?;
    let configs = Configs::new(&file, &structure)?;
    let name = path.display().to_string();
    let json = |value: &Value| Source::from_bytes(name.as_str(), value.to_string().into_bytes());
    let part = |part: Part| {
        let config = json(configs.part(part));
        Weights::original(part, name.clone(), config, file.clone(), Names::new(part, &structure))
    };
    let scheduler_source = json(&configs.scheduler);
    Ok(SingleFile {
        model_index: json(&configs.model_index),
        parts: [part(Part::TextEncoder)?, part(Part::Unet)?, part(Part::Vae)?],
        scheduler: object(&scheduler_source)?,
        scheduler_source,
        tokenizer: tokenizer(&name, flavour)?,
        prediction_known: configs.prediction_known,
    })
}

/// CLIP's vocabulary, which is the same in every model of the family; the padding differs.
#[cfg(feature = "bundled")]
fn tokenizer(name: &str, flavour: TextFlavour) -> Result<TokenizerFiles> {
    Ok(crate::io::bundled::tokenizer(name, padding(flavour)))
}

#[cfg(not(feature = "bundled"))]
fn tokenizer(name: &str, flavour: TextFlavour) -> Result<TokenizerFiles> {
    TokenizerFiles::of_bundled_model(name, padding(flavour))
}

/// What shorter prompts are filled with.
fn padding(flavour: TextFlavour) -> &'static str {
    if flavour == TextFlavour::OpenClip { "!" } else { "<|endoftext|>" }
}
