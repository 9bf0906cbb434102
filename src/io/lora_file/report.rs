//! Which layers of a model a LoRA changes, and what it seems to be made for when it changes none.

use super::{LoraFile, ModuleKey};
use crate::error::{Error, Result};
use crate::io::{ModelModules, Part};

/// A layer that the model has in another size.
#[derive(Clone, Debug, PartialEq)]
pub struct ShapeMismatch {
    /// The layer.
    pub module: ModuleKey,
    /// Weight shape that the LoRA is for.
    pub lora: Vec<usize>,
    /// Weight shape of the model.
    pub model: Vec<usize>,
}

/// A LoRA held against a model.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchReport {
    /// Layers that it changes.
    pub matched: Vec<ModuleKey>,
    /// Layers, or keys that name no layer, that the model does not have.
    pub unmatched: Vec<String>,
    /// Layers of another size.
    pub mismatched: Vec<ShapeMismatch>,
    file: String,
    made_for: Option<String>,
}

impl LoraFile {
    /// Holds it against `model`.
    pub fn match_report(&self, model: &ModelModules) -> MatchReport {
        let (mut matched, mut unmatched, mut mismatched) = (Vec::new(), Vec::new(), Vec::new());
        for (module, lora) in &self.modules {
            let paths = if module.part == Part::Unet { &model.unet } else { &model.text_encoder };
            match paths.get(&module.path) {
                None => unmatched.push(module.to_string()),
                Some(shape) if squeezed(shape) == squeezed(&lora.weight_shape()) => matched.push(module.clone()),
                Some(shape) => {
                    mismatched.push(ShapeMismatch {
                        module: module.clone(),
                        lora: lora.weight_shape(),
                        model: shape.clone(),
                    });
                }
            }
        }
        unmatched.extend(self.foreign.iter().cloned());
        MatchReport { matched, unmatched, mismatched, file: self.name.clone(), made_for: self.made_for() }
    }

    /// The model family that the names and sizes speak of, where they do.
    fn made_for(&self) -> Option<String> {
        const SIGNS: [(&str, &str); 11] = [
            ("lora_te3_", "Stable Diffusion 3"),
            ("joint_blocks", "Stable Diffusion 3"),
            ("double_blocks", "Flux"),
            ("single_blocks", "Flux"),
            ("single_transformer_blocks", "Flux"),
            ("lora_te2_", "Stable Diffusion XL"),
            ("text_encoder_2.", "Stable Diffusion XL"),
            ("input_blocks", "Stable Diffusion XL"),
            ("output_blocks", "Stable Diffusion XL"),
            ("add_embedding", "Stable Diffusion XL"),
            ("transformer_blocks", "a diffusion transformer (Stable Diffusion 3, Flux or another)"),
        ];
        let foreign = |mark: &str| self.foreign.iter().any(|key| key.contains(mark));
        if let Some((_, family)) = SIGNS.iter().find(|(mark, _)| foreign(mark)) {
            return Some((*family).to_owned());
        }
        let width =
            self.modules.iter().find(|(key, _)| key.path.ends_with(".attn2.to_k"))?.1.weight_shape().get(1).copied()?;
        Some(match width {
            768 => "Stable Diffusion 1.x (cross-attention width 768)".into(),
            1024 => "Stable Diffusion 2.x (cross-attention width 1024)".into(),
            2048 => "Stable Diffusion XL (cross-attention width 2048)".into(),
            other => format!("a model of cross-attention width {other}"),
        })
    }
}

impl MatchReport {
    /// Refuses a LoRA of another model: one of which nothing matches, or of which layers have another size. Layers that
    /// the model does not have beside others that it has are for the caller to list.
    ///
    /// # Errors
    /// [`Error::File`] naming the LoRA, one key, and what it seems to be made for.
    pub fn check(&self) -> Result<()> {
        let made_for =
            self.made_for.as_ref().map_or(String::new(), |family| format!("; it seems to be made for {family}"));
        if let Some(first) = self.mismatched.first() {
            let ShapeMismatch { module, lora, model } = first;
            let more = match self.mismatched.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more layers differ"),
            };
            let message =
                format!("LoRA of another model: '{module}' is for {lora:?}, the model has {model:?}{more}{made_for}");
            return Err(Error::file(&self.file, message));
        }
        match self.unmatched.first() {
            Some(first) if self.matched.is_empty() => {
                let count = self.unmatched.len();
                let message =
                    format!("LoRA of another model: none of its {count} keys matches, for example '{first}'{made_for}");
                Err(Error::file(&self.file, message))
            }
            _ => Ok(()),
        }
    }
}

/// A linear layer and a 1x1 convolution of the same size take the same LoRA.
fn squeezed(shape: &[usize]) -> &[usize] {
    if let [_, _, 1, 1] = shape { &shape[..2] } else { shape }
}
