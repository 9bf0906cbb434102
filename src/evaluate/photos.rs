//! Photos that images are judged against.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::Result;
use crate::io;
use crate::io::image::{PictureFolder, thumbnail};
use crate::pipeline::events::EventSink;

use super::colour::Embedding;
use super::make::THUMBNAIL;

/// Longest side of a photo beside the image that is nearest to it, in pixels.
const SMALL: usize = 96;

/// Photo of the subject.
pub(super) struct Photo {
    pub path: PathBuf,
    pub colours: Embedding,
    /// JPEGs of two sizes.
    pub thumbnails: [Vec<u8>; 2],
}

/// Reads the photos in `folder`, one at a time, and says what of it is left out. Also returns a sentence for each photo that
/// shows the same as one before it.
///
/// # Errors
/// [`Error::File`](crate::Error::File) for a folder without photos or a photo that cannot be read.
pub(super) fn read(folder: &Path, events: &mut EventSink<'_>) -> Result<(Vec<Photo>, Vec<String>)> {
    let found = PictureFolder::open(folder)?;
    if let Some(left_out) = found.left_out(None) {
        events.warn(left_out);
    }
    let (mut photos, mut doubles) = (Vec::with_capacity(found.pictures.len()), Vec::new());
    let mut known: BTreeMap<(usize, [u8; 32]), PathBuf> = BTreeMap::new();
    for path in found.pictures {
        let picture = io::Picture::open(&path)?;
        let colours = Embedding::new(picture.width, picture.height, &picture.rgb);
        let pixels = (picture.width, Sha256::digest(&picture.rgb).into());
        match known.get(&pixels) {
            Some(first) => doubles.push(format!(
                "{} shows the same as {}: likeness of the photos among themselves, by which copying is told, is too high; \
                 remove one",
                path.display(),
                first.display()
            )),
            None => drop(known.insert(pixels, path.clone())),
        }
        let thumbnails = [thumbnail(&picture, THUMBNAIL)?, thumbnail(&picture, SMALL)?];
        photos.push(Photo { path, colours, thumbnails });
        events.go_on()?;
    }
    Ok((photos, doubles))
}
