//! Reading any layout.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::adapter_config::AdapterConfig;
use super::assemble::Tensors;
use super::keys::{Key, is_adapter_key, parse};
use super::layout::{Layout, Role};
use super::original::OriginalNames;
use super::{LoraFile, ModuleKey};
use crate::error::{Error, Result, message, option};
use crate::io::checkpoints::original::other;
use crate::io::families::TAKES_LORAS;
use crate::io::source::object;
use crate::io::{ModelModules, Part, SafeTensors, Source, files};

/// The header field in which diffusers keeps PEFT's configuration.
pub const ADAPTER_METADATA: &str = "lora_adapter_metadata";
/// Where PEFT keeps weights and configuration.
pub const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// See [`PEFT_WEIGHTS`].
pub const PEFT_CONFIG: &str = "adapter_config.json";

impl LoraFile {
    /// Opens a LoRA: a `.safetensors` file in layout A, B, C, E or F, a PEFT folder (D; `unet/` and `text_encoder/` in
    /// it, or a lone one, which is the UNet's), or a folder with diffusers' `pytorch_lora_weights.safetensors`.
    ///
    /// `model`, where known, tells kohya's names apart exactly; without it the usual layer names do.
    ///
    /// # Errors
    /// [`Error::File`] naming file and key: malformed, not a LoRA, an unsupported kind (DoRA, OFT, …), a factor
    /// missing or of a shape that does not fit its partner, values that are not finite.
    pub fn open(path: impl AsRef<Path>, model: Option<&ModelModules>) -> Result<LoraFile> {
        let path = path.as_ref();
        let mut lora = LoraFile { name: path.display().to_string(), ..LoraFile::default() };
        if !files::is_folder(path) {
            // A weight file out of a PEFT folder needs the configuration it lies beside.
            let config = path.with_file_name(PEFT_CONFIG);
            let beside = path.file_name().is_some_and(|name| name == PEFT_WEIGHTS) && files::exists(&config);
            lora.add(&open_weights(path)?, beside.then_some(config.as_path()), None, model)?;
        } else if files::exists(path.join(PEFT_CONFIG)) {
            lora.add(&open_weights(&path.join(PEFT_WEIGHTS))?, Some(&path.join(PEFT_CONFIG)), Some(Part::Unet), model)?;
        } else if files::exists(path.join("pytorch_lora_weights.safetensors")) {
            lora.add(&open_weights(&path.join("pytorch_lora_weights.safetensors"))?, None, None, model)?;
        } else {
            for part in [Part::Unet, Part::TextEncoder] {
                let folder = path.join(part.name());
                if files::exists(folder.join(PEFT_CONFIG)) {
                    let weights = open_weights(&folder.join(PEFT_WEIGHTS))?;
                    lora.add(&weights, Some(&folder.join(PEFT_CONFIG)), Some(part), model)?;
                }
            }
        }
        lora.checked()
    }

    /// The same from bytes that are already there: one file in layout A, B, C, E or F.
    ///
    /// # Errors
    /// As [`LoraFile::open`].
    pub fn from_source(source: Source, model: Option<&ModelModules>) -> Result<LoraFile> {
        let mut lora = LoraFile { name: source.name().to_owned(), ..LoraFile::default() };
        lora.add(&SafeTensors::from_source(source)?, None, None, model)?;
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
        lone: Option<Part>,
        model: Option<&ModelModules>,
    ) -> Result<()> {
        let mut parts: BTreeMap<ModuleKey, Tensors<'_>> = BTreeMap::new();
        let originals = OriginalNames::new(model, file.names());
        let mut any_lora = false;
        for tensor in file.iter() {
            any_lora |= is_adapter_key(&tensor.name);
            match parse(&tensor.name, lone, model, &originals) {
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
            let what = match other(file) {
                Some(what) => format!("is {what} and no LoRA; {TAKES_LORAS}").into(),
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

/// PEFT's configuration of each part, where a file has one.
#[derive(Default)]
struct AdapterConfigs {
    unet: Option<AdapterConfig>,
    text_encoder: Option<AdapterConfig>,
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
        let prefixed = map.keys().any(|key| key.starts_with("unet.") || key.starts_with("text_encoder."));
        if !prefixed {
            return Ok(AdapterConfigs { unet: whole.clone(), text_encoder: whole });
        }
        let unet = AdapterConfig::parse(&name, &map, "unet.")?;
        Ok(AdapterConfigs { unet, text_encoder: AdapterConfig::parse(&name, &map, "text_encoder.")? })
    }

    fn alpha(&self, key: &ModuleKey, rank: usize) -> Option<f32> {
        let config = if key.part == Part::Unet { &self.unet } else { &self.text_encoder };
        config.as_ref()?.alpha(key, rank)
    }
}
