//! Plans and weights of a vision model, made once for a device.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, Store, Variants};
use crate::graph::{Plan, Tensor};
use crate::io;
use crate::io::safetensors::first_non_finite;
use crate::nn::{Param, loading, weights};
use crate::pipeline::context::Context;

/// Side of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Images,
    Texts,
}

impl Side {
    /// Root of its parameters' keys.
    pub fn root(self) -> &'static str {
        match self {
            Side::Images => "image",
            Side::Texts => "text",
        }
    }
}

/// Side of a model, planned for a number of inputs.
#[derive(Clone)]
pub(super) struct Part {
    pub plan: Arc<Plan>,
    /// Patches or token ids.
    pub input: Tensor,
    /// Leading tokens and positions, or the selection of end tokens.
    pub beside: Vec<Tensor>,
    pub output: Tensor,
    pub params: Vec<Param>,
}

/// Side, number of inputs, and patches down and across, or tokens.
pub(super) type Key = (Side, usize, [usize; 2]);

#[derive(Default)]
struct Held {
    /// Adapter and kernels that the plans are for.
    target: Option<(Caps, Variants)>,
    plans: Vec<(Key, Part)>,
    weights: Vec<(Side, Arc<Store>)>,
}

/// What is kept between calls.
#[derive(Default)]
pub(super) struct Resident(Mutex<Held>);

impl Resident {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the weights.
    pub fn release(&self) {
        self.held().weights.clear();
    }

    /// Plan `key` for the device of `context`, made by `plan` if there is none yet.
    pub fn part(&self, context: &Context, key: Key, plan: impl FnOnce() -> Result<Part>) -> Result<Part> {
        {
            let mut held = self.held();
            let target = (context.gpu.caps().clone(), context.variants.clone());
            if held.target.as_ref() != Some(&target) {
                *held = Held { target: Some(target), ..Held::default() };
            }
            if let Some((_, part)) = held.plans.iter().find(|(known, _)| *known == key) {
                return Ok(part.clone());
            }
        }
        let part = plan()?;
        self.held().plans.push((key, part.clone()));
        Ok(part)
    }

    /// The weights `params` of `side` on `gpu`, loaded by `fetch` if they are not there.
    pub async fn weights(
        &self,
        gpu: &Gpu,
        side: Side,
        params: &[Param],
        fetch: &dyn weights::FetchRows,
    ) -> Result<Arc<Store>> {
        let known = |held: &Held| {
            let found = held.weights.iter().find(|(own, store)| *own == side && store.is_on(gpu));
            found.map(|(_, store)| store.clone())
        };
        if let Some(store) = known(&self.held()) {
            return Ok(store);
        }
        let mut store = Store::new(gpu);
        loading::load(&mut store, side.root(), params, fetch).await?;
        let store = store.into_shared();
        let mut held = self.held();
        held.weights.retain(|(own, _)| *own != side);
        held.weights.push((side, store.clone()));
        log::debug!(target: "portray::upload", "{}: {} bytes", side.root(), params.iter().map(Param::bytes).sum::<u64>());
        Ok(store)
    }
}

/// Values of some rows of `tensor`, all finite.
pub(super) fn finite_rows(tensor: &io::Tensor<'_>, rows: Range<usize>) -> Result<Vec<f32>> {
    let some = tensor.rows(rows.start, rows.len());
    let some = some.ok_or_else(|| tensor.error(format!("has shape {:?}, no rows {rows:?}", tensor.shape)))?;
    let values = some.to_f32()?;
    match first_non_finite(&values) {
        None => Ok(values),
        Some(i) => {
            let element = rows.start * (values.len() / rows.len().max(1)) + i;
            Err(tensor.error(format!("holds {} (element {element}): the file is damaged, get it again", values[i])))
        }
    }
}

/// Name of the tensor of `key` without the root of its side.
pub(super) fn name_of(key: &str) -> Result<&str> {
    let name = key.split_once('.').map(|(_, name)| name);
    name.ok_or_else(|| Error::Internal(format!("{key} is no tensor of a vision model")))
}

/// Rows of equal width as vectors, all finite.
pub(super) fn rows_of(values: &[f32], width: usize) -> Result<Vec<Vec<f32>>> {
    if first_non_finite(values).is_some() {
        return Err(Error::limit(
            "an embedding is not finite: the model's weights or its input hold numbers that are too large",
        ));
    }
    Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
}
