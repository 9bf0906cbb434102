//! LoRA files as adapters beside the weights: another LoRA or another scale costs its own bytes.
//!
//! The rank of a layer's adapter is the sum of the files' ranks there, and each file's scale is part of its `up` factor.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::DType;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Store};
use crate::io::{LoraFile, LoraModule, ModuleKey, PartId};
use crate::nn::weights::HostTensor;
use crate::nn::{Param, Ranks, loading, weights};

use super::Model;
use super::resident::Contents;

impl Model {
    /// Ranks of the adapters that the model's LoRAs need, by layer; none where they are merged.
    pub(crate) fn ranks(&self) -> Arc<Ranks> {
        let mut ranks = Ranks::new();
        for (layer, module, _) in self.applied() {
            *ranks.entry(layer.to_string()).or_default() += module.rank();
        }
        Arc::new(ranks)
    }

    /// Modules that are applied beside the weights, each with its file and scale.
    fn applied(&self) -> impl Iterator<Item = (&ModuleKey, &LoraModule, (&LoraFile, f64))> {
        let files = self.loras.iter().filter(|_| !self.merges);
        files.flat_map(|(file, scale)| {
            file.modules.iter().map(move |(layer, module)| (layer, module, (&**file, *scale)))
        })
    }

    /// LoRAs of which something is merged into `weights`, those of a part.
    pub(super) fn merged(&self, weights: &[&Param]) -> Contents {
        let part = weights.first().and_then(|param| part_of(&param.key)).map(|(part, _)| part);
        let touches = |file: &LoraFile| {
            let merged = file.modules.keys().filter(|_| self.merges).chain(file.changes.keys());
            merged.into_iter().any(|layer| Some(layer.part) == part)
        };
        let merged = self.loras.iter().filter(|(file, _)| touches(file));
        Contents { loras: merged.cloned().collect(), factors: Vec::new() }
    }

    /// Contents of the factors `adapters`.
    pub(super) fn beside(&self, adapters: &[&Param]) -> Contents {
        let factors = adapters.iter().map(|param| (param.key.clone(), param.shape.clone())).collect();
        Contents { loras: self.loras.clone(), factors }
    }

    /// Loads the factors `adapters` of a part.
    ///
    /// # Errors
    /// [`Error::File`] for factors that f32 does not hold at their scale.
    pub(super) async fn load_adapters(&self, gpu: &Gpu, label: &str, adapters: &[&Param]) -> Result<Store> {
        let mut by_layer: BTreeMap<String, Vec<(&LoraModule, f64)>> = BTreeMap::new();
        for (layer, module, (file, scale)) in self.applied() {
            let factor = scale * f64::from(module.scale());
            check(file, layer, module, factor, scale)?;
            by_layer.entry(layer.to_string()).or_default().push((module, factor));
        }
        let mut store = Store::new(gpu);
        let all: Vec<Param> = adapters.iter().map(|param| (*param).clone()).collect();
        loading::allocate(&mut store, label, &all)?;
        for param in &all {
            let bytes = match param.key.ends_with(".up") {
                true => up(param, &by_layer),
                false => down(param, &by_layer)?,
            };
            store.write_long(&param.key, &bytes).await?;
        }
        log::debug!(target: "portray::upload", "{label}: {} bytes", all.iter().map(Param::bytes).sum::<u64>());
        Ok(store)
    }
}

/// Refuses factors whose product may be more than f32 holds.
fn check(file: &LoraFile, layer: &ModuleKey, module: &LoraModule, factor: f64, scale: f64) -> Result<()> {
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let product = f64::from(largest(&module.up.data)) * factor.abs() * f64::from(largest(&module.down.data));
    match (product * module.rank() as f64) as f32 {
        product if product.is_finite() => Ok(()),
        _ => {
            let message = format!("layer '{layer}' times {scale} is more than f32 holds: give a smaller scale");
            Err(Error::file(&file.name, message))
        }
    }
}

/// The path of the layer that the source `key` of a factor belongs to.
fn layer_of(key: &str) -> &str {
    let key = key.strip_prefix("lora.").unwrap_or(key);
    key.rsplit_once('.').map_or(key, |(layer, _)| layer)
}

/// Rows of every file's `down` factor, layer by layer, with zeros where fewer were given than planned.
fn down(param: &Param, by_layer: &BTreeMap<String, Vec<(&LoraModule, f64)>>) -> Result<Vec<u8>> {
    let tensors = param.sources.iter().map(|source| {
        let given = by_layer.get(layer_of(&source.key)).into_iter().flatten();
        let mut values: Vec<f32> = given.flat_map(|(module, _)| module.down.data.iter().copied()).collect();
        values.resize(source.shape.iter().product(), 0.0);
        HostTensor { shape: source.shape.clone(), values: values.into() }
    });
    weights::pack(param, &tensors.collect::<Vec<_>>())
}

/// Every file's `up` factor at its scale, each layer's in its own rows and columns.
fn up(param: &Param, by_layer: &BTreeMap<String, Vec<(&LoraModule, f64)>>) -> Vec<u8> {
    let columns = param.shape.last();
    let mut values = vec![0.0f32; param.elements()];
    let (mut row0, mut column0) = (0, 0);
    for source in &param.sources {
        let (rows, ranks) = (source.shape[0], source.shape[1]);
        let mut column = column0;
        for (module, factor) in by_layer.get(layer_of(&source.key)).into_iter().flatten() {
            let rank = module.rank();
            for (row, factors) in module.up.data.chunks_exact(rank.max(1)).enumerate() {
                let at = (row0 + row) * columns + column;
                let scaled = factors.iter().map(|x| (f64::from(*x) * factor) as f32);
                values[at..at + rank].iter_mut().zip(scaled).for_each(|(to, x)| *to = x);
            }
            column += rank;
        }
        (row0, column0) = (row0 + rows, column0 + ranks);
    }
    debug_assert_eq!(param.dtype, DType::F32);
    bytemuck::pod_collect_to_vec(&values)
}

/// The part of a model that `key` of a tensor belongs to, and the rest of the key.
pub(super) fn part_of(key: &str) -> Option<(PartId, &str)> {
    let (name, rest) = key.split_once('.')?;
    Some((PartId::from_name(name)?, rest))
}
