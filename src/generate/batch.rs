//! Images that are sampled together.

use crate::error::Result;
use crate::gpu::{Gpu, Store};
use crate::pipeline::denoise::Sampling;

/// Images `first..first + images` of a job, in a batch of `samples` that the last of them fills up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub first: usize,
    pub images: usize,
    samples: usize,
}

impl Batch {
    /// Cuts `images` images into batches of `samples`, of which the last may hold fewer.
    pub fn all(images: usize, samples: usize) -> impl Iterator<Item = Batch> {
        (0..images).step_by(samples).map(move |first| Batch { first, images: samples.min(images - first), samples })
    }

    /// Numbers of its images in the job.
    pub fn indices(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.images
    }

    /// Number of the image in the job that each of its samples makes.
    pub fn samples(&self) -> impl Iterator<Item = usize> + use<> {
        let Batch { first, images, samples } = *self;
        (0..samples).map(move |row| first + row.min(images - 1))
    }

    /// Cuts latents of all its samples into those of each.
    pub fn each<'a>(&self, latents: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        latents.chunks_exact((latents.len() / self.samples).max(1)).take(self.images)
    }

    /// Copies the latents of its images to `ends`, by their numbers.
    pub fn keep(&self, gpu: &Gpu, sampling: &Sampling, ends: &Store) -> Result<()> {
        for (row, index) in self.indices().enumerate() {
            gpu.copy(&sampling.latent(row)?, ends.entry(&index.to_string())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_image_fills_the_last_batch_up() {
        let samples: Vec<Vec<usize>> = Batch::all(5, 3).map(|batch| batch.samples().collect()).collect();
        assert_eq!(samples, [vec![0, 1, 2], vec![3, 4, 4]]);
        let indices: Vec<_> = Batch::all(5, 3).map(|batch| batch.indices()).collect();
        assert_eq!(indices, [0..3, 3..5]);
    }

    #[test]
    fn what_fills_a_batch_up_is_left_out() {
        let last = Batch::all(5, 3).last().expect("two batches");
        assert_eq!(last.each(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).collect::<Vec<_>>(), [[1.0, 2.0], [3.0, 4.0]]);
    }
}
