//! Reading any layout.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::adapter_config::AdapterConfig;
use super::assemble::Tensors;
use super::keys::{Key, is_adapter_key, parse};
use super::layout::{Layout, Role};
use super::{LoraFile, ModuleKey};
use crate::error::{Error, Result, message, option};
use crate::io::checkpoints::Names;
use crate::io::source::object;
use crate::io::{ModelModules, PartId, SafeTensors, Source, files};

/// The header field in which diffusers keeps PEFT's configuration.
pub const ADAPTER_METADATA: &str = "lora_adapter_metadata";
/// Names of PEFT's files of weights and configuration.
pub const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// See [`PEFT_WEIGHTS`].
pub const PEFT_CONFIG: &str = "adapter_config.json";

/// What reading a LoRA file takes beside the file.
pub struct Reading<'a> {
    /// Layers of the model that it is for, where that is known: they tell kohya's names apart exactly. Without them the usual
    /// layer names do.
    pub model: Option<&'a ModelModules>,
    /// Gives the original code's names of the UNet that a LoRA with these keys is for.
    pub originals: &'a dyn Fn(&SafeTensors) -> Names,
    /// Says of a file without a LoRA what else it is, if it is known, and what to give instead.
    pub other: &'a dyn Fn(&SafeTensors) -> Option<String>,
}

impl LoraFile {
    /// Reads the LoRA at `path`: a `.safetensors` file in any [`Layout`] but PEFT's folder, a PEFT folder (a folder for each part
    /// in it, or a lone one, which is the UNet's), or a folder with diffusers' `pytorch_lora_weights.safetensors`.
    ///
    /// # Errors
    /// [`Error::File`] naming file and key: malformed, not a LoRA, an unsupported kind (DoRA, OFT, …), a factor
    /// missing or of a shape that does not fit its partner, values that are not finite.
    pub(crate) fn read(path: &Path, reading: &Reading<'_>) -> Result<LoraFile> {
        let mut lora = LoraFile { name: path.display().to_string(), ..LoraFile::default() };
        if !files::is_folder(path) {
            // A weight file out of a PEFT folder needs the configuration it lies beside.
            let config = path.with_file_name(PEFT_CONFIG);
            let beside = path.file_name().is_some_and(|name| name == PEFT_WEIGHTS) && files::exists(&config);
            lora.add(&open_weights(path)?, beside.then_some(config.as_path()), None, reading)?;
        } else if files::exists(path.join(PEFT_CONFIG)) {
            let weights = open_weights(&path.join(PEFT_WEIGHTS))?;
            lora.add(&weights, Some(&path.join(PEFT_CONFIG)), Some(PartId::UNET), reading)?;
        } else if files::exists(path.join("pytorch_lora_weights.safetensors")) {
            lora.add(&open_weights(&path.join("pytorch_lora_weights.safetensors"))?, None, None, reading)?;
        } else {
            for part in PartId::ADAPTED {
                let folder = path.join(part.name());
                if files::exists(folder.join(PEFT_CONFIG)) {
                    let weights = open_weights(&folder.join(PEFT_WEIGHTS))?;
                    lora.add(&weights, Some(&folder.join(PEFT_CONFIG)), Some(part), reading)?;
                }
            }
        }
        lora.checked()
    }

    /// Reads a LoRA from bytes: one file in any layout but PEFT's folder.
    ///
    /// # Errors
    /// Those of [`LoraFile::read`].
    pub(crate) fn read_source(source: Source, reading: &Reading<'_>) -> Result<LoraFile> {
        let mut lora = LoraFile { name: source.name().to_owned(), ..LoraFile::default() };
        lora.add(&SafeTensors::from_source(source)?, None, None, reading)?;
        lora.checked()
    }

    fn checked(self) -> Result<LoraFile> {
        if self.layers().is_empty() && self.foreign.is_empty() {
            if files::exists(Path::new(&self.name).join("model_index.json")) {
                return Err(Error::file(
                    &self.name,
                    message!["is a model and no LoRA: give it with ", option("model")],
                ));
            }
            let message = "holds no LoRA: expected a .safetensors file with lora_… tensors, or a folder with \
                           unet/adapter_config.json";
            return Err(Error::file(&self.name, message));
        }
        Ok(self)
    }

    fn add(
        &mut self,
        file: &SafeTensors,
        config: Option<&Path>,
        lone: Option<PartId>,
        reading: &Reading<'_>,
    ) -> Result<()> {
        let mut parts: BTreeMap<ModuleKey, Tensors<'_>> = BTreeMap::new();
        let originals = (reading.originals)(file);
        let mut any_lora = false;
        for tensor in file.iter() {
            any_lora |= is_adapter_key(&tensor.name);
            match parse(&tensor.name, lone, reading.model, &originals) {
                Key::Known { module, role, layout } => {
                    any_lora = true;
                    // An alpha is written alike in most layouts; a kind that only LyCORIS has decides.
                    if role != Role::Alpha && (layout == Layout::Lycoris || self.layout.is_none()) {
                        self.layout = Some(layout);
                    }
                    parts.entry(module).or_default().set(role, tensor)?;
                }
                Key::Refused(kind) => {
                    return Err(tensor.error(format!("is of {kind}: give a LoRA, LoCon, LoHa or LoKr")));
                }
                Key::Foreign => self.foreign.push(tensor.name.into_owned()),
            }
        }
        if !any_lora {
            let what = match (reading.other)(file) {
                Some(what) => what.into(),
                None if file.names().any(|name| name.starts_with("model.diffusion_model.")) => {
                    message!["is a checkpoint and no LoRA: give it with ", option("model")]
                }
                None => "holds no LoRA: none of its tensors is named lora_…, hada_… or lokr_…".into(),
            };
            return Err(Error::file(file.name(), what));
        }
        let configs = AdapterConfigs::open(file, config)?;
        for (key, part) in parts {
            let (module, change) = part.assemble(file.name(), &key, |rank| configs.alpha(&key, rank))?;
            self.modules.extend(module.map(|module| (key.clone(), module)));
            self.changes.extend(change.map(|change| (key, change)));
        }
        let needed_by_layout = |name: &str| name == "format" || name == ADAPTER_METADATA;
        self.metadata.extend(file.metadata().clone().into_iter().filter(|(name, _)| !needed_by_layout(name)));
        Ok(())
    }
}

fn open_weights(path: &Path) -> Result<SafeTensors> {
    let pickled = path.extension().is_some_and(|e| e == "bin" || e == "pt" || e == "ckpt");
    if pickled || (!files::exists(path) && files::exists(path.with_extension("bin"))) {
        return Err(Error::file(path, "pickled weights are not read: save the LoRA as .safetensors"));
    }
    SafeTensors::open(path)
}

/// PEFT's configurations, where a file has them.
#[derive(Default)]
struct AdapterConfigs {
    /// The one of all parts.
    whole: Option<AdapterConfig>,
    /// One for each part, where they are told apart.
    parts: BTreeMap<PartId, AdapterConfig>,
}

impl AdapterConfigs {
    fn open(file: &SafeTensors, beside: Option<&Path>) -> Result<AdapterConfigs> {
        let (name, json) = match (beside, file.metadata().get(ADAPTER_METADATA)) {
            (Some(path), _) => (path.display().to_string(), object(&Source::open(path)?)?),
            (None, Some(text)) => {
                let name = format!("{}: metadata '{ADAPTER_METADATA}'", file.name());
                let json = object(&Source::from_bytes(name.as_str(), text.as_bytes()))?;
                (name, json)
            }
            (None, None) => return Ok(AdapterConfigs::default()),
        };
        let Value::Object(map) = json else { return Ok(AdapterConfigs::default()) };
        let whole = AdapterConfig::parse(&name, &map, "")?;
        let mut parts = BTreeMap::new();
        for part in PartId::ADAPTED {
            let config = AdapterConfig::parse(&name, &map, &format!("{part}."))?;
            parts.extend(config.map(|config| (part, config)));
        }
        Ok(AdapterConfigs { whole: whole.filter(|_| parts.is_empty()), parts })
    }

    fn alpha(&self, key: &ModuleKey, rank: usize) -> Option<f32> {
        self.parts.get(&key.part).or(self.whole.as_ref())?.alpha(key, rank)
    }
}
