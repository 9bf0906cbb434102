//! Jobs that a host application advances within its own frames.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task;
use std::task::{Poll, Waker};

use crate::error::{Error, Result};
use crate::event::{CancelToken, Event, Flow};
use crate::generate::{GenerateOptions, Generated};
use crate::gpu::{Budget, Gpu, Turn, Watch};
use crate::pipeline::Model;
use crate::pipeline::context::{Context, PictureSink};
use crate::pipeline::textures::TextureSink;
use crate::train::{TrainOptions, Trained};
use crate::{generate, train};

use super::Engine;

type Running<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// A running job that advances only in [`Job::step`]. Dropping it ends it at once and frees its memory.
///
/// An engine may run several jobs at a time. Each stays on the thread that started it.
pub struct Job<T> {
    running: Option<Running<T>>,
    gpu: Gpu,
    screen: Option<Arc<TextureSink>>,
    events: Events,
    cancel: CancelToken,
    watch: Watch,
    /// Open model that the job was started with.
    model: Option<Arc<Model>>,
}

/// Events that pass from a job's listener to its host.
type Events = Rc<RefCell<VecDeque<Event>>>;

impl Engine {
    /// Starts generating the images of `options`. They stay on the device as textures, and events carry no pixels:
    /// [`Job::pictures`] gives the finished images and, with `options.previews`, [`Job::preview`] the one in progress.
    pub fn start_generate(&self, options: GenerateOptions) -> Job<Generated> {
        self.begin(true, |context, mut listener| {
            Box::pin(async move { generate::generate(&context, &options, &mut listener).await })
        })
    }

    /// Starts generating with an open model, as [`Engine::start_generate`] does. Opening a model takes a third of a second on
    /// the calling thread; open it ahead, or on another thread.
    pub fn start_generate_with(&self, model: Arc<Model>, options: GenerateOptions) -> Job<Generated> {
        let own = model.clone();
        let job = self.begin(true, |context, mut listener| {
            Box::pin(async move { generate::generate_with(&context, &own, &options, &mut listener).await })
        });
        Job { model: Some(model), ..job }
    }

    /// Starts a training. Validation samples arrive as pixels in events.
    pub fn start_train(&self, options: TrainOptions) -> Job<Trained> {
        self.begin(false, |context, mut listener| {
            Box::pin(async move { train::train(&context, &options, &mut listener).await })
        })
    }

    #[allow(clippy::arc_with_non_send_sync, reason = "in a page, where wgpu's objects are of one thread, so are jobs")]
    fn begin<T: 'static>(
        &self,
        paints: bool,
        run: impl FnOnce(Context, Box<dyn FnMut(Event) -> Flow>) -> Running<T>,
    ) -> Job<T> {
        let gpu = self.gpu.for_host(Turn::new());
        let screen = paints.then(|| Arc::new(TextureSink::default()));
        let (events, cancel) = (Events::default(), self.cancel.child());
        let heard = events.clone();
        let listener = Box::new(move |event| {
            heard.borrow_mut().push_back(event);
            Flow::Continue
        });
        let pictures = screen.clone().map_or(PictureSink::Pixels, PictureSink::Textures);
        let context = Context { gpu: gpu.clone(), variants: self.variants.clone(), pictures, cancel: cancel.clone() };
        let (job, painted, on) = (run(context, listener), screen.clone(), gpu.clone());
        let running = Box::pin(async move {
            if let Some(screen) = painted {
                screen.prepare(&on).await?;
            }
            job.await
        });
        Job { running: Some(running), watch: Watch::new(&gpu), gpu, screen, events, cancel, model: None }
    }
}

impl<T> Job<T> {
    /// Advances the job by as much as `budget` allows. Submits work to the device's queue and never waits for it. Returns
    /// `Some` once the job is done.
    ///
    /// The job learns that submitted work is done when the host polls the device, as submitting and presenting also do.
    ///
    /// # Errors
    /// The job's errors, including [`Error::Interrupted`] after [`Job::stop`], and errors that the device reported for this
    /// job's calls. After an error or a result the job is over, and further steps return [`Error::Usage`].
    pub fn step(&mut self, budget: Budget) -> Result<Option<T>> {
        let Some(running) = &mut self.running else {
            return Err(Error::argument("this job is over"));
        };
        let polled = self.watch.during(|| {
            let _step = self.gpu.begin_step(budget);
            running.as_mut().poll(&mut task::Context::from_waker(Waker::noop()))
        });
        let outcome = self.watch.check().and_then(|()| match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(done) => done.map(Some),
        });
        if !matches!(outcome, Ok(None)) {
            self.running = None;
            self.model.take().iter().for_each(|model| model.settle_weights(&outcome));
        }
        outcome
    }

    /// Takes the events since the last call.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        std::mem::take(&mut *self.events.borrow_mut()).into_iter()
    }

    /// Asks the job to end. A training saves its state at its next optimizer step, then ends with [`Error::Interrupted`]. To
    /// end a job at once, drop it.
    pub fn stop(&self) {
        self.cancel.cancel();
    }

    /// Asks a training to end after its next optimizer step and to write its result.
    pub fn finish(&self) {
        self.cancel.finish();
    }

    /// Returns the token that [`Job::stop`] and [`Job::finish`] use, for another thread or a part of the host without the
    /// job. It also heeds the engine's ([`Engine::with_cancel`]), and cancels no other job.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Returns whether the job has ended.
    pub fn is_over(&self) -> bool {
        self.running.is_none()
    }

    /// Returns the preview of the image in progress: one pixel per latent pixel, repainted after each sampler step. The
    /// texture has the format of [`Job::pictures`].
    pub fn preview(&self) -> Option<wgpu::Texture> {
        self.previews().pop()
    }

    /// Returns the previews of all images that were started, in order.
    pub fn previews(&self) -> Vec<wgpu::Texture> {
        self.screen.as_ref().map(|screen| screen.previews()).unwrap_or_default()
    }

    /// Returns the finished images so far, prompt by prompt. Each is an `Rgba8Unorm` texture of the host's device with sRGB
    /// colours, usable as `TEXTURE_BINDING` and `COPY_SRC`. A view of `Rgba8UnormSrgb` decodes the colours.
    pub fn pictures(&self) -> Vec<wgpu::Texture> {
        self.screen.as_ref().map(|screen| screen.pictures()).unwrap_or_default()
    }
}
