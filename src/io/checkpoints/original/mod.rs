//! Single-file checkpoints in the original layout: family, configurations and names are read off the tensors, so that
//! the rest of the engine sees the same three parts as in a diffusers folder.

mod configs;
mod family;
mod names;
mod stated;

use std::path::Path;

use serde_json::Value;

pub use crate::io::families::TAKES;
pub(super) use configs::{Generation, velocity};
pub use family::{is_checkpoint, other};
pub(super) use names::vae_attention;
pub use names::{Names, Structure, TextFlavour, Third};

use super::{Part, Weights, wrappers};
use crate::error::{Message, Result, message, option};
use crate::io::source::object;
use crate::io::tokenizer_files::TokenizerFiles;
use crate::io::{SafeTensors, Source};
use configs::Configs;
use stated::Stated;

/// A single file, seen as the parts of a diffusers folder.
pub(super) struct SingleFile {
    pub model_index: Source,
    pub parts: [Weights; 3],
    pub scheduler_source: Source,
    pub scheduler: Value,
    pub tokenizer: TokenizerFiles,
    pub generation: Generation,
    /// What says what the network predicts; where nothing does, the scheduler says epsilon.
    pub prediction_by: Option<String>,
    /// What its user should know.
    pub notes: Vec<Message>,
}

/// Opens the checkpoint at `path`.
pub(super) fn open(path: &Path) -> Result<SingleFile> {
    let source = Source::open(path)?;
    family::refuse_other_formats(path, &source)?;
    let (file, _) = wrappers::unwrap(SafeTensors::from_source(source)?, &wrappers::SINGLE_FILE)?;
    let flavour = family::flavour(&file)?;
    let (generation, guessed) = Generation::of(&file);
    let structure = configs::structure(&file, flavour, generation)?;
    let mut configs = Configs::new(&file, &structure, generation)?;
    let stated = stated::prediction(path, &file)?;
    if stated.as_ref().is_some_and(|stated| stated.velocity) {
        velocity(&mut configs.scheduler, &mut configs.unet, generation);
    }
    let beside = stated.as_ref().filter(|stated| !stated.by.starts_with("its "));
    let beside = beside.map(|Stated { velocity, by }| {
        let [says, other] = if *velocity { ["velocity", "epsilon"] } else { ["noise", "v"] };
        let wrong = message!["; where that is wrong: ", option("prediction"), format!(" {other}")];
        message![format!("{}: predicts {says}, by {by}", path.display()), wrong]
    });
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
        tokenizer: tokenizer(&name, generation)?,
        generation,
        prediction_by: stated.map(|stated| stated.by),
        notes: guessed.into_iter().map(Message::from).chain(beside).collect(),
    })
}

/// CLIP's vocabulary, which is the same in every model of the family; the padding differs.
#[cfg(feature = "bundled")]
fn tokenizer(name: &str, generation: Generation) -> Result<TokenizerFiles> {
    Ok(crate::io::bundled::tokenizer(name, padding(generation)))
}

#[cfg(not(feature = "bundled"))]
fn tokenizer(name: &str, generation: Generation) -> Result<TokenizerFiles> {
    TokenizerFiles::of_bundled_model(name, padding(generation))
}

/// What shorter prompts are filled with.
fn padding(generation: Generation) -> &'static str {
    if generation == Generation::Second { "!" } else { "<|endoftext|>" }
}
