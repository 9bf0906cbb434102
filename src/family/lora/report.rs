//! Report on the layers of a model that a LoRA changes, and on what it seems to be made for if it changes none.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};
use crate::family::description::Family;
use crate::family::known::FAMILIES;
use crate::family::refusals::{OTHERS, TAKES_LORAS};
use crate::io::lora_file::flat;
use crate::io::{LoraFile, LoraModule, ModelModules, ModuleKey, PartId};

/// Families told by parts that no model that is read has, as LoRA files call them. How a tool writes the
/// names of parts that all have, `input_blocks` or `diffusion_model.`, tells nothing.
const BY_LORA: [(&str, &str); 4] = [
    ("lora_te3_", "Stable Diffusion 3"),
    ("t5xxl.", "Stable Diffusion 3, Flux or another with a T5 encoder"),
    ("lora_prior_", "Stable Cascade or Würstchen"),
    ("diffusion_model.blocks", "a video or diffusion transformer (Wan or another)"),
];

/// Whose LoRA a file is, and what says so.
struct MadeFor {
    name: String,
    /// Mark in the file that shows it.
    mark: String,
    /// Whether it is of a family that is not read.
    other: bool,
}

/// A layer that the model has in another size.
#[derive(Clone, Debug, PartialEq)]
pub struct ShapeMismatch {
    /// The layer.
    pub module: ModuleKey,
    /// Kind of the change: LoRA, LoCon, LoHa, ...
    pub kind: &'static str,
    /// Shape of the weight that the LoRA is for, or of the bias where only that differs.
    pub lora: Vec<usize>,
    /// The model's; empty where it has no bias.
    pub model: Vec<usize>,
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShapeMismatch { module, kind, lora, model } = self;
        if model.is_empty() {
            return write!(f, "'{module}' ({kind}) is for a bias of {lora:?}, the model has none there");
        }
        write!(f, "'{module}' ({kind}) is for {lora:?}, the model has {model:?}")
    }
}

/// A LoRA held against a model.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchReport {
    /// Layers that it changes.
    pub matched: Vec<ModuleKey>,
    /// Number of layers by kind, as [`LoraFile::kinds`] counts them.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Layers, or keys that name no layer, that the model does not have.
    pub unmatched: Vec<String>,
    /// Layers of another size.
    pub mismatched: Vec<ShapeMismatch>,
    file: String,
    /// Model that it was made for, if it is another one.
    made_for: Option<String>,
    /// Whether it is for a family that is not read, or for another than the model's.
    other_family: bool,
    /// Whether any of its names is one of a layer that a model of this kind can have.
    names_layers: bool,
}

impl LoraFile {
    /// Holds it against `model`.
    pub fn match_report(&self, model: &ModelModules) -> MatchReport {
        let family = self.family();
        let mut unet = model.of(PartId::UNET);
        let width = unet.find(|(path, _)| path.ends_with(CROSS_ATTENTION[0])).map(|(_, shape)| shape[1]);
        // One for Stable Diffusion XL has a text encoder that fits one of Stable Diffusion 1.x.
        let of_xl = self.mark_of_xl().is_some() && !model.layers.contains_key(&PartId::TEXT_ENCODER_2);
        let of_model = width.is_some() && width == self.context_width();
        let other_width = !of_model && width.is_some() && self.context_width().is_some();
        let mut report = MatchReport {
            matched: Vec::new(),
            kinds: BTreeMap::new(),
            unmatched: Vec::new(),
            mismatched: Vec::new(),
            file: self.name.clone(),
            names_layers: !self.layers().is_empty(),
            other_family: of_xl || other_width || family.as_ref().is_some_and(|family| family.other),
            made_for: family.filter(|family| family.other || of_xl || !of_model).map(|family| family.to_string()),
        };
        for module in self.layers() {
            let Some(shape) = model.weight(module) else {
                report.unmatched.push(module.to_string());
                continue;
            };
            match self.misfit(module, shape, model.biases.get(module).copied()) {
                Some(misfit) => report.mismatched.push(misfit),
                None => {
                    report.matched.push(module.clone());
                    self.kinds_of(module).for_each(|kind| *report.kinds.entry(kind).or_default() += 1);
                }
            }
        }
        report.unmatched.extend(self.foreign.iter().cloned());
        report
    }

    /// Compares the shape that the file is for with the model's: of the weight, else of the bias.
    fn misfit(&self, module: &ModuleKey, shape: &[usize], bias: Option<usize>) -> Option<ShapeMismatch> {
        let misfit = |kind, lora, model| Some(ShapeMismatch { module: module.clone(), kind, lora, model });
        let low_rank = self.modules.get(module).map(|m| (m.kind(), m.weight_shape()));
        if let Some((kind, lora)) = low_rank.filter(|(_, lora)| squeezed(shape) != squeezed(lora)) {
            return misfit(kind, lora, shape.to_vec());
        }
        let change = self.changes.get(module)?;
        let fits = |lora: &[usize]| squeezed(lora) == squeezed(shape) || lora == flat(shape);
        if let Some(lora) = change.weight_shape().filter(|lora| !fits(lora)) {
            return misfit(change.kind(), lora, shape.to_vec());
        }
        let length = change.bias_length().filter(|&length| bias != Some(length))?;
        misfit("bias difference", vec![length], bias.into_iter().collect())
    }

    /// Columns of the weight of the first layer whose path ends in one of `ends`.
    fn columns(&self, ends: &[&str]) -> Option<usize> {
        let layer = self.layers().into_iter().find(|key| ends.iter().any(|end| key.path.ends_with(end)))?;
        let change = || self.changes.get(layer)?.weight_shape();
        self.modules.get(layer).map(LoraModule::weight_shape).or_else(change)?.get(1).copied()
    }

    /// Width of the hidden states that its cross-attention reads.
    fn context_width(&self) -> Option<usize> {
        self.columns(&CROSS_ATTENTION)
    }

    /// The family that is read and has hidden states as wide as those that its cross-attention reads; without
    /// cross-attention, as its text encoder gives.
    pub(super) fn family_by_width(&self) -> Option<&'static Family> {
        let width = self.context_width().or_else(|| self.columns(&[".self_attn.q_proj", ".self_attn.v_proj"]))?;
        FAMILIES.into_iter().find(|family| family.context_width == width)
    }

    /// Says what of it only LoRAs of Stable Diffusion XL have.
    pub(super) fn mark_of_xl(&self) -> Option<String> {
        let layers = self.layers();
        if let Some(second) = layers.iter().find(|key| key.part == PartId::TEXT_ENCODER_2) {
            return Some(format!("'{second}' is of a second text encoder"));
        }
        if let Some(sizes) = layers.iter().find(|key| key.path.starts_with("add_embedding.")) {
            return Some(format!("'{sizes}' is of added conditioning"));
        }
        let deep = layers.iter().find(|key| key.path.contains(".transformer_blocks.1."))?;
        Some(format!("'{deep}' is of a second transformer block"))
    }

    /// The family of models that it is for, from what cannot be otherwise: parts, sizes and depths.
    fn family(&self) -> Option<MadeFor> {
        let foreign = BY_LORA.iter().chain(&OTHERS).find_map(|(mark, family)| {
            let key = self.foreign.iter().find(|key| key.contains(mark))?;
            Some(MadeFor { name: (*family).into(), mark: format!("it has '{key}'"), other: true })
        });
        if foreign.is_some() {
            return foreign;
        }
        let of = |name: &str, mark: String, other| Some(MadeFor { name: name.into(), mark, other });
        let width = self.context_width();
        let by_width = width.map(|width| (width, format!("cross-attention width {width}")));
        match (by_width, self.family_by_width().filter(|_| width.is_some()), self.mark_of_xl()) {
            (Some((_, mark)), Some(family), _) => return of(family.name, mark, false),
            (Some((1280, mark)), ..) => return of("Stable Diffusion XL's refiner", mark, true),
            (_, _, Some(mark)) => return of("Stable Diffusion XL", mark, false),
            (Some((_, mark)), ..) => return of("a model", mark, false),
            (None, ..) => {}
        }
        let foreign = |mark: &str| self.foreign.iter().any(|key| key.contains(mark));
        if self.layers().is_empty()
            && foreign("transformer_blocks")
            && !["down_", "mid_", "up_"].into_iter().any(foreign)
        {
            let mark = "PixArt, Stable Diffusion 3, Flux or another".to_owned();
            return of("a diffusion transformer", mark, true);
        }
        if let (Some(family), Some(version)) = (self.family_said(), self.base_version()) {
            return of(family.name, format!("base version {version}"), false);
        }
        let width = self.columns(&[".self_attn.q_proj", ".self_attn.v_proj"])?;
        let mark = format!("text encoder width {width}");
        match width {
            768 => of("Stable Diffusion 1.x", mark, false),
            1024 => of("Stable Diffusion 2.x", mark, false),
            _ => of("a model", mark, false),
        }
    }

    /// Refuses a LoRA that is for another family of models, even where it has layers that fit: one for Stable Diffusion
    /// XL has a text encoder of Stable Diffusion 1.x.
    ///
    /// # Errors
    /// [`Error::File`] saying what of the file tells it, the family, and what is taken instead.
    pub fn check_family(&self) -> Result<()> {
        match self.family() {
            // What has no layer at all is nothing to use, whatever it is.
            Some(MadeFor { name, mark, other: true }) if !(self.layers().is_empty() && name.starts_with("a ")) => {
                Err(Error::file(&self.name, format!("is a LoRA for {name} ({mark}); {TAKES_LORAS}")))
            }
            _ => Ok(()),
        }
    }

    /// The model family that it is for, where parts and sizes tell.
    pub fn made_for(&self) -> Option<String> {
        self.family().map(|family| family.to_string())
    }
}

/// Layers whose input is the hidden states of a prompt.
const CROSS_ATTENTION: [&str; 2] = [".attn2.to_k", ".attn2.to_v"];

impl fmt::Display for MadeFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key is a witness, a size is a description.
        match (self.name.as_str(), self.mark.contains('\'')) {
            (name, true) => write!(f, "{name}"),
            ("a model", false) => write!(f, "a model of {}", self.mark),
            (name, false) => write!(f, "{name} ({})", self.mark),
        }
    }
}

/// Number of names in a line.
const LISTED: usize = 20;

impl MatchReport {
    /// Lists the layers that the model lacks, as one line of names; `None` if it has them all.
    pub fn listed_unmatched(&self) -> Option<String> {
        let named = |key: &String| match key.starts_with("bundle_emb.") {
            true => format!("{key} (an embedding beside the LoRA, which is not read)"),
            false => key.clone(),
        };
        let listed = self.unmatched.iter().take(LISTED).map(named).collect::<Vec<_>>().join(", ");
        match self.unmatched.len().saturating_sub(LISTED) {
            0 => Some(listed).filter(|listed| !listed.is_empty()),
            more => Some(format!("{listed} and {more} more")),
        }
    }

    /// Refuses a LoRA of another model: one for another family, of which nothing matches, or of which layers have
    /// another size. Layers that the model does not have beside others that it has are for the caller to list.
    ///
    /// # Errors
    /// [`Error::File`] naming the LoRA, one key, and what it seems to be made for.
    pub fn check(&self) -> Result<()> {
        let taken = |made_for: &str| {
            let refiner = made_for.contains("refiner");
            !refiner && FAMILIES.iter().any(|family| made_for.starts_with(family.name))
        };
        let made_for = match &self.made_for {
            None => String::new(),
            Some(family) if taken(family) => format!("; it seems to be made for {family}"),
            Some(family) => format!("; it seems to be made for {family}: {TAKES_LORAS}"),
        };
        let of_another = self.made_for.is_some() || self.names_layers;
        let refuse = |what: String| {
            let whose = if of_another { "LoRA of another model" } else { "LoRA with names of no known layout" };
            Err(Error::file(&self.file, format!("{whose}: {what}{made_for}")))
        };
        if let Some(first) = self.mismatched.first() {
            return refuse(match self.mismatched.len() - 1 {
                0 => first.to_string(),
                n => format!("{first} and {n} more layers differ"),
            });
        }
        let count = self.unmatched.len();
        match self.unmatched.first() {
            Some(first) if self.matched.is_empty() => {
                refuse(format!("none of its {count} keys matches, for example '{first}'"))
            }
            Some(first) if self.other_family => {
                refuse(format!("{count} of its keys match nothing, for example '{first}'"))
            }
            _ => Ok(()),
        }
    }
}

/// A linear layer and a 1x1 convolution of the same size take the same LoRA.
fn squeezed(shape: &[usize]) -> &[usize] {
    if let [_, _, 1, 1] = shape { &shape[..2] } else { shape }
}
