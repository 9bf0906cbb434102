//! LoRA files in every layout in use, read into one form and written back. `layout.rs` lists the layouts.
//!
//! Each layer may have diffusers' name or the original code's (`original.rs`), and what wrappers of PyTorch put between
//! (`_orig_mod`, `module`, `base_layer`) is no part of it.
//!
//! What a module adds to its layer's weight is `alpha / rank * up @ down`; without an alpha the factor is 1. A layer
//! may have a [`Change`] beside it or instead: what is no product of two factors.

mod adapter_config;
mod assemble;
mod change;
mod key;
mod keys;
mod kohya;
mod layout;
mod module;
mod original;
mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};

pub use change::Change;
pub(crate) use change::flat;
pub use key::ModuleKey;
pub use keys::is_adapter_key;
pub use layout::Layout;
pub use module::{Factor, LoraModule};
pub(crate) use read::Reading;
pub use write::LoraFormat;
pub(crate) use write::{BASE_VERSION, Writing};

use crate::error::{Error, Result};

/// A LoRA, whatever layout it came in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraFile {
    /// File or folder it was read from, for messages.
    pub name: String,
    /// The layout it was read from.
    pub layout: Option<Layout>,
    /// Its modules by layer.
    pub modules: BTreeMap<ModuleKey, LoraModule>,
    /// LyCORIS's other kinds by layer; only reading knows them.
    pub changes: BTreeMap<ModuleKey, Change>,
    /// Keys of layers that no model has.
    pub foreign: Vec<String>,
    /// The file's string metadata (`ss_…`), less what the layout itself needs.
    pub metadata: BTreeMap<String, String>,
}

impl LoraFile {
    /// Number of parameters of all modules.
    pub fn parameters(&self) -> usize {
        let modules = self.modules.values().map(|m| m.down.data.len() + m.up.data.len());
        modules.chain(self.changes.values().map(Change::parameters)).sum()
    }

    /// The most common rank, 0 where nothing has one.
    pub fn rank(&self) -> usize {
        let changes = self.changes.values().filter_map(Change::rank);
        most_common(self.modules.values().map(LoraModule::rank).chain(changes)).unwrap_or(0)
    }

    /// Layers by kind: LoRA, LoCon (a LoRA of a convolution), LoHa, LoKr, weight or bias difference.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        let all = self.layers().into_iter().flat_map(|layer| self.kinds_of(layer));
        all.for_each(|kind| *kinds.entry(kind).or_default() += 1);
        kinds
    }

    pub(crate) fn kinds_of(&self, layer: &ModuleKey) -> impl Iterator<Item = &'static str> {
        let module = self.modules.get(layer).map(LoraModule::kind);
        module.into_iter().chain(self.changes.get(layer).map(Change::kind))
    }

    /// Refuses a file with layers of other kinds than LoRA and LoCon; `what` says what only these can do.
    ///
    /// # Errors
    /// [`Error::File`] naming a layer, its kind, and how many layers of which kinds there are.
    pub fn only_low_rank(&self, what: &str) -> Result<()> {
        let Some((layer, change)) = self.changes.iter().next() else { return Ok(()) };
        let kinds: Vec<_> = self.kinds().into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let message =
            format!("layer '{layer}' is a {}, {what} (the file's layers: {})", change.kind(), kinds.join(", "));
        Err(Error::file(&self.name, message))
    }

    /// Layers that it changes.
    pub fn layers(&self) -> BTreeSet<&ModuleKey> {
        self.modules.keys().chain(self.changes.keys()).collect()
    }
}

/// The value that occurs most, the smallest of several.
fn most_common<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_insert(0usize) += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}
