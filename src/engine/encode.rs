//! Prompts to hidden states, pictures to latents and back: the parts that run once.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store, StoredBuffer, Variants};
use crate::graph::{Graph, Plan, PlanOptions, Session, Tensor};
use crate::nn::{Param, Settings};
use crate::ops::scale;

use super::Model;
use super::kept::Weights;

/// Prompts that the text encoder takes at once.
pub(crate) const PROMPTS: usize = 8;

/// A recorded part: its graph's plan, what to write and what to read.
#[derive(Clone)]
pub(crate) struct Part {
    /// What people call it.
    pub name: &'static str,
    /// The plan.
    pub plan: Plan,
    /// The input.
    pub input: Tensor,
    /// The result.
    pub output: Tensor,
    /// Its weights.
    pub params: Vec<Param>,
}

/// The text encoder as it takes prompts, some at once.
pub(crate) struct TextParts {
    /// Of the first ones, as many as all but the last take.
    pub whole: Part,
    /// Of those that are left in the end, where they are fewer.
    pub rest: Option<Part>,
}

impl TextParts {
    pub(super) fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.whole).chain(&self.rest).map(|part| &part.plan)
    }
}

/// What it takes to plan: the adapter as data.
#[derive(Clone, Copy)]
pub(crate) struct Planning<'a> {
    /// Limits.
    pub caps: &'a crate::gpu::Caps,
    /// Chosen kernels.
    pub variants: &'a Variants,
    /// The device that is planned for, where there is one.
    pub gpu: Option<&'a Gpu>,
}

impl Planning<'_> {
    pub(crate) fn plan(&self, g: &Graph) -> Result<Plan> {
        Plan::new(g, self.caps, self.variants, &PlanOptions::default())
    }

    /// Gives the thread back to a host whose step has had its time: between two plans, for one takes up to some tenths of a
    /// second.
    pub(crate) async fn breathe(&self) {
        if let Some(gpu) = self.gpu {
            gpu.breathe().await;
        }
    }
}

impl Model {
    /// The text encoder of `prompts` prompts, [`PROMPTS`] at once.
    pub(crate) async fn plan_texts(&self, planning: Planning<'_>, prompts: usize, tokens: usize) -> Result<TextParts> {
        let plan = |prompts| self.plan_text_as(Settings::default(), planning, prompts, tokens);
        let whole = plan(prompts.min(PROMPTS))?;
        planning.breathe().await;
        let left = Some(prompts % PROMPTS).filter(|&left| prompts > PROMPTS && left > 0);
        let rest = left.map(plan).transpose()?;
        planning.breathe().await;
        Ok(TextParts { whole, rest })
    }

    /// That of so many prompts at once, with the mode and the adapters of `settings`.
    pub(super) fn plan_text_as(
        &self,
        settings: Settings,
        planning: Planning<'_>,
        prompts: usize,
        tokens: usize,
    ) -> Result<Part> {
        let (model, params) = self.text_part(Settings { dtype: self.dtype(planning.caps), ..settings })?;
        let mut g = Graph::new();
        let input = g.input("ids", [prompts, tokens], DType::U32);
        let output = model.forward(&mut g, input)?;
        g.output(output);
        Ok(Part { name: "text encoder", plan: planning.plan(&g)?, input, output, params })
    }

    pub(crate) fn plan_vae_encode(&self, planning: Planning<'_>, n: usize, [w, h]: [usize; 2]) -> Result<Part> {
        let settings = Settings { dtype: self.vae_dtype(planning.caps), ..Settings::default() };
        let (vae, params) = self.encoder_part(settings)?;
        let mut g = Graph::new();
        let input = g.input("image", [n, h, w, self.vae.in_channels], DType::F32);
        let output = vae.encode(&mut g, input)?;
        g.output(output);
        Ok(Part { name: "VAE encoder", plan: planning.plan(&g)?, input, output, params })
    }

    /// From latents as samplers leave them, where they are `scaled`, else as the decoder takes them.
    pub(crate) fn plan_vae_decode(
        &self,
        planning: Planning<'_>,
        n: usize,
        [w, h]: [usize; 2],
        scaled: bool,
    ) -> Result<Part> {
        let settings = Settings { dtype: self.vae_dtype(planning.caps), ..Settings::default() };
        let (vae, params) = self.decoder_part(settings)?;
        let mut g = Graph::new();
        let factor = self.factor();
        let input = g.input("latent", [n, h / factor, w / factor, self.vae.latent_channels], DType::F32);
        let latent = if scaled { scale(&mut g, input, 1.0 / self.vae.scaling_factor)? } else { input };
        let output = vae.decode(&mut g, latent)?;
        g.output(output);
        Ok(Part { name: "VAE decoder", plan: planning.plan(&g)?, input, output, params })
    }

    /// Hidden states of each of `prompts`, by the plans of so many.
    pub(crate) async fn encode_prompts(
        &self,
        gpu: &Gpu,
        TextParts { whole, rest }: TextParts,
        pool: &mut Pool,
        prompts: &[Vec<u32>],
    ) -> Result<Hidden> {
        let tokens = prompts.first().map_or(0, Vec::len);
        let mut hidden = Hidden { store: Store::new(gpu), count: prompts.len() };
        let bytes = DType::F32.value_bytes(tokens * self.text.hidden_size);
        let keys: Vec<(String, u64)> = (0..prompts.len()).map(|i| (i.to_string(), bytes)).collect();
        hidden.store.allocate("hidden states", &keys)?;
        // A last, shorter chunk has the same weights.
        let weights = self.weights(gpu, whole.name, &whole.params).await?;
        let mut sessions = Vec::with_capacity(2);
        for part in [Some(whole), rest].into_iter().flatten() {
            sessions.push((Session::new(gpu, part.plan, pool, &weights).await?, part.input, part.output));
        }
        let mut done = 0;
        for chunk in prompts.chunks(PROMPTS) {
            let is_whole = chunk.len() == prompts.len().min(PROMPTS);
            let Some((session, input, output)) = sessions.get(usize::from(!is_whole)) else { continue };
            session.write_ids(*input, &chunk.concat())?;
            session.run().await?;
            let states = session.place(*output)?;
            for row in 0..chunk.len() {
                hidden.take(gpu, done + row, &states.part(row, chunk.len())?)?;
            }
            done += chunk.len();
        }
        Ok(hidden)
    }
}

/// Hidden states `[tokens, width]` of some prompts, on the device.
pub(crate) struct Hidden {
    store: Store,
    count: usize,
}

impl Hidden {
    /// Writes those of prompts `which`, in this order, to `input` of `session`.
    pub(crate) fn give(&self, gpu: &Gpu, which: &[usize], session: &Session, input: Tensor) -> Result<()> {
        let to = session.place(input)?;
        for (row, i) in which.iter().enumerate() {
            gpu.copy(self.store.entry(&i.to_string())?, &to.part(row, which.len())?)?;
        }
        Ok(())
    }

    /// Copies the hidden states `from` into prompt `index`.
    pub(super) fn take(&self, gpu: &Gpu, index: usize, from: &StoredBuffer) -> Result<()> {
        gpu.copy(from, self.store.entry(&index.to_string())?)
    }

    /// All of them, on the host.
    pub(crate) async fn read(&self) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(self.count);
        for i in 0..self.count {
            all.push(bytemuck::pod_collect_to_vec(&self.store.read(&i.to_string()).await?));
        }
        Ok(all)
    }
}

/// The autoencoder's half that is at work, with its weights.
pub(crate) struct VaeSession<'m> {
    session: Session,
    input: Tensor,
    output: Tensor,
    _weights: Weights<'m>,
}

impl VaeSession<'_> {
    /// With the weights of the half that `part` recorded.
    pub(crate) async fn new<'m>(gpu: &Gpu, model: &'m Model, pool: &mut Pool, part: Part) -> Result<VaeSession<'m>> {
        let weights = model.weights(gpu, part.name, &part.params).await?;
        let session = Session::new(gpu, part.plan, pool, &weights).await?;
        Ok(VaeSession { session, input: part.input, output: part.output, _weights: weights })
    }

    /// Runs it on `values`.
    pub(crate) async fn run(&self, values: &[f32]) -> Result<Vec<f32>> {
        self.session.write(self.input, values)?;
        self.session.run().await?;
        self.session.read(self.output).await
    }

    /// Runs it on what `from` holds.
    pub(crate) async fn run_on(&self, from: &StoredBuffer) -> Result<()> {
        self.session.gpu().copy(from, &self.session.place(self.input)?)?;
        self.session.run().await
    }

    /// The memory of what it made.
    pub(crate) fn made(&self) -> Result<StoredBuffer> {
        self.session.place(self.output)
    }

    /// What it made, on the host.
    pub(crate) async fn read(&self) -> Result<Vec<f32>> {
        self.session.read(self.output).await
    }
}

/// Mean and standard deviation of a posterior, from its moments (NHWC, means before logarithms of variances).
pub(crate) fn posterior(moments: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let mut mean = Vec::with_capacity(moments.len() / 2);
    let mut std = Vec::with_capacity(moments.len() / 2);
    for pixel in moments.chunks(2 * channels) {
        mean.extend_from_slice(&pixel[..channels]);
        std.extend(pixel[channels..].iter().map(|l| (0.5 * l.clamp(-30.0, 20.0)).exp()));
    }
    (mean, std)
}
