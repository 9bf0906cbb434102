//! A host application without a window.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use portray::wgpu;
use portray::{Budget, Engine, EngineOptions, Flow, GenerateOptions, Job, Model, ModelOptions, SamplingOptions};

pub struct Host {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub engine: Engine,
}

impl Host {
    /// With WebGPU's default limits and no features.
    pub fn modest() -> Host {
        Host::new(|_| Default::default())
    }

    /// With WebGPU's default limits, but textures of at most `side` pixels.
    pub fn with_textures(side: u32) -> Host {
        Host::new(|_| wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits { max_texture_dimension_2d: side, ..Default::default() },
            ..Default::default()
        })
    }

    /// With what the engine profits from.
    pub fn generous() -> Host {
        Host::new(|adapter| wgpu::DeviceDescriptor {
            required_features: portray::required_features(adapter),
            required_limits: portray::required_limits(adapter),
            ..Default::default()
        })
    }

    /// A generous one that tests share where they look at nothing of the device: SwiftShader compiles every kernel for every
    /// device anew.
    pub fn shared() -> &'static Host {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Host::generous)
    }

    fn new(descriptor: impl Fn(&wgpu::Adapter) -> wgpu::DeviceDescriptor<'static>) -> Host {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = pollster::block_on(instance.request_adapter(&Default::default())).expect("an adapter");
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor(&adapter))).expect("a device");
        let options = EngineOptions::default();
        let engine = Engine::from_device(adapter.get_info(), device.clone(), queue.clone(), &options);
        Host { device, queue, engine }
    }

    /// What ends a host's frame: it waits until the device has done what was submitted.
    pub fn present(&self) {
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("a device that answers");
    }

    /// Advances `work` frame by frame, to its end.
    pub fn finish<T>(&self, work: &mut Job<T>, budget: Budget) -> portray::Result<T> {
        loop {
            if let Some(done) = work.step(budget)? {
                return Ok(done);
            }
            self.present();
        }
    }

    /// The texture's bytes, RGBA, copied by the host's own device and queue: wgpu refuses what is another device's.
    pub fn read(&self, texture: &wgpu::Texture) -> Vec<u8> {
        let (width, height) = (texture.width(), texture.height());
        let row = (width * 4).next_multiple_of(256);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(row * height),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None };
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
        self.queue.submit([encoder.finish()]);
        buffer.slice(..).map_async(wgpu::MapMode::Read, |mapped| mapped.expect("mapped"));
        self.present();
        let bytes = buffer.slice(..).get_mapped_range().expect("mapped");
        bytes.chunks(row as usize).flat_map(|line| line[..width as usize * 4].to_vec()).collect()
    }
}

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

/// The tiny model, opened.
pub fn tiny(engine: &Engine) -> Arc<Model> {
    Arc::new(pollster::block_on(engine.open(&tiny_options(), &[], &mut |_| Flow::Continue)).expect("the tiny model"))
}

pub fn tiny_options() -> ModelOptions {
    ModelOptions { model: Some(fixture("sd2")), ..Default::default() }
}

/// An image of the tiny model.
pub fn tiny_job() -> GenerateOptions {
    GenerateOptions {
        prompts: vec!["a photo of a sks dog".into()],
        model: tiny_options(),
        sampling: SamplingOptions { steps: Some(3), width: Some(48), height: Some(40), ..Default::default() },
        previews: true,
        ..Default::default()
    }
}

/// An image of the bundled model, of its own size.
pub fn bundled_job(steps: usize) -> GenerateOptions {
    GenerateOptions {
        prompts: vec!["a cat".into()],
        sampling: SamplingOptions { steps: Some(steps), ..Default::default() },
        previews: true,
        ..Default::default()
    }
}

/// The same of a quarter as many pixels.
pub fn small_bundled_job(steps: usize) -> GenerateOptions {
    let mut job = bundled_job(steps);
    (job.sampling.width, job.sampling.height) = (Some(64), Some(64));
    job
}
