//! Run of a generation: encode the prompts, sample each image, decode.

use crate::error::{Result, message, option};
use crate::event::{Listener, Phase};
use crate::gpu::{Gpu, Pool};
use crate::graph::Plan;
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::context::Context;
use crate::pipeline::denoise::Sampling;
use crate::pipeline::encode::Destination;
use crate::pipeline::events::EventSink;
use crate::pipeline::hidden::Hidden;
use crate::pipeline::image_plans::ImagePlans;
use crate::pipeline::prompt::{unread_syntax, without_tags};
use crate::pipeline::text::Tokens;
use crate::pipeline::{Model, opening};

use super::GenerateOptions;
use super::generated::Generated;
use super::making::Making;
use super::planned::{Planned, encodes_negative};
use super::start_image::Encoded;

/// Opens the model of `job` and makes its images.
pub(crate) async fn generate(context: &Context, job: &GenerateOptions, listener: Listener<'_>) -> Result<Generated> {
    job.check()?;
    let mut events = EventSink::new(listener, &context.cancel);
    // Boxed: a host's thread may have little stack.
    let open = Box::pin(opening::open(context, &job.model, &job.loras, job.reads(), &mut events));
    let model = open.await?.merging(job.merge);
    job.check_mask(&model)?;
    context.gpu.in_error_scopes(Box::pin(make(context, &model, job, &mut events))).await
}

/// Makes the images of `job` with an open model.
pub(crate) async fn generate_with(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    listener: Listener<'_>,
) -> Result<Generated> {
    job.check()?;
    job.check_mask(model)?;
    generate_unmasked(context, model, job, listener).await
}

/// Makes the images of `job` with an open model. An inpainting model without a mask keeps nothing and works from the prompt
/// alone, as the class images of a training are made.
pub(crate) async fn generate_unmasked(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    listener: Listener<'_>,
) -> Result<Generated> {
    let mut events = EventSink::new(listener, &context.cancel);
    context.gpu.in_error_scopes(Box::pin(make(context, model, job, &mut events))).await
}

/// Makes the images of `job` as they were `planned` for `model`.
pub(crate) async fn generate_planned(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    planned: &Planned,
    listener: Listener<'_>,
) -> Result<Generated> {
    let mut events = EventSink::new(listener, &context.cancel);
    context.gpu.in_error_scopes(Box::pin(run(context, model, job, planned, &mut events))).await
}

async fn make(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    events: &mut EventSink<'_>,
) -> Result<Generated> {
    context.gpu.breathe().await;
    let planned = Planned::new(job, model, context.planning(), &mut |event| events.say(event)).await?;
    run(context, model, job, &planned, events).await
}

async fn run(
    context: &Context,
    model: &Model,
    job: &GenerateOptions,
    planned: &Planned,
    events: &mut EventSink<'_>,
) -> Result<Generated> {
    let Planned { recipe, size, plans } = planned;
    let (init, mask) = (job.start_picture(*size)?, job.start_mask(*size)?);
    if mask.as_ref().is_some_and(|mask| mask.share() == 0.0) {
        events.warn(message![option("mask"), " is nowhere white: nothing of ", option("init"), " is repainted"]);
    }
    tell_settings(job, model, planned, events);
    let mut tokens = |prompt: &String| model.tokens(&without_tags(prompt).0, &mut |event| events.say(event));
    let negative =
        (recipe.guided() && encodes_negative(job, model)).then(|| tokens(&job.sampling.negative)).transpose()?;
    let prompts = job.prompts.iter().map(tokens).collect::<Result<Vec<_>>>()?;
    events.phase(Phase::EncodingPrompts)?;
    let ahead = context.gpu.compile_ahead(plans.plans().flat_map(Plan::kernels)).await?;
    let (gpu, context) = (&ahead.gpu, &context.on(&ahead.gpu));
    let mut pool = Pool::default();
    let encoding = encode(gpu, model, plans, &mut pool, (negative, prompts));
    let hidden = events.until_stopped(gpu, encoding).await?;

    let encoded = match plans.encode.as_ref() {
        Some(part) => {
            pool.fit(gpu, &part.plan.arena)?;
            let vae = events.until_stopped(gpu, VaeSession::new(gpu, model, &mut pool, part)).await?;
            Encoded::new(&vae, model, job, (init, mask), *size).await?
        }
        None => Encoded::default(),
    };

    events.phase(Phase::LoadingModel)?;
    let making = Making { context, model, job, recipe, size: *size, start_names: job.start_names() };
    pool.fit(gpu, &plans.loop_arena())?;
    let weights = events.until_stopped(gpu, model.weights(gpu, "UNet", &plans.params)).await?;
    let sampling = Sampling::new(gpu, &plans.sampling, &*plans.denoiser, &mut pool, weights);
    let sampling = events.until_stopped(gpu, sampling).await?;
    events.phase(Phase::Sampling)?;
    let sampled = making.sample(&sampling, &hidden, encoded, events).await?;
    drop((sampling, hidden));
    let pictures = making.decode(&plans.decode, &mut pool, &sampled, events).await?;
    let latents = job.keep_latents.then(|| making.latents(&sampled.steps));
    Ok(Generated { pictures, latents })
}

/// Says how the images are made, and what of the options and prompts does nothing.
fn tell_settings(job: &GenerateOptions, model: &Model, planned: &Planned, events: &mut EventSink<'_>) {
    let Planned { recipe, size: [width, height], .. } = planned;
    let (kind, steps, guidance) = (recipe.trajectory.kind.name(), recipe.steps, recipe.guidance);
    let plural = if steps == 1 { "" } else { "s" };
    events.note(format!("{kind}, {steps} step{plural}, guidance {guidance}, {width}x{height}"));
    for note in planned.remarks(job, model) {
        events.note(note);
    }
    if !job.sampling.negative.is_empty() && !recipe.guided() {
        let idle = format!(" does nothing at guidance {guidance}: give a ");
        events.warn(message![option("negative"), idle, option("guidance"), " above 1"]);
    }
    for text in job.prompts.iter().chain([&job.sampling.negative]) {
        warn_of_syntax(text, events);
    }
}

/// Encodes the negative prompt, the first of all, and the others.
async fn encode(
    gpu: &Gpu,
    model: &Model,
    plans: &ImagePlans,
    pool: &mut Pool,
    (negative, prompts): (Option<Tokens>, Vec<Tokens>),
) -> Result<Hidden> {
    let hidden = Hidden::new(gpu, model.hidden_shape(model.prompt_tokens()), 1 + prompts.len())?;
    let first = usize::from(negative.is_none());
    let prompts: Vec<Tokens> = negative.into_iter().chain(prompts).collect();
    model.encode_prompts(gpu, &plans.text, pool, &prompts, Destination::Device(&hidden, first)).await?;
    Ok(hidden)
}

/// Says what of `prompt` loads or weighs something in other programs, and not here.
fn warn_of_syntax(prompt: &str, events: &mut EventSink<'_>) {
    for tag in without_tags(prompt).1 {
        events
            .warn(message![format!("{tag} in a prompt loads nothing and is left out: load it with "), option("loras")]);
    }
    if let Some(found) = unread_syntax(prompt) {
        let message =
            format!("\"{found}\" in a prompt is read as words: weights and breaks of other programs do nothing here");
        events.warn(message);
    }
}
