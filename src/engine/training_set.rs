//! The subject's pictures as a training sees them: their shapes, and what each shows.

use std::path::Path;

use crate::error::{Error, Result};
use crate::io;
use crate::job::TrainJob;
use crate::train::Photo;

use super::Model;
use super::encode::Planning;

/// Pictures of the subject.
pub(crate) struct TrainingSet {
    pub pictures: Vec<io::Picture>,
    /// Widths and heights in pixels that are trained on.
    pub sizes: Vec<[usize; 2]>,
    /// Which of them each picture is cut to.
    pub size_of: Vec<usize>,
    /// What the pictures show; one prompt for all where none has a caption of its own.
    pub prompts: Vec<String>,
    /// Which of them is each picture's.
    pub prompt_of: Vec<usize>,
}

impl TrainingSet {
    /// Without pictures: a training of one shape and one prompt, for planning.
    pub(crate) fn square(side: usize, prompt: String) -> TrainingSet {
        TrainingSet {
            pictures: Vec::new(),
            sizes: vec![[side, side]],
            size_of: Vec::new(),
            prompts: vec![prompt],
            prompt_of: Vec::new(),
        }
    }

    /// Whether pictures have prompts of their own.
    pub(crate) fn captioned(&self) -> bool {
        self.prompts.len() > 1
    }

    /// The pictures, nothing of them encoded yet.
    pub(crate) fn photos(&self) -> Vec<Photo> {
        let photo = |(&size, &prompt)| Photo { variants: Vec::new(), size, prompt };
        self.size_of.iter().zip(&self.prompt_of).map(photo).collect()
    }

    /// The same for class pictures: they take the shapes of the subject's in turn, and the prompt behind its prompts.
    pub(crate) fn class_photos(&self, classes: &[io::Picture]) -> Vec<Photo> {
        let size = |i: usize| self.size_of.get(i % self.size_of.len().max(1)).copied().unwrap_or(0);
        (0..classes.len()).map(|i| Photo { variants: Vec::new(), size: size(i), prompt: self.prompts.len() }).collect()
    }

    /// For the user: how many pictures, in which shapes, with which captions.
    pub(crate) fn summary(&self) -> String {
        let shapes = self.sizes.iter().enumerate().map(|(i, [w, h])| match self.sizes.len() {
            1 => format!("{w}x{h}"),
            _ => format!("{w}x{h} ({})", self.size_of.iter().filter(|&&s| s == i).count()),
        });
        let captions = if self.captioned() { format!(", {} prompts", self.prompts.len()) } else { String::new() };
        format!("{} pictures at {}{captions}", self.pictures.len(), shapes.collect::<Vec<_>>().join(", "))
    }
}

impl TrainJob {
    /// Opens the job's pictures and their captions, one by one.
    ///
    /// # Errors
    /// [`Error::File`] for a picture or caption that cannot be read, [`Error::Usage`] for a picture that neither a caption
    /// nor `--prompt` describes.
    pub(crate) async fn training_set(&self, model: &Model, planning: Planning<'_>) -> Result<TrainingSet> {
        let side = self.side(model)?;
        let prompt = self.prompt.clone().filter(|p| !p.trim().is_empty());
        let Some(folder) = &self.images else {
            return Ok(TrainingSet::square(side, prompt.unwrap_or_default()));
        };
        let mut set =
            TrainingSet { sizes: Vec::new(), prompts: Vec::new(), ..TrainingSet::square(side, String::new()) };
        for path in &io::list_pictures(folder)? {
            let picture = io::Picture::open(path)?;
            let size = match self.buckets {
                true => bucket([picture.width, picture.height], side, model.factor()),
                false => [side, side],
            };
            set.size_of.push(place(&mut set.sizes, size));
            let caption = match io::caption(path)?.or_else(|| prompt.clone()) {
                Some(caption) => caption,
                None => return Err(undescribed(path)),
            };
            set.prompt_of.push(place(&mut set.prompts, caption));
            set.pictures.push(picture);
            planning.breathe().await;
        }
        Ok(set)
    }
}

fn undescribed(path: &Path) -> Error {
    let caption = path.with_extension("txt");
    let name = caption.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let path = path.display();
    Error::Usage(format!("nothing says what {path} shows: give --prompt \"a sks dog\", or a caption in {name}"))
}

/// Where `item` is in `list`, which gets it if it lacks it.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// Width and height for a picture of `size`: of those that fill `side` x `side` pixels as well as they can, the one
/// nearest to its aspect. Sides are steps of an eighth of `side` (64 pixels at 512), from half of it to twice.
fn bucket(size: [usize; 2], side: usize, factor: usize) -> [usize; 2] {
    let step = (side / 8 / factor).max(1) * factor;
    let widths = (1..=side * 2 / step).map(|n| n * step).filter(|w| 2 * w >= side);
    let all = widths.map(|w| [w, side * side / w / step * step]).filter(|[_, h]| *h > 0);
    let aspect = |[w, h]: [usize; 2]| (w as f64 / h as f64).ln();
    let off = |candidate: &[usize; 2]| (aspect(*candidate) - aspect(size)).abs();
    all.min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or([side, side])
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn a_bucket_has_about_the_aspect_and_no_more_pixels() {
        assert_eq!(bucket([1000, 1000], 512, 8), [512, 512]);
        assert_eq!(bucket([3000, 2000], 512, 8), [640, 384]);
        assert_eq!(bucket([2000, 3000], 512, 8), [384, 640]);
        assert_eq!(bucket([1920, 1080], 768, 8), [960, 576]);
        assert_eq!(bucket([10, 20_000], 512, 8), [256, 1024]);
        assert_eq!(bucket([64, 48], 64, 4), [72, 56]);
        for side in [64, 256, 512, 768] {
            for w in (1..40).map(|i| i * 37) {
                let [a, b] = bucket([w, 700], side, 8);
                assert!(a * b <= side * side && a % 8 == 0 && b % 8 == 0 && a > 0 && b > 0, "{w}: {a}x{b}");
            }
        }
    }
}
