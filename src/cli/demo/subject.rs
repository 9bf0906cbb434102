//! Whose images the demo trains on.

use std::path::{Path, PathBuf};

use portray::error::option;
use portray::low_level::io::{image, write_atomic};
use portray::{Error, Picture, Result};

use super::super::args::{self, DemoArgs};
use super::scenes::Phrases;

macro_rules! photos {
    ($name:literal) => {
        [
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/subjects/", $name, "/0.png")),
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/subjects/", $name, "/1.png")),
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/subjects/", $name, "/2.png")),
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/subjects/", $name, "/3.png")),
        ]
    };
}

static CAT: [&[u8]; 4] = photos!("cat");
static DOG: [&[u8]; 4] = photos!("dog");

/// A subject's images and what to call it.
pub struct Subject {
    /// Folder that training reads.
    pub folder: PathBuf,
    /// Its images, square, in the size that the model was made for.
    pub photos: Vec<Picture>,
    /// What to call it.
    pub phrases: Phrases,
}

impl Subject {
    /// The user's own images, or bundled ones, which are put into `folder` first; cut to `side` pixels a side.
    ///
    /// # Errors
    /// [`Error::File`] when an image or folder cannot be read or written, [`Error::Usage`] for a prompt without words.
    pub fn open(args: &DemoArgs, folder: &Path, side: usize) -> Result<Subject> {
        let phrases = |instance: &str, class: &str| Phrases { instance: instance.into(), class: class.into() };
        if let (Some(images), Some(prompt), Some(class)) = (&args.images, &args.prompt, &args.class_prompt) {
            for (name, text) in [("prompt", prompt), ("class_prompt", class)] {
                if text.trim().is_empty() {
                    let words = option("prompt") + " \"a sks dog\" " + option("class_prompt") + " \"a dog\"";
                    return Err(Error::usage(name, option(name) + " is empty: give words, as in " + words));
                }
            }
            return Ok(Subject {
                folder: images.clone(),
                photos: open_all(images, side)?,
                phrases: phrases(prompt, class),
            });
        }
        Subject::bundled(args.subject, folder, side)
    }

    /// The bundled subject that is not the study's first, its photos in `folder`; none beside the user's own images.
    ///
    /// # Errors
    /// [`Error::File`] when an image cannot be written.
    pub fn second(args: &DemoArgs, folder: &Path, side: usize) -> Result<Option<Subject>> {
        let other = match args.subject {
            args::Subject::Cat => args::Subject::Dog,
            args::Subject::Dog => args::Subject::Cat,
        };
        args.images.is_none().then(|| Subject::bundled(other, folder, side)).transpose()
    }

    fn bundled(which: args::Subject, folder: &Path, side: usize) -> Result<Subject> {
        let phrases = |instance: &str, class: &str| Phrases { instance: instance.into(), class: class.into() };
        let (files, phrases) = match which {
            args::Subject::Cat => (&CAT, phrases("a mscds cat", "a cat")),
            args::Subject::Dog => (&DOG, phrases("a sks dog", "a dog")),
        };
        // An earlier run may have left another subject's images here.
        for (i, bytes) in files.iter().enumerate() {
            write_atomic(folder.join(format!("{i}.png")), |out| out.write_all(bytes))?;
        }
        Ok(Subject { folder: folder.into(), photos: open_all(folder, side)?, phrases })
    }
}

fn open_all(folder: &Path, side: usize) -> Result<Vec<Picture>> {
    image::list_pictures(folder)?.iter().enumerate().map(|(index, path)| open(path, index, side)).collect()
}

fn open(path: &Path, index: usize, side: usize) -> Result<Picture> {
    let photo = image::Picture::open(path)?.cover(side, side, image::Crop::CENTER)?;
    let (width, height, rgb) = (photo.width, photo.height, photo.rgb);
    Ok(Picture { width, height, rgb, prompt: String::new(), seed: 0, index, parameters: String::new() })
}
