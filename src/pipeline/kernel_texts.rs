//! What a job has compiled: its kernels, told apart by their texts.

use std::collections::HashSet;

use crate::error::Result;
use crate::graph::Plan;

/// Texts of kernels, each once.
#[derive(Default)]
pub(crate) struct KernelTexts {
    /// Of the kernels that were rendered: most dispatches have those of others.
    keys: HashSet<String>,
    texts: HashSet<String>,
}

impl KernelTexts {
    /// Those of `plans`.
    ///
    /// # Errors
    /// When a text cannot be made.
    pub fn of<'p>(plans: impl IntoIterator<Item = &'p Plan>) -> Result<KernelTexts> {
        let mut all = KernelTexts::default();
        for kernel in plans.into_iter().flat_map(Plan::kernels) {
            if all.keys.insert(kernel.key()) {
                all.texts.insert(kernel.render()?);
            }
        }
        Ok(all)
    }

    /// Adds those of `other`.
    pub fn join(&mut self, other: KernelTexts) {
        self.keys.extend(other.keys);
        self.texts.extend(other.texts);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.texts.len()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.texts.iter().map(|text| text.len() as u64).sum()
    }
}
