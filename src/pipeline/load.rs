//! Weights of a model on the device: those that are there already, else read from its files, with what of the LoRAs is
//! merged into them.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Store};
use crate::io::ModuleKey;
use crate::io::safetensors::first_non_finite;
use crate::nn::{Param, Role, loading, lora};

use super::Model;
use super::adapters::part_of;

impl Model {
    /// Sets whether the weights stay on the device between jobs with this model, so that an image starts at once.
    ///
    /// Text encoders, UNet and autoencoder then take [`PlanReport::kept_bytes`](super::PlanReport::kept_bytes) together. Models
    /// that [`Model::with_loras`] made of this one share them. They are freed with the last such model, or by a call with
    /// `false`. By default every job loads what it needs and frees it.
    pub fn keep_weights(&self, keep: bool) {
        self.resident.keep(keep);
    }

    /// Decides about the weights that a job loaded, by its outcome: keeps them if it ended or was stopped, drops them if it
    /// failed.
    pub(crate) fn settle_weights<T>(&self, outcome: &Result<T>) {
        let failed = matches!(outcome, Err(error) if !matches!(error, Error::Interrupted { .. }));
        self.resident.settle(failed);
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

    /// Loads all `params` except the factors of adapters into `store`, with the LoRAs that are merged. `label` names the
    /// store's buffers.
    ///
    /// # Errors
    /// [`Error::File`] if a tensor is missing, has another shape or holds values that are not finite.
    pub async fn load(&self, store: &mut Store, label: &str, params: &[Param]) -> Result<()> {
        let rows = |key: &str, shape: &[usize], rows: Range<usize>| -> Result<Vec<f32>> {
            let part = part_of(key);
            let (part, name) =
                part.ok_or_else(|| Error::file(self.checkpoint.name(), format!("has no part for {key}")))?;
            let weights = self.checkpoint.part(part)?;
            let tensor = weights.get_shaped(name, shape)?;
            let some = tensor.rows(rows.start, rows.len());
            let some = some.ok_or_else(|| tensor.error(format!("has shape {:?}, no rows {rows:?}", tensor.shape)))?;
            let mut values = some.to_f32()?;
            if let Some(i) = first_non_finite(&values) {
                let element = rows.start * (values.len() / rows.len().max(1)) + i;
                let message = format!("holds {} (element {element}): the file is damaged, get it again", values[i]);
                return Err(tensor.renamed(weights.stored_name(name)).error(message));
            }
            self.merge(key, shape, rows, &mut values)?;
            Ok(values)
        };
        loading::load(store, label, params, &rows).await?;
        let loaded = params.iter().filter(|param| param.role != Role::Adapter);
        log::debug!(target: "portray::upload", "{label}: {} bytes", loaded.map(Param::bytes).sum::<u64>());
        Ok(())
    }

    /// Adds what the LoRA files say of the rows `rows` of the tensor `key` of `shape`.
    fn merge(&self, key: &str, shape: &[usize], rows: Range<usize>, values: &mut [f32]) -> Result<()> {
        let Some((part, (path, which))) = part_of(key).and_then(|(part, name)| Some((part, name.rsplit_once('.')?)))
        else {
            return Ok(());
        };
        let module = ModuleKey { part, path: path.to_string() };
        for (file, scale) in &self.loras {
            let found = file.modules.get(&module).filter(|_| self.merges);
            let change = file.changes.get(&module);
            if let Some(found) = found.filter(|_| which == "weight") {
                let scale = scale * f64::from(found.scale());
                lora::merge(values, shape, rows.clone(), [&found.down.data, &found.up.data], scale)?;
            }
            let fits = match (change, which) {
                (Some(change), "weight") => change.add_to_weight(values, rows.clone(), *scale),
                (Some(change), "bias") => change.add_to_bias(values, rows.clone(), *scale),
                _ => true,
            };
            if !fits {
                let message = format!("layer '{module}' does not fit a {which} of {shape:?}: it is of another model");
                return Err(Error::file(&file.name, message));
            }
            // The factors are finite, their product need not be.
            if (found.is_some() || change.is_some()) && values.iter().any(|x| !x.is_finite()) {
                let message = format!("layer '{module}' times {scale} is more than f32 holds: give a smaller scale");
                return Err(Error::file(&file.name, message));
            }
        }
        Ok(())
    }
}
