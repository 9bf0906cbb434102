//! The window: opened, drawn, and listened to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portray::{Error, Result, wgpu};
use winit::application::ApplicationHandler;
use winit::dpi::LogicalSize;
use winit::event::{ElementState, KeyEvent, WindowEvent};
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoop};
use winit::keyboard::{Key, NamedKey};
use winit::window::{Window, WindowId};

use super::page::Place;
use super::shown::Shown;
use super::stage::Stage;
use super::task::Task;
use crate::cli::args::{Global, WatchArgs};
use crate::cli::lettering::Lettering;
use crate::cli::stop;
use crate::cli::words::said;

/// How often a window where nothing moves looks at what else there may be.
const GLANCE: Duration = Duration::from_millis(200);

/// How soon a window that nobody sees goes on with its job: the device has had a step's work by then.
const UNSEEN: Duration = Duration::from_millis(5);

/// Shows the job of `args`.
pub fn run(global: &Global, args: &WatchArgs) -> Shown {
    let event_loop = match event_loop() {
        Ok(event_loop) => event_loop,
        Err(reason) => return Shown::NoWindow(reason),
    };
    let letters = match Lettering::new() {
        Ok(letters) => letters,
        Err(e) => return Shown::Done(Err(e)),
    };
    let mut app = App { global, args, letters, scene: None, shown: None, fault: None };
    let ran = event_loop.run_app(&mut app);
    match (app.shown, app.scene, ran) {
        (Some(shown), ..) => shown,
        (None, Some(scene), Ok(())) => Shown::Done(scene.end(app.fault)),
        (None, Some(scene), Err(e)) => {
            let fault =
                app.fault.unwrap_or_else(|| Error::Device(format!("the display is gone: {}", reason(&e.to_string()))));
            Shown::Done(scene.end(Some(fault)))
        }
        (None, None, Err(e)) => Shown::NoWindow(e.to_string()),
        (None, None, Ok(())) => Shown::NoWindow("the display gave no window".into()),
    }
}

/// The display's events, or why there are none.
fn event_loop() -> Result<EventLoop<()>, String> {
    // winit panics where a display answers but a library or an extension of it is missing: that is no window, too.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = std::panic::catch_unwind(EventLoop::new);
    std::panic::set_hook(hook);
    match opened {
        Ok(Ok(event_loop)) => Ok(event_loop),
        Ok(Err(e)) => Err(reason(&e.to_string())),
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

/// What `panic` said.
fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the display does not work").trim_end_matches('.').to_owned()
}

/// winit's message without the line of its source, which comes first: `os error at FILE:LINE: WHAT`.
fn reason(message: &str) -> String {
    let after = message.split_once(".rs:").and_then(|(_, rest)| rest.split_once(": "));
    after.map_or(message, |(_, what)| what).to_owned()
}

struct App<'a> {
    global: &'a Global,
    args: &'a WatchArgs,
    letters: Lettering,
    scene: Option<Scene>,
    /// What came of it, where that is known before there is a window.
    shown: Option<Shown>,
    /// Why there is nothing to be seen any more.
    fault: Option<Error>,
}

struct Scene {
    window: Arc<Window>,
    stage: Stage,
    task: Task,
    /// The page that is shown, with the places of its images.
    page: Option<(wgpu::Texture, Vec<Place>)>,
    /// The user wants to leave.
    leaving: bool,
    /// When the job had its last share.
    worked: Instant,
    /// Whether it goes on without being drawn.
    unseen: bool,
}

impl App<'_> {
    /// Opens the window and begins the job. What fails before there is a window leaves the job to the plain command.
    fn open(&self, event_loop: &ActiveEventLoop) -> Result<Scene, Shown> {
        let attributes = Window::default_attributes()
            .with_title("Portray")
            .with_inner_size(LogicalSize::new(960.0, 680.0))
            .with_min_inner_size(LogicalSize::new(360.0, 320.0));
        let window = event_loop.create_window(attributes).map_err(|e| Shown::NoWindow(reason(&e.to_string())))?;
        let window = Arc::new(window);
        let opened = Stage::new(self.global, window.clone(), event_loop.owned_display_handle());
        let (stage, engine) = opened.map_err(|e| match e {
            // An adapter that is not there is not there without a window either.
            Error::Usage { .. } => Shown::Done(Err(e)),
            _ => Shown::NoWindow(said(&e)),
        })?;
        let task = Task::new(self.global, self.args.job.clone(), engine).map_err(|e| Shown::Done(Err(e)))?;
        Ok(Scene { window, stage, task, page: None, leaving: false, worked: Instant::now(), unseen: false })
    }
}

impl Scene {
    /// The job's share of a frame. True where the window may close: what is to be saved is saved before.
    fn work(&mut self, close: bool) -> bool {
        let left = self.leaving && self.task.leave();
        let before = self.task.view.stamp();
        self.task.advance(&self.stage);
        if self.task.view.stamp() != before {
            self.page = None;
        }
        self.worked = Instant::now();
        // The terminal tells what went wrong, and the exit status: both wait for the window.
        left || (self.task.is_done() && (close || self.task.has_failed()))
    }

    /// What the command returns. A job that is still under way because its window is not, for `fault`, is brought to an end
    /// without: a training saves its state.
    fn end(mut self, fault: Option<Error>) -> Result<()> {
        let Some(fault) = fault.filter(|_| self.task.is_running()) else { return self.task.result() };
        while !self.task.leave() {
            self.task.advance(&self.stage);
            self.stage.poll()?;
            std::thread::sleep(UNSEEN);
        }
        match self.task.result() {
            // It was the window that ended it.
            Err(Error::Interrupted { .. }) => Err(fault),
            result => result,
        }
    }

    /// Draws. False where nothing moves until somebody does something.
    fn draw(&mut self, letters: &Lettering) -> Result<bool> {
        if self.page.is_none() {
            let scale = self.window.scale_factor() as f32;
            let (page, places) = self.task.view.paint(letters, self.stage.size(), scale);
            self.page = Some((self.stage.upload_page(&page), places));
            self.window.set_title(&self.task.view.window_title());
        }
        let Some((page, places)) = &self.page else { return Ok(false) };
        let faces =
            self.task.view.tiles.iter().zip(places).filter_map(|(tile, place)| Some((tile.face.clone()?, *place)));
        let drawn = self.stage.show(page, &faces.collect::<Vec<_>>())?;
        Ok(!drawn || self.leaving || self.task.is_busy())
    }

    fn key(&mut self, key: &Key) {
        match key.as_ref() {
            Key::Named(NamedKey::Space) => self.task.pause(),
            Key::Named(NamedKey::Escape) => self.leaving = true,
            Key::Character(text) => match text.to_lowercase().as_str() {
                "r" => self.task.reseed(),
                "s" => self.task.save(),
                "q" => self.leaving = true,
                _ => return,
            },
            _ => return,
        }
        self.page = None;
        self.window.request_redraw();
    }
}

impl ApplicationHandler for App<'_> {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if self.scene.is_none() && self.shown.is_none() {
            match self.open(event_loop) {
                Ok(scene) => {
                    scene.window.request_redraw();
                    self.scene = Some(scene);
                }
                Err(shown) => {
                    self.shown = Some(shown);
                    event_loop.exit();
                }
            }
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(scene) = &mut self.scene else { return };
        match event {
            WindowEvent::CloseRequested => {
                scene.leaving = true;
                scene.window.request_redraw();
            }
            WindowEvent::Resized(_) | WindowEvent::ScaleFactorChanged { .. } => {
                scene.stage.configure();
                scene.page = None;
                scene.window.request_redraw();
            }
            // A key that is down when the window gets the keyboard is told once more, as synthetic.
            WindowEvent::KeyboardInput {
                event: KeyEvent { logical_key, state: ElementState::Pressed, repeat: false, .. },
                is_synthetic: false,
                ..
            } => scene.key(&logical_key),
            WindowEvent::RedrawRequested => {
                scene.unseen = false;
                let over = scene.work(self.args.close);
                match scene.draw(&self.letters) {
                    Ok(_) if over => event_loop.exit(),
                    Ok(true) => scene.window.request_redraw(),
                    Ok(false) => {}
                    Err(e) => {
                        self.fault = Some(e);
                        event_loop.exit();
                    }
                }
            }
            _ => {}
        }
    }

    fn about_to_wait(&mut self, event_loop: &ActiveEventLoop) {
        let mut pause = GLANCE;
        if let Some(scene) = &mut self.scene {
            // Ctrl-C in the terminal is no event of the window's.
            if stop::asked() && !scene.leaving {
                scene.leaving = true;
                scene.window.request_redraw();
            }
            // Nobody asks a window to draw itself that is minimized or covered: its job goes on all the same.
            if (scene.leaving || scene.task.is_busy()) && (scene.unseen || scene.worked.elapsed() >= GLANCE) {
                scene.unseen = true;
                pause = UNSEEN;
                if scene.work(self.args.close) {
                    event_loop.exit();
                }
                if let Err(e) = scene.stage.poll() {
                    self.fault = Some(e);
                    event_loop.exit();
                }
            }
        }
        event_loop.set_control_flow(ControlFlow::WaitUntil(Instant::now() + pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_has_a_reason_without_paths() {
        let said = "os error at /a/b/winit-0.30.13/src/platform_impl/linux/mod.rs:788: Failed to open connection";
        assert_eq!(reason(said), "Failed to open connection");
        assert_eq!(reason("neither WAYLAND_DISPLAY nor DISPLAY is set"), "neither WAYLAND_DISPLAY nor DISPLAY is set");
        assert_eq!(panicked(&"Library x.so could not be loaded."), "Library x.so could not be loaded");
        assert_eq!(panicked(&7), "the display does not work");
    }
}
