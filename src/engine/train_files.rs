//! What a training starts from and leaves behind: adapters, the LoRA or the model.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::gpu::Store;
use crate::io::lora_file::Factor;
use crate::io::{self, LoraFile, LoraModule, ModuleKey, Part, Placed};
use crate::job::{Method, TrainJob};
use crate::nn::{Param, Role, weights};
use crate::train::Optimizer;
use crate::train::dreambooth::initial_factor;

use super::{Engine, Model};

impl Engine {
    /// Starting values of the adapters: those of `--init-lora`, else random.
    pub(super) async fn start_adapters(
        &self,
        job: &TrainJob,
        model: &Model,
        params: &[Param],
        store: &Store,
    ) -> Result<()> {
        let given = match &job.init_lora {
            Some(path) => {
                let modules = model.checkpoint.modules();
                let file = LoraFile::open(path, Some(&modules))?;
                file.only_low_rank("which training cannot go on from: give a LoRA or LoCon")?;
                file.match_report(&modules).check()?;
                self.gpu.breathe().await;
                Some((path, file))
            }
            None => None,
        };
        let own_scale = job.lora().map_or(1.0, |lora| lora.scale() as f32);
        for (index, param) in params.iter().filter(|p| p.role == Role::Adapter).enumerate() {
            let values = match &given {
                None => initial_factor(param, index, job.seed),
                Some((path, file)) => {
                    let (key, which) =
                        module_of(param).ok_or_else(|| Error::file(path, format!("{} is no adapter", param.key)))?;
                    let module = file
                        .modules
                        .get(&key)
                        .ok_or_else(|| Error::file(path, format!("has no layer {key}: made with other --targets")))?;
                    let up = which == "up";
                    let factor = if up { &module.up } else { &module.down };
                    if factor.data.len() != param.elements() {
                        let rank = module.rank();
                        return Err(Error::file(path, format!("layer {key} has rank {rank}: give --rank {rank}")));
                    }
                    // What a file with an alpha adds is what training begins with, whatever alpha the job has; without one the
                    // factors are the job's to scale, as PEFT has it.
                    let said = module.alpha.filter(|_| up);
                    let scale = said.map_or(1.0, |_| module.scale() / own_scale);
                    let values = factor.data.iter().map(|x| x * scale).collect();
                    let tensor = weights::HostTensor { shape: param.sources[0].shape.clone(), values };
                    bytemuck::pod_collect_to_vec(&weights::pack(param, &[tensor])?)
                }
            };
            store.write(&param.key, bytemuck::cast_slice(&values))?;
            store.settle().await?;
        }
        Ok(())
    }

    /// Puts what came of the training at the job's place, or where there is one.
    pub(super) async fn save(
        &self,
        job: &TrainJob,
        model: &Model,
        params: &[Param],
        store: &Store,
        steps: usize,
    ) -> Result<Placed> {
        let place = job.place(Some(&model.checkpoint))?;
        if job.method == Method::Full {
            let mut owned = Vec::new();
            for param in params.iter().filter(|p| p.role != Role::Adapter && p.key.starts_with("unet.")) {
                owned.extend(weights::unpack(param, &store.read(&param.key).await?)?);
                self.gpu.breathe().await;
            }
            let tensors: Vec<io::Tensor> = owned
                .iter()
                .map(|(key, t)| io::Tensor::f32(key.trim_start_matches("unet."), &t.shape, &t.values))
                .collect();
            return place.put(|at| io::write_diffusers_folder(at, &model.checkpoint, &tensors));
        }
        let mut factors: BTreeMap<ModuleKey, [Option<Factor>; 2]> = BTreeMap::new();
        for param in params.iter().filter(|p| p.role == Role::Adapter) {
            let Some((key, which)) = module_of(param) else { continue };
            for (_, tensor) in weights::unpack(param, &store.read(&param.key).await?)? {
                factors.entry(key.clone()).or_default()[usize::from(which == "up")] =
                    Some(Factor { shape: tensor.shape, data: tensor.values.into_owned() });
            }
            self.gpu.breathe().await;
        }
        let alpha = job.alpha.unwrap_or(job.rank as f64) as f32;
        let modules = factors
            .into_iter()
            .filter_map(|(key, [down, up])| Some((key, LoraModule { down: down?, up: up?, alpha: Some(alpha) })));
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
        let metadata = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        let file = LoraFile {
            name: job.out.display().to_string(),
            modules: modules.collect(),
            metadata,
            ..LoraFile::default()
        };
        place.put(|at| file.write(at, job.format))
    }
}

/// The module that an adapter's parameter belongs to, and which factor it is.
fn module_of(param: &Param) -> Option<(ModuleKey, &str)> {
    let (path, which) = param.key.strip_prefix("lora.")?.rsplit_once('.')?;
    let (part, path) = path.split_once('.')?;
    let part = Part::ALL.into_iter().find(|p| p.name() == part)?;
    Some((ModuleKey { part, path: path.to_string() }, which))
}
