//! Single-file checkpoints in the original layout: family, configurations and names are read off the tensors, so that
//! the rest of the engine sees the same parts as in a diffusers folder.

pub(super) mod configs;
pub(super) mod identify;
pub(super) mod names;
pub(super) mod open;
pub(super) mod stated;
pub(super) mod structure;

pub use identify::{is_checkpoint, other};
pub use names::{Structure, TextNames};

pub use super::description::TextFlavour;
