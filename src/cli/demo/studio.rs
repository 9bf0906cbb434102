//! The work of the demo: the library's trainings and generations, timed.

use std::path::Path;
use std::time::Instant;

use portray::engine::{Engine, class_folder, open_checkpoint};
use portray::event::{Event, Flow, Picture};
use portray::io::list_pictures;
use portray::job::{GenerateJob, LoraArg, SamplingOptions, TrainJob};
use portray::{Error, Result};

use super::super::args::{DemoArgs, Global};
use super::super::report::Reporter;
use super::subject::{self, Subject};
use super::{CLASS_PICTURES, GUIDANCE, LEARNING_RATE, RANK, STEPS};

/// Pixels of a side of the bundled model's pictures.
pub const SIDE: usize = 128;

/// An engine with the demo's settings, and how long everything took.
pub struct Studio<'a> {
    engine: Engine,
    global: &'a Global,
    args: &'a DemoArgs,
    /// What was done, in order, and the seconds it took.
    pub times: Vec<(String, f64)>,
}

/// A training's losses, step by step.
pub struct Training {
    /// Loss on the subject's pictures.
    pub instance: Vec<f64>,
    /// Loss on the class pictures.
    pub prior: Vec<f64>,
}

impl<'a> Studio<'a> {
    /// Opens the adapter.
    ///
    /// # Errors
    /// As [`Engine::request`].
    pub fn open(global: &'a Global, args: &'a DemoArgs) -> Result<Studio<'a>> {
        Ok(Studio { engine: super::super::open(global)?, global, args, times: Vec::new() })
    }

    /// The adapter's name.
    pub fn adapter(&self) -> &str {
        &self.engine.gpu().info().name
    }

    /// The model that is trained.
    pub fn model_name(&self) -> &'static str {
        "the bundled miniature SD 2"
    }

    /// The class pictures that training with prior preservation made and keeps in the user's cache.
    ///
    /// # Errors
    /// [`portray::Error::File`] when one cannot be read.
    pub fn class_pictures(&self, prompt: &str) -> Result<Vec<Picture>> {
        let fingerprint = open_checkpoint(None)?.fingerprint()?;
        let folder = class_folder(&fingerprint, prompt, [SIDE, SIDE], self.args.seed)?;
        let seeds = self.args.seed..;
        let paths = list_pictures(&folder)?;
        paths
            .iter()
            .zip(seeds)
            .take(CLASS_PICTURES)
            .enumerate()
            .map(|(i, (path, seed))| subject::open(path, i, seed))
            .collect()
    }

    /// `count` pictures of each prompt with the model's own sampler.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn pictures(
        &mut self,
        title: &str,
        prompts: &[String],
        count: usize,
        seed: u64,
        lora: Option<&Path>,
    ) -> Result<Vec<Picture>> {
        let sampling = SamplingOptions { steps: Some(STEPS), guidance: Some(GUIDANCE), seed, ..Default::default() };
        self.generate(title, prompts, count, sampling, lora)
    }

    fn generate(
        &mut self,
        title: &str,
        prompts: &[String],
        count: usize,
        sampling: SamplingOptions,
        lora: Option<&Path>,
    ) -> Result<Vec<Picture>> {
        let loras = lora.map(|path| LoraArg { path: path.into(), scale: 1.0 }).into_iter().collect();
        let job =
            GenerateJob { prompts: prompts.to_vec(), count, sampling, loras, strength: 1.0, ..Default::default() };
        let global = self.global;
        let engine = &self.engine;
        let made = timed(&mut self.times, title, || {
            let mut reporter = Reporter::new(global);
            let mut listener = titled(&mut reporter, title, false);
            let result = pollster::block_on(engine.generate(&job, &mut listener));
            drop(listener);
            reporter.finish(result)
        })?;
        Ok(made.pictures)
    }

    /// Trains a LoRA of the subject into `out`; `with_prior` preservation or without.
    ///
    /// # Errors
    /// As [`Engine::train`].
    pub fn train(&mut self, title: &str, subject: &Subject, with_prior: bool, out: &Path) -> Result<Training> {
        let job = TrainJob {
            images: Some(subject.folder.clone()),
            prompt: Some(subject.phrases.instance.clone()),
            class_prompt: with_prior.then(|| subject.phrases.class.clone()),
            class_count: Some(CLASS_PICTURES),
            prior_weight: 1.0,
            rank: RANK,
            steps: Some(self.args.steps),
            lr: Some(LEARNING_RATE),
            batch: 1,
            accumulate: 1,
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            seed: self.args.seed,
            sample_every: 100,
            out: out.into(),
            force: self.args.force,
            ..Default::default()
        };
        let mut training = Training { instance: Vec::new(), prior: Vec::new() };
        let global = self.global;
        let engine = &self.engine;
        timed(&mut self.times, title, || {
            let mut reporter = Reporter::new(global);
            let mut hear = titled(&mut reporter, title, true);
            let mut listener = |event: Event| {
                if let Event::Step(step) = &event {
                    training.instance.push(step.instance);
                    training.prior.extend(step.prior);
                }
                hear(event)
            };
            let result = pollster::block_on(engine.train(&job, &mut listener));
            drop(hear);
            reporter.finish(result)
        })?;
        Ok(training)
    }
}

/// Passes events on under one title; the phases within a generation would only flicker by.
fn titled<'r>(reporter: &'r mut Reporter, title: &str, phases: bool) -> impl FnMut(Event) -> Flow + use<'r> {
    reporter.hear(&Event::Phase(title.to_owned()));
    move |event| match event {
        Event::Phase(_) if !phases => Flow::Continue,
        Event::Note(_) => Flow::Continue,
        other => reporter.hear(&other),
    }
}

fn timed<T>(times: &mut Vec<(String, f64)>, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let made = work().map_err(|e| match e {
        // What a stopped training saved is of no use here.
        Error::Interrupted(_) => Error::Interrupted(": the demo starts anew when it is run again".into()),
        other => other,
    })?;
    times.push((title.to_owned(), began.elapsed().as_secs_f64()));
    Ok(made)
}
