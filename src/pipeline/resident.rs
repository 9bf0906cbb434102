//! Weights on the device: for one job, or for as long as a model that keeps them is open.

use std::collections::{BTreeMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::gpu::{Gpu, Store};
use crate::nn::Param;

use super::Model;

/// What a model has on a device between jobs, by part; nothing at all where it keeps nothing.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<BTreeMap<&'static str, Store>>>);

impl Kept {
    fn parts(&self) -> MutexGuard<'_, Option<BTreeMap<&'static str, Store>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Weights of a part, all of them loaded. Who is done with them drops them: then they go, or back to their model.
pub(crate) struct Weights<'m> {
    kept: &'m Kept,
    part: &'static str,
    keys: HashSet<String>,
    store: Store,
}

impl Model {
    /// Whether the weights stay on the device from one job with this model to the next, so that a picture begins at once:
    /// text encoder, UNet and autoencoder beside each other, [`PlanReport::kept_bytes`](super::PlanReport::kept_bytes) in
    /// all. They go with the model, or when this is called with `false`. Until it is called, every job loads what it needs
    /// and releases it.
    pub fn keep_weights(&self, keep: bool) {
        let mut parts = self.kept.parts();
        match keep {
            true => drop(parts.get_or_insert_default()),
            false => *parts = None,
        }
    }

    /// Lets go of what is kept, after an error: memory that was not to be had is no weights.
    pub(crate) fn forget_weights(&self) {
        if let Some(parts) = self.kept.parts().as_mut() {
            parts.clear();
        }
    }

    /// The weights `params` of a part: those that lie on the device still, else loaded now.
    pub(crate) async fn weights(&self, gpu: &Gpu, part: &'static str, params: &[Param]) -> Result<Weights<'_>> {
        let kept = self.kept.parts().as_mut().and_then(|parts| parts.remove(part)?.on(gpu));
        let store = match kept.filter(|store| params.iter().all(|param| store.contains(&param.key))) {
            Some(store) => store,
            None => {
                let mut store = Store::new(gpu);
                self.load(&mut store, part, params).await?;
                store
            }
        };
        let keys = params.iter().map(|param| param.key.clone()).collect();
        Ok(Weights { kept: &self.kept, part, keys, store })
    }
}

impl Deref for Weights<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl DerefMut for Weights<'_> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl Drop for Weights<'_> {
    fn drop(&mut self) {
        if let Some(parts) = self.kept.parts().as_mut() {
            // What a job put beside them is of that job's size.
            self.store.release(|key| !self.keys.contains(key));
            parts.insert(self.part, self.store.take());
        }
    }
}
