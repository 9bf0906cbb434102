//! Opening a single file as the parts of a diffusers folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::configs::{self, Template};
use super::stated::{self, Stated};
use super::{identify, structure};
use crate::diffusion::Prediction;
use crate::error::{Message, Result, message, option};
use crate::family::description::{Encoder, Family};
use crate::io::checkpoints::{Names, discover, wrappers};
use crate::io::source::object;
use crate::io::{Checkpoint, PartId, SafeTensors, Source, TokenizerFiles, Weights};

/// Opens the checkpoint at `path`.
pub(in crate::low_level::family) fn open(path: &Path) -> Result<Checkpoint> {
    discover::refuse_part_of_folder(path)?;
    let source = Source::open(path)?;
    identify::refuse_other_formats(path, &source)?;
    let (file, _) = wrappers::unwrap(SafeTensors::from_source(source)?, &wrappers::SINGLE_FILE)?;
    let identify::Identified { family, texts, guessed } = identify::identify(&file)?;
    let structure = structure::structure(&file, texts)?;
    let stated = stated::prediction(path, &file)?;
    let beside =
        stated.as_ref().filter(|stated| !stated.by.starts_with("its ")).map(|stated| said_beside(path, stated));
    let name = path.display().to_string();
    let json = |value: &Value| Source::from_bytes(name.as_str(), value.to_string().into_bytes());
    let mut template = Template::new(&name, family)?;
    let mut parts = BTreeMap::new();
    for part in family.parts() {
        let names = Names::new(part, &structure);
        let mut weights = Weights::original(part, name.clone(), json(&template.part(part)), file.clone(), names)?;
        let mut config = configs::with(template.part(part), configs::fields(&weights, family)?);
        if part == PartId::UNET {
            configs::settle_pipeline(&mut template.model_index, &config, family);
            configs::settle_training(&mut template.scheduler, &mut config, (&file, stated.as_ref()), family);
        }
        weights.change_config(|own| *own = config);
        parts.insert(part, weights);
    }
    let scheduler_source = json(&template.scheduler);
    let by_family = family.noise_unless_said.then(|| format!("{}, whose files say what differs", family.name));
    let tokenizer = |encoder: &Encoder| Ok((encoder.tokenizer, tokenizer(&name, encoder.pad)?));
    Ok(Checkpoint {
        model_index: json(&template.model_index),
        parts,
        scheduler: object(&scheduler_source)?,
        scheduler_source,
        tokenizers: family.encoders.iter().map(tokenizer).collect::<Result<_>>()?,
        prediction_by: stated.map(|stated| stated.by).or(by_family),
        notes: guessed.into_iter().map(Message::from).chain(beside).collect(),
        folder: None,
        name,
    })
}

/// Tells what a file beside `path` says, and how to correct it.
fn said_beside(path: &Path, Stated { prediction, by }: &Stated) -> Message {
    let [says, other] = match prediction {
        Prediction::V => ["velocity", "epsilon"],
        Prediction::Epsilon => ["noise", "v"],
        Prediction::Sample => ["the clean sample", "epsilon"],
    };
    let wrong = message!["; where that is wrong: ", option("prediction"), format!(" {other}")];
    message![format!("{}: predicts {says}, by {by}", path.display()), wrong]
}

/// CLIP's vocabulary, which is the same in every model; the padding differs.
#[cfg(feature = "bundled")]
fn tokenizer(name: &str, pad: &str) -> Result<TokenizerFiles> {
    Ok(crate::io::bundled::tokenizer(name, pad))
}

#[cfg(not(feature = "bundled"))]
fn tokenizer(name: &str, pad: &str) -> Result<TokenizerFiles> {
    TokenizerFiles::of_bundled_model(name, pad)
}

impl Checkpoint {
    /// Settles that a single file's network predicts velocities. In Stable Diffusion 2 that makes it a model for 768 pixels.
    pub fn predicts_velocity(&mut self) {
        let change: fn(&mut Value, &mut Value) = Family::of(self).velocity;
        let mut scheduler = self.scheduler.clone();
        if let Some(unet) = self.parts.get_mut(&PartId::UNET) {
            unet.change_config(|config| change(&mut scheduler, config));
        }
        self.set_scheduler(scheduler);
        self.prediction_by = Some("the prediction that was asked for, or one of the network".into());
    }
}
