//! `train`: four pictures to a LoRA, or to a whole new UNet.

use std::path::PathBuf;

use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, StepReport};
use crate::gpu::{Pool, Store};
use crate::io::files;
use crate::job::{LrSchedule, TrainJob};
use crate::nn::Param;
use crate::train::checkpoint::state_folder;
use crate::train::schedule::lr_factor;
use crate::train::{MicroBatch, State, TrainPlan, Trainer, Values};

use super::ear::Ear;
use super::init_lora::InitLora;
use super::plan::{TrainPlans, plan_training, training_alone};
use super::preview::Preview;
use super::train_data::{Batches, Run};
use super::{Engine, Model};

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
        let ear = &mut Ear::of_training(listener);
        let model = self.open_and_tell(&job.model, &[], job.reads(), ear).await?;
        for note in job.idle_options() {
            ear.say(Event::Note(note));
        }
        let init = job.open_init_lora(&model, &mut |event| ear.say(event))?;
        self.gpu.breathe().await;
        let record = Record { folder: state_folder(&job.out), options: job.deciding()? };
        let resumed = if job.resume { record.load(job, ear)? } else { None };
        // All of a run has the kernels that it began with, so that a resumed one comes to the same result.
        let variants = resumed.as_ref().map_or_else(|| self.variants.clone(), |state| state.variants.clone());
        let engine = Engine { variants, ..self.clone() };
        let mut pool = Pool::default();
        let (run, plan) = engine.gather(job, &model, &mut pool, ear).await?;
        let total = updates(job, &run.batches)?;
        ear.phase("loading the model")?;
        let training = engine.load(job, &model, init.as_ref(), run, plan, pool, ear).await?;
        let first = match resumed {
            Some(state) => training.restore(state, &record, total, ear).await?,
            None => 0,
        };
        ear.phase("training")?;
        let steps = training.run(first..total, &record, ear).await?;
        engine.save(job, &model, init.as_ref(), &training.params, &training.store, steps).await?;
        // What a finished run leaves is its result; its state would only resume to the same.
        if files::exists(&record.folder) {
            files::remove_folder(&record.folder).map_err(|e| Error::file(&record.folder, e))?;
        }
        ear.say(Event::Saved(job.out.clone()));
        Ok(Trained { out: job.out.clone(), steps })
    }

    /// What the run feeds on, and its plan where that is made already: one pool serves all that runs on pictures.
    async fn gather(
        &self,
        job: &TrainJob,
        model: &Model,
        pool: &mut Pool,
        ear: &mut Ear<'_>,
    ) -> Result<(Run, TrainPlan)> {
        if let Some(path) = &job.replay {
            let run = job.open_replay(model, path)?;
            self.gpu.breathe().await;
            let setup = job.setup(model, self.gpu.caps(), run.samples, run.latent, run.tokens);
            return Ok((run, plan_training(job, setup, self.planning(), training_alone).await?));
        }
        let set = job.training_set(model, self.planning()).await?;
        let plans = TrainPlans::new(job, model, &set, self.planning()).await?;
        let chunks = plans.pool();
        let run = self.prepare(job, model, &set, plans.before.encode, &chunks, pool, ear).await?;
        Ok((run, plans.training))
    }

    /// Weights, optimizer and sample pictures, ready for the first update.
    #[allow(clippy::too_many_arguments, reason = "a private call with one caller")]
    async fn load<'a>(
        &'a self,
        job: &'a TrainJob,
        model: &'a Model,
        init: Option<&InitLora>,
        run: Run,
        plan: TrainPlan,
        mut pool: Pool,
        ear: &mut Ear<'_>,
    ) -> Result<Training<'a>> {
        let mut store = Store::new(&self.gpu);
        Trainer::allocate(&plan, &mut store)?;
        model.load(&mut store, "weights", &plan.params).await?;
        self.start_adapters(job, init, &plan.params, &store).await?;
        ear.say(Event::Note(format!(
            "{} trained numbers, {} dispatches a step, {:.0} MB of working memory",
            plan.trainable(),
            plan.first.dispatch_count(),
            plan.first.working_bytes() as f64 / 1e6
        )));
        let params = plan.params.clone();
        let mut trainer = Trainer::new(&self.gpu, plan, &mut pool, &store, &self.variants).await?;
        trainer.set_prompts(run.conditioning)?;
        let preview = match run.sample_prompts {
            Some(prompts) => Some(self.preview(job, model, &mut pool, &mut store, prompts).await?),
            None => None,
        };
        let schedule = NoiseSchedule::new(&model.schedule);
        Ok(Training { engine: self, job, model, schedule, batches: run.batches, store, params, trainer, preview })
    }
}

/// Updates of the run.
fn updates(job: &TrainJob, batches: &Batches) -> Result<usize> {
    let Batches::Replay(file) = batches else { return Ok(job.steps.unwrap_or(STEPS)) };
    let have = file.micro_steps();
    let total = job.steps.unwrap_or(have / job.accumulate);
    let needed = total * job.accumulate;
    if needed > have {
        return Err(Error::Usage(format!(
            "--steps {total} needs {needed} micro-batches, the replay file holds {have}"
        )));
    }
    Ok(total)
}

/// Where a run's state lies, and what must not change before it is gone on with.
struct Record {
    folder: PathBuf,
    options: serde_json::Value,
}

impl Record {
    /// The run's saved state; `None` for one that was stopped before its first.
    fn load(&self, job: &TrainJob, ear: &mut Ear<'_>) -> Result<Option<State>> {
        let folder = &self.folder;
        let Some(state) = State::load(folder)? else {
            if files::exists(&job.out) {
                let message = "is there already, and no checkpoint beside it: that run came to its end";
                return Err(Error::file(&job.out, message));
            }
            ear.say(Event::Note(format!("{} holds no checkpoint yet: starting at step 0", folder.display())));
            return Ok(None);
        };
        state.refuse_changed(folder, &self.options)?;
        Ok(Some(state))
    }
}

/// A run whose weights are on the device.
struct Training<'a> {
    engine: &'a Engine,
    job: &'a TrainJob,
    model: &'a Model,
    schedule: NoiseSchedule,
    batches: Batches,
    store: Store,
    params: Vec<Param>,
    trainer: Trainer,
    preview: Option<Preview>,
}

impl Training<'_> {
    /// Puts `state` in place; returns the update that comes next.
    async fn restore(&self, state: State, record: &Record, total: usize, ear: &mut Ear<'_>) -> Result<usize> {
        let names: Vec<&str> = state.tensors.iter().map(|(key, _)| key.as_str()).collect();
        let mut keys: Vec<String> = self.trainer.state_keys().into_iter().map(|(key, _)| key).collect();
        keys.sort();
        let fits = |(key, values): &(String, Values)| self.store.bytes(key) == Some(values.bytes().len() as u64);
        if names != keys || !state.tensors.iter().all(fits) || state.step > total {
            let message = "is of another model or was made for fewer --steps; start again without --resume";
            return Err(Error::file(&record.folder, message));
        }
        for (key, values) in &state.tensors {
            self.store.write_long(key, values.bytes()).await?;
        }
        ear.say(Event::Note(format!("resuming at step {}", state.step)));
        Ok(state.step)
    }

    /// Does the updates `steps`; returns how many are done where it ends, which is earlier where it is asked to finish.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where it is stopped before the last, its state saved.
    async fn run(&self, steps: std::ops::Range<usize>, record: &Record, ear: &mut Ear<'_>) -> Result<usize> {
        let (job, total, mut done) = (self.job, steps.end, steps.start);
        for step in steps {
            let report = self.update(step, total).await?;
            ear.say(Event::Step(report));
            done = step + 1;
            if let Some(preview) = self.preview.as_ref().filter(|_| done % job.sample_every == 0 || done == total) {
                self.engine.show(job, self.model, preview, &self.store, done, ear).await?;
            }
            // The last update's state is the result.
            if done < total && (ear.stopped() || job.save_every.is_some_and(|n| done % n == 0)) {
                self.save_state(done, record).await?;
                ear.say(Event::Saved(record.folder.clone()));
            }
            if done < total && ear.stopped() {
                return Err(Error::Interrupted(format!(
                    " after step {done} of {total}: {} is saved, go on with --resume",
                    record.folder.display()
                )));
            }
            if ear.finished() {
                break;
            }
        }
        Ok(done)
    }

    /// Update `step` of `total`.
    async fn update(&self, step: usize, total: usize) -> Result<StepReport> {
        let job = self.job;
        let factor = lr_factor(step, total, job.warmup, job.schedule == LrSchedule::Cosine);
        let rates = [job.rate(), job.text_lr.unwrap_or(job.rate())].map(|rate| rate * factor);
        let mut batches = Vec::with_capacity(job.accumulate);
        for i in 0..job.accumulate {
            batches.push(self.batches.micro_batch(step * job.accumulate + i, job, &self.schedule)?);
            self.engine.gpu.breathe().await;
        }
        let update = self.trainer.step(&batches, step, rates).await?;
        let report = report(&batches, &update.errors, job, step, total, update.grad_norm, rates[0]);
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            return Err(Error::Device(format!("the loss is not finite at step {step}: lower --lr")));
        }
        Ok(report)
    }

    /// Saves the state after `step` updates.
    async fn save_state(&self, step: usize, record: &Record) -> Result<()> {
        let mut tensors = Vec::new();
        for (key, packed) in self.trainer.state_keys() {
            let values = Values::new(&self.store.read(&key).await?, packed);
            tensors.push((key, values));
        }
        self.engine.gpu.breathe().await;
        let (options, variants) = (record.options.clone(), self.engine.variants.clone());
        State { step, options, variants, tensors }.save(&record.folder)
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
