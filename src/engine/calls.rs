//! The facade's calls as boxed futures. What an `async fn` awaits is compiled by the crate that awaits it, and for every
//! listener anew: all of a training in each program that trains. What a box holds is compiled here, once.

use std::path::Path;
use std::pin::Pin;

use crate::error::Result;
use crate::evaluate::{self, EvaluateOptions, Evaluation};
use crate::event::Listener;
use crate::generate::{self, GenerateOptions, Generated};
use crate::gpu::{DeviceOptions, Gpu, Variants};
use crate::identifier::{self, Identifiers, IdentifyOptions};
use crate::io::image::Planes;
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;
use crate::pipeline::reads::Reads;
use crate::pipeline::{LoraArg, Model, ModelOptions, VisionModel, opening};
use crate::train::{self, TrainOptions, Trained};

use super::tune;

/// A call's future.
pub(crate) type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// Rows of embeddings.
type Rows = Vec<Vec<f32>>;

pub(super) fn request(device: DeviceOptions) -> Call<'static, Gpu> {
    Box::pin(async move { Gpu::request(&device).await })
}

pub(super) fn measured<'a>(gpu: &'a Gpu, folder: &'a Path) -> Call<'a, Variants> {
    Box::pin(gpu.in_error_scopes(tune::remembered(gpu, folder)))
}

pub(super) fn read<'a>(gpu: &'a Gpu, texture: &'a wgpu::Texture) -> Call<'a, Vec<u8>> {
    Box::pin(gpu.in_error_scopes(gpu.read_texture(texture)))
}

pub(super) fn open<'a>(
    context: Context,
    options: &'a ModelOptions,
    loras: &'a [LoraArg],
    listener: Listener<'a>,
) -> Call<'a, Model> {
    Box::pin(async move {
        let mut events = EventSink::new(listener, &context.cancel);
        opening::open(&context, options, loras, Reads::NOTHING, &mut events).await
    })
}

pub(super) fn generate<'a>(
    context: Context,
    options: &'a GenerateOptions,
    listener: Listener<'a>,
) -> Call<'a, Generated> {
    Box::pin(async move { generate::generate(&context, options, listener).await })
}

pub(super) fn generate_with<'a>(
    context: Context,
    model: &'a Model,
    options: &'a GenerateOptions,
    listener: Listener<'a>,
) -> Call<'a, Generated> {
    Box::pin(async move {
        let made = generate::generate_with(&context, model, options, listener).await;
        model.settle_weights(&made);
        made
    })
}

pub(super) fn train<'a>(context: Context, options: &'a TrainOptions, listener: Listener<'a>) -> Call<'a, Trained> {
    Box::pin(async move { train::train(&context, options, listener).await })
}

pub(super) fn identify<'a>(
    context: Context,
    options: &'a IdentifyOptions,
    listener: Listener<'a>,
) -> Call<'a, Identifiers> {
    Box::pin(async move { identifier::identify(&context, options, listener).await })
}

pub(super) fn evaluate<'a>(
    context: Context,
    options: &'a EvaluateOptions,
    listener: Listener<'a>,
) -> Call<'a, Evaluation> {
    Box::pin(async move { evaluate::evaluate(&context, options, listener).await })
}

pub(super) fn embed_images<'a>(context: Context, model: &'a VisionModel, images: &'a [Planes]) -> Call<'a, Rows> {
    Box::pin(async move { model.embed_images(&context, images).await })
}

pub(super) fn embed_texts<'a>(context: Context, model: &'a VisionModel, texts: &'a [String]) -> Call<'a, Rows> {
    Box::pin(async move { model.embed_texts(&context, texts).await })
}

pub(super) fn embed_tokens<'a>(context: Context, model: &'a VisionModel, rows: &'a [Vec<u32>]) -> Call<'a, Rows> {
    Box::pin(async move { model.embed_tokens(&context, rows).await })
}
