//! Jobs that a host application advances within its own frames.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::event::{Event, Flow};
use crate::gpu::{Budget, Gpu, Turn, Watch};
use crate::job::{GenerateJob, TrainJob};

use super::screen::Screen;
use super::{Engine, Generated, Model, Trained};

type Running<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// A job on its way, which goes on only in [`Work::step`]. Dropped, it ends at once, and its memory goes with it.
///
/// Several may be on their way on one engine. Each belongs to the thread that started it.
pub struct Work<T> {
    running: Option<Running<T>>,
    gpu: Gpu,
    screen: Option<Arc<Screen>>,
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
    /// Begins to make the job's pictures, which stay on the device: [`Work::preview`] shows the one that forms where
    /// `job.previews` asks for it, [`Work::pictures`] those that are done. Events come without pixels.
    pub fn start_generate(&self, job: GenerateJob) -> Work<Generated> {
        self.begin(true, |engine, mut listener| Box::pin(async move { engine.generate(&job, &mut listener).await }))
    }

    /// The same with a model that is open already: opening one takes a third of a second on the calling thread, so open it
    /// ahead, or on another thread.
    pub fn start_generate_with(&self, model: Arc<Model>, job: GenerateJob) -> Work<Generated> {
        let own = model.clone();
        let work = self.begin(true, |engine, mut listener| {
            Box::pin(async move { engine.generate_with(&own, &job, &mut listener).await })
        });
        Work { model: Some(model), ..work }
    }

    /// Begins to train. Sample pictures come as pixels, in events.
    pub fn start_train(&self, job: TrainJob) -> Work<Trained> {
        self.begin(false, |engine, mut listener| Box::pin(async move { engine.train(&job, &mut listener).await }))
    }

    #[allow(clippy::arc_with_non_send_sync, reason = "in a page, where wgpu's objects are of one thread, so are jobs")]
    fn begin<T: 'static>(
        &self,
        paints: bool,
        run: impl FnOnce(Engine, Box<dyn FnMut(Event) -> Flow>) -> Running<T>,
    ) -> Work<T> {
        let gpu = self.gpu.driven(Turn::new());
        let screen = paints.then(|| Arc::new(Screen::default()));
        let heard = Rc::new(Heard { events: RefCell::default(), flow: Cell::new(Flow::Continue) });
        let ear = heard.clone();
        let listener = Box::new(move |event| {
            ear.events.borrow_mut().push_back(event);
            ear.flow.get()
        });
        let engine = Engine { gpu: gpu.clone(), variants: self.variants.clone(), screen: screen.clone() };
        let (job, painted, on) = (run(engine, listener), screen.clone(), gpu.clone());
        let running = Box::pin(async move {
            if let Some(screen) = painted {
                screen.prepare(&on).await?;
            }
            job.await
        });
        Work { running: Some(running), watch: Watch::new(&gpu), gpu, screen, heard, model: None }
    }
}

impl<T> Work<T> {
    /// Goes on for as much as `budget` allows: records and submits work to the device's queue, never waits for it.
    /// `Some` when the job is done.
    ///
    /// What a step submitted is seen to be done when the host polls the device, which submitting and presenting do too.
    ///
    /// # Errors
    /// The job's own, among them [`Error::Interrupted`] after [`Work::stop`], and what the device reported of this job's
    /// calls. After that, or after the result, the job is over, and each further step is an [`Error::Usage`].
    pub fn step(&mut self, budget: Budget) -> Result<Option<T>> {
        let Some(running) = &mut self.running else {
            return Err(Error::Usage("this job is over".into()));
        };
        let polled = self.watch.during(|| {
            self.gpu.grant(budget);
            let polled = running.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.gpu.end_step();
            polled
        });
        let outcome = self.watch.check().and_then(|()| match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(done) => done.map(Some),
        });
        if !matches!(outcome, Ok(None)) {
            self.running = None;
            // What the job had on the device is not to be trusted.
            let failed = matches!(&outcome, Err(error) if !matches!(error, Error::Interrupted(_)));
            self.model.take().filter(|_| failed).iter().for_each(|model| model.forget_weights());
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
    /// each step. The same kind of texture as [`Work::pictures`].
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
