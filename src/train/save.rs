//! What a training starts from and leaves behind: adapters, the LoRA or the model.

use std::collections::BTreeMap;

use crate::diffusion::Prediction;
use crate::error::Result;
use crate::gpu::Store;
use crate::io;
use crate::io::lora_file::Factor;
use crate::io::{LoraFile, LoraModule, ModuleKey, PartId, Placed};
use crate::nn::{Param, Role, weights};
use crate::train::Optimizer;

use super::context::TrainContext;
use super::init_lora::InitLora;
use super::plan::initial_factor;
use super::{Method, TrainOptions};

/// Writes the starting values of the adapters: those of `--init-lora`, else random.
pub(super) async fn start_adapters(
    job: &TrainOptions,
    init: Option<&InitLora>,
    params: &[Param],
    store: &Store,
) -> Result<()> {
    for (index, param) in params.iter().filter(|p| p.role == Role::Adapter).enumerate() {
        let given = match init.zip(module_of(param)) {
            Some((init, (layer, which))) => init.values(param, (&layer, which), index, job.seed)?,
            None => None,
        };
        let values = given.unwrap_or_else(|| initial_factor(param, index, job.seed));
        store.write(&param.key, bytemuck::cast_slice(&values))?;
        store.settle().await?;
    }
    Ok(())
}

/// Writes the trained `params` of `store` to the job's place, or where there is one, and returns the LoRA that it wrote.
pub(super) async fn save(
    at: &TrainContext<'_>,
    init: Option<&InitLora>,
    params: &[Param],
    store: &Store,
    steps: usize,
) -> Result<(Placed, Option<LoraFile>)> {
    let (job, model) = (at.job, at.model);
    if job.method == Method::Full {
        let place = job.place(Some(&model.checkpoint))?;
        let mut owned = Vec::new();
        for param in params.iter().filter(|p| p.role != Role::Adapter && p.key.starts_with("unet.")) {
            owned.extend(weights::unpack(param, &store.read(&param.key).await?)?);
            at.gpu().breathe().await;
        }
        let tensors: Vec<io::Tensor> = owned
            .iter()
            .map(|(key, t)| io::Tensor::f32(key.trim_start_matches("unet."), &t.shape, &t.values))
            .collect();
        let trained = model.trained_checkpoint();
        return Ok((place.put(|at| io::write_diffusers_folder(at, &trained, &tensors))?, None));
    }
    let mut factors: BTreeMap<ModuleKey, [Option<Factor>; 2]> = BTreeMap::new();
    for param in params.iter().filter(|p| p.role == Role::Adapter) {
        let Some((key, which)) = module_of(param) else { continue };
        for (_, tensor) in weights::unpack(param, &store.read(&param.key).await?)? {
            factors.entry(key.clone()).or_default()[usize::from(which == "up")] =
                Some(Factor { shape: tensor.shape, data: tensor.values.into_owned() });
        }
        at.gpu().breathe().await;
    }
    let alpha = job.alpha.unwrap_or(job.rank as f64) as f32;
    let modules = factors
        .into_iter()
        .filter_map(|(key, [down, up])| Some((key, LoraModule { down: down?, up: up?, alpha: Some(alpha) })));
    let carried = init.into_iter().flat_map(|init| init.carried.clone());
    let optimizer = if job.optimizer == Optimizer::AdamW { "AdamW" } else { "AdamW8bit" };
    let text = |value: &dyn std::fmt::Display| value.to_string();
    let metadata = [
        ("ss_steps", text(&steps)),
        ("ss_seed", text(&job.seed)),
        ("ss_learning_rate", text(&job.rate())),
        ("ss_unet_lr", text(&job.rate())),
        ("ss_prior_loss_weight", text(&job.prior_weight)),
        ("ss_optimizer", optimizer.to_string()),
    ];
    let velocity = model.schedule.prediction_type == Prediction::V;
    let base = ("ss_base_model_version", model.family.base_version(velocity).to_owned());
    let metadata = metadata.into_iter().chain([base]).map(|(k, v)| (k.to_string(), v)).collect();
    let file = LoraFile {
        name: job.out.display().to_string(),
        modules: modules.chain(carried).collect(),
        metadata,
        ..LoraFile::default()
    };
    let place = file.place(&job.out, job.format, job.force);
    Ok((place.put(|at| file.write(at, job.format))?, Some(file)))
}

/// The module that an adapter's parameter belongs to, and which factor it is.
fn module_of(param: &Param) -> Option<(ModuleKey, &str)> {
    let (path, which) = param.key.strip_prefix("lora.")?.rsplit_once('.')?;
    let (part, path) = path.split_once('.')?;
    let part = PartId::from_name(part)?;
    Some((ModuleKey { part, path: path.to_string() }, which))
}
