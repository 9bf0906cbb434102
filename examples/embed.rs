//! A cube turns while an image forms on its faces: an application with a device, a frame loop and shaders of its own, and
//! the engine on the same device.
//!
//! `cargo run --release --features window --example embed -- "a cat on the beach" [--budget MS] [--measure]`
//!
//! `--measure` makes the image once more without frames beside, and says what either costs the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portray::wgpu;
use portray::{
    Budget, Engine, EngineOptions, Event, Flow, GenerateOptions, Generated, Job, Model, required_features,
    required_limits,
};
use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::WindowEvent;
use winit::event_loop::{ActiveEventLoop, EventLoop};
use winit::window::{Window, WindowId};

type Failure = Box<dyn std::error::Error>;

/// What the command line says.
struct Options {
    prompt: String,
    budget: Duration,
    measure: bool,
}

/// The application. It has a window once the system lets it.
struct App {
    options: Options,
    scene: Option<Scene>,
    failure: Option<Failure>,
}

/// A window with a cube in it, and the engine at work.
struct Scene {
    window: Arc<Window>,
    instance: wgpu::Instance,
    surface: wgpu::Surface<'static>,
    format: wgpu::TextureFormat,
    device: wgpu::Device,
    queue: wgpu::Queue,
    cube: Cube,
    work: Job<Generated>,
    /// What is on the cube's faces.
    face: Option<wgpu::Texture>,
    began: Instant,
    frames: Frames,
    alone: Option<f64>,
}

/// Seconds of each frame while the image forms.
#[derive(Default)]
struct Frames {
    forming: bool,
    last: Option<Instant>,
    seconds: Vec<f64>,
}

impl Scene {
    fn new(event_loop: &ActiveEventLoop, options: &Options) -> Result<Scene, Failure> {
        let attributes =
            Window::default_attributes().with_title("Portray").with_inner_size(PhysicalSize::new(320, 240));
        let window = Arc::new(event_loop.create_window(attributes)?);
        let display = Box::new(event_loop.owned_display_handle());
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_with_display_handle_from_env(display));
        let surface = instance.create_surface(window.clone())?;
        let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
            compatible_surface: Some(&surface),
            ..Default::default()
        }))?;
        // The application's own features and limits - none - and what the engine profits from.
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: required_features(&adapter),
            required_limits: required_limits(&adapter),
            ..Default::default()
        }))?;
        let format = surface.get_capabilities(&adapter).formats[0];

        let engine = Engine::from_device(adapter.get_info(), device.clone(), queue.clone(), &EngineOptions::default());
        let lost = engine.clone();
        device.set_device_lost_callback(move |_, why| lost.device_lost(&why));
        let job =
            GenerateOptions { prompts: vec![options.prompt.clone()], previews: true, ..GenerateOptions::default() };
        let model = Arc::new(pollster::block_on(engine.open(&job.model, &job.loras, &mut |_| Flow::Continue))?);
        let alone = if options.measure { Some(alone(&engine, &model, &job)?) } else { None };

        let scene = Scene {
            cube: Cube::new(&device, format),
            work: engine.start_generate_with(model, job),
            face: None,
            began: Instant::now(),
            frames: Frames::default(),
            window,
            instance,
            surface,
            format,
            device,
            queue,
            alone,
        };
        scene.configure();
        Ok(scene)
    }

    fn configure(&self) {
        let PhysicalSize { width, height } = self.window.inner_size();
        if width > 0 && height > 0 {
            self.surface.configure(
                &self.device,
                &wgpu::SurfaceConfiguration {
                    usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
                    format: self.format,
                    color_space: Default::default(),
                    width,
                    height,
                    present_mode: wgpu::PresentMode::AutoVsync,
                    desired_maximum_frame_latency: 1,
                    alpha_mode: wgpu::CompositeAlphaMode::Auto,
                    view_formats: Vec::new(),
                },
            );
        }
    }

    /// One frame: the engine's share, then the cube. `true` when there is nothing left to measure.
    fn frame(&mut self, options: &Options) -> Result<bool, Failure> {
        let mut done = false;
        if !self.work.is_over() {
            done = self.work.step(Budget::time(options.budget))?.is_some();
            for event in self.work.events() {
                self.frames.forming |= matches!(&event, Event::Phase(portray::Phase::Sampling));
                if let Event::Progress { done, total, .. } = event {
                    self.window.set_title(&format!("Portray: step {done} of {total}"));
                }
            }
            self.face = self.work.pictures().pop().or(self.work.preview());
        }
        match self.surface.get_current_texture() {
            wgpu::CurrentSurfaceTexture::Success(frame) | wgpu::CurrentSurfaceTexture::Suboptimal(frame) => {
                let turn = self.began.elapsed().as_secs_f32() * 0.7;
                self.cube.draw(&self.device, &self.queue, &frame.texture, self.face.as_ref(), turn);
                self.window.pre_present_notify();
                self.queue.present(frame);
            }
            wgpu::CurrentSurfaceTexture::Timeout | wgpu::CurrentSurfaceTexture::Occluded => {}
            other => {
                if matches!(other, wgpu::CurrentSurfaceTexture::Lost) {
                    self.surface = self.instance.create_surface(self.window.clone())?;
                }
                self.configure();
            }
        }
        // What was submitted is seen to be done when somebody polls. This host does, once a frame.
        self.device.poll(wgpu::PollType::Poll)?;
        self.frames.count();
        if done {
            self.window.set_title("Portray");
            self.frames.tell(self.alone);
        }
        Ok(done && options.measure)
    }
}

impl Frames {
    fn count(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now).filter(|_| self.forming) {
            self.seconds.push((now - last).as_secs_f64());
        }
    }

    /// Prints what there is to say of them, beside the seconds that the image took without any.
    fn tell(&mut self, alone: Option<f64>) {
        self.forming = false;
        self.seconds.sort_by(f64::total_cmp);
        let at = |share: usize| self.seconds.get(self.seconds.len() * share / 100).copied().unwrap_or(0.0) * 1e3;
        let total: f64 = self.seconds.iter().sum();
        println!("{} frames: median {:.0} ms, 95th percentile {:.0} ms", self.seconds.len(), at(50), at(95));
        if let Some(alone) = alone {
            println!("the image took {total:.2} s beside them, {alone:.2} s alone: ratio {:.2}", total / alone);
        }
    }
}

/// Seconds from the first sampling step to the image, with nothing beside. The first of two runs compiles the kernels.
fn alone(engine: &Engine, model: &Model, job: &GenerateOptions) -> Result<f64, Failure> {
    let mut began = Instant::now();
    for _ in 0..2 {
        pollster::block_on(engine.generate_with(model, job, &mut |event| {
            if matches!(&event, Event::Phase(portray::Phase::Sampling)) {
                began = Instant::now();
            }
            Flow::Continue
        }))?;
    }
    Ok(began.elapsed().as_secs_f64())
}

impl ApplicationHandler for App {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if self.scene.is_none() {
            match Scene::new(event_loop, &self.options) {
                Ok(scene) => self.scene.insert(scene).window.request_redraw(),
                Err(failure) => self.end(event_loop, failure),
            }
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(scene) = &mut self.scene else { return };
        match event {
            WindowEvent::CloseRequested => event_loop.exit(),
            WindowEvent::Resized(_) => scene.configure(),
            WindowEvent::RedrawRequested => match scene.frame(&self.options) {
                Ok(true) => event_loop.exit(),
                Ok(false) => scene.window.request_redraw(),
                Err(failure) => self.end(event_loop, failure),
            },
            _ => {}
        }
    }
}

impl App {
    fn end(&mut self, event_loop: &ActiveEventLoop, failure: Failure) {
        self.failure = Some(failure);
        event_loop.exit();
    }
}

fn main() -> Result<(), Failure> {
    let mut options =
        Options { prompt: "a cat on the beach".into(), budget: Duration::from_millis(50), measure: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--measure" => options.measure = true,
            "--budget" => {
                let budget = args.next().and_then(|text| text.parse().ok());
                options.budget = Duration::from_millis(budget.ok_or("--budget takes milliseconds, as in --budget 50")?);
            }
            _ => options.prompt = arg,
        }
    }
    let mut app = App { options, scene: None, failure: None };
    EventLoop::new()?.run_app(&mut app)?;
    app.failure.map_or(Ok(()), Err)
}

#[path = "embed/cube.rs"]
mod cube;
use cube::Cube;
