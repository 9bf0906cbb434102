//! Photos that images are judged against.

use std::path::{Path, PathBuf};

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

/// Reads the photos in `folder`, one at a time, and says what of it is left out.
///
/// # Errors
/// [`Error::File`](crate::Error::File) for a folder without photos or a photo that cannot be read.
pub(super) fn read(folder: &Path, events: &mut EventSink<'_>) -> Result<Vec<Photo>> {
    let found = PictureFolder::open(folder)?;
    if let Some(left_out) = found.left_out(None) {
        events.warn(left_out);
    }
    let mut photos = Vec::with_capacity(found.pictures.len());
    for path in found.pictures {
        let picture = io::Picture::open(&path)?;
        let colours = Embedding::new(picture.width, picture.height, &picture.rgb);
        let thumbnails = [thumbnail(&picture, THUMBNAIL)?, thumbnail(&picture, SMALL)?];
        photos.push(Photo { path, colours, thumbnails });
        events.go_on()?;
    }
    Ok(photos)
}
