//! Evaluations of a run: measured on the training's own weights, between its steps.

use std::sync::Arc;

use crate::base::rng::{CounterRng, Stream};
use crate::error::{Error, Result, message, option};
use crate::event::{EvaluationReport, Event};
use crate::gpu::{Pool, Store};
use crate::pipeline::SamplingOptions;
use crate::pipeline::events::EventSink;

use super::super::context::TrainContext;
use super::super::samples::{Preview, SamplePrompts};
use super::super::{Stop, TrainOptions};
use super::history::{History, PLATEAU_SCORES};
use super::likeness::Judgement;
use super::plans::EvaluationPlans;
use super::predictions::Predictions;
use super::schedule::{Schedule, Work};
use super::set::EvaluationPhotos;

/// Smallest distance between the base model's likeness and the photos' own that progress is measured by.
const LEAST_WAY: f64 = 0.05;

/// Smallest cosine of the base model's images to the class prompt that prompt fidelity is relative to.
const LEAST_FIDELITY: f64 = 0.05;

/// Evaluations of a run, ready to be made.
pub(in crate::low_level::train) struct Evaluator {
    schedule: Schedule,
    photos: EvaluationPhotos,
    images: Preview,
    predictions: Predictions,
    /// Mean judgement of the base model's images.
    base: Judgement,
}

/// Outcome of an evaluation.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::low_level::train) struct Verdict {
    /// The score is the best so far.
    pub best: bool,
    /// The run is to end, because it gets no better.
    pub plateau: bool,
}

impl Evaluator {
    /// Puts `plans` on the device, beside the training's own weights in `store`; `step` is an optimizer step's FLOPs, `total`
    /// their number.
    pub(in crate::low_level::train) async fn new(
        at: &TrainContext<'_>,
        plans: EvaluationPlans,
        (photos, prompts): (EvaluationPhotos, SamplePrompts),
        (pool, store): (&mut Pool, &Arc<Store>),
        [step, total]: [u64; 2],
    ) -> Result<Evaluator> {
        let (gpu, job, model) = (at.gpu(), at.job, at.model);
        let image = plans.image_flops();
        let work = Work { step, prediction: plans.predictions.plan.total_flops(), image };
        let schedule = Schedule::new(job.evaluates_every().unwrap_or(1), total as usize, work);
        let predictions = Predictions::new(gpu, plans.predictions, pool, store, (job, model, &photos)).await?;
        let images = Preview::new(at, plans.images, prompts, pool, store).await?;
        let base = Judgement { likeness: 0.0, fidelity: None };
        Ok(Evaluator { schedule, photos, images, predictions, base })
    }

    /// Measures the model that the training starts from. Before a resumed state is restored, so that a resumed run compares
    /// with the same.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the job is to stop.
    pub(in crate::low_level::train) async fn begin(
        &mut self,
        at: &TrainContext<'_>,
        history: &mut History,
        events: &mut EventSink<'_>,
    ) -> Result<()> {
        if at.job.evaluate_every.is_none() {
            let every = at.job.evaluates_every().unwrap_or_default();
            let steps = if every == 1 { "step".to_owned() } else { format!("{every} steps") };
            let chosen = format!(" plateau evaluates every {steps}: another number by ");
            events.note(message![option("stop"), chosen, option("evaluate_every")]);
        }
        if let Some(note) = self.schedule.note() {
            events.note(note);
        }
        let scores = self.schedule.scores();
        if at.job.stop == Stop::Plateau && scores < PLATEAU_SCORES {
            let plateau = format!(
                " plateau cannot end this run: it takes {PLATEAU_SCORES} scores, and there are {scores}; a longer one ("
            );
            events.warn(message![option("stop"), plateau, option("steps"), ") has more"]);
        }
        let set = &self.photos.set;
        let (subject, class) = (set.subject, set.class);
        let judgements = self.judgements(at, subject, events).await?;
        self.base = Judgement { likeness: mean(&likenesses(&judgements)), fidelity: fidelity(&judgements) };
        let vae = self.images.decoder(at, events).await?;
        let mut latents = Vec::new();
        for seed in self.seeds(at.job) {
            self.images.image(&vae, class, seed, &mut |_, _| events.go_on()).await?;
            latents.push(self.images.latents().await?);
        }
        let time_ids = SamplingOptions::default().time_ids(self.images.size());
        let hidden = self.images.hidden();
        self.predictions.refer((at.job, at.model), hidden, &latents, (class, time_ids)).await?;
        if history.is_empty() {
            let report = self.report(0, Some(&judgements)).await?;
            events.say(Event::Evaluation(history.add(report)));
        }
        events.go_on()
    }

    /// Evaluates the run after `step` steps, if that is due and the job is not to stop.
    pub(in crate::low_level::train) async fn evaluate(
        &self,
        at: &TrainContext<'_>,
        step: usize,
        history: &mut History,
        events: &mut EventSink<'_>,
    ) -> Result<Verdict> {
        if !self.schedule.predicts(step) || events.stopped() {
            return Ok(Verdict::default());
        }
        self.images.encode_prompts(at.model).await?;
        let judgements = match self.schedule.makes_images(step) {
            true => match self.judgements(at, self.photos.set.subject, events).await {
                Err(Error::Interrupted { .. }) => return Ok(Verdict::default()),
                other => Some(other?),
            },
            false => None,
        };
        let report = history.add(self.report(step, judgements.as_deref()).await?);
        let best = report.score.is_some() && report.best == Some(step);
        events.say(Event::Evaluation(report));
        Ok(Verdict { best, plateau: at.job.stop == Stop::Plateau && history.is_plateau() })
    }

    async fn report(&self, step: usize, judgements: Option<&[Judgement]>) -> Result<EvaluationReport> {
        let hidden = self.images.hidden();
        let (loss, drift) = (self.predictions.loss(hidden).await?, self.predictions.drift(hidden).await?);
        let way = (self.photos.subject.among - self.base.likeness).max(LEAST_WAY);
        let each = judgements.map(likenesses);
        let likeness = each.as_deref().map(|each| (mean(each) - self.base.likeness) / way);
        let own = judgements.and_then(fidelity);
        // own / base, but for a base about or below zero, as of random models.
        let relative = |(own, base): (f64, f64)| (1.0 + (own - base) / base.abs().max(LEAST_FIDELITY)).max(0.0);
        let prompt_fidelity = own.zip(self.base.fidelity).map(relative);
        Ok(EvaluationReport {
            step,
            loss,
            held_out: self.photos.set.held_out,
            drift,
            likeness,
            likeness_error: each.as_deref().and_then(standard_error).map(|error| error / way),
            prompt_fidelity,
            // What is less like the photos than before gets no better by showing its prompt.
            score: likeness.map(|likeness| match likeness > 0.0 {
                true => likeness.min(1.0) * prompt_fidelity.unwrap_or(1.0) - drift,
                false => likeness - drift,
            }),
            best: None,
        })
    }

    /// Judges images of prompt number `prompt`, one of each seed.
    async fn judgements(
        &self,
        at: &TrainContext<'_>,
        prompt: usize,
        events: &mut EventSink<'_>,
    ) -> Result<Vec<Judgement>> {
        let vae = self.images.decoder(at, events).await?;
        let mut images = Vec::new();
        for seed in self.seeds(at.job) {
            images.push(self.images.image(&vae, prompt, seed, &mut |_, _| events.go_on()).await?);
            at.gpu().breathe().await;
        }
        // The decoder's memory is the judges'.
        drop(vae);
        let mut judgements = Vec::with_capacity(images.len());
        for image in images {
            judgements.push(self.photos.subject.judge(at, image).await?);
            at.gpu().breathe().await;
        }
        self.photos.subject.release();
        Ok(judgements)
    }

    /// Seeds of the images.
    fn seeds(&self, job: &TrainOptions) -> Vec<u64> {
        let rng = CounterRng::new(job.seed, Stream::Evaluation);
        (0..self.schedule.images as u64).map(|i| rng.u64(u32::MAX, i)).collect()
    }
}

fn likenesses(judgements: &[Judgement]) -> Vec<f64> {
    judgements.iter().map(|judgement| judgement.likeness).collect()
}

/// Mean prompt fidelity, where CLIP judges.
fn fidelity(judgements: &[Judgement]) -> Option<f64> {
    let each: Option<Vec<f64>> = judgements.iter().map(|judgement| judgement.fidelity).collect();
    each.filter(|each| !each.is_empty()).map(|each| mean(&each))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard error of the mean of `values`; `None` of fewer than two.
fn standard_error(values: &[f64]) -> Option<f64> {
    let (n, mean) = (values.len() as f64, mean(values));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n * (n - 1.0))).sqrt())
}
