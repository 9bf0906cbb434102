//! `train`: four pictures to a LoRA, or to a whole new UNet.

use std::path::{Path, PathBuf};

use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::event::{Event, Flow, Listener, StepReport};
use crate::gpu::{Pool, Store};
use crate::io::files;
use crate::job::{Checkpointing, LrSchedule, TrainJob};
use crate::nn::Param;
use crate::train::checkpoint::state_folder;
use crate::train::schedule::lr_factor;
use crate::train::{MicroBatch, Setup, State, TrainPlan, Trainer, Values};

use super::Engine;
use super::encode::Planning;
use super::generate::interrupted;
use super::plan::TrainPlans;
use super::train_data::Batches;

/// What [`Engine::train`] left behind.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The LoRA file or folder, or the model folder.
    pub out: PathBuf,
    /// Updates done.
    pub steps: usize,
}

/// Default number of updates.
const STEPS: usize = 400;
/// What a training may take before `--checkpointing auto` recomputes activations where no `--memory` is given: it then
/// fits a GPU of 4 GB.
const MODEST_BYTES: u64 = 3_000_000_000;

/// The plan of a job; with `--checkpointing auto` recomputation is turned on when memory asks for it.
pub(crate) fn plan_training(job: &TrainJob, mut setup: Setup, planning: Planning<'_>) -> Result<TrainPlan> {
    let plan = TrainPlan::new(&setup, planning.caps, planning.variants)?;
    let bytes = |p: &TrainPlan| {
        let working = p.plans().map(crate::graph::Plan::working_bytes).max().unwrap_or(0);
        working + p.optimizer_bytes() + p.params.iter().map(Param::bytes).sum::<u64>()
    };
    let (budget, needed) = (job.model.memory, bytes(&plan));
    if needed <= budget.unwrap_or(MODEST_BYTES) {
        return Ok(plan);
    }
    let mut best = plan;
    if job.checkpointing == Checkpointing::Auto {
        setup.checkpoint = true;
        best = TrainPlan::new(&setup, planning.caps, planning.variants)?;
    }
    match budget.filter(|&budget| bytes(&best) > budget) {
        None => Ok(best),
        Some(budget) => Err(Error::Limit(format!(
            "training takes {} bytes, --memory allows {budget}: {}",
            bytes(&best),
            job.smaller()
        ))),
    }
}

impl Engine {
    /// Trains; writes `job.out`. Stopped by the listener, it saves a checkpoint and says so.
    ///
    /// # Errors
    /// For options that make no sense, files that are not what they should be or cannot be written, what does not fit the
    /// adapter, and when the listener stops the job.
    pub async fn train(&self, job: &TrainJob, listener: Listener<'_>) -> Result<Trained> {
        self.gpu.watched(self.run_training(job, listener)).await
    }

    async fn run_training(&self, job: &TrainJob, listener: Listener<'_>) -> Result<Trained> {
        job.check()?;
        let model = self.open(&job.model, &[], listener).await?;
        self.gpu.breathe().await;
        let schedule = NoiseSchedule::new(&model.schedule);
        let folder = state_folder(&job.out);
        let options = job.deciding()?;
        let resumed = if job.resume { self.resumed(job, &folder, &options, listener)? } else { None };
        let variants = resumed.as_ref().map_or_else(|| self.variants.clone(), |s| s.variants.clone());
        let planning = Planning { caps: self.gpu.caps(), variants: &variants };
        let mut pool = Pool::default();

        let (mut run, planned) = match &job.replay {
            Some(path) => (self.open_replay(job, &model, path)?, None),
            None => {
                let set = job.training_set(&model)?;
                let plans = TrainPlans::new(job, &model, &set, planning)?;
                let chunks = plans.pool();
                let TrainPlans { encode, training, .. } = plans;
                let prepared = self.prepare(job, &model, &set, planning, encode, &chunks, &mut pool, listener).await?;
                (prepared, Some(training))
            }
        };
        let total = job.steps.unwrap_or(match &run.batches {
            Batches::Replay(file) => file.micro_steps() / job.accumulate,
            Batches::Pictures(_) => STEPS,
        });
        if let Batches::Replay(file) = &run.batches
            && total * job.accumulate > file.micro_steps()
        {
            let (have, needed) = (file.micro_steps(), total * job.accumulate);
            return Err(Error::Usage(format!(
                "--steps {total} needs {needed} micro-batches, the replay file holds {have}"
            )));
        }
        interrupted(listener(Event::Phase("loading the model".into())), "")?;
        let plan = match planned {
            Some(plan) => plan,
            None => {
                let setup = job.setup(&model, self.gpu.caps(), run.samples, run.latent, run.tokens);
                plan_training(job, setup, planning)?
            }
        };
        let mut store = Store::new(&self.gpu);
        Trainer::allocate(&plan, &mut store)?;
        model.load(&mut store, "weights", &plan.params).await?;
        self.start_adapters(job, &model, &plan.params, &store).await?;
        listener(Event::Note(format!(
            "{} trained numbers, {} dispatches a step, {:.0} MB of working memory",
            plan.trainable(),
            plan.first.dispatch_count(),
            plan.first.working_bytes() as f64 / 1e6
        )));
        let params = plan.params.clone();
        let mut trainer = Trainer::new(&self.gpu, plan, &mut pool, &store, &variants).await?;
        trainer.set_prompts(run.conditioning)?;
        let mut first = 0;
        if let Some(state) = resumed {
            first = state.step;
            let names: Vec<&str> = state.tensors.iter().map(|(key, _)| key.as_str()).collect();
            let mut keys: Vec<String> = trainer.state_keys().into_iter().map(|(key, _)| key).collect();
            keys.sort();
            let fits = |(key, values): &(String, Values)| store.bytes(key) == Some(values.bytes().len() as u64);
            if names != keys || !state.tensors.iter().all(fits) || first > total {
                let message = "is of another model or was made for fewer --steps; start again without --resume";
                return Err(Error::file(&folder, message));
            }
            for (key, values) in &state.tensors {
                store.write_long(key, values.bytes()).await?;
            }
            listener(Event::Note(format!("resuming at step {first}")));
        }
        let mut preview = match run.samples_hidden.take() {
            Some(hidden) => Some(self.preview(job, &model, planning, &mut pool, &mut store, hidden).await?),
            None => None,
        };
        interrupted(listener(Event::Phase("training".into())), "")?;
        let mut last = first;
        let rates = [job.rate(), job.text_lr.unwrap_or(job.rate())];
        for step in first..total {
            let factor = lr_factor(step, total, job.warmup, job.schedule == LrSchedule::Cosine);
            let batches = (0..job.accumulate)
                .map(|i| run.batches.micro_batch(step * job.accumulate + i, job, &schedule))
                .collect::<Result<Vec<_>>>()?;
            let update = trainer.step(&batches, step, rates.map(|r| r * factor)).await?;
            let report = report(&batches, &update.errors, job, step, total, update.grad_norm, rates[0] * factor);
            if !report.loss.is_finite() || !report.grad_norm.is_finite() {
                return Err(Error::Device(format!("the loss is not finite at step {step}: lower --lr")));
            }
            let mut flow = listener(Event::Step(report));
            let done = step + 1;
            if let Some(preview) = preview.as_mut().filter(|_| done % job.sample_every == 0 || done == total) {
                flow = self.show(job, &model, preview, &store, done, listener).await?;
            }
            let due = job.save_every.is_some_and(|n| n > 0 && done % n == 0) && done < total;
            last = done;
            if due || (flow == Flow::Stop && done < total) {
                self.save_state(&trainer, &store, &folder, done, &options, &variants).await?;
                listener(Event::Saved(folder.clone()));
            }
            if flow == Flow::Stop && done < total {
                return Err(Error::Interrupted(format!(
                    " after step {done} of {total}: {} is saved, go on with --resume",
                    folder.display()
                )));
            }
            if flow == Flow::Finish {
                break;
            }
        }
        self.save(job, &model, &params, &store, last).await?;
        // What a finished run leaves is its result; its state would only resume to the same.
        if files::exists(&folder) {
            files::remove_folder(&folder).map_err(|e| Error::file(&folder, e))?;
        }
        listener(Event::Saved(job.out.clone()));
        Ok(Trained { out: job.out.clone(), steps: last })
    }

    /// The run's saved state; `None` for one that was stopped before its first.
    fn resumed(
        &self,
        job: &TrainJob,
        folder: &Path,
        options: &serde_json::Value,
        listener: Listener<'_>,
    ) -> Result<Option<State>> {
        let Some(state) = State::load(folder)? else {
            if files::exists(&job.out) {
                let message = "is there already, and no checkpoint beside it: that run came to its end";
                return Err(Error::file(&job.out, message));
            }
            listener(Event::Note(format!("{} holds no checkpoint yet: starting at step 0", folder.display())));
            return Ok(None);
        };
        state.refuse_changed(folder, options)?;
        Ok(Some(state))
    }
}

fn report(
    batches: &[MicroBatch],
    errors: &[Vec<f32>],
    job: &TrainJob,
    step: usize,
    steps: usize,
    grad_norm: f32,
    lr: f64,
) -> StepReport {
    let losses: Vec<(f64, Option<f64>)> = batches.iter().zip(errors).map(|(b, e)| b.losses(e)).collect();
    let n = losses.len() as f64;
    let instance = losses.iter().map(|l| l.0).sum::<f64>() / n;
    let prior = losses.iter().map(|l| l.1).sum::<Option<f64>>().map(|p| p / n);
    let loss = instance + job.prior_weight * prior.unwrap_or(0.0);
    StepReport { step, steps, loss, instance, prior, grad_norm: f64::from(grad_norm), lr }
}
