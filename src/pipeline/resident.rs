//! Weights on the device: for one job, or for as long as a model that keeps them is open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::Shape;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Store};
use crate::io::LoraFile;
use crate::nn::{Param, Role};

use super::Model;

/// The weights of open models that stay on a device between jobs, by part. Weights do not change once they are loaded: jobs
/// share them, and keep their own state beside them.
#[derive(Default)]
pub(crate) struct Resident(Mutex<Parts>);

#[derive(Default)]
struct Parts {
    keep: bool,
    held: BTreeMap<String, Held>,
}

struct Held {
    contents: Contents,
    weights: Arc<Store>,
    /// Whether a job that used them came to its end: a failed allocation may be reported after the loading.
    proven: bool,
}

/// What decides the values of weights beside the model's own files.
#[derive(Clone, Default)]
pub(super) struct Contents {
    /// LoRAs that are merged into the weights, or whose factors these are, with their scales.
    pub loras: Vec<(Arc<LoraFile>, f64)>,
    /// Keys and shapes of the factors, which may be planned for higher ranks than the files have.
    pub factors: Vec<(String, Shape)>,
}

impl PartialEq for Contents {
    fn eq(&self, other: &Contents) -> bool {
        let mut loras = self.loras.iter().zip(&other.loras);
        self.loras.len() == other.loras.len()
            && loras.all(|((file, scale), (other, other_scale))| Arc::ptr_eq(file, other) && scale == other_scale)
            && self.factors == other.factors
    }
}

impl Resident {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weights `params` of `part` on `gpu` whose contents have this name.
    fn find(&self, gpu: &Gpu, part: &str, contents: &Contents, params: &[&Param]) -> Option<Arc<Store>> {
        let parts = self.parts();
        let held = parts.held.get(part).filter(|held| held.contents == *contents && held.weights.is_on(gpu))?;
        params.iter().all(|param| held.weights.contains(&param.key)).then(|| held.weights.clone())
    }

    /// Takes the place of other contents of `part`, before theirs are loaded: both need not fit.
    fn make_room(&self, part: &str) {
        self.parts().held.remove(part);
    }

    fn insert(&self, part: &str, contents: Contents, weights: &Arc<Store>) {
        let mut parts = self.parts();
        if parts.keep {
            parts.held.insert(part.to_owned(), Held { contents, weights: weights.clone(), proven: false });
        }
    }
}

impl Model {
    /// Sets whether the weights stay on the device between jobs with this model, so that an image starts at once.
    ///
    /// Text encoders, UNet and autoencoder then take [`PlanReport::kept_bytes`](super::PlanReport::kept_bytes) together. Models
    /// that [`Model::with_loras`] made of this one share them. They are freed with the last such model, or by a call with
    /// `false`. By default every job loads what it needs and frees it.
    pub fn keep_weights(&self, keep: bool) {
        let mut parts = self.resident.parts();
        parts.keep = keep;
        if !keep {
            parts.held.clear();
        }
    }

    /// Decides about the weights that a job loaded, by its outcome: keeps them if it ended or was stopped, drops them if it
    /// failed.
    pub(crate) fn settle_weights<T>(&self, outcome: &Result<T>) {
        let failed = matches!(outcome, Err(error) if !matches!(error, Error::Interrupted { .. }));
        let held = &mut self.resident.parts().held;
        held.retain(|_, held| held.proven || !failed);
        held.values_mut().for_each(|held| held.proven = true);
    }

    /// The weights `params` of `part`, and the factors of its adapters: those that are on the device already, else loaded
    /// now.
    pub(crate) async fn weights(&self, gpu: &Gpu, part: &str, params: &[Param]) -> Result<Vec<Arc<Store>>> {
        let (adapters, weights): (Vec<&Param>, Vec<&Param>) = params.iter().partition(|p| p.role == Role::Adapter);
        let merged = self.merged(&weights);
        let mut stores = Vec::with_capacity(2);
        stores.push(match self.resident.find(gpu, part, &merged, &weights) {
            Some(store) => store,
            None => {
                self.resident.make_room(part);
                let mut store = Store::new(gpu);
                self.load(&mut store, part, params).await?;
                let store = store.into_shared();
                self.resident.insert(part, merged, &store);
                store
            }
        });
        if adapters.is_empty() {
            return Ok(stores);
        }
        let (name, contents) = (format!("adapters of {part}"), self.beside(&adapters));
        stores.push(match self.resident.find(gpu, &name, &contents, &adapters) {
            Some(store) => store,
            None => {
                self.resident.make_room(&name);
                let store = self.load_adapters(gpu, &name, &adapters).await?.into_shared();
                self.resident.insert(&name, contents, &store);
                store
            }
        });
        Ok(stores)
    }
}
