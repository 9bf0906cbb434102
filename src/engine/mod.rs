//! The facade: an [`Engine`] on a device, and the jobs that it does.

mod bench;
mod bench_steps;
mod class_pictures;
mod encode;
mod forward;
mod generate;
mod model;
mod plan;
mod preview;
mod probe;
mod sample;
mod self_test;
mod train;
mod train_data;
mod train_files;
mod train_job;
mod training_set;
mod variants;

pub use bench::BenchRow;
pub use class_pictures::{cache_folder, class_folder};
pub use forward::ForwardPart;
pub use model::{Model, open_checkpoint};
pub use plan::{PlanReport, plan_generate, plan_train};
pub use self_test::Stopwatch;
pub use train::Trained;

use crate::error::Result;
use crate::event::Picture;
use crate::gpu::{DeviceOptions, Gpu, Variants};

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

/// Generates and trains on one device. Holds nothing of a job between calls.
pub struct Engine {
    pub(crate) gpu: Gpu,
    pub(crate) variants: Variants,
}

/// What [`Engine::generate`] made.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The pictures, prompt by prompt.
    pub pictures: Vec<Picture>,
    /// Latents, where the job keeps them.
    pub latents: Option<Latents>,
}

/// Latents in PyTorch's layout, as diffusers' `output_type="latent"` gives them.
#[derive(Clone, Debug)]
pub struct Latents {
    /// [N, 4, h, w]
    pub shape: Vec<usize>,
    /// After the last step.
    pub last: Vec<f32>,
    /// After each step.
    pub steps: Vec<Vec<f32>>,
    /// The sampler's timesteps.
    pub timesteps: Vec<f64>,
}

impl Engine {
    /// Opens an adapter.
    pub async fn request(options: &EngineOptions) -> Result<Engine> {
        let device = DeviceOptions { adapter: options.adapter.clone(), bounds_checks: options.bounds_checks };
        let gpu = Gpu::request(&device).await?;
        let variants = match &options.variants {
            Some(folder) => variants::remembered(&gpu, folder).await?,
            None => Variants::default(),
        };
        Ok(Engine { gpu, variants })
    }

    /// Uses the device of a host application; results stay on it until they are read.
    pub fn from_device(info: wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Engine {
        Engine { gpu: Gpu::from_device(info, device, queue), variants: Variants::default() }
    }

    /// The variants of kernels that run.
    pub fn variants(&self) -> &Variants {
        &self.variants
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}
