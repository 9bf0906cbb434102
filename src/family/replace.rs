//! Parts of other files in place of a model's own: another autoencoder, or a UNet that was published alone.

use std::path::Path;

use serde_json::{Value, json};

use super::description::Family;
use super::folder::check_class;
use super::refusals::TAKES;
use super::single_file::configs::{self, Template};
use super::single_file::names::{UNET, VAE};
use super::single_file::stated::{self, Stated};
use super::single_file::{identify, structure};
use crate::diffusion::Prediction;
use crate::error::{Error, Message, Result, message, option};
use crate::io::checkpoints::{Names, discover, wrappers};
use crate::io::lora_file::is_adapter_key;
use crate::io::source::object;
use crate::io::{Checkpoint, PartId, SafeTensors, Source, Weights, files};

/// Beginnings of a UNet's names in the original code, with what stands before them in a file of it alone.
const UNET_PREFIXES: [&str; 3] = [UNET, "diffusion_model.", ""];
/// Beginnings of an autoencoder's names.
const VAE_PREFIXES: [&str; 2] = [VAE, ""];

impl Checkpoint {
    /// Returns the model with the UNet and the autoencoder at these paths in place of its own.
    ///
    /// # Errors
    /// As [`Checkpoint::with_unet`] and [`Checkpoint::with_vae`].
    pub fn with_parts(self, unet: Option<&Path>, vae: Option<&Path>) -> Result<Checkpoint> {
        let with = match unet {
            Some(path) => self.with_unet(path)?,
            None => self,
        };
        match vae {
            Some(path) => with.with_vae(path),
            None => Ok(with),
        }
    }

    /// Returns the model with the autoencoder at `path` in place of its own: the folder of a diffusers model or of its
    /// autoencoder, or a file with the names of diffusers or of the original code. A file without `config.json` gets the
    /// configuration of the model's family, with what its tensors tell.
    ///
    /// # Errors
    /// [`Error::File`] if `path` holds no autoencoder, or one of other latents than the model's.
    pub fn with_vae(mut self, path: &Path) -> Result<Checkpoint> {
        let family = Family::of(&self);
        let own = self.part(PartId::VAE)?.config().clone();
        let vae = self.open_part(PartId::VAE, path, &Template::new(&self.name, family)?.part(PartId::VAE))?;
        let field = |config: &Value, name: &str, default: Value| config.get(name).cloned().unwrap_or(default);
        let blocks = |config: &Value| config.get("block_out_channels").and_then(Value::as_array).map_or(1, Vec::len);
        let [theirs, ours] = [vae.config(), &own].map(|config| field(config, "latent_channels", json!(4)));
        if theirs != ours || blocks(vae.config()) != blocks(&own) {
            let side = |config: &Value| 1u64.checked_shl(blocks(config) as u32 - 1).unwrap_or(0);
            let says =
                |config: &Value, channels: &Value| format!("{channels} channels for {0}x{0} pixels", side(config));
            let message = format!(
                "is an autoencoder whose latents have {}, those of {} have {}: give one of the model's family, {}",
                says(vae.config(), &theirs),
                self.name,
                says(&own, &ours),
                family.name
            );
            return Err(Error::file(path, message));
        }
        let scales = [vae.config(), &own].map(|config| field(config, "scaling_factor", json!(0.18215)).as_f64());
        if scales[0] != scales[1] {
            let [theirs, ours] = scales.map(Option::unwrap_or_default);
            let scaled = format!("its latents are scaled by {theirs}, those of the model's own autoencoder by {ours}");
            self.notes.push(format!("{}: {scaled}: is it of another family?", path.display()).into());
        }
        self.parts.insert(PartId::VAE, vae);
        Ok(self)
    }

    /// Returns the model with the UNet at `path` in place of its own: a file that holds a UNet alone, with the names of
    /// diffusers or of the original code, or a folder. Widths and depths are read off its tensors; what it predicts, and for
    /// which noise levels it was trained, off its marks, and are the model's own where it has none.
    ///
    /// # Errors
    /// [`Error::File`] if `path` holds no UNet, or one that does not fit the model's other parts.
    pub fn with_unet(mut self, path: &Path) -> Result<Checkpoint> {
        let family = Family::of(&self);
        let own = self.part(PartId::UNET)?.config().clone();
        let mut unet = self.open_part(PartId::UNET, path, &own)?;
        for (name, what) in [
            ("cross_attention_dim", "hidden states of width"),
            ("projection_class_embeddings_input_dim", "sizes and pooled prompts of width"),
            ("out_channels", "latents of channels"),
        ] {
            let [theirs, ours] = [unet.config(), &own].map(|config| config.get(name).cloned().unwrap_or_default());
            if theirs != ours {
                let says = |value: Value| if value.is_null() { "none".into() } else { value.to_string() };
                let (theirs, ours) = (says(theirs), says(ours));
                let message = format!(
                    "is a UNet for {what} {theirs}, that of {} is for {ours}: give one of the model's family, {}",
                    self.name, family.name
                );
                return Err(Error::file(path, message));
            }
        }
        let mut index = object(&self.model_index)?;
        configs::settle_pipeline(&mut index, unet.config(), family);
        if index != object(&self.model_index)? {
            self.model_index = Source::from_bytes(self.model_index.name(), index.to_string().into_bytes());
        }
        if files::is_file(path) {
            let file = SafeTensors::open(path)?;
            let stated = stated::prediction(path, &file)?;
            let mut scheduler = self.scheduler.clone();
            unet.change_config(|config| {
                configs::settle_training(&mut scheduler, config, (&file, stated.as_ref()), family);
            });
            if self.scheduler != scheduler {
                self.set_scheduler(scheduler);
            }
            if let Some(Stated { by, prediction }) = stated {
                self.notes.extend((prediction == Prediction::Sample).then(|| one_step(path)));
                self.prediction_by = Some(format!("the file of its UNet, {by}"));
            }
        }
        self.parts.insert(PartId::UNET, unet);
        Ok(self)
    }

    /// Opens `part` at `path`, a folder or file; without a configuration of its own it gets `template` with what its tensors
    /// tell.
    fn open_part(&mut self, part: PartId, path: &Path, template: &Value) -> Result<Weights> {
        let family = Family::of(self);
        if files::is_folder(path) {
            let inside = path.join(part.name());
            let folder = if files::is_folder(&inside) { &inside } else { path };
            if !files::exists(folder.join("config.json")) {
                let message = format!("has no config.json and no folder {part}: give a diffusers folder or a file");
                return Err(Error::file(path, message));
            }
            let weights = discover::weights_in(folder, part, &mut self.notes)?;
            check_class(&weights)?;
            return Ok(weights);
        }
        if !discover::present(path)? {
            return Err(Error::file(path, "no such file or folder"));
        }
        discover::refuse_part_of_folder(path)?;
        let source = Source::open(path)?;
        identify::refuse_other_formats(path, &source)?;
        let file = SafeTensors::from_source(source)?;
        if let Some(key) = file.names().find(|name| is_adapter_key(name)) {
            let fault = format!("is a LoRA ('{key}'), which changes a model: give it with ");
            return Err(Error::file(path, message![fault, option("loras")]));
        }
        let foreign = identify::foreign(&file).filter(|_| part == PartId::UNET);
        if let Some(what) = foreign {
            return Err(Error::file(path, format!("is {what}; {TAKES}")));
        }
        // A file of a diffusers folder has its configuration beside it.
        let beside = path.with_file_name("config.json");
        let stem = path.file_name().unwrap_or_default().to_string_lossy().starts_with(part.stem());
        let beside = Some(beside).filter(|beside| stem && files::is_file(beside)).map(Source::open).transpose()?;
        let name = path.display().to_string();
        let alone = beside.is_none();
        let empty = || Source::from_bytes(name.as_str(), template.to_string().into_bytes());
        let mut weights = names_of(part, file, name.clone(), beside.unwrap_or_else(empty))?;
        check_class(&weights)?;
        if alone {
            let mut config = configs::with(template.clone(), configs::fields(&weights, family)?);
            settle_heads(&mut config, template, part);
            weights.change_config(|own| *own = config);
        }
        Ok(weights)
    }
}

/// Keeps the heads of the model's own UNet, which no tensor tells, where the widths are the same.
fn settle_heads(config: &mut Value, own: &Value, part: PartId) {
    let (widths, heads) = ("block_out_channels", "attention_head_dim");
    if part == PartId::UNET && config[widths] == own[widths] {
        config[heads] = own.get(heads).cloned().unwrap_or(json!(8));
    }
}

fn one_step(path: &Path) -> Message {
    let text = format!("{}: predicts the clean sample: it is made for one step; with ", path.display());
    message![text, option("steps"), " 1 ", option("guidance"), " 1 ", option("spacing"), " trailing"]
}

/// The tensors of `part` in `file` under whichever names it has.
fn names_of(part: PartId, file: SafeTensors, name: String, config: Source) -> Result<Weights> {
    let (plain, _) = wrappers::unwrap(file.clone(), &wrappers::SINGLE_FILE)?;
    let (marks, prefixes): (&[&str], &[&str]) = match part {
        PartId::UNET => (&["input_blocks."], &UNET_PREFIXES),
        _ => (&["encoder.down.", "decoder.up."], &VAE_PREFIXES),
    };
    let holds = |prefix: &str| {
        plain.names().any(|name| {
            let inside = name.strip_prefix(prefix);
            inside.is_some_and(|inside| marks.iter().any(|mark| inside.starts_with(mark)))
        })
    };
    if let Some(prefix) = prefixes.iter().find(|prefix| holds(prefix)) {
        let structure = match part {
            PartId::UNET => structure::unet(&plain, prefix)?,
            _ => structure::vae(&plain, prefix),
        };
        return Weights::original(part, name, config, plain, Names::behind(prefix, part, &structure));
    }
    let place = file.name().to_owned();
    let weights = Weights::new(part, name, config, vec![file])?;
    let known = if part == PartId::UNET { "down_blocks.0.resnets.0." } else { "decoder.up_blocks.0.resnets.0." };
    if weights.names().any(|name| name.starts_with(known)) {
        return Ok(weights);
    }
    let what = if part == PartId::UNET { "UNet" } else { "autoencoder" };
    Err(Error::file(place, format!("holds no {what} of Stable Diffusion, under diffusers' names or the original ones")))
}
