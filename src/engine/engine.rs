//! The engine on a device.

use crate::error::Result;
use crate::event::{Event, Flow};
use crate::generate::{GenerateOptions, Generated};
use crate::gpu::{DeviceOptions, Gpu, Variants};
use crate::pipeline::context::Context;
use crate::pipeline::events::EventSink;
use crate::pipeline::planning::Planning;
use crate::pipeline::reads::Reads;
use crate::pipeline::{LoraArg, Model, ModelOptions, probe};
use crate::train::{TrainOptions, Trained};
use crate::{generate, train};

use super::tune;

/// The features of `adapter` that a device for the engine profits from; none is needed.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter.features() & crate::gpu::USED_FEATURES
}

/// The limits that a device for the engine profits from: WebGPU's defaults, or less where `adapter` has less, with bindings
/// and buffers as large as it has them. A host that needs more asks for
/// `mine.or_better_values_from(&required_limits(&adapter))`.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let most = adapter.limits();
    wgpu::Limits {
        max_storage_buffer_binding_size: most.max_storage_buffer_binding_size,
        max_buffer_size: most.max_buffer_size,
        ..wgpu::Limits::default().or_worse_values_from(&most)
    }
}

/// How to open an engine.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Index or part of the name of the adapter.
    pub adapter: Option<String>,
    /// Keep wgpu's bounds checks in shaders.
    pub bounds_checks: bool,
    /// Folder that remembers which variants of kernels suit which adapter; they are measured (for about a second) where
    /// it does not say. Without it the usual ones run.
    pub variants: Option<std::path::PathBuf>,
}

/// Generates and trains on one device. Holds nothing of a job between calls but the kernels that it compiled. Cheap to
/// clone: clones share the device and the kernels.
#[derive(Clone)]
pub struct Engine {
    pub(crate) gpu: Gpu,
    pub(crate) variants: Variants,
}

impl Engine {
    /// Opens an adapter.
    pub async fn request(options: &EngineOptions) -> Result<Engine> {
        let device = DeviceOptions { adapter: options.adapter.clone(), bounds_checks: options.bounds_checks };
        let engine = Engine { gpu: Gpu::request(&device).await?, variants: Variants::default() };
        match &options.variants {
            Some(folder) => engine.measured(folder).await,
            None => Ok(engine),
        }
    }

    /// Uses the device of a host application, made with [`required_features`] and [`required_limits`] or with less: it
    /// works with WebGPU's default limits and no features too. The host's callbacks are left alone, that for the device's
    /// loss among them: call [`Engine::device_lost`] from it, else a job on a lost device ends with whatever error it meets
    /// first, or, where it waits for work that will never be done, not at all.
    ///
    /// [`Engine::start_generate`] and [`Engine::start_train`] give jobs that the host advances within its own frames;
    /// they neither block nor poll. The futures of [`Engine::generate`], [`Engine::generate_with`], [`Engine::train`],
    /// [`Engine::open`] of a file that does not say what it predicts, [`Engine::measured`] and [`Engine::read`] are for a
    /// thread that may block: natively they poll the device and wait for it. What the device reports of any of these calls
    /// is caught in error scopes and returned as their error.
    ///
    /// Of `options`, the adapter is the host's, and variants are not measured but taken where they are remembered.
    pub fn from_device(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &EngineOptions,
    ) -> Engine {
        let gpu = Gpu::from_device(info, device, queue, options.bounds_checks);
        let variants = options.variants.as_ref().and_then(|folder| tune::known(&gpu, folder)).unwrap_or_default();
        Engine { gpu, variants }
    }

    /// The same engine with the variants of kernels that suit its device: those that `folder` remembers, else measured, which
    /// takes about a second and polls the device.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn measured(self, folder: &std::path::Path) -> Result<Engine> {
        let variants = self.gpu.watched(tune::remembered(&self.gpu, folder)).await?;
        Ok(Engine { variants, ..self })
    }

    /// Opens what `options` name and every LoRA, and settles what the network predicts: by `options`, by the file, or by
    /// a probe. The weights stay where they are until a job loads them.
    ///
    /// # Errors
    /// For files that are not what they should be, LoRAs of which no layer matches, and when the listener stops it.
    pub async fn open(
        &self,
        options: &ModelOptions,
        loras: &[LoraArg],
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Model> {
        probe::open(&self.context(), options, loras, Reads::NOTHING, &mut EventSink::new(&mut listener)).await
    }

    /// Makes the pictures of `options`; each goes to `listener` as it is done. Stopped, it still gives those that were
    /// sampled to their end.
    ///
    /// # Errors
    /// For options that make no sense, files that are not what they should be, what does not fit the adapter, and
    /// [`Error::Interrupted`](crate::Error::Interrupted) when the listener stops the job before its last picture is sampled.
    pub async fn generate(
        &self,
        options: &GenerateOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Generated> {
        generate::generate(&self.context(), options, &mut listener).await
    }

    /// Makes the pictures of `options` with a model that is open already, whatever model and LoRAs the options name.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub async fn generate_with(
        &self,
        model: &Model,
        options: &GenerateOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Generated> {
        generate::generate_with(&self.context(), model, options, &mut listener).await
    }

    /// Trains; writes `options.out`. Stopped by the listener, it saves a checkpoint and says so.
    ///
    /// # Errors
    /// For options that make no sense, files that are not what they should be or cannot be written, what does not fit the
    /// adapter, and when the listener stops the job.
    pub async fn train(&self, options: &TrainOptions, mut listener: impl FnMut(Event) -> Flow) -> Result<Trained> {
        train::train(&self.context(), options, &mut listener).await
    }

    /// The adapter and its kernels, to plan for.
    pub(crate) fn planning(&self) -> Planning<'_> {
        Planning { caps: self.gpu.caps(), variants: &self.variants, gpu: Some(&self.gpu) }
    }

    /// Surroundings of a job on this engine.
    pub(crate) fn context(&self) -> Context {
        Context::new(self.gpu.clone(), self.variants.clone())
    }

    /// The colours of a texture that [`Job::pictures`] or [`Job::previews`] gave: RGB, 8 bits each, row by row, as a picture's
    /// file holds them. For a thread that may block: it polls the device.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn read(&self, texture: &wgpu::Texture) -> Result<Vec<u8>> {
        self.gpu.watched(self.gpu.read_texture(texture)).await
    }

    /// Ends every job of this engine and its clones with an error at its next step: the device is gone. For a host's own
    /// [`set_device_lost_callback`](wgpu::Device::set_device_lost_callback), of which a device has one.
    pub fn device_lost(&self, why: &str) {
        self.gpu.lose(why);
    }

    /// The variants of kernels that run.
    pub fn variants(&self) -> &Variants {
        &self.variants
    }

    /// The device: to render with, and to poll ([`wgpu::Device::poll`]) while a job that was started is advanced by
    /// [`Job::step`], where nothing else submits or presents.
    pub fn device(&self) -> &wgpu::Device {
        &self.gpu.device
    }

    /// The device's queue: work that is submitted to it runs between what jobs submit, in the order of the calls.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.gpu.queue
    }

    /// Its limits, kernels and counts.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}
