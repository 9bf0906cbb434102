//! Whether a network predicts noise or velocity, where its file does not say: a look at one prediction.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Pool, Store};
use crate::graph::{Graph, Session};
use crate::models;
use crate::pipeline::context::Context;

use super::Model;

/// Pixels of a side of the latent that is looked at: the smallest that every UNet of the family halves.
const SIDE: usize = 8;
/// What the latent and the prompt's hidden states are filled with.
const FILL: f32 = 0.5;
/// The noisiest timestep.
const TIMESTEP: f32 = 999.0;
/// Below this mean of prediction minus latent it is a velocity: a noise predictor gives back about what it was given,
/// a velocity predictor about the negative of the image (the rule and the numbers are stable-diffusion.cpp's).
const VELOCITY: f32 = -1.0;

/// A pixel of what the UNet reads: the latent and, in an inpainting model, a mask that keeps nothing.
fn filled(model: &Model) -> Vec<f32> {
    let mut pixel = vec![0.0; model.unet.in_channels];
    let (latent, extra) = pixel.split_at_mut(model.vae.latent_channels.min(model.unet.in_channels));
    latent.fill(FILL);
    if let Some(mask) = extra.first_mut() {
        *mask = 1.0;
    }
    pixel
}

/// Looks at one prediction of `model`: whether it is a velocity.
pub(super) async fn predicts_velocity(context: &Context, model: &Model) -> Result<bool> {
    let planning = context.planning();
    let (denoiser, params) = model.denoiser(model.settings(planning.caps, &Default::default()))?;
    let mut g = Graph::new();
    let sample = g.input("sample", [1, SIDE, SIDE, model.unet.in_channels], DType::F32);
    let timestep = g.input("timestep", [1], DType::F32);
    let tokens = model.prompt_tokens();
    let hidden = g.input("hidden", [1, tokens, model.context_width()], DType::F32);
    let out = denoiser.predict(&mut g, sample.into(), timestep, models::Context::Hidden(hidden).into())?;
    g.output(out);
    let mut store = Store::new(&context.gpu);
    model.load(&mut store, "unet", &params).await?;
    let session = Session::new(&context.gpu, planning.plan(&g)?, &mut Pool::default(), &store).await?;
    session.write(sample, &filled(model).repeat(SIDE * SIDE))?;
    session.write(timestep, &[TIMESTEP])?;
    session.write(hidden, &vec![FILL; tokens * model.context_width()])?;
    session.run().await?;
    let seen = session.read(out).await?;
    let mean = seen.iter().map(|x| x - FILL).sum::<f32>() / seen.len().max(1) as f32;
    Ok(mean < VELOCITY)
}
