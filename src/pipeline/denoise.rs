//! The denoising loop: one evaluation of the denoiser and one linear update a step, all of it on the adapter.

use std::sync::Arc;

use crate::base::rng::NoiseRng;
use crate::base::{DType, layout};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pool, Store, StoredBuffer};
use crate::graph::{Graph, Plan, Session, Tensor};
use crate::models::{Added, Conditioning, Context, Denoiser, LatentSpec, Sample};
use crate::nn::Mode;
use crate::ops::{rescaled_guidance, sampler_step, scale_input};

use super::hidden::Hidden;
use super::inpaint::Masked;
use super::planning::Planning;
use super::recipe::Recipe;

/// Size of what is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Extent {
    /// Images that are sampled together.
    pub batch: usize,
    /// The autoencoder's latents.
    pub latent: LatentSpec,
    /// Latent height and width.
    pub size: [usize; 2],
    /// Channels of the mask and the masked latents, of an inpainting model.
    pub extra: usize,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Width of the pooled embeddings, for a denoiser that reads them and the sizes of an image.
    pub pooled: Option<usize>,
    /// An unconditional pass runs beside.
    pub guided: bool,
    /// The guided prediction gets the prompt's own spread.
    pub rescaled: bool,
    /// State slots of the sampler.
    pub slots: usize,
}

impl Extent {
    /// Evaluations of an image in a step.
    fn passes(&self) -> usize {
        if self.guided { 2 } else { 1 }
    }

    /// Samples that the denoiser sees in a step: without the prompt those of all images, then those with it.
    fn samples(&self) -> usize {
        self.passes() * self.batch
    }

    /// Values of an image's latent.
    pub(crate) fn elements(&self) -> usize {
        self.size[0] * self.size[1] * self.latent.channels
    }
}

/// The plans of the loop.
pub(crate) struct SamplingPlan {
    extent: Extent,
    /// One step.
    pub step: Arc<Plan>,
    /// Keys and values of a prompt, where they are computed apart.
    pub context: Option<Arc<Plan>>,
    inputs: Inputs,
}

#[derive(Clone, Copy)]
struct Inputs {
    hidden: Tensor,
    /// Mask and masked latents of each sample.
    extra: Option<Tensor>,
    added: Option<Added>,
    timestep: Tensor,
    scale: Tensor,
    noise: Tensor,
    matrix: Tensor,
    guidance: Tensor,
    state: Tensor,
}

fn slot_key(i: usize) -> String {
    format!("sampler.{i}")
}

impl SamplingPlan {
    /// Records the loop for `denoiser`; an inference model computes a prompt's keys and values once.
    pub(crate) fn new(
        planning: Planning<'_>,
        denoiser: &dyn Denoiser,
        mode: Mode,
        extent: Extent,
    ) -> Result<SamplingPlan> {
        let n = extent.samples();
        let [h, w] = extent.size;
        let hidden_shape = [n, extent.tokens, extent.width];
        let mut g = Graph::new();
        let (mut context, mut hidden) = (None, None);
        let pairs;
        let seen = if mode == Mode::Inference {
            let mut c = Graph::new();
            let input = c.input("hidden", hidden_shape, DType::F32);
            denoiser.store_context(&mut c, input)?;
            hidden = Some(input);
            context = Some(planning.plan(&c)?);
            pairs = denoiser.stored_context(&mut g, n, extent.tokens)?;
            Context::KeyValues(&pairs)
        } else {
            let input = g.input("hidden", hidden_shape, DType::F32);
            hidden = hidden.or(Some(input));
            Context::Hidden(input)
        };
        let shape = [extent.batch, h, w, extent.latent.channels];
        let state: Vec<Tensor> =
            (0..extent.slots).map(|i| g.stored(&slot_key(i), shape, DType::F32)).collect::<Result<_>>()?;
        let timestep = g.input("timestep", [n], DType::F32);
        let scale = g.input("input scale", [1], DType::F32);
        let noise = g.input("noise", shape, DType::F32);
        let matrix = g.input("matrix", [extent.slots, extent.slots + 2], DType::F32);
        let guidance = g.input("guidance", [if extent.rescaled { 2 } else { 1 }], DType::F32);
        let x = scale_input(&mut g, state[0], scale, extent.passes())?;
        let extra = (extent.extra > 0).then(|| g.input("mask and masked latents", [n, h, w, extent.extra], DType::F32));
        let added = extent.pooled.map(|width| Added {
            pooled: g.input("pooled", [n, width], DType::F32),
            time_ids: g.input("time ids", [n, 6], DType::F32),
        });
        let conditioning = Conditioning { context: seen, added };
        let out = denoiser.predict(&mut g, Sample { latents: x, extra }, timestep, conditioning)?;
        // A rescaled prediction is one pass's already.
        let (out, guided) = match extent.rescaled {
            true => (rescaled_guidance(&mut g, out, guidance)?, false),
            false => (out, extent.guided),
        };
        sampler_step(&mut g, &state, out, noise, matrix, guidance, guided)?;
        let hidden = hidden.unwrap_or(x);
        let inputs = Inputs { hidden, extra, added, timestep, scale, noise, matrix, guidance, state: state[0] };
        Ok(SamplingPlan { extent, step: planning.plan(&g)?, context, inputs })
    }

    /// Both plans.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        [Some(&*self.step), self.context.as_deref()].into_iter().flatten()
    }
}

/// The loop, compiled.
pub(crate) struct Sampling {
    extent: Extent,
    step: Session,
    context: Option<Session>,
    inputs: Inputs,
    /// The sampler's state and a prompt's keys and values, beside the weights.
    store: Store,
}

/// What a run begins with beside noise.
#[derive(Clone, Copy, Default)]
pub(crate) struct Start<'a> {
    /// Latents that image to image starts from, of each image of the batch, NHWC and scaled.
    pub latents: Option<&'a [f32]>,
    /// Mask and masked image of an inpainting model.
    pub masked: Option<&'a Masked>,
    /// Sizes of the image in pixels, for a UNet that reads them: original height and width, top and left of the crop,
    /// target height and width.
    pub time_ids: [f32; 6],
}

/// A step's news: index, and the latents of the batch, NHWC, where they were asked for.
pub(crate) type OnStep<'a> = &'a mut dyn FnMut(usize, Option<Vec<f32>>) -> Result<()>;

impl Sampling {
    /// Compiles `plan` for the denoiser's `weights`.
    pub(crate) async fn new(
        gpu: &Gpu,
        plan: &SamplingPlan,
        denoiser: &dyn Denoiser,
        pool: &mut Pool,
        weights: impl IntoIterator<Item = Arc<Store>>,
    ) -> Result<Sampling> {
        let mut store = Store::beside(gpu, weights);
        for arena in plan.plans().map(|p| &p.arena) {
            pool.reserve(gpu, arena)?;
        }
        let extent = plan.extent;
        let bytes = DType::F32.bytes(extent.batch * extent.elements());
        let mut tensors: Vec<(String, u64)> = (0..extent.slots).map(|i| (slot_key(i), bytes)).collect();
        if plan.context.is_some() {
            tensors.extend(denoiser.context_tensors(extent.samples(), extent.tokens));
        }
        store.allocate("sampler", &tensors)?;
        let context = match &plan.context {
            Some(plan) => Some(Session::new(gpu, plan.clone(), pool, &store).await?),
            None => None,
        };
        let step = Session::new(gpu, plan.step.clone(), pool, &store).await?;
        Ok(Sampling { extent, step, context, inputs: plan.inputs, store })
    }

    /// Sets the prompts: their numbers in `hidden`, of the unconditional one and of each image's.
    pub(crate) async fn set_prompts(&self, hidden: &Hidden, without: usize, with: &[usize]) -> Result<()> {
        let unconditional = if self.extent.guided { with.len() } else { 0 };
        let which: Vec<usize> = std::iter::repeat_n(without, unconditional).chain(with.iter().copied()).collect();
        let session = self.context.as_ref().unwrap_or(&self.step);
        hidden.give(session.gpu(), &which, session, self.inputs.hidden)?;
        if let Some(Added { pooled, .. }) = self.inputs.added {
            hidden.give_pooled(self.step.gpu(), &which, &self.step, pooled)?;
        }
        match &self.context {
            Some(session) => session.run().await,
            None => Ok(()),
        }
    }

    /// Number of images that are sampled together.
    pub(crate) fn batch(&self) -> usize {
        self.extent.batch
    }

    /// The memory of the latent of image `index` of the batch, NHWC.
    pub(crate) fn latent(&self, index: usize) -> Result<StoredBuffer> {
        self.step.place(self.inputs.state)?.part(index, self.extent.batch)
    }

    /// The latents of the batch, on the host.
    pub(crate) async fn read(&self) -> Result<Vec<f32>> {
        self.step.read(self.inputs.state).await
    }

    /// Height and width of the latent.
    pub(crate) fn latent_size(&self) -> [usize; 2] {
        self.extent.size
    }

    /// A draw of one latent's shape, in PyTorch's order of elements, as NHWC.
    pub(crate) fn draw(&self, rng: &mut NoiseRng) -> Vec<f32> {
        let [h, w] = self.extent.size;
        layout::to_channels_last(&rng.randn(self.extent.elements()), [1, self.extent.latent.channels, h, w])
    }

    /// A draw of each image's own stream, side by side.
    fn draw_all(&self, rngs: &mut [NoiseRng]) -> Vec<f32> {
        rngs.iter_mut().flat_map(|rng| self.draw(rng)).collect()
    }

    /// Writes the mask and the masked latents, which are drawn after the first noise as diffusers draws them.
    fn write_extra(&self, masked: Option<&Masked>, rngs: &mut [NoiseRng]) -> Result<()> {
        let Some(extra) = self.inputs.extra else { return Ok(()) };
        let Extent { latent, .. } = self.extent;
        let masked = masked.ok_or_else(|| Error::op("sampling", "an inpainting model without a mask"))?;
        let mut channels = Vec::new();
        for rng in rngs {
            channels.extend(masked.extra(&self.draw(rng), latent.scaling_factor, latent.channels));
        }
        self.step.write(extra, &channels.repeat(self.extent.passes()))
    }

    /// Runs `recipe` from `start` and fresh noise of `rngs`, one of each image. `watch` asks for the latents after every step.
    pub(crate) async fn run(
        &self,
        recipe: &Recipe,
        start: Start<'_>,
        rngs: &mut [NoiseRng],
        watch: bool,
        on_step: OnStep<'_>,
    ) -> Result<()> {
        let trajectory = &recipe.trajectory;
        let mut first: Vec<f32> = self.draw_all(rngs).iter().map(|x| x * trajectory.init_scale).collect();
        if let Some(latent) = start.latents {
            first.iter_mut().zip(latent).for_each(|(x, l)| *x += trajectory.image_scale * l);
        }
        self.store.write(&slot_key(0), bytemuck::cast_slice(&first))?;
        for i in 1..trajectory.slots {
            self.store.write(&slot_key(i), bytemuck::cast_slice(&vec![0f32; first.len()]))?;
        }
        self.write_extra(start.masked, rngs)?;
        if let Some(Added { time_ids, .. }) = self.inputs.added {
            self.step.write(time_ids, &start.time_ids.repeat(self.extent.samples()))?;
        }
        let at = &self.inputs;
        let guidance = [recipe.guidance as f32, recipe.rescale as f32];
        self.step.write(at.guidance, if self.extent.rescaled { &guidance } else { &guidance[..1] })?;
        for (i, step) in trajectory.steps.iter().enumerate() {
            self.step.write(at.timestep, &vec![step.timestep as f32; self.extent.samples()])?;
            self.step.write(at.scale, &[step.input_scale])?;
            self.step.write(at.matrix, &step.matrix)?;
            if step.noise {
                self.step.write(at.noise, &self.draw_all(rngs))?;
            } else if i == 0 {
                self.step.write(at.noise, &vec![0.0; first.len()])?;
            }
            self.step.run().await?;
            let seen = if watch { Some(self.read().await?) } else { None };
            on_step(i, seen)?;
        }
        Ok(())
    }
}
