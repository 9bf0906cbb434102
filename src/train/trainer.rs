//! A training run on a device: the step's sessions, and the vectors that they update.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pool, Store};
use crate::graph::{Session, Tensor};
use crate::nn::{Param, loading};
use crate::pipeline::text::select_ends;

use super::micro_batch::MicroBatch;
use super::optimizer::UpdateInputs;
use super::plan::{CLIP, Inputs, Setup, TrainPlan};
use super::replay::Conditioning;
use super::update::{Group, UpdatePlan, Vector};

/// A run on a device.
pub struct Trainer {
    setup: Setup,
    /// By size of images.
    passes: Vec<Passes>,
    /// Every sample's, where they differ.
    captions: Option<Conditioning>,
    /// Clips and applies stored gradients; `None` where the passes themselves update.
    update: Option<Update>,
    groups: Vec<Group>,
    vectors: Vec<Vector>,
}

struct Passes {
    first: Session,
    next: Option<Session>,
    at: Inputs,
}

struct Update {
    session: Session,
    at: UpdateInputs,
    norm: Tensor,
}

/// Of one update: each sample's error by micro-batch, and the norm of all gradients before clipping.
#[derive(Clone, Debug)]
pub struct UpdateReport {
    /// Mean squared errors, by micro-batch and sample.
    pub errors: Vec<Vec<f32>>,
    /// Norm before clipping.
    pub grad_norm: f32,
}

impl Trainer {
    /// Makes room for what is trained in `store`. Load the weights after this and before [`Trainer::new`]: what is in
    /// one of the flat vectors stays there.
    pub fn allocate(plan: &TrainPlan, store: &mut Store) -> Result<()> {
        let fused = plan.setup.fused;
        for group in &plan.groups {
            for vector in if fused { &["param"][..] } else { &["param", "grad"] } {
                let key = |p: &Param| if *vector == "param" { p.key.clone() } else { format!("{vector}.{}", p.key) };
                let tensors: Vec<(String, u64)> = group.params.iter().map(|p| (key(p), p.bytes())).collect();
                store.allocate_flat(&format!("{vector}.{}", group.label), &tensors)?;
            }
        }
        loading::allocate(store, "adapters without a gradient", &plan.unreached())?;
        if fused {
            store.allocate(CLIP, &[(CLIP.into(), 16)])?;
        }
        for vector in &plan.vectors {
            let bytes = plan.setup.optimizer.moment_bytes(vector.elements);
            for moment in ["m", "v"] {
                store.allocate(moment, &[(format!("{moment}.{}", vector.moments), bytes)])?;
            }
        }
        Ok(())
    }

    /// Compiles the run; all parameters must be in `store`.
    pub async fn new(gpu: &Gpu, plan: TrainPlan, pool: &mut Pool, store: &Store) -> Result<Trainer> {
        for arena in plan.plans().map(|p| &p.arena) {
            pool.reserve(gpu, arena)?;
        }
        let mut passes = Vec::with_capacity(1 + plan.more.len());
        for (first, next, at) in std::iter::once((plan.first, plan.next, plan.inputs)).chain(plan.more) {
            let next = match next {
                Some(next) => Some(Session::new(gpu, next, pool, store).await?),
                None => None,
            };
            passes.push(Passes { first: Session::new(gpu, first, pool, store).await?, next, at });
        }
        let update = match plan.update {
            Some(UpdatePlan { plan, at, norm }) => {
                Some(Update { session: Session::new(gpu, plan, pool, store).await?, at, norm })
            }
            None => None,
        };
        let (vectors, groups) = (plan.vectors, plan.groups);
        Ok(Trainer { passes, captions: None, update, groups, vectors, setup: plan.setup })
    }

    /// Sets the prompts: the instances' and the class's, or with captions all that micro-batches number.
    pub fn set_prompts(&mut self, prompts: Conditioning) -> Result<()> {
        if self.setup.captions {
            self.captions = Some(prompts);
            return Ok(());
        }
        for Passes { first, next, at } in &self.passes {
            for session in std::iter::once(first).chain(next) {
                match &prompts {
                    Conditioning::Context { hidden, pooled, .. } => {
                        session.write(at.prompts[0], hidden)?;
                        if let Some(to) = at.pooled {
                            session.write(to, pooled)?;
                        }
                    }
                    Conditioning::Ids { ids, tokens } => self.write_ids(session, at, ids, *tokens)?,
                }
            }
        }
        Ok(())
    }

    /// Writes the ids of each text encoder, and where the prompts end.
    fn write_ids(&self, session: &Session, at: &Inputs, ids: &[Vec<u32>], tokens: usize) -> Result<()> {
        for ((input, ids), text) in at.prompts.iter().zip(ids).zip(&self.setup.texts) {
            session.write_ids(*input, ids)?;
            if let Some(ends) = at.ends.filter(|_| text.pooled) {
                session.write(ends, &select_ends(ids, tokens, text.end))?;
            }
        }
        Ok(())
    }

    fn passes(&self, batch: &MicroBatch) -> Result<&Passes> {
        self.passes.get(batch.size).ok_or_else(|| Error::op("train", "a batch of a size that was not planned"))
    }

    /// One optimizer update on `batches`, the `step`-th from 0; `rates` are the learning rates of UNet and text encoder.
    pub async fn step(&self, batches: &[MicroBatch], step: usize, rates: [f64; 2]) -> Result<UpdateReport> {
        if self.setup.fused {
            return self.fused_step(batches, step, rates).await;
        }
        let mut errors = Vec::with_capacity(batches.len());
        for (i, batch) in batches.iter().enumerate() {
            let Passes { first, next, at } = self.passes(batch)?;
            let session = if i == 0 { first } else { next.as_ref().unwrap_or(first) };
            self.write(session, at, batch, batches.len())?;
            session.run().await?;
            errors.push(session.read(at.errors).await?);
        }
        let Some(Update { session, at, norm }) = &self.update else {
            return Err(Error::op("train", "has no update"));
        };
        self.write_update(session, at, step, rates)?;
        session.run().await?;
        let grad_norm = session.read(*norm).await?.first().copied().unwrap_or(f32::NAN);
        Ok(UpdateReport { errors, grad_norm })
    }

    /// Backward twice: for the norm, then layer by layer.
    async fn fused_step(&self, batches: &[MicroBatch], step: usize, rates: [f64; 2]) -> Result<UpdateReport> {
        let one = || Error::op("train", "a fused update takes one batch");
        let [batch] = batches else { return Err(one()) };
        let Passes { first, next: Some(second), at } = self.passes(batch)? else { return Err(one()) };
        let Some((update, norm)) = &at.fused else { return Err(one()) };
        for session in [first, second] {
            self.write(session, at, batch, 1)?;
            self.write_update(session, update, step, rates)?;
        }
        first.run().await?;
        let grad_norm = first.read(*norm).await?.first().copied().unwrap_or(f32::NAN);
        let errors = vec![first.read(at.errors).await?];
        // A step that failed must not reach the weights: the caller stops at what is not finite.
        if grad_norm.is_finite() {
            second.run().await?;
        }
        Ok(UpdateReport { errors, grad_norm })
    }

    fn write(&self, session: &Session, at: &Inputs, batch: &MicroBatch, batches: usize) -> Result<()> {
        let weights: Vec<f32> = batch.weights.iter().map(|w| w / batches as f32).collect();
        let rows = |width: usize| batch.prompts.iter().map(move |&i| i * width..(i + 1) * width);
        let unknown = || Error::op("train", "a sample of a prompt that was not set");
        match &self.captions {
            None => {}
            Some(Conditioning::Context { hidden, tokens, pooled }) => {
                let of_samples = |values: &[f32], width: usize| -> Result<Vec<f32>> {
                    let rows = rows(width).map(|row| values.get(row).ok_or_else(unknown));
                    Ok(rows.collect::<Result<Vec<_>>>()?.concat())
                };
                let unet = &self.setup.unet;
                session.write(at.prompts[0], &of_samples(hidden, tokens * unet.cross_attention_dim.get(0))?)?;
                if let (Some(to), Some(added)) = (at.pooled, unet.added()) {
                    session.write(to, &of_samples(pooled, added.pooled)?)?;
                }
            }
            Some(Conditioning::Ids { ids, tokens }) => {
                let of_samples = |ids: &Vec<u32>| -> Result<Vec<u32>> {
                    let rows = rows(*tokens).map(|row| ids.get(row).ok_or_else(unknown));
                    Ok(rows.collect::<Result<Vec<_>>>()?.concat())
                };
                let ids = ids.iter().map(of_samples).collect::<Result<Vec<_>>>()?;
                self.write_ids(session, at, &ids, *tokens)?;
            }
        }
        session.write(at.noisy, &batch.noisy)?;
        if let Some(extra) = at.extra {
            session.write(extra, &batch.extra)?;
        }
        if let Some(time_ids) = at.time_ids {
            session.write(time_ids, &batch.time_ids)?;
        }
        session.write(at.target, &batch.target)?;
        session.write(at.timesteps, &batch.timesteps)?;
        session.write(at.weights, &weights)
    }

    fn write_update(&self, session: &Session, at: &UpdateInputs, step: usize, rates: [f64; 2]) -> Result<()> {
        session.write(at.max_norm, &[self.setup.max_grad_norm as f32])?;
        for (i, hyper) in at.hyper.iter().enumerate() {
            session.write(*hyper, &self.setup.optimizer.hyper(rates[i.min(1)], self.setup.weight_decay, step))?;
        }
        Ok(())
    }

    /// What the steps are recorded for.
    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What is trained, group by group.
    pub fn trained(&self) -> impl Iterator<Item = &Param> {
        self.groups.iter().flat_map(|g| &g.params)
    }

    /// Keys of the vectors that a checkpoint holds, parameters and both moments, and whether they hold packed words.
    pub fn state_keys(&self) -> Vec<(String, bool)> {
        let packed = self.setup.optimizer.packed();
        let keys = |v: &Vector| {
            let moment = |name: &str| (format!("{name}.{}", v.moments), packed);
            [(v.param.clone(), false), moment("m"), moment("v")]
        };
        self.vectors.iter().flat_map(keys).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Variants;
    use crate::models::UnetConfig;
    use crate::nn::{LoraSpec, Role, Targets};

    #[test]
    fn adapters_without_a_gradient_keep_their_values() {
        let unet = r#"{"block_out_channels": [8], "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"], "layers_per_block": 1, "attention_head_dim": 2,
            "norm_num_groups": 4, "cross_attention_dim": 8}"#;
        let setup = Setup {
            unet: UnetConfig::parse("unet/config.json", unet).unwrap(),
            texts: Vec::new(),
            lora: Some(LoraSpec { rank: 2, alpha: 2.0, targets: Targets::Attention }),
            text_lora: None,
            storage: crate::nn::Settings::default(),
            samples: [1, 0],
            latent: [4, 4, 4],
            more_sizes: Vec::new(),
            captions: false,
            tokens: 3,
            checkpoint: crate::train::plan::Recomputed::None,
            accumulate: 1,
            optimizer: super::super::Optimizer::AdamW,
            fused: false,
            weight_decay: 0.5,
            max_grad_norm: 1.0,
        };
        let gpu = pollster::block_on(Gpu::request(&Default::default())).unwrap();
        let mut plan = TrainPlan::new(&setup, gpu.caps(), &Variants::default()).unwrap();
        // Of a layer that the loss does not depend on: it is among the parameters, but in no group.
        let trained = plan.params.iter().find(|p| p.role == Role::Adapter).unwrap().clone();
        let idle = Param { key: "lora.text_encoder.last.down".into(), ..trained.clone() };
        plan.params.push(idle.clone());
        let params = plan.params.clone();
        let mut store = Store::new(&gpu);
        Trainer::allocate(&plan, &mut store).unwrap();
        loading::allocate(&mut store, "weights", &params).unwrap();
        for param in [&trained, &idle] {
            store.write(&param.key, bytemuck::cast_slice(&vec![0.5f32; param.elements()])).unwrap();
        }
        let batch = MicroBatch {
            size: 0,
            prompts: vec![0],
            noisy: vec![0.5; 64],
            extra: Vec::new(),
            time_ids: Vec::new(),
            target: vec![1.0; 64],
            timesteps: vec![5.0],
            weights: vec![1.0],
            snr: vec![1.0],
            instances: 1,
        };
        let read = |store: &Store, param: &Param| -> Vec<f32> {
            bytemuck::pod_collect_to_vec(&pollster::block_on(store.read(&param.key)).unwrap())
        };
        let mut pool = Pool::default();
        let mut trainer = pollster::block_on(Trainer::new(&gpu, plan, &mut pool, &store)).unwrap();
        let hidden = vec![0.25; 3 * 8];
        trainer.set_prompts(Conditioning::Context { hidden, tokens: 3, pooled: Vec::new() }).unwrap();
        pollster::block_on(trainer.step(&[batch], 0, [0.1; 2])).unwrap();
        assert!(read(&store, &trained).iter().all(|&x| x < 0.49), "decayed");
        assert!(read(&store, &idle).iter().all(|&x| x == 0.5), "not decayed");
        assert!(trainer.state_keys().iter().all(|(key, _)| !key.contains("last")));
    }
}
