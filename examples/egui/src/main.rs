//! Portray inside an egui application, on egui's own wgpu device: a prompt, a button, and an image that forms.
//!
//! `cargo run --release --manifest-path examples/egui/Cargo.toml`

use std::sync::Arc;
use std::time::Duration;

use eframe::egui::{self, TextureId, load::SizedTexture};
use eframe::egui_wgpu::RenderState;
use portray::wgpu;
use portray::{Budget, Engine, EngineOptions, Event, Flow, GenerateOptions, Generated, Job, Model};

/// What a frame leaves to the image.
const BUDGET: Duration = Duration::from_millis(12);

struct App {
    state: RenderState,
    engine: Engine,
    model: Arc<Model>,
    prompt: String,
    seed: u64,
    work: Option<Job<Generated>>,
    said: String,
    /// The texture on show, as wgpu and as egui know it.
    face: Option<(wgpu::Texture, TextureId)>,
}

impl App {
    fn new(state: RenderState) -> portray::Result<App> {
        // egui made the device; the engine makes do with its limits.
        let (device, queue) = (state.device.clone(), state.queue.clone());
        let engine = Engine::from_device(state.adapter.get_info(), device, queue, &EngineOptions::default());
        let lost = engine.clone();
        state.device.set_device_lost_callback(move |_, why| lost.device_lost(&why));
        let job = GenerateOptions::default();
        let model = Arc::new(pollster::block_on(engine.open(&job.model, &job.loras, &mut |_| Flow::Continue))?);
        let prompt = "a cat on the beach".into();
        Ok(App { state, engine, model, prompt, seed: 0, work: None, said: String::new(), face: None })
    }

    fn begin(&mut self) {
        let mut job =
            GenerateOptions { prompts: vec![self.prompt.clone()], previews: true, ..GenerateOptions::default() };
        job.sampling.seed = self.seed;
        self.seed += 1;
        self.work = Some(self.engine.start_generate_with(self.model.clone(), job));
    }

    /// The image's share of a frame.
    fn advance(&mut self) {
        let Some(work) = &mut self.work else { return };
        let stepped = work.step(Budget::time(BUDGET));
        for event in work.events() {
            if let Event::Progress { done, total, .. } = event {
                self.said = format!("step {done} of {total}");
            }
        }
        let shown = work.pictures().pop().or(work.preview());
        match stepped {
            Ok(None) => {}
            Ok(Some(_)) => (self.said, self.work) = (format!("seed {}", self.seed - 1), None),
            Err(e) => (self.said, self.work) = (e.to_string(), None),
        }
        if let Some(texture) = shown.filter(|texture| self.face.as_ref().is_none_or(|(old, _)| old != texture)) {
            // egui takes textures whose bytes are sRGB colours as they are.
            let view = texture.create_view(&Default::default());
            let mut renderer = self.state.renderer.write();
            if let Some((_, old)) = self.face.take() {
                renderer.free_texture(&old);
            }
            let id = renderer.register_native_texture(&self.state.device, &view, wgpu::FilterMode::Linear);
            self.face = Some((texture, id));
        }
    }
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        self.advance();
        egui::Frame::central_panel(ui.style()).show(ui, |ui| {
            ui.horizontal(|ui| {
                ui.text_edit_singleline(&mut self.prompt);
                if ui.add_enabled(self.work.is_none(), egui::Button::new("Make an image")).clicked() {
                    self.begin();
                }
                if self.work.is_some() && ui.button("Stop").clicked() {
                    // A job that is dropped ends.
                    self.work = None;
                }
                ui.label(&self.said);
            });
            if let Some((_, id)) = &self.face {
                ui.image(SizedTexture::new(*id, [384.0, 384.0]));
            }
        });
        if self.work.is_some() {
            ui.ctx().request_repaint();
        }
    }
}

fn main() -> eframe::Result {
    let options = eframe::NativeOptions { renderer: eframe::Renderer::Wgpu, ..Default::default() };
    eframe::run_native(
        "Portray in egui",
        options,
        Box::new(|context| {
            let state = context.wgpu_render_state.clone().ok_or("egui runs without wgpu here")?;
            Ok(Box::new(App::new(state)?))
        }),
    )
}
