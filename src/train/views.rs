//! Ways that an image is shown: where it is cropped, and whether it is mirrored. Each is encoded before the training begins.

use crate::base::rng::{CounterRng, Stream};
use crate::io::image::{self, Crop};

use super::TrainOptions;

/// Most views that are encoded of one image; later showings repeat them.
pub const MOST_VIEWS: usize = 64;

/// Sizes that SDXL is told of an image (Podell et al. 2023, arXiv 2307.01952, section 2.2), in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeIds {
    /// Height and width before it was resized.
    pub original: [usize; 2],
    /// Pixels that were cut above it and left of it, of the resized image, mirrored where it is shown mirrored.
    pub crop: [usize; 2],
    /// Height and width that it is trained at.
    pub target: [usize; 2],
}

impl SizeIds {
    /// Returns the numbers in the order of diffusers' `time_ids`.
    pub fn numbers(&self) -> [f32; 6] {
        let ([a, b], [c, d], [e, f]) = (self.original, self.crop, self.target);
        [a, b, c, d, e, f].map(|n| n as f32)
    }
}

/// A way that an image is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct View {
    pub crop: Crop,
    pub flip: bool,
}

impl View {
    /// Sizes to tell of an image of width and height `own` that is shown at `size`.
    pub fn size_ids(&self, own: [usize; 2], size: [usize; 2]) -> SizeIds {
        let [left, top] = image::cut(own, size, self.crop);
        let right = image::covering(own, size)[0].saturating_sub(size[0] + left);
        let height_first = |[w, h]: [usize; 2]| [h, w];
        SizeIds {
            original: height_first(own),
            crop: [top, if self.flip { right } else { left }],
            target: height_first(size),
        }
    }
}

/// The views of an image that are encoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Views {
    pub views: Vec<View>,
    /// Each showing takes the next one; else any of them, drawn for each showing.
    pub in_turn: bool,
}

impl Views {
    /// Returns the view of a class image, which is shown as it is.
    pub fn of_class() -> Views {
        Views { views: vec![View { crop: Crop::CENTER, flip: false }], in_turn: false }
    }

    /// Of image `i` of the subject, of width and height `own`, which `job` shows `showings` times at `size`: cropped at
    /// random, each showing has a crop and a mirroring of its own.
    pub fn new(job: &TrainOptions, i: usize, own: [usize; 2], size: [usize; 2], showings: usize) -> Views {
        // Where nothing is cut, crops are all the same.
        if job.crop == super::Crop::Center || image::covering(own, size) == size {
            let flips = if job.flip { &[false, true][..] } else { &[false] };
            let views = flips.iter().map(|&flip| View { crop: Crop::CENTER, flip }).collect();
            return Views { views, in_turn: false };
        }
        let rng = CounterRng::new(job.seed, Stream::Crop);
        let view = |k: usize| {
            let at = |axis: u64| rng.uniform(i as u32, 2 * k as u64 + axis);
            let flip = job.flip && rng.below(i as u32, (1 << 32) + k as u64, 2) == 1;
            View { crop: Crop { x: at(0), y: at(1) }, flip }
        };
        Views { views: (0..showings.clamp(1, MOST_VIEWS)).map(view).collect(), in_turn: true }
    }
}

/// How often an image of each size is shown at most in `micro_batches` of `batch` images, where there are `images` of each.
pub(super) fn showings(images: &[usize], batch: usize, micro_batches: usize) -> Vec<usize> {
    if let [images] = *images {
        return vec![micro_batches.saturating_mul(batch).div_ceil(images.max(1))];
    }
    let of_size = |images: usize| images.div_ceil(batch);
    let an_epoch: usize = images.iter().map(|&n| of_size(n)).sum();
    let epochs = micro_batches.div_ceil(an_epoch.max(1));
    images.iter().map(|&n| epochs.saturating_mul((of_size(n) * batch).div_ceil(n.max(1)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_showing_has_its_own_crop_and_flip() {
        let job = TrainOptions { crop: super::super::Crop::Random, flip: true, ..TrainOptions::default() };
        let of = |job: &TrainOptions, showings| Views::new(job, 3, [900, 600], [512, 512], showings);
        let few = of(&job, 40);
        assert!(few.in_turn && few.views.len() == 40);
        assert!((1..40).all(|k| few.views[..k].iter().all(|v| v.crop != few.views[k].crop)));
        assert!((10..30).contains(&few.views.iter().filter(|v| v.flip).count()));
        let many = of(&job, 1000);
        assert_eq!(
            (many.views.len(), &many.views[..40]),
            (MOST_VIEWS, &few.views[..]),
            "a run's length changes no view"
        );
        assert_ne!(Views::new(&job, 4, [900, 600], [512, 512], 40), few);
        assert_ne!(of(&TrainOptions { seed: 1, ..job.clone() }, 40), few);
        let plain = of(&TrainOptions { flip: false, ..job.clone() }, 40);
        assert!(plain.views.iter().zip(&few.views).all(|(a, b)| !a.flip && a.crop == b.crop));
        // Nothing is cut of an image of the size's own shape.
        let whole = Views::new(&job, 3, [1024, 1024], [512, 512], 40);
        assert_eq!((whole.views.len(), whole.in_turn), (2, false));
        assert_eq!(of(&TrainOptions { crop: super::super::Crop::Center, ..job }, 40), whole);
    }

    #[test]
    fn sizes_are_those_of_the_view() {
        // 1333 x 701 covers 1024 x 768 at 1460 x 768: 436 columns are cut.
        let view = |x, flip| View { crop: Crop { x, y: 0.0 }, flip }.size_ids([1333, 701], [1024, 768]);
        assert_eq!(view(0.25, false).numbers(), [701.0, 1333.0, 0.0, 109.0, 768.0, 1024.0]);
        assert_eq!(view(0.25, true).crop, [0, 327]);
        let tall = View { crop: Crop::CENTER, flip: true }.size_ids([300, 700], [512, 512]);
        assert_eq!(tall, SizeIds { original: [700, 300], crop: [341, 0], target: [512, 512] });
    }
}
