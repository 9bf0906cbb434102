//! The training step as graphs: forward, loss, and backward into stored gradients; or, fused, two passes, of which the
//! first finds the norm of all gradients and the second updates each layer as soon as its gradient is there.

mod setup;

use std::collections::HashSet;

use crate::base::DType;
use crate::base::rng::{CounterRng, Stream};
use crate::error::{Error, Result, message, option};
use crate::gpu::{Caps, Variants};
use crate::graph::{Graph, Plan, PlanOptions, Source, Tensor};
use crate::models::{Added, Conditioning, Context, Denoiser, Sample, Taps, TextEncoder};
use crate::nn::{Mode, Param, Role, Scope, Settings};
use crate::ops;
use crate::ops::{clip_factor, dot, join_columns, repeat, weighted_mse};
use crate::pipeline::text::trained_params;

use super::optimizer::{ParamUpdate, UpdateInputs};
use super::update::{Group, UpdatePlan, Vector, vectors};
pub use setup::{Recomputed, Setup, TrainedText};

/// The plans of a run, and the parameters that they touch.
pub struct TrainPlan {
    pub(super) setup: Setup,
    /// Forward and backward of the first micro-batch of an update; fused, of the pass that finds the norm.
    pub first: Plan,
    /// The same, adding to the gradients, where an update has several; fused, the pass that updates.
    pub next: Option<Plan>,
    /// Both for each other size of images.
    pub(super) more: Vec<(Plan, Option<Plan>, Inputs)>,
    pub(super) inputs: Inputs,
    pub(super) groups: Vec<Group>,
    /// What is updated in one dispatch each.
    pub(super) vectors: Vec<Vector>,
    /// Behind the passes; fused, they update themselves.
    pub(super) update: Option<UpdatePlan>,
    /// Every parameter of the models, frozen ones too.
    pub params: Vec<Param>,
}

#[derive(Clone)]
pub(super) struct Inputs {
    pub noisy: Tensor,
    /// Masks and masked latents of an inpainting model.
    pub extra: Option<Tensor>,
    pub target: Tensor,
    pub timesteps: Tensor,
    pub weights: Tensor,
    /// Hidden states `[prompts, tokens, width]`; where text encoders are trained, ids `[prompts, tokens]` for each.
    pub prompts: Vec<Tensor>,
    /// Selection `[prompts, 1, tokens]` of end tokens, where a text encoder that pools by it is trained.
    pub ends: Option<Tensor>,
    /// Pooled embeddings `[prompts, width]`, where they are read and no text encoder is trained.
    pub pooled: Option<Tensor>,
    /// Sizes of each image `[n, 6]`, for a model that reads them.
    pub time_ids: Option<Tensor>,
    pub errors: Tensor,
    /// What a fused update reads, and the norm that it finds.
    pub fused: Option<(UpdateInputs, Tensor)>,
}

/// What becomes of the gradients.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    /// They are stored.
    Store,
    /// They are added to what is stored.
    Accumulate,
    /// Only their norm is kept.
    Norm,
    /// Each updates its parameter.
    Update,
}

/// Where the factor that clips the gradients is between the passes of a fused update.
pub(super) const CLIP: &str = "clip";

impl TrainPlan {
    /// Records and plans the run; needs no GPU.
    pub fn new(setup: &Setup, caps: &Caps, variants: &Variants) -> Result<TrainPlan> {
        let passes = match (setup.fused, setup.accumulate > 1) {
            (true, true) => {
                let fault = message![option("fused_update"), " keeps no gradients to ", option("accumulate")];
                return Err(Error::usage("fused_update", fault));
            }
            (true, false) => (Pass::Norm, Some(Pass::Update)),
            (false, true) => (Pass::Store, Some(Pass::Accumulate)),
            (false, false) => (Pass::Store, None),
        };
        let plan = |g: &Graph| Plan::new(g, caps, variants, &PlanOptions::default());
        // Both passes record the same up to the gradients, so the handles of one are those of the other.
        let both = |latent: [usize; 3]| -> Result<_> {
            let (first, inputs, groups, params) = micro_step(setup, passes.0, latent)?;
            let next = passes.1.map(|pass| plan(&micro_step(setup, pass, latent)?.0)).transpose()?;
            Ok((plan(&first)?, next, inputs, groups, params))
        };
        let (first, next, inputs, groups, params) = both(setup.latent)?;
        let mut more = Vec::with_capacity(setup.more_sizes.len());
        for &[h, w] in &setup.more_sizes {
            let (first, next, inputs, ..) = both([h, w, setup.latent[2]])?;
            more.push((first, next, inputs));
        }
        let vectors = vectors(setup.fused, &groups, caps)?;
        let update = match setup.fused {
            true => None,
            false => Some(UpdatePlan::new(setup.optimizer, &groups, &vectors, caps, variants)?),
        };
        Ok(TrainPlan { setup: setup.clone(), first, next, more, inputs, groups, vectors, update, params })
    }

    /// The plans of both passes or kinds of micro-batch, for every size of images, and of the update behind them.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        let more = self.more.iter().flat_map(|(first, next, _)| std::iter::once(first).chain(next));
        let update = self.update.iter().map(|update| &update.plan);
        std::iter::once(&self.first).chain(&self.next).chain(more).chain(update)
    }

    /// Numbers that are trained.
    pub fn trainable(&self) -> usize {
        self.trained().map(Param::elements).sum()
    }

    /// What is trained, for people: how many parameters, in how many layers of a LoRA.
    pub fn trained_summary(&self) -> String {
        let layers = self.trained().filter(|param| param.role == Role::Adapter && param.key.ends_with(".up")).count();
        let of = if layers > 0 { format!(" in {layers} LoRA layers") } else { String::new() };
        format!("{} trainable parameters{of}", self.trainable())
    }

    fn trained(&self) -> impl Iterator<Item = &Param> {
        self.groups.iter().flat_map(|g| &g.params)
    }

    /// Adapters that no gradient reaches: they keep their starting values.
    pub(super) fn unreached(&self) -> Vec<Param> {
        let trained: HashSet<&str> = self.trained().map(|p| p.key.as_str()).collect();
        let rest = self.params.iter().filter(|p| p.role == Role::Adapter && !trained.contains(p.key.as_str()));
        rest.cloned().collect()
    }

    /// Bytes of a run's state on disk: parameters and moments.
    pub fn state_bytes(&self) -> u64 {
        self.trained()
            .map(|p| DType::F32.bytes(p.elements()) + 2 * self.setup.optimizer.moment_bytes(p.elements()))
            .sum()
    }

    /// Bytes of gradients and moments: what an update needs beside the parameters.
    pub fn optimizer_bytes(&self) -> u64 {
        let padded = |bytes: u64| bytes.next_multiple_of(256);
        let gradients = if self.setup.fused { 0 } else { self.trained().map(|p| padded(p.bytes())).sum() };
        let moments: u64 = self.trained().map(|p| 2 * padded(self.setup.optimizer.moment_bytes(p.elements()))).sum();
        gradients + moments
    }
}

type Recorded = (Graph, Inputs, Vec<Group>, Vec<Param>);

fn grad_key(param: &Param) -> String {
    format!("grad.{}", param.key)
}

fn micro_step(setup: &Setup, pass: Pass, [h, w, c]: [usize; 3]) -> Result<Recorded> {
    let mut g = Graph::new();
    let n = setup.batch();
    let noisy = g.input("noisy", [n, h, w, c], DType::F32);
    let further = setup.unet.in_channels.saturating_sub(c);
    let extra = (further > 0).then(|| g.input("mask and masked latents", [n, h, w, further], DType::F32));
    let target = g.input("target", [n, h, w, c], DType::F32);
    let timesteps = g.input("timesteps", [n], DType::F32);
    let weights = g.input("weights", [n], DType::F32);
    let mut groups = Vec::new();
    let mut params = Vec::new();

    let TextInputs { prompts: prompt_inputs, ends, hidden, pooled, pooled_input } =
        record_texts(&mut g, setup, &mut groups, &mut params)?;
    if setup.samples[1] > 0 && setup.samples[0] != setup.samples[1] {
        return Err(Error::argument(format!(
            "{} instance and {} class samples: each instance goes with one class image",
            setup.samples[0], setup.samples[1]
        )));
    }
    let shared = setup.samples[0] > 1 && !setup.captions;
    let each = |g: &mut Graph, of_prompts: Tensor| match shared {
        true => repeat(g, of_prompts, setup.samples[0]),
        false => Ok(of_prompts),
    };
    let context = each(&mut g, hidden)?;
    let time_ids = setup.unet.added().map(|_| g.input("time ids", [n, 6], DType::F32));
    let of_samples = match (pooled, time_ids) {
        (Some(pooled), Some(time_ids)) => Some(Added { pooled: each(&mut g, pooled)?, time_ids }),
        _ => None,
    };

    let (denoiser, scope) = trained_denoiser(setup)?;
    let conditioning = Conditioning { context: Context::Hidden(context), added: of_samples };
    let pred = denoiser.predict(&mut g, Sample { latents: noisy, extra }, timesteps, conditioning)?;
    let (total, errors) = weighted_mse(&mut g, pred, target, weights)?;
    g.output(errors);
    let trained = scope.params().into_iter().filter(|p| setup.lora.is_none() || p.role == Role::Adapter).collect();
    params.extend(scope.params());
    groups.insert(0, Group { label: "unet", params: trained });
    keep_reached(&g, total, &mut groups);

    let (prompts, pooled) = (prompt_inputs, pooled_input);
    let mut inputs =
        Inputs { noisy, extra, target, timesteps, weights, prompts, ends, pooled, time_ids, errors, fused: None };
    match pass {
        Pass::Store | Pass::Accumulate => store_gradients(&mut g, setup, total, &groups, pass == Pass::Accumulate)?,
        Pass::Norm | Pass::Update => {
            let update = UpdateInputs::new(&mut g, setup.optimizer, groups.iter().map(|group| group.label));
            let record = if pass == Pass::Norm { norm_pass } else { update_pass };
            let norm = record(&mut g, setup, total, &groups, &update)?;
            inputs.fused = Some((update, norm));
        }
    }
    Ok((g, inputs, groups, params))
}

/// The network as it is trained: frozen with adapters, or all of it in f32.
fn trained_denoiser(setup: &Setup) -> Result<(Box<dyn Denoiser>, Scope)> {
    let storage = if setup.lora.is_none() { Settings::default() } else { setup.storage.clone() };
    let nested_segments = setup.checkpoint == Recomputed::Nested;
    let settings = Settings { mode: Mode::Training, lora: setup.lora.clone(), nested_segments, ..storage };
    let scope = Scope::new("unet", settings);
    Ok((setup.unet.denoiser(&scope)?, scope))
}

/// Prompts as a micro-batch reads them.
struct TextInputs {
    prompts: Vec<Tensor>,
    ends: Option<Tensor>,
    hidden: Tensor,
    pooled: Option<Tensor>,
    /// `pooled`, where it is an input.
    pooled_input: Option<Tensor>,
}

/// Records the text encoders that are trained, or the inputs that take their place.
fn record_texts(g: &mut Graph, setup: &Setup, groups: &mut Vec<Group>, params: &mut Vec<Param>) -> Result<TextInputs> {
    let (prompts, tokens) = (setup.prompts(), setup.tokens);
    if setup.texts.is_empty() {
        let hidden = g.input("context", [prompts, tokens, setup.unet.cross_attention_dim.get(0)], DType::F32);
        let pooled = setup.unet.added().map(|added| g.input("pooled", [prompts, added.pooled], DType::F32));
        return Ok(TextInputs { prompts: vec![hidden], ends: None, hidden, pooled, pooled_input: pooled });
    }
    let settings = Settings { mode: Mode::Training, lora: setup.text_lora.clone(), ..setup.storage.clone() };
    let (mut ids, mut states, mut adapters) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ends, mut pooled) = (None, None);
    for text in &setup.texts {
        let scope = Scope::new(text.part.name(), settings.clone());
        let encoder = TextEncoder::new(&scope, text.config.clone())?;
        let input = g.input("ids", [prompts, tokens], DType::U32);
        let of_text = text.pooled.then(|| g.input("ends", [prompts, 1, tokens], DType::F32));
        let encoded = encoder.encode(g, input, Taps { skip: text.skip, ends: of_text })?;
        (ends, pooled) = (ends.or(of_text), pooled.or(encoded.pooled));
        ids.push(input);
        states.push(encoded.hidden);
        let own = trained_params(&scope, g);
        adapters.extend(own.iter().filter(|param| param.role == Role::Adapter).cloned());
        params.extend(own);
    }
    groups.push(Group { label: "text", params: adapters });
    let hidden = if let [hidden] = states[..] { hidden } else { join_columns(g, &states)? };
    Ok(TextInputs { prompts: ids, ends, hidden, pooled, pooled_input: None })
}

/// Leaves in `groups` what `loss` depends on. The rest has no gradient, so that an update would only decay it: it keeps its
/// starting values and is written with them, as PyTorch's optimizers treat parameters without a gradient.
fn keep_reached(g: &Graph, loss: Tensor, groups: &mut [Group]) {
    let read = g.dependencies(loss);
    let reached: HashSet<&str> = g.stored_tensors().filter(|(_, t)| read.contains(t)).map(|(key, _)| key).collect();
    for group in groups {
        group.params.retain(|param| reached.contains(param.key.as_str()));
    }
}

fn store_gradients(g: &mut Graph, setup: &Setup, loss: Tensor, groups: &[Group], accumulate: bool) -> Result<()> {
    let all: Vec<&Param> = groups.iter().flat_map(|group| &group.params).collect();
    let wrt: Vec<Tensor> = all.iter().map(|p| p.get(g)).collect::<Result<_>>()?;
    let grads = ops::grad(g, loss, &wrt, setup.checkpoint != Recomputed::None)?;
    let mut homes = HashSet::new();
    for (param, gradient) in all.into_iter().zip(grads) {
        let store = g.stored(&grad_key(param), param.shape.clone(), DType::F32)?;
        // A gradient that is another tensor's too, or that only renames one, needs a copy to have a home of its own.
        let own = match g.info(gradient).source {
            Source::Node(id, _) => g.nodes()[id].op.alias().is_none() && homes.insert(gradient),
            _ => false,
        };
        let value = match (accumulate, own) {
            (true, _) => ops::add(g, store, gradient)?,
            (false, true) => gradient,
            (false, false) => ops::scale(g, gradient, 1.0)?,
        };
        g.assign(store, value)?;
    }
    Ok(())
}

/// Trained parameters with the number of their group.
fn trained(groups: &[Group]) -> Vec<(usize, &Param)> {
    groups.iter().enumerate().flat_map(|(i, group)| group.params.iter().map(move |p| (i, p))).collect()
}

/// Records the first pass of a fused update; returns the norm of all gradients.
fn norm_pass(g: &mut Graph, setup: &Setup, loss: Tensor, groups: &[Group], update: &UpdateInputs) -> Result<Tensor> {
    let wrt: Vec<Tensor> = trained(groups).iter().map(|(_, p)| p.get(g)).collect::<Result<_>>()?;
    let clip = g.stored(CLIP, [1], DType::F32)?;
    let mut squares: Option<Tensor> = None;
    ops::grad_each(g, loss, &wrt, setup.checkpoint != Recomputed::None, &mut |g, _, gradient| {
        let square = dot(g, gradient, gradient)?;
        squares = Some(match squares {
            Some(before) => ops::add(g, before, square)?,
            None => square,
        });
        Ok(())
    })?;
    let Some(squares) = squares else { return Ok(clip) };
    let (norm, factor) = clip_factor(g, squares, update.max_norm)?;
    g.output(norm);
    g.assign(clip, factor)?;
    Ok(norm)
}

/// Records the second pass of a fused update, which updates each layer as soon as its gradient is there; returns the factor
/// that clips the gradients.
fn update_pass(g: &mut Graph, setup: &Setup, loss: Tensor, groups: &[Group], update: &UpdateInputs) -> Result<Tensor> {
    let all = trained(groups);
    let wrt: Vec<Tensor> = all.iter().map(|(_, p)| p.get(g)).collect::<Result<_>>()?;
    let clip = g.stored(CLIP, [1], DType::F32)?;
    ops::grad_each(g, loss, &wrt, setup.checkpoint != Recomputed::None, &mut |g, i, gradient| {
        let (group, param) = all[i];
        update.record(g, ParamUpdate { group, key: &param.key, param: wrt[i], gradient }, clip)
    })?;
    Ok(clip)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::TextEncoderConfig;
    use crate::nn::{LoraSpec, Targets};

    /// SDXL takes the states of its first text encoder before that one's last layer.
    #[test]
    fn what_no_gradient_reaches_is_not_updated() {
        let lora = LoraSpec { rank: 2, alpha: 2.0, targets: Targets::All };
        let scope =
            Scope::new("text_encoder", Settings { mode: Mode::Training, lora: Some(lora), ..Settings::default() });
        let config = r#"{"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3,
            "num_attention_heads": 2, "max_position_embeddings": 5}"#;
        let config = TextEncoderConfig::parse("text_encoder/config.json", config).unwrap();
        let encoder = TextEncoder::new(&scope, config).unwrap();
        let adapters = || scope.params().into_iter().filter(|p| p.role == Role::Adapter).collect::<Vec<_>>();
        let trained = |skip| {
            let mut g = Graph::new();
            let ids = g.input("ids", [1, 5], DType::U32);
            let hidden = encoder.encode(&mut g, ids, Taps { skip, ends: None }).unwrap().hidden;
            let loss = dot(&mut g, hidden, hidden).unwrap();
            let mut groups = [Group { label: "text", params: adapters() }];
            keep_reached(&g, loss, &mut groups);
            let wrt: Vec<Tensor> = groups[0].params.iter().map(|p| p.get(&mut g).unwrap()).collect();
            assert_eq!(ops::grad(&mut g, loss, &wrt, false).unwrap().len(), wrt.len());
            groups[0].params.iter().map(|p| p.key.clone()).collect::<Vec<_>>()
        };
        let all: Vec<String> = adapters().into_iter().map(|p| p.key).collect();
        assert_eq!((all.len(), trained(None)), (3 * 4 * 2, all.clone()));
        let reached: Vec<String> = all.into_iter().filter(|key| !key.contains("layers.2.")).collect();
        assert_eq!((reached.len(), trained(Some(1))), (2 * 4 * 2, reached));
    }
}
