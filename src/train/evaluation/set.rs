//! Photos and prompts that evaluations look at.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::gpu::Pool;
use crate::io::image::{Crop, Decoded, Fit, PictureFolder};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::events::EventSink;
use crate::pipeline::planning::Part;
use crate::pipeline::{Masked, Posterior};

use super::super::TrainOptions;
use super::super::context::TrainContext;
use super::super::views::View;
use super::likeness::Subject;

/// Photos from which on some are kept out of the training.
const ENOUGH: usize = 6;
/// Photos that the loss is measured on, at most.
pub(super) const LOSS_PHOTOS: usize = 4;

impl TrainOptions {
    /// Photos of `count` that are kept out of the training, the last by name: those of `--keep-out`; else, where the run is
    /// evaluated, one of six, from six photos on.
    ///
    /// # Errors
    /// [`Error::Usage`] if nothing would be left to train on.
    pub(crate) fn kept_out(&self, count: usize) -> Result<usize> {
        let usual =
            if self.evaluates_every().is_some() && count >= ENOUGH { (count / ENOUGH).min(LOSS_PHOTOS) } else { 0 };
        match self.keep_out.unwrap_or(usual) {
            0 => Ok(0),
            kept if kept < count => Ok(kept),
            kept => Err(Error::value("keep_out", kept, format!("nothing is left to train on of {count} photos"))),
        }
    }

    /// Photos that are kept out, of those in the folder; 0 without a folder that can be read.
    pub(crate) fn kept_out_of_folder(&self) -> usize {
        let folder = self.images.as_ref().filter(|_| self.replay.is_none());
        let count = folder.and_then(|folder| PictureFolder::open(folder).ok()).map_or(0, |found| found.pictures.len());
        self.kept_out(count).unwrap_or(0)
    }
}

/// Photos and prompts that a run's evaluations look at.
pub(in crate::low_level::train) struct EvaluationSet {
    /// Prompts, each once: the empty one, that of the subject, that of the class, and captions.
    pub prompts: Vec<String>,
    /// Number of the prompt that describes the subject.
    pub subject: usize,
    /// Number of the class prompt; of the empty one where the job has none.
    pub class: usize,
    /// Photos that the loss is measured on, with the numbers of their captions.
    photos: Vec<(PathBuf, usize)>,
    /// Whether these are kept out of the training.
    pub held_out: bool,
    /// All photos of the subject.
    all: Vec<PathBuf>,
}

impl EvaluationSet {
    /// Of photos that are `trained` on and others that are `kept_out`, with their captions.
    pub(in crate::low_level::train) fn new(
        job: &TrainOptions,
        trained: &[(PathBuf, String)],
        kept_out: &[(PathBuf, String)],
    ) -> EvaluationSet {
        let mut prompts = vec![String::new()];
        let mut number = |prompt: &str| {
            prompts.iter().position(|known| known == prompt).unwrap_or_else(|| {
                prompts.push(prompt.to_owned());
                prompts.len() - 1
            })
        };
        let held_out = !kept_out.is_empty();
        let shown = if held_out { kept_out } else { trained };
        let caption = shown.first().map(|(_, caption)| caption.as_str());
        let stated = job.prompt.as_deref().filter(|prompt| !prompt.trim().is_empty());
        let subject = number(stated.or(caption).unwrap_or_default());
        let class = number(job.class_prompt.as_deref().unwrap_or_default());
        let photos = shown.iter().take(LOSS_PHOTOS).map(|(path, caption)| (path.clone(), number(caption))).collect();
        let all = trained.iter().chain(kept_out).map(|(path, _)| path.clone()).collect();
        EvaluationSet { prompts, subject, class, photos, held_out, all }
    }
}

/// Photo that the loss is measured on.
pub(super) struct LossPhoto {
    pub posterior: Posterior,
    /// Number of its caption.
    pub prompt: usize,
    /// Sizes that SDXL is told.
    pub time_ids: [f32; 6],
}

/// Photos of an [`EvaluationSet`], encoded.
pub(in crate::low_level::train) struct EvaluationPhotos {
    pub(super) set: EvaluationSet,
    pub(super) photos: Vec<LossPhoto>,
    pub(super) subject: Subject,
    /// For an inpainting model: an image of which nothing is kept.
    pub(super) masked: Option<Masked>,
}

impl EvaluationPhotos {
    /// Encodes photos by the plan `part` of an autoencoder that takes images of `size`, width and height in pixels.
    ///
    /// # Errors
    /// [`Error::File`] for a photo that cannot be read any more, [`Error::Interrupted`] if the job is to stop.
    pub(in crate::low_level::train) async fn encode(
        at: &TrainContext<'_>,
        set: EvaluationSet,
        (part, size): (&Part, [usize; 2]),
        pool: &mut Pool,
        events: &mut EventSink<'_>,
    ) -> Result<EvaluationPhotos> {
        let (gpu, model) = (at.gpu(), at.model);
        pool.fit(gpu, &part.plan.arena)?;
        let vae = events.until_stopped(gpu, VaeSession::new(gpu, model, pool, part)).await?;
        let mut photos = Vec::with_capacity(set.photos.len());
        for (path, prompt) in &set.photos {
            gpu.breathe().await;
            let image = Decoded::open(path)?;
            let view = View { crop: Crop::CENTER, flip: false };
            let time_ids = view.size_ids(image.size(), size).numbers();
            let pixels = image.resized(size, Fit::Cover(view.crop))?.to_unit(false);
            photos.push(LossPhoto { posterior: vae.encode(&pixels, model).await?, prompt: *prompt, time_ids });
            events.go_on()?;
        }
        let masked = match model.inpaints() {
            true => Some(vae.encode_nothing(size, model).await?),
            false => None,
        };
        let subject = Subject::open(at, &set.all).await?;
        events.go_on()?;
        Ok(EvaluationPhotos { set, photos, subject, masked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_photo_of_six_is_kept_out_where_it_is_evaluated() {
        let mut job = TrainOptions { evaluate_every: Some(10), ..TrainOptions::default() };
        let kept = |job: &TrainOptions| [1, 5, 6, 11, 12, 100].map(|count| job.kept_out(count).unwrap());
        assert_eq!(kept(&job), [0, 0, 1, 1, 2, 4]);
        job.keep_out = Some(0);
        assert_eq!(kept(&job), [0; 6]);
        job.keep_out = Some(3);
        assert_eq!(job.kept_out(4).unwrap(), 3);
        let message = job.kept_out(3).unwrap_err().to_string();
        assert!(message.contains("keep_out 3") && message.contains("of 3 photos"), "{message}");
        assert_eq!(kept(&TrainOptions::default()), [0; 6]);
    }

    #[test]
    fn every_prompt_is_encoded_once() {
        let photo = |caption: &str| (PathBuf::from("x.png"), caption.to_owned());
        let trained = ["a", "b", "a", "a", "c"].map(photo);
        let job = TrainOptions { prompt: Some("a".into()), ..TrainOptions::default() };
        let set = EvaluationSet::new(&job, &trained, &[]);
        assert_eq!((set.prompts.join(","), set.subject, set.class, set.held_out), (",a,b".into(), 1, 0, false));
        assert_eq!(set.photos.iter().map(|(_, prompt)| *prompt).collect::<Vec<_>>(), [1, 2, 1, 1]);
        let job = TrainOptions { class_prompt: Some("k".into()), ..TrainOptions::default() };
        let set = EvaluationSet::new(&job, &trained, &[photo("d")]);
        assert_eq!((set.prompts.join(","), set.subject, set.class, set.held_out), (",d,k".into(), 1, 2, true));
        assert_eq!((set.photos.len(), set.all.len()), (1, 6));
    }
}
