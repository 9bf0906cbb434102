//! Weights on the device: for one job, or for as long as a model that keeps them is open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::{Shape, lock};
use crate::gpu::{Gpu, Store};
use crate::io::LoraFile;
use crate::nn::Param;

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
        lock(&self.0)
    }

    /// Sets whether weights stay when a job has ended; drops those that did where they shall not.
    pub(super) fn keep(&self, keep: bool) {
        let mut parts = self.parts();
        parts.keep = keep;
        if !keep {
            parts.held.clear();
        }
    }

    /// Drops what a job loaded that failed; what any other job used has proven to be whole.
    pub(super) fn settle(&self, failed: bool) {
        let held = &mut self.parts().held;
        held.retain(|_, held| held.proven || !failed);
        held.values_mut().for_each(|held| held.proven = true);
    }

    /// The weights `params` of `part` on `gpu` whose contents have this name.
    pub(super) fn find(&self, gpu: &Gpu, part: &str, contents: &Contents, params: &[&Param]) -> Option<Arc<Store>> {
        let parts = self.parts();
        let held = parts.held.get(part).filter(|held| held.contents == *contents && held.weights.is_on(gpu))?;
        params.iter().all(|param| held.weights.contains(&param.key)).then(|| held.weights.clone())
    }

    /// Takes the place of other contents of `part`, before theirs are loaded: both need not fit.
    pub(super) fn make_room(&self, part: &str) {
        self.parts().held.remove(part);
    }

    /// Holds the weights of `part`, if weights are kept.
    pub(super) fn insert(&self, part: &str, contents: Contents, weights: &Arc<Store>) {
        let mut parts = self.parts();
        if parts.keep {
            parts.held.insert(part.to_owned(), Held { contents, weights: weights.clone(), proven: false });
        }
    }
}
