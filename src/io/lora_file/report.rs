//! Which layers of a model a LoRA changes, and what it seems to be made for when it changes none.

use std::collections::BTreeMap;
use std::fmt;

use super::change::flat;
use super::{LoraFile, LoraModule, ModuleKey};
use crate::error::{Error, Result};
use crate::io::ModelModules;
use crate::io::families::{FAMILIES, TAKES_LORAS};

/// Families told by marks that only a LoRA's names have: a checkpoint of Stable Diffusion 1.x has `input_blocks`, too.
const BY_LORA: [(&str, &str); 7] = [
    ("lora_te3_", "Stable Diffusion 3"),
    ("lora_te2_", "Stable Diffusion XL"),
    ("text_encoder_2.", "Stable Diffusion XL"),
    ("lora_prior_", "Stable Cascade or Würstchen"),
    ("diffusion_model.blocks", "a video or diffusion transformer (Wan or another)"),
    ("input_blocks", "Stable Diffusion XL"),
    ("output_blocks", "Stable Diffusion XL"),
];

/// A layer that the model has in another size.
#[derive(Clone, Debug, PartialEq)]
pub struct ShapeMismatch {
    /// The layer.
    pub module: ModuleKey,
    /// What the LoRA has of it: LoRA, LoCon, LoHa, ...
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
    /// How many of them it changes in which way, as [`LoraFile::kinds`].
    pub kinds: BTreeMap<&'static str, usize>,
    /// Layers, or keys that name no layer, that the model does not have.
    pub unmatched: Vec<String>,
    /// Layers of another size.
    pub mismatched: Vec<ShapeMismatch>,
    file: String,
    made_for: Option<String>,
    /// Whether the names alone say that it is for another family.
    other_family: bool,
}

impl LoraFile {
    /// Holds it against `model`.
    pub fn match_report(&self, model: &ModelModules) -> MatchReport {
        let mut report = MatchReport {
            matched: Vec::new(),
            kinds: BTreeMap::new(),
            unmatched: Vec::new(),
            mismatched: Vec::new(),
            file: self.name.clone(),
            made_for: self.made_for(),
            other_family: self.foreign_family().is_some(),
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

    /// Where the shape that the file is for differs from the model's: of the weight, else of the bias.
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

    /// The family of models that its names speak of, where that is another one.
    fn foreign_family(&self) -> Option<(&str, &'static str)> {
        BY_LORA.iter().chain(&FAMILIES).find_map(|(mark, family)| {
            let key = self.foreign.iter().find(|key| key.contains(mark))?;
            Some((key.as_str(), *family))
        })
    }

    /// Refuses a LoRA whose names say that it is for another family of models, even where it has layers that fit:
    /// one for Stable Diffusion XL has a text encoder of Stable Diffusion 1.x.
    ///
    /// # Errors
    /// [`Error::File`] naming one key, the family, and what is taken instead.
    pub fn check_family(&self) -> Result<()> {
        let Some((key, family)) = self.foreign_family() else { return Ok(()) };
        Err(Error::file(&self.name, format!("is a LoRA for {family} (it has '{key}'); {TAKES_LORAS}")))
    }

    /// The model family that the names and sizes speak of, where they do.
    pub fn made_for(&self) -> Option<String> {
        if let Some((_, family)) = self.foreign_family() {
            return Some(family.to_owned());
        }
        if self.layers().is_empty() && self.foreign.iter().any(|key| key.contains("transformer_blocks")) {
            return Some("a diffusion transformer (PixArt, Stable Diffusion 3, Flux or another)".into());
        }
        let width = self.layers().into_iter().find(|key| key.path.ends_with(".attn2.to_k"))?;
        let change = || self.changes.get(width)?.weight_shape();
        let shape = self.modules.get(width).map(LoraModule::weight_shape).or_else(change)?;
        Some(match shape.get(1)? {
            768 => "Stable Diffusion 1.x (cross-attention width 768)".into(),
            1024 => "Stable Diffusion 2.x (cross-attention width 1024)".into(),
            2048 => "Stable Diffusion XL (cross-attention width 2048)".into(),
            other => format!("a model of cross-attention width {other}"),
        })
    }
}

/// How many names a line lists.
const LISTED: usize = 20;

impl MatchReport {
    /// What the model does not have, as one line of names; `None` where it has everything.
    pub fn listed_unmatched(&self) -> Option<String> {
        let listed = self.unmatched.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.unmatched.len().saturating_sub(LISTED) {
            0 => Some(listed).filter(|listed| !listed.is_empty()),
            more => Some(format!("{listed} and {more} more")),
        }
    }

    /// Refuses a LoRA of another model: one for another family, of which nothing matches, or of which layers have another
    /// size. Layers that the model does not have beside others that it has are for the caller to list.
    ///
    /// # Errors
    /// [`Error::File`] naming the LoRA, one key, and what it seems to be made for.
    pub fn check(&self) -> Result<()> {
        let taken = |family: &str| ["1.x", "2.x"].iter().any(|v| family.starts_with(&format!("Stable Diffusion {v}")));
        let made_for = match &self.made_for {
            None => String::new(),
            Some(family) if taken(family) => format!("; it seems to be made for {family}"),
            Some(family) => format!("; it seems to be made for {family}: {TAKES_LORAS}"),
        };
        let refuse = |what: String| Err(Error::file(&self.file, format!("LoRA of another model: {what}{made_for}")));
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
