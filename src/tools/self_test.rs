//! Checks and timings for pages, which have no `cargo test`: kernels against their references, and whole steps.

use crate::engine::{Call, Engine};
use crate::error::{Error, Result};
use crate::gpu::{AdapterClass, Caps, Variants};
use crate::nn::{Ranks, Targets};
use crate::ops::{Case, cases};
use crate::pipeline::{Model, ModelOptions};
use crate::train::TrainOptions;

use super::Stopwatch;
use super::model_steps::{training_step, unet_step};

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
pub fn stopwatch<'a>(engine: &'a Engine, step: &'a str, options: &'a ModelOptions) -> Call<'a, Stopwatch> {
    Box::pin(prepare(engine, step, options))
}

async fn prepare(engine: &Engine, step: &str, options: &ModelOptions) -> Result<Stopwatch> {
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
            training_step(engine, &model, &job).await?
        }
        _ => return Err(Error::argument(format!("step {step}: there are unet, unet-lora and train"))),
    };
    Stopwatch::new(engine, plan).await
}
