//! The job that a window shows: advanced frame by frame, its results written as the plain command writes them.

use std::time::{Duration, Instant};

use portray::{Budget, Engine, Error, Event, Flow, Picture, Result, StepReport};

use super::page::{Tile, View};
use super::stage::Stage;
use super::work::{Made, Work};
use crate::cli::args::{Global, WatchJob};
use crate::cli::curves::sentence;
use crate::cli::report::{Meter, Reporter, compiling_text, smoothed};
use crate::cli::words::{CommandLine, said};
use crate::cli::{stop, table, train};

/// What the job may take of the device at a time: a window of 30 frames a second stays smooth beside it.
const BUDGET: Duration = Duration::from_millis(30);

/// A job with what is shown of it.
pub struct Task {
    global: Global,
    engine: Engine,
    job: Work,
    reporter: Reporter,
    began: Instant,
    /// How fast the units of the present phase go by.
    meter: Option<Meter>,
    paused: bool,
    /// Whether a training ends as if this step were its last.
    finishing: bool,
    /// How the job that the command asked for ended.
    ended: Option<Result<()>>,
    /// What the window shows.
    pub view: View,
}

impl Task {
    /// Begins `job`.
    ///
    /// # Errors
    /// For places that cannot be written, and models that cannot be read.
    pub fn new(global: &Global, job: WatchJob, engine: Engine) -> Result<Task> {
        let mut reporter = Reporter::new(global);
        let job = Work::new(global, job, &engine, &mut reporter)?;
        stop::listen();
        let chart = matches!(job, Work::Train(_));
        let tiles = job.labels().into_iter().map(|label| Tile { label, face: None }).collect();
        let view = View { title: job.title(), keys: job.keys(true), chart, tiles, ..View::default() };
        let began = Instant::now();
        Ok(Task {
            global: global.clone(),
            engine,
            job,
            reporter,
            began,
            meter: None,
            paused: false,
            finishing: false,
            ended: None,
            view,
        })
    }

    /// Goes on for a frame's share.
    pub fn advance(&mut self, stage: &Stage) {
        if stop::asked() {
            self.leave();
        }
        if self.paused || !self.is_running() {
            return;
        }
        let (events, done) = self.job.step(Budget::time(BUDGET));
        for event in events {
            self.hear(&event, stage);
        }
        match done {
            Ok(None) => {}
            Ok(Some(made)) => self.end(Ok(made)),
            Err(e) => self.end(Err(e)),
        }
    }

    /// Whether there is anything to go on with.
    pub fn is_running(&self) -> bool {
        !self.job.is_over()
    }

    /// Whether the next frame has anything to do.
    pub fn is_busy(&self) -> bool {
        self.is_running() && !self.paused
    }

    /// Whether the job that the command asked for is done, and no other goes on.
    pub fn is_done(&self) -> bool {
        self.ended.is_some() && !self.is_running()
    }

    /// Whether the job that the command asked for came to nothing.
    pub fn has_failed(&self) -> bool {
        matches!(&self.ended, Some(Err(_)))
    }

    /// What the command returns.
    pub fn result(self) -> Result<()> {
        self.ended.unwrap_or_else(|| Err(Error::interrupted()))
    }

    fn hear(&mut self, event: &Event, stage: &Stage) {
        self.show(event);
        let flow = match &mut self.job {
            Work::Generate(pictures) => {
                match event {
                    Event::Preview { index, .. } => {
                        let (label, face) = (pictures.label(*index), pictures.work.previews().into_iter().nth(*index));
                        self.view.put(*index, Tile { label, face });
                    }
                    Event::Picture(picture) => {
                        let face = pictures.work.pictures().into_iter().nth(picture.index);
                        let rgb =
                            face.as_ref().map_or(Ok(Vec::new()), |face| pollster::block_on(self.engine.read(face)));
                        let label = pictures.label(picture.index);
                        self.view.put(picture.index, Tile { label, face });
                        match rgb.map(|rgb| Picture { rgb, ..picture.clone() }) {
                            Ok(picture) if self.ended.is_some() => pictures.unsaved.push(picture),
                            Ok(picture) if pictures.reseeded => {
                                self.reporter.hold(pictures.results.add(&picture).map(drop));
                            }
                            Ok(picture) => self.reporter.hold(pictures.results.picture(&picture)),
                            Err(e) => self.reporter.hold(Err(e)),
                        }
                    }
                    _ => {}
                }
                // The plain command asks for no previews, and says nothing of any.
                if matches!(event, Event::Preview { .. }) { Flow::Continue } else { self.reporter.hear(event) }
            }
            Work::Train(training) => {
                if let Event::Sample { step, picture } = event {
                    let label = format!("step {step}: {}", picture.prompt);
                    self.view.put(picture.index, Tile { label, face: Some(stage.upload(picture)) });
                }
                train::hear(&mut self.reporter, &training.job, &training.samples, event)
            }
        };
        if flow != Flow::Continue {
            self.stop();
        }
    }

    /// What an event changes of the page.
    fn show(&mut self, event: &Event) {
        match event {
            Event::Phase(phase) => {
                (self.view.phase, self.view.detail, self.view.share) = (phase.to_string(), String::new(), None);
                self.meter = None;
            }
            Event::Compiling { done, total } if done == total => self.view.detail.clear(),
            Event::Compiling { done, total } => self.view.detail = compiling_text(*done, *total),
            Event::Progress { unit, done, total } => self.count(unit, *done, *total),
            Event::Step(step) => self.count_update(step),
            Event::Warning(text) => self.view.notice = text.in_words(&CommandLine),
            Event::Evaluation(report) => self.view.notice = sentence(report),
            Event::Saved(path) => self.view.notice = format!("saved {}", path.display()),
            _ => {}
        }
    }

    fn count(&mut self, unit: &'static str, done: usize, total: usize) {
        let meter = Meter::following(self.meter.take(), unit, done);
        self.view.share = Some(done as f32 / total as f32);
        self.view.detail = format!("{unit} {done} of {total}");
        if let Some(left) = meter.left(done, total) {
            self.view.detail += &format!("  \u{b7}  {} left", table::seconds(left));
        }
        self.meter = Some(meter);
    }

    fn count_update(&mut self, step: &StepReport) {
        self.count("step", step.step + 1, step.steps);
        let mean = smoothed(self.view.losses.last().copied(), step.loss);
        self.view.losses.push(mean);
        self.view.first = self.view.first.or(Some(step.step));
        self.view.steps = step.steps;
        self.view.numbers = vec![("loss", format!("{mean:.4}")), ("instance", format!("{:.4}", step.instance))];
        self.view.numbers.extend(step.prior.map(|prior| ("prior", format!("{prior:.4}"))));
        self.view.numbers.push(("gradient norm", format!("{:.3}", step.grad_norm)));
        self.view.numbers.push(("learning rate", format!("{:.1e}", step.lr)));
    }

    /// The job came to its end.
    fn end(&mut self, result: Result<Made>) {
        let reporter = std::mem::replace(&mut self.reporter, Reporter::new(&self.global));
        let result = reporter.finish(result);
        (self.view.phase, self.view.detail, self.view.share) = match &result {
            Ok(_) => ("done".into(), String::new(), Some(1.0)),
            Err(Error::Interrupted { .. }) => ("stopped".into(), String::new(), None),
            Err(e) => ("failed".into(), said(e), None),
        };
        self.view.keys = self.job.keys(false);
        let first = self.ended.is_none();
        let told = match (&self.job, result) {
            (Work::Generate(pictures), Ok(Made::Pictures(made))) if first => pictures.results.latents(&made),
            (Work::Generate(pictures), Ok(_)) => {
                self.view.notice = match pictures.unsaved.len() {
                    1 => "not saved: press S".into(),
                    several => format!("{several} not saved: press S"),
                };
                Ok(())
            }
            (Work::Generate(_), Err(e)) => Err(e),
            (Work::Train(training), result) => {
                let trained = result.and_then(|made| match made {
                    Made::Trained(trained) => Ok(trained),
                    Made::Pictures(_) => Err(Error::Internal("images from a training".into())),
                });
                train::tell(&self.global, &training.job, self.began, trained)
            }
        };
        // What comes of another seed is not what the command was asked for.
        if first {
            self.ended = Some(told);
        }
    }

    /// Asks the job to end in good order.
    fn stop(&mut self) {
        self.go_on();
        self.job.stop();
    }

    /// The user closes the window, presses Q or Ctrl-C: true where it may close at once.
    pub fn leave(&mut self) -> bool {
        // A training that was asked to finish is left to: it ends with this step either way.
        match self.finishing && !stop::asked() {
            true => self.go_on(),
            false => self.stop(),
        }
        !self.is_running()
    }

    fn go_on(&mut self) {
        (self.paused, self.view.paused) = (false, false);
    }

    /// Space.
    pub fn pause(&mut self) {
        if self.is_running() {
            self.paused = !self.paused;
            self.view.paused = self.paused;
            // Time left is counted anew.
            self.meter = None;
        }
    }

    /// R: the same prompts with the next seeds. What is under way is given up; where it was what the command asked for, the
    /// new images take its place.
    pub fn reseed(&mut self) {
        let Work::Generate(pictures) = &mut self.job else { return };
        pictures.reseed(&self.engine);
        self.view.notice.clear();
        self.view.keys = self.job.keys(true);
        self.go_on();
    }

    /// S: what is there, as a result.
    pub fn save(&mut self) {
        match &mut self.job {
            Work::Train(training) if !training.work.is_over() => {
                training.work.finish();
                self.finishing = true;
                let which = if self.view.losses.is_empty() { "the first" } else { "this" };
                self.view.notice = format!("finishing with {which} step");
                self.go_on();
            }
            // How it ended is said already.
            Work::Train(_) => {}
            Work::Generate(pictures) => self.view.notice = pictures.save().unwrap_or_else(|e| said(&e)),
        }
    }
}
