//! Likeness of images to the photos of a subject.

use std::path::PathBuf;

use crate::error::Result;
use crate::evaluate::colour::likeness;
use crate::event::Picture;
use crate::gpu::Gpu;
use crate::io;
use crate::io::image::{Crop, Decoded, Fit};

/// Photos that images are compared with, at most.
const PHOTOS: usize = 8;
/// Side in pixels at which they are.
const SIDE: usize = 256;

/// Photos of a subject, as images are compared with them.
pub(in crate::train) struct Subject {
    photos: Vec<Picture>,
    /// Mean likeness of the photos among themselves; 1 for fewer than two.
    pub(super) among: f64,
}

impl Subject {
    /// Opens the photos at `paths`, evenly chosen where there are more than 8.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for a photo that cannot be read.
    pub(in crate::train) async fn open(gpu: &Gpu, paths: &[PathBuf]) -> Result<Subject> {
        let count = paths.len().min(PHOTOS);
        let mut photos = Vec::with_capacity(count);
        for path in (0..count).filter_map(|i| paths.get(i * paths.len() / count)) {
            photos.push(picture(Decoded::open(path)?.resized([SIDE; 2], Fit::Cover(Crop::CENTER))?));
            gpu.breathe().await;
        }
        let others = |i: usize| -> Vec<Picture> {
            photos.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, photo)| photo.clone()).collect()
        };
        let mut among = if count > 1 { 0.0 } else { 1.0 };
        for (i, photo) in photos.iter().enumerate().filter(|_| count > 1) {
            among += likeness(photo, &others(i)) / count as f64;
            gpu.breathe().await;
        }
        Ok(Subject { photos, among })
    }

    /// Mean likeness of `made` to the photos, 0 to 1.
    pub(super) fn likeness(&self, made: io::Picture) -> f64 {
        likeness(&picture(made), &self.photos)
    }
}

fn picture(io::Picture { width, height, rgb }: io::Picture) -> Picture {
    Picture { index: 0, prompt: String::new(), seed: 0, width, height, rgb, parameters: String::new() }
}
