//! [`Engine`]: opens a device or takes a host's, and starts every job.

use crate::error::Result;
use crate::evaluate::{EvaluateOptions, Evaluation};
use crate::event::{CancelToken, Event, Flow};
use crate::generate::{GenerateOptions, Generated};
use crate::gpu::{DeviceOptions, Gpu, Variants};
use crate::identifier::{Identifiers, IdentifyOptions};
use crate::io::image::Planes;
use crate::pipeline::context::Context;
use crate::pipeline::planning::Planning;
use crate::pipeline::{LoraArg, Model, ModelOptions, VisionModel};
use crate::train::{TrainOptions, Trained};

use super::{calls, tune};

/// Returns the features of `adapter` that make the engine faster. None of them is required.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter.features() & crate::gpu::USED_FEATURES
}

/// Returns the limits to request for a device that the engine uses: WebGPU's defaults, lowered to what `adapter` has, with
/// its largest bindings and buffers. A host with needs of its own requests
/// `mine.or_better_values_from(&required_limits(&adapter))`.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let most = adapter.limits();
    wgpu::Limits {
        max_storage_buffer_binding_size: most.max_storage_buffer_binding_size,
        max_buffer_size: most.max_buffer_size,
        ..wgpu::Limits::default().or_worse_values_from(&most)
    }
}

/// Options of [`Engine::request`] and [`Engine::from_device`].
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Index of the adapter, or part of its name. `None`: the environment's `WGPU_ADAPTER_NAME`, else the first discrete GPU,
    /// integrated GPU or software driver, in this order.
    pub adapter: Option<String>,
    /// Keeps wgpu's bounds checks in shaders.
    pub bounds_checks: bool,
    /// Folder that stores which kernel variants are fastest on which adapter. For an adapter that it does not know,
    /// [`Engine::request`] measures them, which takes about a second. `None`: the default variants run.
    pub variants: Option<std::path::PathBuf>,
}

/// Generates and trains on one device.
///
/// Between calls it keeps no state of a job except compiled kernels. Cloning is cheap: clones share the device and the
/// kernels.
#[derive(Clone)]
pub struct Engine {
    pub(crate) gpu: Gpu,
    pub(crate) variants: Variants,
    pub(crate) cancel: CancelToken,
}

impl Engine {
    /// Opens an adapter and a device of its own.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if there is no adapter or its device cannot be opened,
    /// [`Error::Usage`](crate::Error::Usage) if none is called `options.adapter`.
    pub async fn request(options: &EngineOptions) -> Result<Engine> {
        let device = DeviceOptions { adapter: options.adapter.clone(), bounds_checks: options.bounds_checks };
        let gpu = calls::request(device).await?;
        let engine = Engine { gpu, variants: Variants::default(), cancel: CancelToken::new() };
        match &options.variants {
            Some(folder) => engine.measured(folder).await,
            None => Ok(engine),
        }
    }

    /// Uses the device of a host application.
    ///
    /// Request it with [`required_features`] and [`required_limits`], or with less: WebGPU's default limits and no features
    /// are enough. The engine sets no callback of the device. Call [`Engine::device_lost`] from the host's own device-lost
    /// callback; otherwise a job on a lost device may wait forever.
    ///
    /// [`Engine::start_generate`] and [`Engine::start_train`] start jobs that the host advances within its own frames; they
    /// neither block nor poll. Natively, the futures of [`Engine::generate`], [`Engine::generate_with`], [`Engine::train`],
    /// [`Engine::measured`] and [`Engine::read`] poll the device and wait for it, so run them on a thread that may block. So
    /// does [`Engine::open`] for a file that does not say what its UNet predicts. Errors that the device reports during any
    /// of these calls are caught in error scopes and returned.
    ///
    /// `options.adapter` is ignored. Kernel variants are read from `options.variants` but not measured.
    pub fn from_device(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &EngineOptions,
    ) -> Engine {
        let gpu = Gpu::from_device(info, device, queue, options.bounds_checks);
        let variants = options.variants.as_ref().and_then(|folder| tune::known(&gpu, folder)).unwrap_or_default();
        Engine { gpu, variants, cancel: CancelToken::new() }
    }

    /// Returns this engine with a token that ends its calls and jobs, as an answer of their listeners would. Any thread may
    /// cancel it; from then on, whatever this engine starts ends at once. Clones made before keep theirs.
    pub fn with_cancel(self, token: &CancelToken) -> Engine {
        Engine { cancel: token.clone(), ..self }
    }

    /// Returns this engine with the kernel variants that are fastest on its device. They are read from `folder`, or else
    /// measured and stored there, which takes about a second and polls the device.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub async fn measured(self, folder: &std::path::Path) -> Result<Engine> {
        let variants = calls::measured(&self.gpu, folder).await?;
        Ok(Engine { variants, ..self })
    }

    /// Opens the model that `options` names and all `loras`.
    ///
    /// What the UNet predicts (noise or velocity) comes from `options`, else from the model's files, else from one
    /// prediction of the network. Weights stay on disk until a job loads them.
    ///
    /// # Errors
    /// If a file is missing, malformed or unsupported, if no layer of a LoRA matches the model, or if `listener` stops it.
    pub async fn open(
        &self,
        options: &ModelOptions,
        loras: &[LoraArg],
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Model> {
        calls::open(self.context(), options, loras, &mut listener).await
    }

    /// Generates the images of `options`. `listener` receives each image when it is finished.
    ///
    /// If `listener` stops the job, images that are already sampled are still decoded and reported.
    ///
    /// # Errors
    /// If options contradict each other, a file is missing or unsupported, or the job does not fit the adapter or
    /// `options.model.memory`; [`Error::Interrupted`](crate::Error::Interrupted) if `listener` stops it before the last image
    /// is sampled.
    pub async fn generate(
        &self,
        options: &GenerateOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Generated> {
        calls::generate(self.context(), options, &mut listener).await
    }

    /// Generates the images of `options` with an open model. Ignores the model, the LoRAs and the merging that `options` names.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub async fn generate_with(
        &self,
        model: &Model,
        options: &GenerateOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Generated> {
        calls::generate_with(self.context(), model, options, &mut listener).await
    }

    /// Trains a LoRA or a UNet and writes it to `options.out`. If `listener` stops the job, it saves a checkpoint first.
    ///
    /// # Errors
    /// If options contradict each other, a file is missing, unsupported or cannot be written, or the job does not fit the
    /// adapter or `options.model.memory`; [`Error::Interrupted`](crate::Error::Interrupted) if `listener` stops it.
    pub async fn train(&self, options: &TrainOptions, mut listener: impl FnMut(Event) -> Flow) -> Result<Trained> {
        calls::train(self.context(), options, &mut listener).await
    }

    /// Compares words by which a training may call its subject: how rare each is in the tokenizer, its nearest words, and how
    /// much the model's predictions change with it. Words come back in order of the prior that they carry, least first.
    ///
    /// # Errors
    /// If an option makes no sense, a file is missing or unsupported, a word is none, or the job does not fit the adapter or
    /// `options.model.memory`; [`Error::Interrupted`](crate::Error::Interrupted) if `listener` stops it.
    pub async fn identify(
        &self,
        options: &IdentifyOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Identifiers> {
        calls::identify(self.context(), options, &mut listener).await
    }

    /// Evaluates LoRAs or a fine-tuned model: makes the same images with and without them, judges them against photos of the
    /// subject, and writes `report.json`, `report.html` and the images to `options.out`.
    ///
    /// If `listener` stops the job, it reports on the images that were made: [`Evaluation::whole`] tells.
    ///
    /// # Errors
    /// If options contradict each other, a file is missing, unsupported or cannot be written, or the job does not fit the
    /// adapter or `options.model.memory`; [`Error::Interrupted`](crate::Error::Interrupted) if `listener` stops it before
    /// there is anything to compare.
    pub async fn evaluate(
        &self,
        options: &EvaluateOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Evaluation> {
        calls::evaluate(self.context(), options, &mut listener).await
    }

    /// Embeds prepared images ([`VisionModel::preprocess`]): [`VisionModel::width`] values each, the class token after the last
    /// norm; of a CLIP, projected and not normalized. The model's weights stay on the device until [`VisionModel::release`].
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if the model does not read images of these channels or sizes,
    /// [`Error::File`](crate::Error::File) if weights cannot be read, [`Error::Limit`](crate::Error::Limit) or
    /// [`Error::Device`](crate::Error::Device) if they do not fit or the device fails.
    pub async fn embed_images(&self, model: &VisionModel, images: &[Planes]) -> Result<Vec<Vec<f32>>> {
        calls::embed_images(self.context(), model, images).await
    }

    /// Embeds texts with a CLIP: [`VisionModel::width`] values each, projected and not normalized. Texts are truncated to the
    /// model's length (77 tokens).
    ///
    /// # Errors
    /// As [`Engine::embed_images`], and [`Error::File`](crate::Error::File) if the model reads no text or its tokenizer
    /// cannot be read.
    pub async fn embed_texts(&self, model: &VisionModel, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        calls::embed_texts(self.context(), model, texts).await
    }

    /// Embeds token ids of texts, all as long, as [`Engine::embed_texts`] does.
    ///
    /// # Errors
    /// As [`Engine::embed_texts`], and [`Error::Usage`](crate::Error::Usage) for an id that the model does not know.
    pub async fn embed_tokens(&self, model: &VisionModel, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        calls::embed_tokens(self.context(), model, rows).await
    }

    /// Limits and kernel variants to plan for.
    pub(crate) fn planning(&self) -> Planning<'_> {
        Planning { caps: self.gpu.caps(), variants: &self.variants, gpu: Some(&self.gpu) }
    }

    /// Creates the context of a job that runs to its end, with images as pixels.
    pub(crate) fn context(&self) -> Context {
        Context { cancel: self.cancel.clone(), ..Context::new(self.gpu.clone(), self.variants.clone()) }
    }

    /// Reads a texture of [`Job::pictures`](super::Job::pictures) or [`Job::previews`](super::Job::previews) back to the
    /// host: RGB, 8 bits per channel, row by row. Polls the device, so run it on a thread that may block.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub async fn read(&self, texture: &wgpu::Texture) -> Result<Vec<u8>> {
        calls::read(&self.gpu, texture).await
    }

    /// Reports that the device is lost: every job of this engine and its clones ends with an error at its next step. Call it
    /// from the host's [`set_device_lost_callback`](wgpu::Device::set_device_lost_callback).
    pub fn device_lost(&self, why: &str) {
        self.gpu.lose(why);
    }

    /// Kernel variants in use.
    pub fn variants(&self) -> &Variants {
        &self.variants
    }

    /// The device. Render with it, and poll it ([`wgpu::Device::poll`]) between calls of [`Job::step`](super::Job::step) if
    /// nothing else submits or presents.
    pub fn device(&self) -> &wgpu::Device {
        &self.gpu.device
    }

    /// The device's queue. Work that a host submits runs in the order of the calls, between the submits of jobs.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.gpu.queue
    }

    /// Low-level device: limits, kernel cache and counters.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}
