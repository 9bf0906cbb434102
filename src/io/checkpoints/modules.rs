//! The layers of a model that a LoRA can adapt.

use std::collections::BTreeMap;

use super::Part;
use crate::io::ModuleKey;

/// The weight shapes of the linear layers and convolutions that a LoRA can adapt, by dotted module path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelModules {
    /// UNet: `down_blocks.0.attentions.0.proj_in` -> `[out, in]` or `[out, in, kh, kw]`.
    pub unet: BTreeMap<String, Vec<usize>>,
    /// Text encoder, with the prefix `text_model.`.
    pub text_encoder: BTreeMap<String, Vec<usize>>,
    /// Factors of each norm of both parts, `[channels]`.
    pub norms: BTreeMap<ModuleKey, Vec<usize>>,
    /// Length of the bias of each of all of them that has one.
    pub biases: BTreeMap<ModuleKey, usize>,
}

impl ModelModules {
    /// The shape of the weight of a layer or norm.
    pub fn weight(&self, module: &ModuleKey) -> Option<&[usize]> {
        let paths = if module.part == Part::Unet { &self.unet } else { &self.text_encoder };
        paths.get(&module.path).or_else(|| self.norms.get(module)).map(Vec::as_slice)
    }
}
