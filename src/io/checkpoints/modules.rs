//! The layers of a model that a LoRA can adapt.

use std::collections::BTreeMap;

use super::PartId;
use crate::io::ModuleKey;

/// Shapes of the layers of one part by dotted module path: `down_blocks.0.attentions.0.proj_in` -> `[out, in]` or `[out, in,
/// kh, kw]`. In a text encoder paths have the prefix `text_model.`.
pub type Layers = BTreeMap<String, Vec<usize>>;

/// The weight shapes of the linear layers and convolutions that a LoRA can adapt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelModules {
    /// Layers by part.
    pub layers: BTreeMap<PartId, Layers>,
    /// Factors of each norm of all parts, `[channels]`.
    pub norms: BTreeMap<ModuleKey, Vec<usize>>,
    /// Length of the bias of each of all of them that has one.
    pub biases: BTreeMap<ModuleKey, usize>,
}

impl ModelModules {
    /// Returns the layers of `part`; none where the model lacks it.
    pub fn of(&self, part: PartId) -> impl Iterator<Item = (&String, &Vec<usize>)> {
        self.layers.get(&part).into_iter().flatten()
    }

    /// The shape of the weight of a layer or norm.
    pub fn weight(&self, module: &ModuleKey) -> Option<&[usize]> {
        let paths = self.layers.get(&module.part);
        paths.and_then(|paths| paths.get(&module.path)).or_else(|| self.norms.get(module)).map(Vec::as_slice)
    }
}
