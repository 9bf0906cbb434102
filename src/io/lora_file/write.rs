//! Writing layouts B, C, D and E.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::adapter_config::describe;
use super::read::{ADAPTER_METADATA, PEFT_CONFIG, PEFT_WEIGHTS};
use super::{LoraFile, LoraModule, ModuleKey, kohya, most_common};
use crate::error::{Error, Result};
use crate::io::checkpoints::Names;
use crate::io::{PartId, Place, SafeTensors, Tensor, files, write_atomic, write_folder, write_safetensors};

type Modules<'a> = BTreeMap<&'a ModuleKey, &'a LoraModule>;

/// A layout that can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LoraFormat {
    /// One file as diffusers' training scripts write it
    #[default]
    Diffusers,
    /// One file with PEFT's key names
    Peft,
    /// A folder as PEFT's save_pretrained writes it
    PeftFolder,
    /// One file for A1111, ComfyUI and kohya's scripts
    Kohya,
}

impl LoraFormat {
    /// Name on the command line and in messages.
    pub fn name(self) -> &'static str {
        match self {
            LoraFormat::Diffusers => "diffusers",
            LoraFormat::Peft => "peft",
            LoraFormat::PeftFolder => "peft-folder",
            LoraFormat::Kohya => "kohya",
        }
    }

    /// The place of a LoRA of `parts` at `path`, which replaces what is there only if `replace` says so. A folder that was
    /// written here before goes with all its parts.
    pub fn place(self, path: impl Into<PathBuf>, parts: &[PartId], replace: bool) -> Place {
        if self != LoraFormat::PeftFolder {
            return Place::file(path, replace);
        }
        let path = path.into();
        let files = |part: &PartId| [PEFT_WEIGHTS, PEFT_CONFIG].map(|file| Path::new(part.name()).join(file));
        let ours = |part: &PartId| is_ours(&path.join(part.name()).join(PEFT_WEIGHTS));
        let earlier = PartId::ADAPTED.iter().filter(|part| replace && ours(part)).flat_map(files).collect();
        Place::folder(path.clone(), parts.iter().flat_map(files).collect(), replace).after(earlier)
    }
}

/// Whether the file of a part was written by [`write_part`]: PEFT's own have no such metadata.
fn is_ours(weights: &Path) -> bool {
    files::is_file(weights)
        && SafeTensors::open(weights).is_ok_and(|file| {
            let says = |name: &str| file.metadata().get(name).map_or("", String::as_str);
            says(TITLE.0) == TITLE.1
                && says(ARCHITECTURE).ends_with("/lora")
                && BASE.iter().all(|name| !says(name).is_empty())
        })
}

/// Words of a family in the LoRA files that are written for it.
pub struct Writing {
    /// Version of the base model, as kohya's scripts name it.
    pub base_version: &'static str,
    /// Architecture, as Stability AI's ModelSpec has it.
    pub architecture: &'static str,
    /// Whether kohya's scripts count it as Stable Diffusion 2.
    pub second: bool,
    /// kohya's prefixes of the text encoders' layers, in their order.
    pub text: &'static [&'static str],
    /// The original code's names of the UNet, where kohya's files have these.
    pub originals: Option<Names>,
}

/// Metadata field of the version of the base model.
pub(crate) const BASE_VERSION: &str = "ss_base_model_version";

/// The fields of kohya's that say which base a LoRA is for, whatever its layout. A1111 takes a file with any metadata for one
/// of Stable Diffusion 1.x unless the first begins with `sdxl_` or the second is `True`, and hides it beside other models.
const BASE: [&str; 2] = [BASE_VERSION, "ss_v2"];

/// Root of a text encoder's layers.
const TEXT_ROOT: &str = "text_model.";

/// Field and value of the title.
const TITLE: (&str, &str) = ("modelspec.title", "LoRA");

/// Field of the architecture.
const ARCHITECTURE: &str = "modelspec.architecture";

const ORIGINAL_CODE: &str = "https://github.com/Stability-AI/generative-models";

impl Writing {
    /// What the metadata say of the base, in every layout: in kohya's words, and in those of Stability AI's ModelSpec 1.0.0
    /// that a file must have.
    fn base(&self) -> [(&'static str, String); 5] {
        [
            (BASE_VERSION, self.base_version.into()),
            ("ss_v2", if self.second { "True" } else { "False" }.into()),
            ("modelspec.sai_model_spec", "1.0.0".into()),
            (ARCHITECTURE, format!("{}/lora", self.architecture)),
            (TITLE.0, TITLE.1.into()),
        ]
    }

    /// kohya's name of a layer; `None` where it has none.
    fn kohya_stem(&self, key: &ModuleKey) -> Option<String> {
        let texts = [PartId::TEXT_ENCODER, PartId::TEXT_ENCODER_2];
        if let Some(text) = texts.into_iter().position(|part| part == key.part) {
            return Some(format!("{}{}", self.text.get(text)?, kohya::mangle(&key.path)));
        }
        let original = |names: &Names| {
            let (name, _) = names.original(&key.path)?;
            Some(name.strip_prefix(names.prefix())?.to_owned())
        };
        let path = match &self.originals {
            Some(names) => original(names)?,
            None => key.path.clone(),
        };
        Some(format!("lora_unet_{}", kohya::mangle(&path)))
    }
}

impl LoraFile {
    /// Its place at `path` in the layout `format`, which replaces what is there only if `replace` says so.
    pub fn place(&self, path: impl Into<PathBuf>, format: LoraFormat, replace: bool) -> Place {
        let parts: Vec<PartId> = PartId::ADAPTED.into_iter().filter(|&part| self.of(part).next().is_some()).collect();
        format.place(path, &parts, replace)
    }

    /// Writes it to `path` (a folder for [`LoraFormat::PeftFolder`]) in the words of `family`, atomically; what is there is
    /// replaced.
    ///
    /// An alpha that is not the rank survives in every layout. `peft` and `peft-folder` have it in PEFT's configuration
    /// (diffusers before 0.34 does not read it from a file and would take the factor for 1). `diffusers` has no place
    /// for it: `up` is multiplied by alpha / rank. `kohya` has it as a tensor per layer, but diffusers mixes layers of a part
    /// up when these differ (0.42: `_get_alpha_name` keeps `.processor` in the name): every layer gets the most common
    /// alpha of its part, and `up` of a layer that had another one is multiplied to make up for it.
    ///
    /// # Errors
    /// [`Error::File`] when it holds no module, has a layer that is no product of two factors (a
    /// [`Change`](super::Change)), which no layout written here can hold, or cannot be written; then the old file is as it
    /// was.
    pub(crate) fn write_as(&self, path: &Path, format: LoraFormat, family: &Writing) -> Result<()> {
        let layout = format.name();
        self.only_low_rank(&format!("which layout {layout} cannot hold: use the file as it is"))?;
        if self.modules.is_empty() {
            let example = self.foreign.first().map_or_else(String::new, |key| format!(", for example '{key}'"));
            let message = format!("none of its keys has the name of a layer{example}: there is nothing to write");
            return Err(Error::file(&self.name, message));
        }
        let all: Modules<'_> = self.modules.iter().collect();
        let metadata = self.metadata_for(format, family);
        match format {
            LoraFormat::Diffusers => write_safetensors(path, &diffusers(&all), &metadata),
            LoraFormat::Peft => write_safetensors(path, &peft(&all, |part| part.name()), &metadata),
            LoraFormat::Kohya => write_safetensors(path, &self.kohya_tensors(&all, family)?, &metadata),
            LoraFormat::PeftFolder => write_folder(path, |folder| {
                for part in PartId::ADAPTED {
                    let of_part: Modules<'_> =
                        all.iter().filter(|(k, _)| k.part == part).map(|(k, m)| (*k, *m)).collect();
                    if !of_part.is_empty() {
                        write_part(&folder.join(part.name()), &of_part, &metadata)?;
                    }
                }
                Ok(())
            }),
        }
    }

    fn of(&self, part: PartId) -> impl Iterator<Item = (&ModuleKey, &LoraModule)> + Clone {
        self.modules.iter().filter(move |(key, _)| key.part == part)
    }

    fn metadata_for(&self, format: LoraFormat, family: &Writing) -> BTreeMap<String, String> {
        // kohya's fields describe kohya's file: in another layout they would go stale, but for those of the base.
        let keep = |name: &str| format == LoraFormat::Kohya || !name.starts_with("ss_") || BASE.contains(&name);
        let kept = self.metadata.iter().filter(|(name, _)| keep(name)).map(|(k, v)| (k.clone(), v.clone()));
        let mut metadata: BTreeMap<String, String> = kept.collect();
        metadata.insert("format".into(), "pt".into());
        for (name, value) in family.base() {
            metadata.entry(name.into()).or_insert(value);
        }
        // Whose names the tensors have, of those that kohya's scripts write for a LoRA.
        let original = format == LoraFormat::Kohya && family.originals.is_some();
        let implementation = if original { ORIGINAL_CODE } else { "diffusers" };
        metadata.insert("modelspec.implementation".into(), implementation.into());
        match format {
            LoraFormat::Peft => {
                let mut packed = Map::new();
                for part in PartId::ADAPTED {
                    if self.of(part).next().is_some() {
                        // diffusers takes the root off the keys where transformers 5 has none; off a path it
                        // does not, and there the end is enough in every version.
                        packed.extend(
                            describe(self.of(part), TEXT_ROOT).into_iter().map(|(k, v)| (format!("{part}.{k}"), v)),
                        );
                    }
                }
                metadata.insert(ADAPTER_METADATA.into(), pretty(&Value::Object(packed)));
            }
            LoraFormat::Kohya => {
                for (name, value) in self.kohya_metadata() {
                    metadata.entry(name.into()).or_insert(value);
                }
                // These two must agree with the tensors whatever an earlier file said.
                metadata.extend(self.kohya_sizes().map(|(name, value)| (name.to_owned(), value)));
            }
            LoraFormat::Diffusers | LoraFormat::PeftFolder => {}
        }
        metadata
    }

    /// The fields of a network that kohya's scripts expect, as strings.
    fn kohya_metadata(&self) -> [(&'static str, String); 2] {
        let convolutions = || self.modules.values().filter(|m| m.down.shape.iter().skip(2).any(|&extent| extent > 1));
        let args = match most_common(convolutions().map(LoraModule::rank)) {
            Some(rank) => json!({"conv_dim": rank.to_string(), "conv_alpha": self.common_alpha().to_string()}),
            None => json!({}),
        };
        [("ss_network_module", "networks.lora".into()), ("ss_network_args", args.to_string())]
    }

    /// Layout E, every layer of a part with the same alpha.
    fn kohya_tensors<'a>(&self, modules: &Modules<'a>, family: &Writing) -> Result<Vec<Tensor<'a>>> {
        let alphas = PartId::ADAPTED.map(|part| (part, common_alpha(self.of(part).map(|(_, module)| module))));
        let alphas = BTreeMap::from(alphas);
        let mut tensors = Vec::with_capacity(3 * modules.len());
        for (key, module) in modules {
            let alpha = alphas.get(&key.part).copied().unwrap_or(1.0);
            let stem = family.kohya_stem(key).ok_or_else(|| {
                Error::file(&self.name, format!("layer '{key}' has no name in kohya's layout: write another"))
            })?;
            tensors.push(Tensor::owned_f32(format!("{stem}.alpha"), &[], &[alpha]));
            tensors.push(Tensor::f32(format!("{stem}.lora_down.weight"), &module.down.shape, &module.down.data));
            tensors.push(scaled_up(format!("{stem}.lora_up.weight"), module, own_alpha(module) / alpha));
        }
        Ok(tensors)
    }

    fn kohya_sizes(&self) -> [(&'static str, String); 2] {
        [("ss_network_dim", self.rank().to_string()), ("ss_network_alpha", self.common_alpha().to_string())]
    }

    /// The most common alpha.
    fn common_alpha(&self) -> f32 {
        common_alpha(self.modules.values())
    }
}

/// The most common alpha of `modules` but 0, with which nothing could be undone.
fn common_alpha<'a>(modules: impl Iterator<Item = &'a LoraModule>) -> f32 {
    let alphas = modules.map(own_alpha).filter(|alpha| *alpha != 0.0);
    most_common(alphas.map(f32::to_bits)).map_or(1.0, f32::from_bits)
}

/// Layout B, the scale folded into `up`.
fn diffusers<'a>(modules: &Modules<'a>) -> Vec<Tensor<'a>> {
    modules
        .iter()
        .flat_map(|(key, module)| {
            let layer = if key.part.is_text_encoder() { "lora_linear_layer" } else { "lora" };
            let name = |end: &str| format!("{key}.{layer}.{end}.weight");
            let down = Tensor::f32(name("down"), &module.down.shape, &module.down.data);
            [down, scaled_up(name("up"), module, module.scale())]
        })
        .collect()
}

/// Layouts C and D: `prefix` is the part's name or PEFT's.
fn peft<'a>(modules: &Modules<'a>, prefix: impl Fn(PartId) -> &'static str) -> Vec<Tensor<'a>> {
    modules
        .iter()
        .flat_map(|(key, module)| {
            let name = |end: &str| format!("{}.{}.lora_{end}.weight", prefix(key.part), key.path);
            let down = Tensor::f32(name("A"), &module.down.shape, &module.down.data);
            [down, Tensor::f32(name("B"), &module.up.shape, &module.up.data)]
        })
        .collect()
}

/// The alpha a module has, or stands for by having none.
fn own_alpha(module: &LoraModule) -> f32 {
    module.alpha.unwrap_or(module.rank() as f32)
}

/// `up` under `name`, multiplied by `scale`; bit for bit the same where that is 1.
fn scaled_up<'a>(name: String, module: &'a LoraModule, scale: f32) -> Tensor<'a> {
    if scale == 1.0 {
        return Tensor::f32(name, &module.up.shape, &module.up.data);
    }
    let scaled: Vec<f32> = module.up.data.iter().map(|x| x * scale).collect();
    Tensor::owned_f32(name, &module.up.shape, &scaled)
}

/// A tensor of layout D by its name without [`TEXT_ROOT`]; `None` where it has none.
fn without_text_root<'a>(tensor: &Tensor<'a>) -> Option<Tensor<'a>> {
    let rest = tensor.name.strip_prefix("base_model.model.")?.strip_prefix(TEXT_ROOT)?;
    let name = format!("base_model.model.{rest}");
    Some(tensor.clone().renamed(name))
}

/// One part's folder of layout D. Transformers 5 has no [`TEXT_ROOT`] in the paths of the text encoder without a projection,
/// version 4 has it: its layers stand there under both names, of which PEFT passes over the one that the model does not have.
fn write_part(folder: &Path, modules: &Modules<'_>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut tensors = peft(modules, |_| "base_model.model");
    if modules.keys().any(|key| key.part == PartId::TEXT_ENCODER) {
        tensors.extend(tensors.iter().filter_map(without_text_root).collect::<Vec<_>>());
    }
    write_safetensors(folder.join(PEFT_WEIGHTS), &tensors, metadata)?;
    // PEFT takes a layer by the end of its path.
    let mut config = describe(modules.iter().map(|(key, module)| (*key, *module)), TEXT_ROOT);
    for (name, value) in [
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", Value::Null),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("modules_to_save", Value::Null),
        ("revision", Value::Null),
        ("task_type", Value::Null),
    ] {
        config.insert(name.into(), value);
    }
    config.sort_keys();
    write_atomic(folder.join(PEFT_CONFIG), |out| out.write_all(pretty(&Value::Object(config)).as_bytes()))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
