//! The training step as graphs: forward, loss, backward into flat gradients; then the norm, clipping and AdamW.

use std::collections::HashSet;

use crate::base::DType;
use crate::base::rng::{CounterRng, Stream};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, Pool, Store, Variants};
use crate::graph::{Graph, Plan, PlanOptions, Session, Source, Tensor};
use crate::models::{Context, TextEncoder, TextEncoderConfig, UNet, UnetConfig};
use crate::nn::{LoraSpec, Mode, Param, Role, Scope, Settings};
use crate::ops::{self, AdamWHyper, adamw, clip_grad_norm, repeat, weighted_mse};

use super::dataset::MicroBatch;

/// What is trained, and on what.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The UNet.
    pub unet: UnetConfig,
    /// The text encoder, where it is trained too.
    pub text: Option<TextEncoderConfig>,
    /// Adapters of the UNet; `None` trains every weight.
    pub lora: Option<LoraSpec>,
    /// Adapters of the text encoder.
    pub text_lora: Option<LoraSpec>,
    /// Storage of frozen weights.
    pub dtype: DType,
    /// Samples of a micro-batch: instances, then class pictures.
    pub samples: [usize; 2],
    /// Latent height, width and channels.
    pub latent: [usize; 3],
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Gradient checkpointing.
    pub checkpoint: bool,
    /// Micro-batches an update.
    pub accumulate: usize,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Gradients are clipped to this norm.
    pub max_grad_norm: f64,
}

impl Setup {
    /// Samples of a micro-batch.
    pub fn batch(&self) -> usize {
        self.samples[0] + self.samples[1]
    }

    /// Prompts: the instance's, and the class's where there are class pictures.
    pub fn prompts(&self) -> usize {
        if self.samples[1] > 0 { 2 } else { 1 }
    }
}

/// Parameters with one learning rate.
#[derive(Clone, Debug)]
struct Group {
    label: &'static str,
    params: Vec<Param>,
}

/// The plans of a run, and the parameters that they touch.
pub struct TrainPlan {
    setup: Setup,
    /// Forward and backward of the first micro-batch of an update.
    pub first: Plan,
    /// The same, adding to the gradients, where an update has several.
    pub next: Option<Plan>,
    inputs: Inputs,
    groups: Vec<Group>,
    /// Every parameter of the models, frozen ones too.
    pub params: Vec<Param>,
}

#[derive(Clone, Copy)]
struct Inputs {
    noisy: Tensor,
    target: Tensor,
    timesteps: Tensor,
    weights: Tensor,
    prompt: Tensor,
    errors: Tensor,
}

impl TrainPlan {
    /// Records and plans the run; needs no GPU.
    pub fn new(setup: &Setup, caps: &Caps, variants: &Variants) -> Result<TrainPlan> {
        let (first, inputs, groups, params) = micro_step(setup, false)?;
        let next = if setup.accumulate > 1 { Some(micro_step(setup, true)?.0) } else { None };
        let plan = |g: &Graph| Plan::new(g, caps, variants, &PlanOptions::default());
        let next = next.as_ref().map(plan).transpose()?;
        Ok(TrainPlan { setup: setup.clone(), first: plan(&first)?, next, inputs, groups, params })
    }

    /// The plans of both kinds of micro-batch.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        [Some(&self.first), self.next.as_ref()].into_iter().flatten()
    }

    /// Numbers that are trained.
    pub fn trainable(&self) -> usize {
        self.groups.iter().flat_map(|g| &g.params).map(Param::elements).sum()
    }

    /// Bytes of trained parameters, their gradients and moments.
    pub fn optimizer_bytes(&self) -> u64 {
        4 * self.groups.iter().flat_map(|g| &g.params).map(|p| p.bytes().next_multiple_of(256)).sum::<u64>()
    }
}

type Recorded = (Graph, Inputs, Vec<Group>, Vec<Param>);

fn grad_key(param: &Param) -> String {
    format!("grad.{}", param.key)
}

fn micro_step(setup: &Setup, accumulate: bool) -> Result<Recorded> {
    let mut g = Graph::new();
    let [h, w, c] = setup.latent;
    let (n, prompts) = (setup.batch(), setup.prompts());
    let noisy = g.input("noisy", [n, h, w, c], DType::F32);
    let target = g.input("target", [n, h, w, c], DType::F32);
    let timesteps = g.input("timesteps", [n], DType::F32);
    let weights = g.input("weights", [n], DType::F32);
    let mut groups = Vec::new();
    let mut params = Vec::new();

    let (prompt, hidden) = match &setup.text {
        Some(config) => {
            let settings = Settings { dtype: setup.dtype, mode: Mode::Training, lora: setup.text_lora.clone() };
            let scope = Scope::new("text_encoder", settings);
            let encoder = TextEncoder::new(&scope, config.clone())?;
            let ids = g.input("ids", [prompts, setup.tokens], DType::U32);
            let hidden = encoder.forward(&mut g, ids)?;
            params.extend(scope.params());
            let adapters = scope.params().into_iter().filter(|p| p.role == Role::Adapter).collect();
            groups.push(Group { label: "text", params: adapters });
            (ids, hidden)
        }
        None => {
            let hidden = g.input("context", [prompts, setup.tokens, setup.unet.cross_attention_dim.get(0)], DType::F32);
            (hidden, hidden)
        }
    };
    if setup.samples[1] > 0 && setup.samples[0] != setup.samples[1] {
        return Err(Error::Usage(format!(
            "{} instance and {} class samples: each instance goes with one class picture",
            setup.samples[0], setup.samples[1]
        )));
    }
    let context = if setup.samples[0] > 1 { repeat(&mut g, hidden, setup.samples[0])? } else { hidden };

    let full = setup.lora.is_none();
    let dtype = if full { DType::F32 } else { setup.dtype };
    let scope = Scope::new("unet", Settings { dtype, mode: Mode::Training, lora: setup.lora.clone() });
    let unet = UNet::new(&scope, setup.unet.clone())?;
    let pred = unet.forward(&mut g, noisy, timesteps, Context::Hidden(context))?;
    let (total, errors) = weighted_mse(&mut g, pred, target, weights)?;
    g.output(errors);
    let trained = scope.params().into_iter().filter(|p| full || p.role == Role::Adapter).collect();
    params.extend(scope.params());
    groups.insert(0, Group { label: "unet", params: trained });

    let all: Vec<&Param> = groups.iter().flat_map(|group| &group.params).collect();
    let wrt: Vec<Tensor> = all.iter().map(|p| p.get(&mut g)).collect::<Result<_>>()?;
    let grads = ops::grad(&mut g, total, &wrt, setup.checkpoint)?;
    let mut homes = HashSet::new();
    for (param, gradient) in all.into_iter().zip(grads) {
        let store = g.stored(&grad_key(param), param.shape.clone(), DType::F32)?;
        // A gradient that is another tensor's too, or that only renames one, needs a copy to have a home of its own.
        let own = match g.info(gradient).source {
            Source::Node(id, _) => g.nodes()[id].op.alias().is_none() && homes.insert(gradient),
            _ => false,
        };
        let value = match (accumulate, own) {
            (true, _) => ops::add(&mut g, store, gradient)?,
            (false, true) => gradient,
            (false, false) => ops::scale(&mut g, gradient, 1.0)?,
        };
        g.assign(store, value)?;
    }
    Ok((g, Inputs { noisy, target, timesteps, weights, prompt, errors }, groups, params))
}

/// A run on a device.
pub struct Trainer {
    setup: Setup,
    first: Session,
    next: Option<Session>,
    update: Session,
    at: Inputs,
    update_at: UpdateInputs,
    groups: Vec<Group>,
    flats: Vec<Flat>,
}

/// A piece of a group as one vector: stored as `label#i`, with gradient and moments beside.
#[derive(Clone, Debug)]
struct Flat {
    group: usize,
    key: String,
    elements: usize,
}

struct UpdateInputs {
    max_norm: Tensor,
    hyper: Vec<Tensor>,
    norm: Tensor,
}

/// Of one update: each sample's error by micro-batch, and the norm of all gradients before clipping.
#[derive(Clone, Debug)]
pub struct Update {
    /// Mean squared errors, by micro-batch and sample.
    pub errors: Vec<Vec<f32>>,
    /// Norm before clipping.
    pub grad_norm: f32,
}

/// The four vectors that an update reads and writes.
const VECTORS: [&str; 4] = ["param", "grad", "m", "v"];

impl Trainer {
    /// Makes room for what is trained in `store`. Load the weights after this and before [`Trainer::new`]: what is in
    /// one of the flat vectors stays there.
    pub fn allocate(plan: &TrainPlan, store: &mut Store) -> Result<()> {
        for group in &plan.groups {
            for vector in VECTORS {
                let key = |p: &Param| if vector == "param" { p.key.clone() } else { format!("{vector}.{}", p.key) };
                let tensors: Vec<(String, u64)> = group.params.iter().map(|p| (key(p), p.bytes())).collect();
                store.allocate_flat(&format!("{vector}.{}", group.label), &tensors)?;
            }
        }
        Ok(())
    }

    /// Compiles the run; all parameters must be in `store`.
    pub async fn new(
        gpu: &Gpu,
        plan: TrainPlan,
        pool: &mut Pool,
        store: &Store,
        variants: &Variants,
    ) -> Result<Trainer> {
        let mut flats = Vec::new();
        for (i, group) in plan.groups.iter().enumerate() {
            for piece in 0.. {
                let key = format!("param.{}#{piece}", group.label);
                let Some(bytes) = store.bytes(&key) else { break };
                flats.push(Flat { group: i, key: format!("{}#{piece}", group.label), elements: bytes as usize / 4 });
            }
        }
        let (graph, update_at) = update_graph(&plan.groups, &flats)?;
        let update = Plan::new(&graph, gpu.caps(), variants, &PlanOptions::default())?;
        for arena in [Some(&plan.first), plan.next.as_ref(), Some(&update)].into_iter().flatten().map(|p| &p.arena) {
            pool.reserve(gpu, arena)?;
        }
        let next = match plan.next {
            Some(next) => Some(Session::new(gpu, next, pool, store).await?),
            None => None,
        };
        Ok(Trainer {
            first: Session::new(gpu, plan.first, pool, store).await?,
            next,
            update: Session::new(gpu, update, pool, store).await?,
            at: plan.inputs,
            update_at,
            groups: plan.groups,
            flats,
            setup: plan.setup,
        })
    }

    /// Sets the prompts' hidden states `[prompts, tokens, width]`.
    pub fn set_context(&self, hidden: &[f32]) -> Result<()> {
        self.sessions().try_for_each(|s| s.write(self.at.prompt, hidden))
    }

    /// Sets the prompts' token ids, where the text encoder is trained.
    pub fn set_ids(&self, ids: &[u32]) -> Result<()> {
        self.sessions().try_for_each(|s| s.write_ids(self.at.prompt, ids))
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        [Some(&self.first), self.next.as_ref()].into_iter().flatten()
    }

    /// One optimizer update on `batches`, the `step`-th from 0; `rates` are the learning rates of UNet and text encoder.
    pub async fn step(&self, batches: &[MicroBatch], step: usize, rates: [f64; 2]) -> Result<Update> {
        let mut errors = Vec::with_capacity(batches.len());
        for (i, batch) in batches.iter().enumerate() {
            let session = if i == 0 { &self.first } else { self.next.as_ref().unwrap_or(&self.first) };
            let weights: Vec<f32> = batch.weights.iter().map(|w| w / batches.len() as f32).collect();
            session.write(self.at.noisy, &batch.noisy)?;
            session.write(self.at.target, &batch.target)?;
            session.write(self.at.timesteps, &batch.timesteps)?;
            session.write(self.at.weights, &weights)?;
            session.run()?;
            errors.push(session.read(self.at.errors).await?);
        }
        self.update.write(self.update_at.max_norm, &[self.setup.max_grad_norm as f32])?;
        for (i, hyper) in self.update_at.hyper.iter().enumerate() {
            let (lr, weight_decay) = (rates[i.min(1)], self.setup.weight_decay);
            let values = AdamWHyper { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step: step + 1 };
            self.update.write(*hyper, &values.pack())?;
        }
        self.update.run()?;
        let grad_norm = self.update.read(self.update_at.norm).await?.first().copied().unwrap_or(f32::NAN);
        Ok(Update { errors, grad_norm })
    }

    /// What is trained, group by group.
    pub fn trained(&self) -> impl Iterator<Item = &Param> {
        self.groups.iter().flat_map(|g| &g.params)
    }

    /// Keys of the vectors that a checkpoint holds: parameters and both moments.
    pub fn state_keys(&self) -> Vec<String> {
        let vectors = ["param", "m", "v"];
        self.flats.iter().flat_map(|f| vectors.map(|v| format!("{v}.{}", f.key))).collect()
    }
}

/// The norm of all gradients, and AdamW over every flat vector.
fn update_graph(groups: &[Group], flats: &[Flat]) -> Result<(Graph, UpdateInputs)> {
    let mut g = Graph::new();
    let max_norm = g.input("max norm", [1], DType::F32);
    let hyper: Vec<Tensor> = groups.iter().map(|group| g.input(group.label, [8], DType::F32)).collect();
    let vector =
        |g: &mut Graph, name: &str, flat: &Flat| g.stored(&format!("{name}.{}", flat.key), [flat.elements], DType::F32);
    let grads: Vec<Tensor> = flats.iter().map(|f| vector(&mut g, "grad", f)).collect::<Result<_>>()?;
    let (norm, clip) = clip_grad_norm(&mut g, &grads, max_norm)?;
    g.output(norm);
    for (flat, grad) in flats.iter().zip(grads) {
        let param = vector(&mut g, "param", flat)?;
        let (m, v) = (vector(&mut g, "m", flat)?, vector(&mut g, "v", flat)?);
        adamw(&mut g, param, m, v, grad, clip, hyper[flat.group])?;
    }
    Ok((g, UpdateInputs { max_norm, hyper, norm }))
}

/// Starting values of an adapter's factor: `down` normal with standard deviation 1 / rank, `up` zero (PEFT's "gaussian").
pub fn initial_factor(param: &Param, index: usize, seed: u64) -> Vec<f32> {
    if param.key.ends_with(".up") {
        return vec![0.0; param.elements()];
    }
    let rank = param.shape.first().copied().unwrap_or(1).max(1) as f32;
    let rng = CounterRng::new(seed, Stream::Init);
    rng.normals(index as u32, 0, param.elements()).into_iter().map(|x| x / rank).collect()
}
