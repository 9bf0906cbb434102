//! `train`: four pictures to a LoRA, or to a whole new UNet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::rng::{CounterRng, Stream};
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::event::{Event, Flow, Listener, StepReport};
use crate::gpu::{Pool, Store};
use crate::io::lora_file::Factor;
use crate::io::{self, LoraFile, LoraModule, ModuleKey, Part};
use crate::job::{Checkpointing, Crop, LrSchedule, Method, TrainJob};
use crate::nn::{Param, Role, weights};
use crate::train::checkpoint::state_folder;
use crate::train::dataset::{Drawing, micro_batch};
use crate::train::dreambooth::initial_factor;
use crate::train::schedule::lr_factor;
use crate::train::{Cached, Conditioning, Dataset, MicroBatch, Replay, Setup, State, TrainPlan, Trainer};

use super::encode::{Planning, VaeSession, posterior};
use super::generate::interrupted;
use super::{Engine, Model};

/// What [`Engine::train`] left behind.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The LoRA file or folder, or the model folder.
    pub out: PathBuf,
    /// Updates done.
    pub steps: usize,
}

/// Where the batches come from.
enum Batches {
    Pictures(Dataset),
    Replay(Replay),
}

impl Batches {
    fn micro_batch(&self, index: usize, job: &TrainJob, schedule: &NoiseSchedule) -> Result<MicroBatch> {
        let draw = match self {
            Batches::Pictures(data) => data.draw(index),
            Batches::Replay(file) => file.draw(index)?,
        };
        Ok(micro_batch(&draw, schedule, job.min_snr, job.prior_weight))
    }
}

/// Default number of updates.
const STEPS: usize = 400;
/// Variants that are cached of a randomly cropped picture.
const CROPS: usize = 4;

/// The plan of a job; with `--checkpointing auto` recomputation is turned on when `--memory` asks for it.
pub(crate) fn plan_training(job: &TrainJob, mut setup: Setup, planning: Planning<'_>) -> Result<TrainPlan> {
    let plan = TrainPlan::new(&setup, planning.caps, planning.variants)?;
    let Some(budget) = job.model.memory else { return Ok(plan) };
    let bytes =
        |p: &TrainPlan| p.first.working_bytes() + p.optimizer_bytes() + p.params.iter().map(Param::bytes).sum::<u64>();
    if bytes(&plan) <= budget {
        return Ok(plan);
    }
    let needed = bytes(&plan);
    if job.checkpointing == Checkpointing::Auto {
        setup.checkpoint = true;
        let smaller = TrainPlan::new(&setup, planning.caps, planning.variants)?;
        if bytes(&smaller) <= budget {
            return Ok(smaller);
        }
    }
    Err(Error::Limit(format!(
        "training takes {needed} bytes, --memory allows {budget}: lower --resolution or --batch, or use --dtype f16"
    )))
}

impl Engine {
    /// Trains; writes `job.out`. Stopped by the listener, it saves a checkpoint and says so.
    pub async fn train(&self, job: &TrainJob, listener: Listener<'_>) -> Result<Trained> {
        job.check()?;
        let model = Model::open(&job.model, &[], listener)?;
        let schedule = NoiseSchedule::new(&model.schedule);
        let folder = state_folder(&job.out);
        let options = job.deciding()?;
        let resumed = if job.resume {
            let state = State::load(&folder)?;
            state.refuse_changed(&folder, &options)?;
            Some(state)
        } else {
            None
        };
        let variants = resumed.as_ref().map_or_else(|| self.variants.clone(), |s| s.variants.clone());
        let planning = Planning { caps: self.gpu.caps(), variants: &variants };
        let mut pool = Pool::default();

        let mut run = match &job.replay {
            Some(path) => self.open_replay(job, &model, path)?,
            None => self.prepare(job, &model, planning, &mut pool, listener).await?,
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
        let plan =
            plan_training(job, job.setup(&model, self.gpu.caps(), run.samples, run.latent, run.tokens), planning)?;
        let mut store = Store::new(&self.gpu);
        Trainer::allocate(&plan, &mut store)?;
        model.load(&mut store, "weights", &plan.params)?;
        self.start_adapters(job, &model, &plan.params, &store)?;
        listener(Event::Note(format!(
            "{} trained numbers, {} dispatches a step, {:.0} MB of working memory",
            plan.trainable(),
            plan.first.dispatch_count(),
            plan.first.working_bytes() as f64 / 1e6
        )));
        let params = plan.params.clone();
        let trainer = Trainer::new(&self.gpu, plan, &mut pool, &store, &variants).await?;
        match &run.conditioning {
            Conditioning::Context(hidden, _) => trainer.set_context(hidden)?,
            Conditioning::Ids(ids, _) => trainer.set_ids(ids)?,
        }
        let mut first = 0;
        if let Some(state) = resumed {
            first = state.step;
            let names: Vec<&str> = state.tensors.iter().map(|(key, _)| key.as_str()).collect();
            let mut keys = trainer.state_keys();
            keys.sort();
            let fits = |(key, values): &(String, Vec<f32>)| store.bytes(key) == Some(4 * values.len() as u64);
            if names != keys || !state.tensors.iter().all(fits) || first > total {
                let message = "is of another model or was made for fewer --steps; start again without --resume";
                return Err(Error::file(&folder, message));
            }
            for (key, values) in &state.tensors {
                store.write(key, bytemuck::cast_slice(values))?;
            }
            listener(Event::Note(format!("resuming at step {first}")));
        }
        let mut preview = match run.samples_hidden.take() {
            Some(hidden) if !hidden.is_empty() => {
                Some(self.preview(job, &model, planning, &mut pool, &mut store, hidden).await?)
            }
            _ => None,
        };
        interrupted(listener(Event::Phase("training".into())), "")?;
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
        }
        self.save(job, &model, &params, &store, total).await?;
        // What a finished run leaves is its result; its state would only resume to the same.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|e| Error::file(&folder, e))?;
        }
        listener(Event::Saved(job.out.clone()));
        Ok(Trained { out: job.out.clone(), steps: total })
    }

    fn open_replay(&self, job: &TrainJob, model: &Model, path: &Path) -> Result<Run> {
        let file = Replay::open(path)?;
        let conditioning = file.conditioning()?;
        let tokens = match (&conditioning, job.text_encoder) {
            (Conditioning::Context(values, tokens), false) => {
                let prompts = if file.samples()[1] > 0 { 2 } else { 1 };
                if values.len() != prompts * tokens * model.context_width() {
                    return Err(Error::file(
                        path,
                        format!("context is not {} wide: made for another model", model.context_width()),
                    ));
                }
                *tokens
            }
            (Conditioning::Ids(_, tokens), true) => *tokens,
            (Conditioning::Ids(..), false) => return Err(Error::file(path, "holds token ids: give --text-encoder")),
            (Conditioning::Context(..), true) => {
                return Err(Error::file(path, "holds no token ids: leave --text-encoder out"));
            }
        };
        if file.latent()[2] != model.unet.in_channels {
            return Err(Error::file(
                path,
                format!("latents of {} channels, the model has {}", file.latent()[2], model.unet.in_channels),
            ));
        }
        Ok(Run {
            samples: file.samples(),
            latent: file.latent(),
            tokens,
            conditioning,
            batches: Batches::Replay(file),
            samples_hidden: None,
        })
    }

    /// Pictures to cached posteriors, prompts to hidden states.
    async fn prepare(
        &self,
        job: &TrainJob,
        model: &Model,
        planning: Planning<'_>,
        pool: &mut Pool,
        listener: Listener<'_>,
    ) -> Result<Run> {
        let factor = model.factor();
        let native = model.native_side();
        let side = job.resolution.unwrap_or(native);
        model.size(Some(side), None).map_err(|_| {
            Error::Usage(format!("--resolution {side}: must be a multiple of {factor}, such as {native}"))
        })?;
        let images = job.images.as_deref().unwrap_or(Path::new("."));
        let open = |folder: &Path| -> Result<Vec<io::Picture>> {
            io::list_pictures(folder)?.iter().map(io::Picture::open).collect()
        };
        let instances = open(images)?;
        listener(Event::Note(format!("{} pictures at {side}x{side}", instances.len())));
        let prompt = job.prompt.clone().unwrap_or_default();
        let classes = match (&job.class_prompt, &job.class_images) {
            (Some(_), Some(folder)) => open(folder)?,
            (Some(class), None) => {
                let fingerprint = model.checkpoint.fingerprint();
                self.class_pictures(&job.model, &fingerprint, class, job.class_count, [side, side], job.seed, listener)
                    .await?
            }
            _ => Vec::new(),
        };
        let mut texts = vec![model.tokens(&prompt, listener)?];
        if let Some(class) = &job.class_prompt {
            texts.push(model.tokens(class, listener)?);
        }
        let conditioned = texts.len();
        texts.push(model.tokens("", listener)?);
        for sample in &job.sample_prompts {
            texts.push(model.tokens(sample, listener)?);
        }
        let tokens = texts[0].len();
        interrupted(listener(Event::Phase("reading the prompts".into())), "")?;
        let hidden = model.encode_prompts(&self.gpu, planning, pool, &texts).await?;
        let conditioning = match job.text_encoder {
            true => Conditioning::Ids(texts[..conditioned].concat(), tokens),
            false => Conditioning::Context(hidden[..conditioned].concat(), tokens),
        };

        interrupted(listener(Event::Phase("encoding the pictures".into())), "")?;
        let part = model.plan_vae_encode(planning, 1, [side, side])?;
        let vae = VaeSession::new(&self.gpu, model, pool, part).await?;
        let channels = model.vae.latent_channels;
        let mut cached = [Vec::new(), Vec::new()];
        for (kind, (pictures, out)) in [&instances, &classes].into_iter().zip(&mut cached).enumerate() {
            for (i, picture) in pictures.iter().enumerate() {
                let mut all = Vec::new();
                // Class pictures are shown as they are.
                let crops = if kind == 0 && job.crop == Crop::Random { CROPS } else { 1 };
                for crop in 0..crops {
                    let rng = CounterRng::new(job.seed, Stream::Crop);
                    let at = |axis: u64| rng.uniform(i as u32, 2 * crop as u64 + axis);
                    let crop = if crops > 1 { io::Crop { x: at(0), y: at(1) } } else { io::Crop::CENTER };
                    for flip in [false, true].into_iter().take(if kind == 0 && job.flip { 2 } else { 1 }) {
                        let pixels = picture.prepare(side, side, crop, flip)?;
                        let (mean, std) = posterior(&vae.run(&pixels).await?, channels);
                        all.push(Cached { mean, std });
                    }
                }
                out.push(all);
                interrupted(listener(Event::Progress { unit: "picture", done: i + 1, total: pictures.len() }), "")?;
            }
        }
        let [instances, classes] = cached;
        let drawing = Drawing {
            channels,
            scaling_factor: model.vae.scaling_factor,
            seed: job.seed,
            batch: job.batch,
            offset_noise: job.offset_noise,
            train_steps: model.schedule.num_train_timesteps,
        };
        let data = Dataset::new(instances, classes, drawing)?;
        let latent = [side / factor, side / factor, channels];
        let samples_hidden =
            Some(if job.sample_prompts.is_empty() { Vec::new() } else { hidden[conditioned..].to_vec() });
        Ok(Run {
            samples: data.samples(),
            latent,
            tokens,
            conditioning,
            batches: Batches::Pictures(data),
            samples_hidden,
        })
    }

    /// Starting values of the adapters: those of `--init-lora`, else random.
    fn start_adapters(&self, job: &TrainJob, model: &Model, params: &[Param], store: &Store) -> Result<()> {
        let given = match &job.init_lora {
            Some(path) => {
                let modules = model.checkpoint.modules();
                let file = LoraFile::open(path, Some(&modules))?;
                file.match_report(&modules).check()?;
                Some((path, file))
            }
            None => None,
        };
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
                    let factor = if which == "down" { &module.down } else { &module.up };
                    if factor.data.len() != param.elements() {
                        let rank = module.rank();
                        return Err(Error::file(path, format!("layer {key} has rank {rank}: give --rank {rank}")));
                    }
                    let source = &param.sources[0];
                    let tensor =
                        weights::HostTensor { shape: source.shape.clone(), values: factor.data.as_slice().into() };
                    bytemuck::pod_collect_to_vec(&weights::pack(param, &[tensor])?)
                }
            };
            store.write(&param.key, bytemuck::cast_slice(&values))?;
        }
        Ok(())
    }

    async fn save_state(
        &self,
        trainer: &Trainer,
        store: &Store,
        folder: &Path,
        step: usize,
        options: &serde_json::Value,
        variants: &crate::gpu::Variants,
    ) -> Result<()> {
        let mut tensors = Vec::new();
        for key in trainer.state_keys() {
            tensors.push((key.clone(), bytemuck::pod_collect_to_vec(&store.read(&key).await?)));
        }
        State { step, options: options.clone(), variants: variants.clone(), tensors }.save(folder)
    }

    async fn save(&self, job: &TrainJob, model: &Model, params: &[Param], store: &Store, steps: usize) -> Result<()> {
        if job.method == Method::Full {
            let mut owned = Vec::new();
            for param in params.iter().filter(|p| p.role != Role::Adapter && p.key.starts_with("unet.")) {
                owned.extend(weights::unpack(param, &store.read(&param.key).await?)?);
            }
            let tensors: Vec<io::Tensor> = owned
                .iter()
                .map(|(key, t)| io::Tensor::f32(key.trim_start_matches("unet."), &t.shape, &t.values))
                .collect();
            return io::write_diffusers_folder(&job.out, &model.checkpoint, &tensors);
        }
        let mut factors: BTreeMap<ModuleKey, [Option<Factor>; 2]> = BTreeMap::new();
        for param in params.iter().filter(|p| p.role == Role::Adapter) {
            let Some((key, which)) = module_of(param) else { continue };
            for (_, tensor) in weights::unpack(param, &store.read(&param.key).await?)? {
                factors.entry(key.clone()).or_default()[usize::from(which == "up")] =
                    Some(Factor { shape: tensor.shape, data: tensor.values.into_owned() });
            }
        }
        let alpha = job.alpha.unwrap_or(job.rank as f64) as f32;
        let modules = factors
            .into_iter()
            .filter_map(|(key, [down, up])| Some((key, LoraModule { down: down?, up: up?, alpha: Some(alpha) })));
        let text = |value: &dyn std::fmt::Display| value.to_string();
        let metadata = [
            ("ss_steps", text(&steps)),
            ("ss_seed", text(&job.seed)),
            ("ss_learning_rate", text(&job.rate())),
            ("ss_unet_lr", text(&job.rate())),
            ("ss_prior_loss_weight", text(&job.prior_weight)),
            ("ss_optimizer", "AdamW".to_string()),
        ];
        let metadata = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        let file = LoraFile {
            name: job.out.display().to_string(),
            layout: None,
            modules: modules.collect(),
            foreign: Vec::new(),
            metadata,
        };
        file.write(&job.out, job.format)
    }
}

struct Run {
    batches: Batches,
    samples: [usize; 2],
    latent: [usize; 3],
    tokens: usize,
    conditioning: Conditioning,
    /// Hidden states of the empty prompt and of each sample prompt.
    samples_hidden: Option<Vec<Vec<f32>>>,
}

/// The module that an adapter's parameter belongs to, and which factor it is.
fn module_of(param: &Param) -> Option<(ModuleKey, &str)> {
    let (path, which) = param.key.strip_prefix("lora.")?.rsplit_once('.')?;
    let (part, path) = path.split_once('.')?;
    let part = Part::ALL.into_iter().find(|p| p.name() == part)?;
    Some((ModuleKey { part, path: path.to_string() }, which))
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
