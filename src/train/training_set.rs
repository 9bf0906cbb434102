//! The subject's images as a training sees them: their shapes, and what each shows.

use std::path::{Path, PathBuf};

use crate::base::DType;
use crate::error::{Error, Message, Result, message, option};
use crate::event::{Event, Listener};
use crate::io;
use crate::io::image::{Decoded, Picture, PictureFolder};
use crate::pipeline::Model;
use crate::pipeline::planning::Planning;
use crate::train::Photo;

use super::TrainOptions;
use super::evaluation::EvaluationSet;
use super::masks::masks_of_view;
use super::options::CLASS_PICTURES;
use super::options::STEPS;
use super::views::{Views, showings};

/// An image to train on.
#[derive(Clone)]
pub(crate) enum TrainingPicture {
    /// In a file, decoded when it is prepared.
    File(PathBuf),
    /// Made for this run, and in no file.
    Made(Picture),
}

impl TrainingPicture {
    /// Decodes it.
    ///
    /// # Errors
    /// [`Error::File`] where its file cannot be read any more.
    pub(crate) fn open(&self) -> Result<Decoded> {
        match self {
            TrainingPicture::File(path) => Decoded::open(path),
            TrainingPicture::Made(picture) => Ok(picture.clone().into()),
        }
    }
}

/// Images of the subject and of its class, by their files: an image is in memory only while it is prepared.
pub(crate) struct TrainingSet {
    pub pictures: Vec<PathBuf>,
    /// Widths and heights in pixels that are trained on.
    pub sizes: Vec<[usize; 2]>,
    /// Which of them each image is cut to.
    pub size_of: Vec<usize>,
    /// Width and height of each image itself.
    own_sizes: Vec<[usize; 2]>,
    /// What the images show; one prompt for all where none has a caption of its own.
    pub prompts: Vec<String>,
    /// Which of them is each image's.
    pub prompt_of: Vec<usize>,
    /// Images that have a caption.
    captioned: usize,
    /// What evaluations look at, where there are to be any.
    pub(super) evaluation: Option<EvaluationSet>,
    /// Class images that the user gives.
    pub classes: Vec<PathBuf>,
    /// Class images that the base model makes beside them.
    pub classes_to_make: usize,
}

impl TrainingSet {
    /// Without images: a training of one shape and one prompt, for planning.
    pub(crate) fn square(side: usize, prompt: String) -> TrainingSet {
        TrainingSet {
            pictures: Vec::new(),
            sizes: vec![[side, side]],
            size_of: Vec::new(),
            own_sizes: Vec::new(),
            prompts: vec![prompt],
            prompt_of: Vec::new(),
            captioned: 0,
            evaluation: None,
            classes: Vec::new(),
            classes_to_make: 0,
        }
    }

    /// Whether images have prompts of their own.
    pub(crate) fn captioned(&self) -> bool {
        self.prompts.len() > 1
    }

    /// The images, nothing of them encoded yet.
    pub(crate) fn photos(&self) -> Vec<Photo> {
        let photo = |(&size, &prompt)| Photo { size, prompt, ..Photo::default() };
        self.size_of.iter().zip(&self.prompt_of).map(photo).collect()
    }

    /// Images of each size.
    fn counts(&self) -> Vec<usize> {
        (0..self.sizes.len()).map(|size| self.size_of.iter().filter(|&&s| s == size).count()).collect()
    }

    /// How each image is shown by `job`.
    pub(super) fn views(&self, job: &TrainOptions) -> Vec<Views> {
        let showings = showings(&self.counts(), job.batch, job.steps.unwrap_or(STEPS).saturating_mul(job.accumulate));
        let pictures = self.size_of.iter().zip(&self.own_sizes).enumerate();
        pictures.map(|(i, (&size, &own))| Views::new(job, i, own, self.sizes[size], showings[size])).collect()
    }

    /// Bytes of the encoded images of `job` in main memory, class images too.
    pub(crate) fn encoded_bytes(&self, job: &TrainOptions, model: &Model) -> u64 {
        let channels = model.vae.latent_channels;
        let each = |[w, h]: [usize; 2], views: usize, class: bool| {
            let masks = if model.inpaints() { masks_of_view(self.pictures.len(), views, class) } else { 0 };
            // A posterior is a mean and a deviation; a masked image has a mask beside its own.
            let values = 2 * channels + masks * (2 * channels + 1);
            let pixels = (w / model.factor()) * (h / model.factor());
            DType::F32.bytes(pixels * views * values)
        };
        let views = self.views(job);
        let subject = views.iter().zip(&self.size_of).map(|(v, &size)| each(self.sizes[size], v.views.len(), false));
        let class = self.class_photos(self.classes.len() + self.classes_to_make);
        subject.chain(class.iter().map(|photo| each(self.sizes[photo.size], 1, true))).sum()
    }

    /// `count` class images: each shape of the subject's has one of the first, and they go on as the subject's other
    /// images do; their prompt is behind the subject's.
    pub(crate) fn class_photos(&self, count: usize) -> Vec<Photo> {
        let (mut order, mut others): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for &size in &self.size_of {
            if order.contains(&size) { others.push(size) } else { order.push(size) }
        }
        order.append(&mut others);
        let photo = |size: usize| Photo { size, prompt: self.prompts.len(), ..Photo::default() };
        // A training that is planned without images has one shape.
        let order = if order.is_empty() { vec![0] } else { order };
        order.into_iter().cycle().map(photo).take(count).collect()
    }

    /// For the user: how many images, in which shapes, with which captions.
    fn summary(&self, others: &str) -> Message {
        let (count, counts) = (self.pictures.len(), self.counts());
        let shapes = self.sizes.iter().enumerate().map(|(i, [w, h])| match self.sizes.len() {
            1 => format!("{w}x{h}"),
            _ => format!("{w}x{h} ({})", counts[i]),
        });
        let pictures = if count == 1 { "image" } else { "images" };
        let prompts = if self.captioned() { format!(", {} prompts", self.prompts.len()) } else { String::new() };
        let captions = match self.captioned {
            0 => message!["none has a caption: all have ", option("prompt")],
            n if n == count => "each has a caption".into(),
            n => message![format!("{n} with a caption, {} with ", count - n), option("prompt")],
        };
        let others = if others.is_empty() { String::new() } else { format!("; not read: {others}") };
        let shapes = shapes.collect::<Vec<_>>().join(", ");
        message![format!("{count} {pictures} at {shapes}{prompts}; "), captions, others]
    }
}

impl TrainOptions {
    /// Looks through the job's images, their captions and class images, and tells `listener` what is used and what is not.
    /// Where there is a device to train on, each image is decoded and dropped: damage is found before the work.
    ///
    /// # Errors
    /// [`Error::File`] for an image or caption that cannot be read, [`Error::Usage`] for an image that neither a caption
    /// nor `--prompt` describes.
    pub(crate) async fn training_set(
        &self,
        model: &Model,
        planning: Planning<'_>,
        listener: Listener<'_>,
    ) -> Result<TrainingSet> {
        let side = self.side(model)?;
        let prompt = self.prompt.clone().filter(|p| !p.trim().is_empty());
        let mut set = TrainingSet::square(side, prompt.clone().unwrap_or_default());
        if let Some(folder) = &self.images {
            let found = PictureFolder::open(folder)?;
            let captions = found.captions()?;
            if let Some(left_out) = found.left_out(Some(&captions)) {
                listener(Event::Warning(left_out.into()));
            }
            (set.sizes, set.prompts) = (Vec::new(), Vec::new());
            let last = found.pictures.len() - self.kept_out(found.pictures.len())?;
            let (mut trained, mut kept_out) = (Vec::new(), Vec::new());
            for (i, (path, caption)) in found.pictures.iter().zip(captions.of).enumerate() {
                let own = size_of(path, planning)?;
                planning.breathe().await;
                let captioned = caption.is_some();
                let caption = caption.or_else(|| prompt.clone()).ok_or_else(|| undescribed(path))?;
                if i >= last {
                    kept_out.push((path.clone(), caption));
                    continue;
                }
                set.captioned += usize::from(captioned);
                set.size_of.push(place(&mut set.sizes, self.bucket(model, side, own)));
                set.own_sizes.push(own);
                set.prompt_of.push(place(&mut set.prompts, caption.clone()));
                trained.push((path.clone(), caption));
            }
            set.pictures = trained.iter().map(|(path, _)| path.clone()).collect();
            listener(Event::Note(set.summary(&found.others())));
            if let Some(note) = kept_out_note(&kept_out) {
                listener(Event::Note(note));
            }
            set.evaluation = self.evaluates_every().map(|_| EvaluationSet::new(self, &trained, &kept_out));
        } else {
            set.evaluation = self.evaluates_every().map(|_| EvaluationSet::new(self, &[], &[]));
        }
        self.class_set(&mut set, planning, listener).await?;
        Ok(set)
    }

    /// Adds the class images: those of the user's folder in the order of their names, as many as are asked for, and the
    /// number that is to be made.
    async fn class_set(&self, set: &mut TrainingSet, planning: Planning<'_>, listener: Listener<'_>) -> Result<()> {
        if self.class_prompt.is_none() {
            if self.class_count.is_some() {
                let idle = message![" does nothing without ", option("class_prompt")];
                listener(Event::Warning(option("class_count") + idle));
            }
            return Ok(());
        }
        let Some(folder) = &self.class_images else {
            set.classes_to_make = self.class_count.unwrap_or(CLASS_PICTURES);
            return set.enough_classes(set.classes_to_make);
        };
        let found = PictureFolder::open(folder)?;
        if let Some(left_out) = found.left_out(None) {
            listener(Event::Warning(left_out.into()));
        }
        let there = found.pictures.len();
        let wanted = self.class_count.unwrap_or(there);
        set.enough_classes(wanted)?;
        set.classes = found.pictures.into_iter().take(wanted).collect();
        set.classes_to_make = wanted - set.classes.len();
        for path in &set.classes {
            size_of(path, planning)?;
            planning.breathe().await;
        }
        let (folder, used, made) = (folder.display(), set.classes.len(), set.classes_to_make);
        let made = if made > 0 { format!(", {made} to make") } else { String::new() };
        listener(Event::Note(format!("{wanted} class images: {used} of {there} in {folder}{made}").into()));
        Ok(())
    }
}

impl TrainingSet {
    /// A micro-batch has images of one shape, those of the class too.
    fn enough_classes(&self, count: usize) -> Result<()> {
        let shapes = self.sizes.len();
        match count < shapes {
            true => {
                let needed = format!("and each needs a class image: give {shapes} or more");
                Err(Error::value("class_count", count, format!("the images have {shapes} shapes, {needed}")))
            }
            false => Ok(()),
        }
    }
}

/// For the user: which photos are kept out of the training.
fn kept_out_note(kept_out: &[(PathBuf, String)]) -> Option<Message> {
    let name = |(path, _): &(PathBuf, String)| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = kept_out.iter().map(name).collect::<Vec<_>>().join(", ");
    let remedy = message![": ", option("keep_out"), " 0 trains on all"];
    (!kept_out.is_empty())
        .then(|| message![format!("kept out of the training, to measure the loss on: {names}"), remedy])
}

/// Width and height of the image at `path`; where it is to be trained on, all of it is decoded.
fn size_of(path: &Path, planning: Planning<'_>) -> Result<[usize; 2]> {
    match planning.gpu {
        Some(_) => Ok(Decoded::open(path)?.size()),
        None => io::image::size(path),
    }
}

fn undescribed(path: &Path) -> Error {
    let caption = path.with_extension("txt");
    let name = caption.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let caption = format!(" \"a sks dog\", or a caption in {name}");
    let shown = message!["nothing says what ", crate::error::path(path), " shows: give "];
    Error::usage("prompt", message![shown, option("prompt"), caption])
}

/// Where `item` is in `list`, which gets it if it lacks it.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_pictures_have_every_shape_that_the_subject_has() {
        let set = TrainingSet {
            sizes: vec![[64, 64], [128, 64], [64, 128]],
            size_of: vec![0, 0, 1, 0, 2],
            ..TrainingSet::square(64, "a cat".into())
        };
        let shapes = |count| set.class_photos(count).iter().map(|photo| photo.size).collect::<Vec<_>>();
        assert_eq!(shapes(3), [0, 1, 2]);
        assert_eq!(shapes(7), [0, 1, 2, 0, 0, 0, 1]);
        assert_eq!(set.class_photos(1)[0].prompt, 1);
        assert_eq!(TrainingSet::square(64, String::new()).class_photos(2).len(), 2);
    }
}
