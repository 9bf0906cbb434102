//! Vision models in folders as transformers saves them: which kind one is, its configurations, and its tensors.

mod folder;
mod kind;
mod processor;

pub use folder::{ClipText, VisionFolder};
