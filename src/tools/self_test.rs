//! Checks and timings for pages, which have no `cargo test`: kernels against their references, and whole steps.

use web_time::Instant;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::{AdapterClass, Caps, Pool, Store, Variants};
use crate::graph::{Plan, Session};
use crate::nn::{Ranks, Targets};
use crate::ops::{Case, cases};
use crate::pipeline::{Model, ModelOptions};
use crate::train::TrainOptions;
use crate::train::plans::{plan_training, training_alone};

use super::bench_steps::unet_step;

/// Whole step of a model that can be timed repeatedly.
pub struct Stopwatch {
    session: Session,
    _store: Store,
}

impl Stopwatch {
    /// Runs the step once and returns its seconds.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub async fn run(&self) -> Result<f64> {
        let start = Instant::now();
        self.session.run().await?;
        self.session.gpu().wait().await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Runs test case `index` of the op called `op`, with the kernels for this adapter or, if `hardware`, with those for GPUs.
/// Returns `None` if there is no such case; the inner `Err` says what the kernel computes wrongly.
///
/// # Errors
/// If the case cannot be planned or run.
pub async fn check_kernel(
    engine: &Engine,
    op: &str,
    index: usize,
    hardware: bool,
) -> Result<Option<Result<(), String>>> {
    let found = cases().into_iter().find(|(name, _)| *name == op);
    let Some(case) = found.and_then(|(_, cases)| cases.into_iter().nth(index)) else { return Ok(None) };
    let own = engine.gpu.caps();
    let caps = Caps { class: if hardware { AdapterClass::Gpu } else { own.class }, ..own.clone() };
    Case::run(&case, &engine.gpu, &caps, &Variants::default(), index as u64).await.map(Some)
}

/// Prepares a step of a model for timing: `step` is "unet" (guided), "unet-lora" (the same with an unmerged LoRA of rank 8 on
/// the attention layers), or "train" (one image and one class image, rank 8).
///
/// # Errors
/// If the model cannot be opened or does not fit.
pub async fn stopwatch(engine: &Engine, step: &str, options: &ModelOptions) -> Result<Stopwatch> {
    let model = Model::open(options, &[], &mut |_| crate::event::Flow::Continue)?;
    let plan = match step {
        "unet" => unet_step(engine, &model, Ranks::new())?,
        "unet-lora" => {
            let layers = model.checkpoint.modules();
            let layers = layers.of(crate::io::PartId::UNET).map(|(path, _)| format!("unet.{path}"));
            let ranks = layers.filter(|layer| Targets::Attention.covers(layer)).map(|layer| (layer, 8)).collect();
            unet_step(engine, &model, ranks)?
        }
        "train" => {
            let job = TrainOptions { rank: 8, model: options.clone(), ..TrainOptions::default() };
            let side = model.native_side() / model.factor();
            let latent = [side, side, model.vae.latent_channels];
            let setup = job.setup(&model, engine.gpu.caps(), [1, 1], latent, model.prompt_tokens());
            plan_training(&job, setup, engine.planning(), training_alone).await?.first.into()
        }
        _ => return Err(Error::argument(format!("step {step}: there are unet, unet-lora and train"))),
    };
    let store = zeroed(engine, &plan)?;
    Ok(Stopwatch { session: Session::new(&engine.gpu, plan, &mut Pool::default(), &store).await?, _store: store })
}

/// Room for all that `plan` expects stored.
pub(crate) fn zeroed(engine: &Engine, plan: &Plan) -> Result<Store> {
    let mut store = Store::new(&engine.gpu);
    let tensors: Vec<(String, u64)> = plan.stored.iter().map(|(k, b)| (k.clone(), *b)).collect();
    store.allocate("zeros", &tensors)?;
    Ok(store)
}
