//! Jobs that a host application advances within its own frames.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task;
use std::task::{Poll, Waker};

use crate::error::{Error, Result};
use crate::event::{Event, Flow};
use crate::generate::{GenerateOptions, Generated};
use crate::gpu::{Budget, Gpu, Turn, Watch};
use crate::pipeline::Model;
use crate::pipeline::context::{Context, PictureSink};
use crate::pipeline::textures::TextureSink;
use crate::train::{TrainOptions, Trained};
use crate::{generate, train};

use super::Engine;

type Running<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// A job on its way, which goes on only in [`Job::step`]. Dropped, it ends at once, and its memory goes with it.
///
/// Several may be on their way on one engine. Each belongs to the thread that started it.
pub struct Job<T> {
    running: Option<Running<T>>,
    gpu: Gpu,
    screen: Option<Arc<TextureSink>>,
    heard: Rc<Heard>,
    watch: Watch,
    /// The open model that it was begun with.
    model: Option<Arc<Model>>,
}

/// What passes between a job's listener and its host.
struct Heard {
    events: RefCell<VecDeque<Event>>,
    flow: Cell<Flow>,
}

impl Engine {
    /// Begins to make the pictures of `options`, which stay on the device: [`Job::preview`] shows the one that forms where
    /// `options.previews` asks for it, [`Job::pictures`] those that are done. Events come without pixels.
    pub fn start_generate(&self, options: GenerateOptions) -> Job<Generated> {
        self.begin(true, |context, mut listener| {
            Box::pin(async move { generate::generate(&context, &options, &mut listener).await })
        })
    }

    /// The same with a model that is open already: opening one takes a third of a second on the calling thread, so open it
    /// ahead, or on another thread.
    pub fn start_generate_with(&self, model: Arc<Model>, options: GenerateOptions) -> Job<Generated> {
        let own = model.clone();
        let job = self.begin(true, |context, mut listener| {
            Box::pin(async move { generate::generate_with(&context, &own, &options, &mut listener).await })
        });
        Job { model: Some(model), ..job }
    }

    /// Begins to train. Sample pictures come as pixels, in events.
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
        let gpu = self.gpu.driven(Turn::new());
        let screen = paints.then(|| Arc::new(TextureSink::default()));
        let heard = Rc::new(Heard { events: RefCell::default(), flow: Cell::new(Flow::Continue) });
        let ear = heard.clone();
        let listener = Box::new(move |event| {
            ear.events.borrow_mut().push_back(event);
            ear.flow.get()
        });
        let pictures = screen.clone().map_or(PictureSink::Pixels, PictureSink::Textures);
        let context = Context { gpu: gpu.clone(), variants: self.variants.clone(), pictures };
        let (job, painted, on) = (run(context, listener), screen.clone(), gpu.clone());
        let running = Box::pin(async move {
            if let Some(screen) = painted {
                screen.prepare(&on).await?;
            }
            job.await
        });
        Job { running: Some(running), watch: Watch::new(&gpu), gpu, screen, heard, model: None }
    }
}

impl<T> Job<T> {
    /// Goes on for as much as `budget` allows: records and submits work to the device's queue, never waits for it.
    /// `Some` when the job is done.
    ///
    /// What a step submitted is seen to be done when the host polls the device, which submitting and presenting do too.
    ///
    /// # Errors
    /// The job's own, among them [`Error::Interrupted`] after [`Job::stop`], and what the device reported of this job's
    /// calls. After that, or after the result, the job is over, and each further step is an [`Error::Usage`].
    pub fn step(&mut self, budget: Budget) -> Result<Option<T>> {
        let Some(running) = &mut self.running else {
            return Err(Error::argument("this job is over"));
        };
        let polled = self.watch.during(|| {
            self.gpu.grant(budget);
            let polled = running.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
            self.gpu.end_step();
            polled
        });
        let outcome = self.watch.check().and_then(|()| match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(done) => done.map(Some),
        });
        if !matches!(outcome, Ok(None)) {
            self.running = None;
            let failed = matches!(&outcome, Err(error) if !matches!(error, Error::Interrupted { .. }));
            self.model.take().iter().for_each(|model| model.settle_weights(failed));
        }
        outcome
    }

    /// What the job has said since this was asked last.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        std::mem::take(&mut *self.heard.events.borrow_mut()).into_iter()
    }

    /// Asks the job to end: a training saves its state at the next step and ends with [`Error::Interrupted`]. To give a
    /// job up at once, drop it.
    pub fn stop(&self) {
        self.heard.flow.set(Flow::Stop);
    }

    /// Asks a training to end with its next update, and to save what there is as the result.
    pub fn finish(&self) {
        if self.heard.flow.get() != Flow::Stop {
            self.heard.flow.set(Flow::Finish);
        }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.running.is_none()
    }

    /// What the picture that forms looks like after its last step: as many pixels as the latent has, painted over with
    /// each step. The same kind of texture as [`Job::pictures`].
    pub fn preview(&self) -> Option<wgpu::Texture> {
        self.previews().pop()
    }

    /// The same of every picture that was begun.
    pub fn previews(&self) -> Vec<wgpu::Texture> {
        self.screen.as_ref().map(|screen| screen.previews()).unwrap_or_default()
    }

    /// The finished pictures so far, prompt by prompt: `Rgba8Unorm` textures of the host's device holding sRGB colours,
    /// which a view of `Rgba8UnormSrgb` decodes. They may be sampled and copied.
    pub fn pictures(&self) -> Vec<wgpu::Texture> {
        self.screen.as_ref().map(|screen| screen.pictures()).unwrap_or_default()
    }
}
