//! The jobs that a window can show: what the command asked for, under way.

use std::path::PathBuf;
use std::sync::Arc;

use portray::{
    Budget, Engine, Event, GenerateOptions, Generated, Job, Method, Model, Picture, Result, TrainOptions, Trained,
};

use crate::cli::args::{Global, WatchJob};
use crate::cli::generate::Results;
use crate::cli::report::Reporter;
use crate::cli::train;

/// How often a LoRA's state is saved where the command does not say: Xlib ends the process when the display goes, and no
/// time is left then to save anything.
const SAVE_EVERY: usize = 25;

/// A job with what its results need.
pub enum Work {
    Generate(Box<Pictures>),
    Train(Box<Training>),
}

pub struct Training {
    pub work: Job<Trained>,
    pub job: TrainOptions,
    /// The folder for validation samples.
    pub samples: PathBuf,
}

pub struct Pictures {
    pub work: Job<Generated>,
    pub model: Arc<Model>,
    pub job: GenerateOptions,
    pub results: Results,
    /// Whether they are of another seed than the command's.
    pub reseeded: bool,
    /// Finished after those that the command asked for, and not written.
    pub unsaved: Vec<Picture>,
}

/// What a job made.
pub enum Made {
    Pictures(Generated),
    Trained(Trained),
}

impl Work {
    /// Begins `job`; what is said while its model opens goes to `reporter`.
    ///
    /// # Errors
    /// For places that cannot be written, and models that cannot be read.
    pub fn new(global: &Global, job: WatchJob, engine: &Engine, reporter: &mut Reporter) -> Result<Work> {
        Ok(match job {
            WatchJob::Generate(args) => {
                let (mut job, results) = Results::new(global, *args)?;
                job.previews = true;
                let mut hear = |event: Event| reporter.hear(&event);
                let model = pollster::block_on(engine.open(&job.model, &job.loras, &mut hear))?;
                let model = Arc::new(model.merging(job.merge));
                let work = engine.start_generate_with(model.clone(), job.clone());
                let (reseeded, unsaved) = (false, Vec::new());
                Work::Generate(Box::new(Pictures { work, model, job, results, reseeded, unsaved }))
            }
            WatchJob::Train(args) => {
                let mut job = args.job;
                let samples = train::samples(&job)?;
                // That of all weights takes gigabytes.
                if job.method == Method::Lora {
                    job.save_every.get_or_insert(SAVE_EVERY);
                }
                Work::Train(Box::new(Training { work: engine.start_train(job.clone()), job, samples }))
            }
        })
    }

    /// Title of the window.
    pub fn title(&self) -> String {
        match self {
            Work::Generate(pictures) => pictures.job.prompts.join("  \u{b7}  "),
            Work::Train(training) => training.job.prompt.clone().unwrap_or_else(|| "Training".into()),
        }
    }

    /// What stands under each image that is to come.
    pub fn labels(&self) -> Vec<String> {
        match self {
            Work::Generate(pictures) => {
                (0..pictures.job.prompts.len() * pictures.job.count).map(|i| pictures.label(i)).collect()
            }
            Work::Train(training) => training.job.sample_prompts.clone(),
        }
    }

    /// Keys and what they do while the job is `running`, and after.
    pub fn keys(&self, running: bool) -> &'static [(&'static str, &'static str)] {
        match (self, running) {
            (Work::Generate(_), true) => &[("Space", "pause"), ("R", "another seed"), ("S", "save"), ("Q", "quit")],
            (Work::Generate(_), false) => &[("R", "another seed"), ("S", "save"), ("Q", "quit")],
            (Work::Train(_), true) => &[("Space", "pause"), ("S", "finish and save"), ("Q", "save the state and quit")],
            (Work::Train(_), false) => &[("Q", "quit")],
        }
    }

    /// Advances the job by `budget`: what happened, and what it made if it is done.
    pub fn step(&mut self, budget: Budget) -> (Vec<Event>, Result<Option<Made>>) {
        match self {
            Work::Generate(pictures) => {
                let stepped = pictures.work.step(budget);
                (pictures.work.events().collect(), stepped.map(|made| made.map(Made::Pictures)))
            }
            Work::Train(training) => {
                let stepped = training.work.step(budget);
                (training.work.events().collect(), stepped.map(|trained| trained.map(Made::Trained)))
            }
        }
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        match self {
            Work::Generate(pictures) => pictures.work.is_over(),
            Work::Train(training) => training.work.is_over(),
        }
    }

    /// Asks the job to end in good order.
    pub fn stop(&self) {
        match self {
            Work::Generate(pictures) => pictures.work.stop(),
            Work::Train(training) => training.work.stop(),
        }
    }
}

impl Pictures {
    /// `seed 7`, of image number `index`; with the prompt, where there are several.
    pub fn label(&self, index: usize) -> String {
        let job = &self.job;
        let count = job.count.max(1);
        let seed = job.sampling.seed.wrapping_add((index % count) as u64);
        match job.prompts.len() {
            1 => format!("seed {seed}"),
            _ => format!("seed {seed}: {}", job.prompts.get(index / count).map_or("", String::as_str)),
        }
    }

    /// Begins the same prompts with the next seeds; what is under way is given up.
    pub fn reseed(&mut self, engine: &Engine) {
        self.reseeded = true;
        self.job.sampling.seed = self.job.sampling.seed.wrapping_add(self.job.count as u64);
        self.unsaved.clear();
        self.work = engine.start_generate_with(self.model.clone(), self.job.clone());
    }

    /// Writes what is not written yet, and says what was; what fails stays for another try.
    pub fn save(&mut self) -> Result<String> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let written: Result<Vec<PathBuf>> = unsaved.iter().map(|picture| self.results.add(picture)).collect();
        let paths = written.inspect_err(|_| self.unsaved = unsaved)?;
        Ok(match paths.as_slice() {
            [] => "nothing new to save".into(),
            [path] => format!("saved {}", path.display()),
            [first, ..] => format!("saved {} and {} more", first.display(), paths.len() - 1),
        })
    }
}
