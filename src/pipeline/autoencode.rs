//! Images to latents and back.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Pool, Store, StoredBuffer};
use crate::graph::{Graph, Session, Tensor};
use crate::io::image::Mask;
use crate::nn::Settings;
use crate::ops::scale;

use super::model::Model;
use super::planning::{Part, Planning};
use super::{Masked, Posterior};

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

    /// Encodes an image, NHWC in [-1, 1] and of the size of `mask`, with the mask cut out.
    pub(crate) async fn encode_masked(&self, mut pixels: Vec<f32>, mask: &Mask, model: &Model) -> Result<Masked> {
        mask.cut_out(&mut pixels);
        Ok(Masked { mask: mask.latent(model.factor()), posterior: self.encode(&pixels, model).await? })
    }

    /// Encodes an image of `width` x `height` pixels of which nothing is kept: an inpainting model then works from the prompt
    /// alone.
    pub(crate) async fn encode_nothing(&self, [width, height]: [usize; 2], model: &Model) -> Result<Masked> {
        let pixels = vec![0.0; width * height * model.vae.in_channels];
        self.encode_masked(pixels, &Mask::new(width, height, |_, _| true), model).await
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
