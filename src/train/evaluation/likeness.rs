//! Likeness of images to the photos of a subject, and to what they are to show.

use std::path::PathBuf;

use crate::error::Result;
use crate::evaluate::{UnitVectors, Vision, among, colour, likeness};
use crate::event::Picture;
use crate::io;
use crate::io::image::{Crop, Decoded, Fit};

use super::super::context::TrainContext;

/// Photos that images are compared with, at most.
const PHOTOS: usize = 8;
/// Side in pixels at which their colours are.
const SIDE: usize = 256;

/// Photos of a subject, as images are compared with them.
pub(in crate::low_level::train) struct Subject {
    vision: Vision,
    judge: Judge,
    /// Embedding of the class prompt, where CLIP judges.
    text: Option<UnitVectors>,
    /// Mean likeness of the photos among themselves; 1 for fewer than two.
    pub(super) among: f64,
}

/// What likeness is measured by.
enum Judge {
    /// Embeddings of the photos.
    Embeddings(UnitVectors),
    /// Photos, whose colours are compared.
    Colours(Vec<Picture>),
}

/// Judgement of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judgement {
    /// Mean likeness to the photos, 0 to 1 by colours, a cosine by embeddings.
    pub likeness: f64,
    /// Cosine to the class prompt, where CLIP judges.
    pub fidelity: Option<f64>,
}

impl Subject {
    /// Opens the photos at `paths`, evenly chosen where there are more than 8, and the vision models of the job.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for a photo or a model that cannot be read.
    pub(in crate::low_level::train) async fn open(at: &TrainContext<'_>, paths: &[PathBuf]) -> Result<Subject> {
        let job = at.job;
        let vision = Vision::open(job.vision.as_deref(), job.clip.as_deref())?;
        let count = paths.len().min(PHOTOS);
        let (mut rows, mut photos) = (None::<UnitVectors>, Vec::with_capacity(count));
        for path in (0..count).filter_map(|i| paths.get(i * paths.len() / count)) {
            let photo = Decoded::open(path)?;
            match vision.by_colour() {
                true => photos.push(picture(photo.resized([SIDE; 2], Fit::Cover(Crop::CENTER))?)),
                false => {
                    let seen = vision.see_subject(&at.context, &photo).await?;
                    match &mut rows {
                        Some(rows) => rows.extend(&seen),
                        None => rows = Some(seen),
                    }
                }
            }
            at.gpu().breathe().await;
        }
        let text = vision.read_one(&at.context, job.class_prompt.as_deref().unwrap_or_default()).await?;
        vision.release();
        let judge = rows.map_or(Judge::Colours(photos), Judge::Embeddings);
        let among = judge.among(at).await;
        Ok(Subject { vision, judge, text, among })
    }

    /// Judges `made`. The models' weights stay on the device until [`Subject::release`].
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::Device`](crate::Error::Device) if the device fails.
    pub(super) async fn judge(&self, at: &TrainContext<'_>, made: io::Picture) -> Result<Judgement> {
        let (colours, photos) = match &self.judge {
            Judge::Colours(photos) => (Some(picture(made.clone())), &photos[..]),
            Judge::Embeddings(_) => (None, &[][..]),
        };
        let [subject, clip] = self.vision.see_one(&at.context, &Decoded::from_picture(made)?).await?;
        let by_embedding = match (&self.judge, &subject) {
            (Judge::Embeddings(photos), Some(seen)) => likeness(seen, photos).first().copied(),
            _ => None,
        };
        let by_colour = colours.map(|image| colour::likeness(&image, photos));
        let fidelity = clip.zip(self.text.as_ref()).map(|(seen, text)| seen.cosine(0, text, 0));
        Ok(Judgement { likeness: by_embedding.or(by_colour).unwrap_or_default(), fidelity })
    }

    /// Frees the vision models' weights on the device: the training goes on.
    pub(super) fn release(&self) {
        self.vision.release();
    }
}

impl Judge {
    /// Mean likeness of the photos among themselves; 1 for fewer than two.
    async fn among(&self, at: &TrainContext<'_>) -> f64 {
        let photos = match self {
            Judge::Embeddings(rows) => return among(rows).map_or(1.0, |estimate| estimate.mean),
            Judge::Colours(photos) => photos,
        };
        let others = |i: usize| -> Vec<Picture> {
            photos.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, photo)| photo.clone()).collect()
        };
        if photos.len() < 2 {
            return 1.0;
        }
        let mut among = 0.0;
        for (i, photo) in photos.iter().enumerate() {
            among += colour::likeness(photo, &others(i)) / photos.len() as f64;
            at.gpu().breathe().await;
        }
        among
    }
}

fn picture(io::Picture { width, height, rgb }: io::Picture) -> Picture {
    Picture { index: 0, prompt: String::new(), seed: 0, width, height, rgb, parameters: String::new() }
}
