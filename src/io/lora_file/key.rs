//! Names of layers.

use std::fmt;

use crate::io::PartId;

/// Layer of a model that a LoRA module belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleKey {
    /// One of [`PartId::ADAPTED`].
    pub part: PartId,
    /// Dotted path as diffusers has it; in the text encoder with the prefix `text_model.`.
    pub path: String,
}

impl fmt::Display for ModuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.part, self.path)
    }
}
