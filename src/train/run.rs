//! `train`: four images to a LoRA, or to a whole new UNet.

use std::path::PathBuf;
use std::sync::Arc;

use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Remedy, Result, message, option};
use crate::event::{Event, Listener, Phase, StepReport};
use crate::gpu::{Ahead, Pool, Store};
use crate::graph::Plan;
use crate::io::LoraFile;
use crate::nn::Param;
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;
use crate::pipeline::opening;
use crate::pipeline::reads::Reads;
use crate::train::schedule::lr_factor;
use crate::train::{MicroBatch, State, TrainPlan, Trainer, Values};

use super::context::TrainContext;
use super::data::{Batches, Run};
use super::evaluation::{EvaluationPhotos, Evaluator, History};
use super::init_lora::InitLora;
use super::options::STEPS;
use super::plans::{Between, TrainPlans, plan_training, training_alone, training_arena};
use super::prepare::prepare;
use super::record::Record;
use super::samples::Preview;
use super::sanity::Sanity;
use super::save::{save, start_adapters};
use super::{LrSchedule, TrainOptions, best_path};

/// Result of a training.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Path of the LoRA file or folder, or of the model folder.
    pub out: PathBuf,
    /// Optimizer steps done.
    pub steps: usize,
    /// The LoRA as it was written to `out`, before its layout's names; `None` of a whole UNet.
    pub lora: Option<LoraFile>,
}

/// Trains; writes `job.out`. Stopped by the listener, it saves a checkpoint and says so.
///
/// # Errors
/// For options that make no sense, files that are not what they should be or cannot be written, what does not fit the
/// adapter, and when the listener stops the job.
pub(crate) async fn train(context: &Context, job: &TrainOptions, listener: Listener<'_>) -> Result<Trained> {
    // Boxed: a host's thread may have little stack, and the future of a whole training is large.
    context.gpu.in_error_scopes(Box::pin(run(context, job, listener))).await
}

async fn run(context: &Context, job: &TrainOptions, listener: Listener<'_>) -> Result<Trained> {
    job.check()?;
    let events = &mut EventSink::of_training(listener, &context.cancel);
    // Held until the run is over.
    let _lock = job.place(None)?.lock(|text| {
        events.warn(text);
    })?;
    // Another run may have come to its end between the first look and the lock.
    job.check_places()?;
    let model = Box::pin(opening::open(context, &job.model, &[], job.reads(), events)).await?;
    for note in job.idle_options() {
        events.note(note);
    }
    let init = job.open_init_lora(&model, &mut |event| events.say(event))?;
    context.gpu.breathe().await;
    let mut record = Record::new(job)?;
    let resumed = if job.resume { record.load(events)? } else { None };
    // All of a run has the kernels that it began with, so that a resumed one comes to the same result.
    let variants = resumed.as_ref().map_or_else(|| context.variants.clone(), |state| state.variants.clone());
    let at = TrainContext { context: Context { variants, ..context.clone() }, job, model: &model };
    let mut pool = Pool::default();
    let gathered = Box::pin(gather(&at, &mut pool, events)).await?;
    let total = updates(job, &gathered.run.batches)?;
    events.phase(Phase::LoadingModel)?;
    let at = &at.on(&gathered.ahead.gpu);
    let mut training = Box::pin(load(at, init.as_ref(), gathered, (pool, total), events)).await?;
    training.begin_evaluations(&mut record.evaluations, events).await?;
    let first = match resumed {
        Some(state) => training.restore(state, &record, total, events).await?,
        None => 0,
    };
    events.phase(Phase::Training)?;
    let steps = Box::pin(training.run(first..total, &mut record, events)).await?;
    let (placed, lora) = match save(at, init.as_ref(), &training.params, &training.store, steps).await {
        Ok(saved) => saved,
        Err(e) => return Err(record.unwritten(&training.state(steps, &record).await?, &e, job.force)),
    };
    events.say(Event::Saved(placed.path.clone()));
    if let Some(note) = record.evaluations.summary().filter(|_| training.evaluator.is_some()) {
        events.note(note + &format!("; it is kept as {}", best_path(&job.out).display()));
    }
    // A result of which the disk says that it may not stay is not all that there should be.
    let safe = placed.reason.is_none() || placed.path != job.out;
    let beside = safe && placed.path.parent() == job.out.parent();
    let out = placed.path();
    if let Err(e) = &out {
        events.warn(e);
    }
    // What a finished run leaves is its result; its state would only resume to the same. What is not the run's stays.
    if beside
        && (record.ours || job.force)
        && let Err(e) = State::remove(&record.folder)
    {
        events.warn(&e);
    }
    Ok(Trained { out: out?, steps, lora })
}

/// What the run feeds on, and its plan where that is made already.
async fn gather(at: &TrainContext<'_>, pool: &mut Pool, events: &mut EventSink<'_>) -> Result<Gathered> {
    let TrainContext { context, job, model } = at;
    if let Some(path) = &job.replay {
        let run = job.open_replay(model, path)?;
        context.gpu.breathe().await;
        let setup = job.setup(model, context.gpu.caps(), run.samples, run.latent, run.tokens);
        let plan = plan_training(job, setup, context.planning(), training_alone).await?;
        job.check_space(&model.checkpoint, &plan, events)?;
        let ahead = context.gpu.compile_ahead(plan.plans().flat_map(Plan::kernels)).await?;
        return Ok(Gathered { run, plan, between: Between::default(), words: None, photos: None, ahead });
    }
    let set = job.training_set(model, context.planning(), &mut |event| events.say(event)).await?;
    if set.classes_to_make > 0 {
        model.check_reads(Reads { encoder: false, ..Reads::ALL })?;
    }
    let plans = TrainPlans::new(job, model, &set, context.planning()).await?;
    job.check_space(&model.checkpoint, &plans.training, events)?;
    let ahead = context.gpu.compile_ahead(plans.plans().flat_map(Plan::kernels)).await?;
    let at = &at.on(&ahead.gpu);
    let run = Box::pin(prepare(at, &set, &plans.before, pool, events)).await?;
    let words = match &plans.before.between.words {
        Some(words) => Some(words.encode(at, &plans.before.text, pool, events).await?),
        None => None,
    };
    let photos = match set.evaluation.zip(plans.before.evaluation_encoder(&set.sizes)) {
        Some((evaluated, encoder)) => Some(EvaluationPhotos::encode(at, evaluated, encoder, pool, events).await?),
        None => None,
    };
    Ok(Gathered { run, plan: plans.training, between: plans.before.between, words, photos, ahead })
}

/// Weights, optimizer and validation samples, ready for the first update.
async fn load<'a>(
    at: &'a TrainContext<'a>,
    init: Option<&'a InitLora>,
    Gathered { run, plan, between, words: prompts, photos, ahead }: Gathered,
    (mut pool, total): (Pool, usize),
    events: &mut EventSink<'_>,
) -> Result<Training<'a>> {
    let (gpu, model) = (at.gpu(), at.model);
    // Before the weights, which take the place of what encoding took.
    pool.fit(gpu, &training_arena(&plan, &between))?;
    let mut store = Store::new(gpu);
    Trainer::allocate(&plan, &mut store)?;
    events.until_stopped(gpu, model.load(&mut store, "weights", &plan.params)).await?;
    start_adapters(at.job, init, &plan.params, &store).await?;
    events.note(format!(
        "{}, {} dispatches a step, {:.0} MB of working memory",
        plan.trained_summary(),
        plan.first.dispatch_count(),
        plan.first.working_bytes() as f64 / 1e6
    ));
    let store = store.into_shared();
    let params = plan.params.clone();
    let work = [plan.plans().map(Plan::total_flops).sum(), total as u64];
    let mut trainer = events.until_stopped(gpu, Trainer::new(gpu, plan, &mut pool, &store)).await?;
    trainer.set_prompts(run.conditioning)?;
    let Between { preview, evaluation, words } = between;
    if let Some((encoded, words)) = prompts.zip(words) {
        Box::pin(words.look(at, &encoded, (&mut pool, &*store), &run.batches, events)).await?;
    }
    let preview = match run.sample_prompts.zip(preview) {
        Some((prompts, plans)) => {
            let preview = Box::pin(Preview::new(at, plans, prompts, &mut pool, &store));
            Some(events.until_stopped(gpu, preview).await?)
        }
        None => None,
    };
    let evaluator = match evaluation.zip(photos).zip(run.evaluation_prompts) {
        Some(((plans, photos), prompts)) => {
            let evaluator = Box::pin(Evaluator::new(at, plans, (photos, prompts), (&mut pool, &store), work));
            Some(events.until_stopped(gpu, evaluator).await?)
        }
        None => None,
    };
    let schedule = NoiseSchedule::new(&model.schedule);
    let batches = run.batches;
    Ok(Training { at, init, schedule, batches, store, params, trainer, preview, evaluator, _ahead: ahead })
}

/// Updates of the run.
fn updates(job: &TrainOptions, batches: &Batches) -> Result<usize> {
    let Batches::Replay(file) = batches else { return Ok(job.steps.unwrap_or(STEPS)) };
    let have = file.micro_steps();
    let total = job.steps.unwrap_or(have / job.accumulate);
    let needed = total * job.accumulate;
    if needed > have {
        let fault = format!(" {total} needs {needed} micro-batches, the replay file holds {have}");
        return Err(Error::usage("steps", option("steps") + fault));
    }
    Ok(total)
}

/// What a run needs before its weights are loaded.
struct Gathered {
    run: Run,
    plan: TrainPlan,
    between: Between,
    /// Encoded prompts of the look at words.
    words: Option<Vec<[Vec<f32>; 2]>>,
    photos: Option<EvaluationPhotos>,
    ahead: Ahead,
}

/// A run whose weights are on the device.
struct Training<'a> {
    at: &'a TrainContext<'a>,
    init: Option<&'a InitLora>,
    schedule: NoiseSchedule,
    batches: Batches,
    store: Arc<Store>,
    params: Vec<Param>,
    trainer: Trainer,
    preview: Option<Preview>,
    evaluator: Option<Evaluator>,
    _ahead: Ahead,
}

impl Training<'_> {
    /// Measures the model that the training starts from, if it is to be evaluated.
    async fn begin_evaluations(&mut self, evaluations: &mut History, events: &mut EventSink<'_>) -> Result<()> {
        match &mut self.evaluator {
            Some(evaluator) => Box::pin(evaluator.begin(self.at, evaluations, events)).await,
            None => Ok(()),
        }
    }

    /// Evaluates the run after `step` updates, if that is due, and keeps its weights if they are the best so far; returns
    /// whether it is to end here.
    async fn evaluate(&self, step: usize, record: &mut Record, events: &mut EventSink<'_>) -> Result<bool> {
        let Some(evaluator) = &self.evaluator else { return Ok(false) };
        let verdict = match evaluator.evaluate(self.at, step, &mut record.evaluations, events).await {
            Ok(verdict) => verdict,
            Err(e) => {
                events.warn(message![format!("no evaluation of step {step}: "), &e, "; the training goes on"]);
                return Ok(false);
            }
        };
        if verdict.best {
            let job = &self.at.job.of_best();
            let at = TrainContext { context: self.at.context.clone(), job, model: self.at.model };
            match save(&at, self.init, &self.params, &self.store, step).await {
                Ok((placed, _)) => {
                    events.say(Event::Saved(placed.path));
                }
                Err(e) => events.warn(message![format!("the best checkpoint, of step {step}, is not kept: "), &e]),
            }
        }
        if verdict.plateau {
            events.note(format!("stopped at step {step}: the score of evaluations rises no more"));
        }
        Ok(verdict.plateau)
    }

    /// Puts `state` in place; returns the update that comes next.
    async fn restore(&self, state: State, record: &Record, total: usize, events: &mut EventSink<'_>) -> Result<usize> {
        let names: Vec<&str> = state.tensors.iter().map(|(key, _)| key.as_str()).collect();
        let mut keys: Vec<String> = self.trainer.state_keys().into_iter().map(|(key, _)| key).collect();
        keys.sort();
        let fits = |(key, values): &(String, Values)| self.store.bytes(key) == Some(values.bytes().len() as u64);
        if names != keys || !state.tensors.iter().all(fits) || state.step > total {
            let fault = message!["is of another model or was made for fewer ", option("steps"), "; "];
            return Err(Error::file(&record.folder, fault + Remedy::StartAnew));
        }
        for (key, values) in &state.tensors {
            self.store.write_long(key, values.bytes()).await?;
        }
        events.note(format!("resuming at step {}", state.step));
        Ok(state.step)
    }

    /// Does the updates `steps`; returns how many are done where it ends, which is earlier where it is asked to finish.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where it is stopped before the last, its state saved.
    async fn run(
        &self,
        steps: std::ops::Range<usize>,
        record: &mut Record,
        events: &mut EventSink<'_>,
    ) -> Result<usize> {
        let (job, total, mut done) = (self.at.job, steps.end, steps.start);
        let mut sanity = Sanity::new(&self.trainer, &self.store).await?;
        for step in steps {
            let report = self.update(step, total).await?;
            sanity.check(&self.store, report.lr, step + 1 == total).await?;
            events.tell_compiled(self.at.gpu());
            events.say(Event::Step(report));
            done = step + 1;
            if let Some(preview) = self.preview.as_ref().filter(|_| done % job.sample_every == 0 || done == total) {
                let shown = preview.show(self.at, done, events).await;
                if let Err(e) = shown {
                    events.warn(message![format!("no samples of step {done}: "), &e, "; the training goes on"]);
                }
            }
            let enough = self.evaluate(done, record, events).await?;
            // The last update's state is the result.
            if done < total && (events.stopped() || job.save_every.is_some_and(|n| done % n == 0)) {
                let state = self.state(done, record).await?;
                match record.save(&state, job.force) {
                    Ok(()) => {
                        events.say(Event::Saved(record.folder.clone()));
                    }
                    Err(e) if events.stopped() => return Err(record.unsaved(&state, &e)),
                    Err(e) => {
                        let left = record
                            .last
                            .map_or_else(|| "there is none yet".into(), |n| format!("that of step {n} stays"));
                        let fault = message![format!("the checkpoint of step {done} could not be saved: "), &e];
                        events.warn(message![fault, format!("; {left}, the training goes on")]);
                    }
                }
            }
            if done < total && events.stopped() {
                let resumable = Some(record.folder.display().to_string());
                return Err(Error::Interrupted { unit: "step", done, total, resumable });
            }
            if enough || events.finished() {
                break;
            }
        }
        Ok(done)
    }

    /// Update `step` of `total`.
    async fn update(&self, step: usize, total: usize) -> Result<StepReport> {
        let job = self.at.job;
        let factor = lr_factor(step, total, job.warmup, job.schedule == LrSchedule::Cosine);
        let rates = [job.rate(), job.text_lr.unwrap_or(job.rate())].map(|rate| rate * factor);
        let mut batches = Vec::with_capacity(job.accumulate);
        for i in 0..job.accumulate {
            batches.push(self.batches.micro_batch(step * job.accumulate + i, job, &self.schedule)?);
            self.at.gpu().breathe().await;
        }
        let update = self.trainer.step(&batches, step, rates).await?;
        let (instance, prior) = mean_losses(&batches, &update.errors);
        let loss = instance + job.prior_weight * prior.unwrap_or(0.0);
        let (grad_norm, lr) = (f64::from(update.grad_norm), rates[0]);
        let report = StepReport { step, steps: total, loss, instance, prior, grad_norm, lr };
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            return Err(Error::Diverged { step });
        }
        Ok(report)
    }

    /// The state after `step` updates.
    ///
    /// # Errors
    /// When a value of it is not finite.
    async fn state(&self, step: usize, record: &Record) -> Result<State> {
        let mut tensors = Vec::new();
        for (key, packed) in self.trainer.state_keys() {
            let values = Values::new(&self.store.read(&key).await?, packed);
            tensors.push((key, values));
        }
        self.at.gpu().breathe().await;
        let (options, variants) = (record.options.clone(), self.at.context.variants.clone());
        let state = State { step, options, variants, evaluations: record.evaluations.clone(), tensors };
        state.check(&record.folder)?;
        Ok(state)
    }
}

/// Mean loss of the instances of an optimizer step, and of its class images before their weight, from each sample's error.
fn mean_losses(batches: &[MicroBatch], errors: &[Vec<f32>]) -> (f64, Option<f64>) {
    let losses: Vec<(f64, Option<f64>)> = batches.iter().zip(errors).map(|(b, e)| b.losses(e)).collect();
    let n = losses.len() as f64;
    let instance = losses.iter().map(|l| l.0).sum::<f64>() / n;
    (instance, losses.iter().map(|l| l.1).sum::<Option<f64>>().map(|prior| prior / n))
}
