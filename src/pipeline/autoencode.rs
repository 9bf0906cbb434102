//! Pictures to latents and back.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store, StoredBuffer};
use crate::graph::{Graph, Session, Tensor};
use crate::nn::Settings;
use crate::ops::scale;

use super::model::Model;
use super::planning::{Part, Planning};

impl Model {
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
}

/// The autoencoder's half that is at work, with its weights.
pub(crate) struct VaeSession {
    pub(crate) session: Session,
    pub(crate) input: Tensor,
    output: Tensor,
}

impl VaeSession {
    /// With the weights of the half that `part` recorded.
    pub(crate) async fn new(gpu: &Gpu, model: &Model, pool: &mut Pool, part: &Part) -> Result<VaeSession> {
        let weights = Store::beside(gpu, model.weights(gpu, part.name, &part.params).await?);
        let session = Session::new(gpu, part.plan.clone(), pool, &weights).await?;
        Ok(VaeSession { session, input: part.input, output: part.output })
    }

    /// Runs it on `values`.
    pub(crate) async fn run(&self, values: &[f32]) -> Result<Vec<f32>> {
        self.session.write(self.input, values)?;
        self.session.run().await?;
        self.session.read(self.output).await
    }

    /// Runs the encoder of `model` on an image, NHWC in [-1, 1].
    pub(crate) async fn encode(&self, pixels: &[f32], model: &Model) -> Result<Posterior> {
        Ok(Posterior::new(&self.run(pixels).await?, model.vae.latent_channels))
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

/// The distribution of an image's latents that the encoder gives, NHWC, not scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// Means.
    pub mean: Vec<f32>,
    /// Standard deviations.
    pub std: Vec<f32>,
}

impl Posterior {
    /// From the encoder's moments: NHWC, `channels` means before as many logarithms of variances.
    pub(crate) fn new(moments: &[f32], channels: usize) -> Posterior {
        let mut mean = Vec::with_capacity(moments.len() / 2);
        let mut std = Vec::with_capacity(moments.len() / 2);
        for pixel in moments.chunks(2 * channels) {
            mean.extend_from_slice(&pixel[..channels]);
            std.extend(pixel[channels..].iter().map(|l| (0.5 * l.clamp(-30.0, 20.0)).exp()));
        }
        Posterior { mean, std }
    }

    /// Latents drawn by `noise` (normal values, NHWC) and scaled by `factor`.
    pub fn sample(&self, noise: &[f32], factor: f64) -> Vec<f32> {
        let value =
            |((m, s), n): ((&f32, &f32), &f32)| ((f64::from(*m) + f64::from(*s) * f64::from(*n)) * factor) as f32;
        self.mean.iter().zip(&self.std).zip(noise).map(value).collect()
    }
}
