//! The work of the demo: the library's trainings and generations, timed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use portray::low_level::evaluate::EvaluateOptions;
use portray::{
    Engine, Event, Flow, GenerateOptions, LoraArg, Model, ModelOptions, Picture, Result, SamplingOptions, TrainOptions,
};

use super::super::args::{DemoArgs, Global};
use super::progress::{Progress, UPDATE};
use super::recipe::{BATCH, GUIDANCE, LEARNING_RATE, RANK, SAMPLER};
use super::scenes::Phrases;

/// An engine with the demo's settings, and how long everything took.
pub struct Studio<'a> {
    engine: Engine,
    args: &'a DemoArgs,
    /// How far all of it is.
    pub progress: Progress,
    /// What was done, in order, and the seconds it took.
    pub times: Vec<(String, f64)>,
}

/// What a training is to learn.
pub struct Lesson<'a> {
    /// Folder of the subject's photos.
    pub photos: &'a Path,
    /// What the subject and its class are called.
    pub phrases: &'a Phrases,
    /// Folder of class images, and how many of them are read; `None` without prior preservation.
    pub class: Option<(PathBuf, usize)>,
    /// Seed of all randomness.
    pub seed: u64,
    /// The LoRA's file.
    pub out: &'a Path,
    /// Whether it may be overwritten.
    pub force: bool,
}

/// A training's losses, step by step.
#[derive(Default)]
pub struct Training {
    /// Loss on the subject's images.
    pub instance: Vec<f64>,
    /// Loss on the class images.
    pub prior: Vec<f64>,
}

/// Pixels of a side of the bundled model's images.
///
/// # Errors
/// As [`Model::open`].
pub fn side() -> Result<usize> {
    Ok(Model::open(&ModelOptions::default(), &[], &mut |_| Flow::Continue)?.native_side())
}

impl<'a> Studio<'a> {
    /// Opens the adapter, for `units` of work.
    ///
    /// # Errors
    /// As [`Engine::request`].
    pub fn open(global: &'a Global, args: &'a DemoArgs, units: usize) -> Result<Studio<'a>> {
        let engine = super::super::device::open(global)?;
        Ok(Studio { engine, args, progress: Progress::new(global, units), times: Vec::new() })
    }

    /// The adapter's name.
    pub fn adapter(&self) -> &str {
        &self.engine.gpu().info().name
    }

    /// The model that is trained.
    pub fn model_name(&self) -> &'static str {
        "the bundled miniature SD 2"
    }

    /// The bundled model, whose weights stay on the adapter, with a LoRA or without.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn model(&self, lora: Option<&Path>) -> Result<Model> {
        let loras: Vec<LoraArg> = lora.map(|path| LoraArg { path: path.into(), scale: 1.0 }).into_iter().collect();
        let model =
            pollster::block_on(self.engine.open(&ModelOptions::default(), &loras, &mut |_: Event| Flow::Continue))?;
        model.keep_weights(true);
        Ok(model)
    }

    /// `count` images of each prompt.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn pictures(
        &mut self,
        title: &str,
        model: &Model,
        prompts: &[String],
        count: usize,
        seed: u64,
    ) -> Result<Vec<Picture>> {
        let sampling = SamplingOptions {
            steps: Some(self.args.sampling_steps),
            guidance: Some(GUIDANCE),
            sampler: Some(SAMPLER),
            seed,
            ..Default::default()
        };
        let job = GenerateOptions { prompts: prompts.to_vec(), count, batch: BATCH, sampling, ..Default::default() };
        let began = Instant::now();
        self.progress.begin(title);
        let progress = &mut self.progress;
        let mut listener = |event: Event| progress.hear(&event, 1);
        let made = pollster::block_on(self.engine.generate_with(model, &job, &mut listener))?;
        self.progress.end(prompts.len() * count * self.args.sampling_steps);
        self.times.push((title.to_owned(), began.elapsed().as_secs_f64()));
        Ok(made.pictures)
    }

    /// Trains a LoRA as `lesson` says.
    ///
    /// # Errors
    /// As [`Engine::train`].
    pub fn train(&mut self, title: &str, lesson: &Lesson<'_>) -> Result<Training> {
        let Lesson { photos, phrases, class, seed, out, force } = lesson;
        let unit = UPDATE[usize::from(class.is_none())];
        let job = TrainOptions {
            images: Some((*photos).into()),
            prompt: Some(phrases.instance.clone()),
            class_prompt: class.is_some().then(|| phrases.class.clone()),
            class_count: class.as_ref().map(|(_, count)| *count),
            class_images: class.as_ref().map(|(folder, _)| folder.clone()),
            model: ModelOptions { dtype: self.args.training_dtype, ..Default::default() },
            rank: RANK,
            steps: Some(self.args.steps),
            lr: Some(LEARNING_RATE),
            seed: *seed,
            out: (*out).into(),
            force: *force,
            ..Default::default()
        };
        let began = Instant::now();
        let mut training = Training::default();
        self.progress.begin(title);
        let progress = &mut self.progress;
        let mut listener = |event: Event| {
            if let Event::Step(step) = &event {
                training.instance.push(step.instance);
                training.prior.extend(step.prior);
            }
            progress.hear(&event, unit)
        };
        pollster::block_on(self.engine.train(&job, &mut listener))?;
        self.progress.end(self.args.steps * unit);
        self.times.push((title.to_owned(), began.elapsed().as_secs_f64()));
        Ok(training)
    }

    /// Evaluates what `options` names, which counts `units`.
    ///
    /// # Errors
    /// As [`Engine::evaluate`].
    pub fn evaluate(&mut self, title: &str, options: &EvaluateOptions, units: usize) -> Result<()> {
        let began = Instant::now();
        self.progress.begin(title);
        let progress = &mut self.progress;
        let mut listener = |event: Event| progress.hear(&event, 1);
        pollster::block_on(self.engine.evaluate(options, &mut listener))?.whole()?;
        self.progress.end(units);
        self.times.push((title.to_owned(), began.elapsed().as_secs_f64()));
        Ok(())
    }
}
