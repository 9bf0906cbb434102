//! Aspect buckets: sizes that images of different shapes are trained at.

use crate::error::{Error, Result, message, option};
use crate::pipeline::Model;

use super::options::{BucketStep, TrainOptions};

impl TrainOptions {
    /// Width and height that an image of width and height `own` is trained at by `model`, `side` being the resolution.
    pub(super) fn bucket(&self, model: &Model, side: usize, own: [usize; 2]) -> [usize; 2] {
        let step = match self.bucket_step {
            Some(BucketStep::Off) => None,
            Some(BucketStep::Of32) => Some(32),
            Some(BucketStep::Of64) => Some(64),
            // Trained at many shapes, and told each image's own.
            None => model.pooled_width().map(|_| 64),
        };
        match step {
            Some(step) => stepped(own, side, step),
            None if self.buckets => eighths(own, side, model.factor()),
            None => [side, side],
        }
    }

    pub(super) fn check_buckets(&self) -> Result<()> {
        if self.buckets && self.bucket_step == Some(BucketStep::Off) {
            let fault = message![option("buckets"), " asks for what ", option("bucket_step"), " off turns off"];
            return Err(Error::usage("bucket_step", message![fault, ": leave one of them out"]));
        }
        Ok(())
    }
}

/// Sides in steps of `step` pixels, as kohya's `bucket_reso_steps`; the square in them is always among the sizes.
fn stepped(own: [usize; 2], side: usize, step: usize) -> [usize; 2] {
    let square = side / step * step;
    nearest(own, sizes(side, step).chain((square > 0).then_some([square, square]))).unwrap_or([side, side])
}

/// Sides in steps of an eighth of `side` (64 pixels at 512).
fn eighths(own: [usize; 2], side: usize, factor: usize) -> [usize; 2] {
    let step = (side / 8 / factor).max(1) * factor;
    nearest(own, sizes(side, step)).unwrap_or([side, side])
}

/// Sizes that fill `side` x `side` pixels as well as multiples of `step` can, sides from half of `side` to twice.
fn sizes(side: usize, step: usize) -> impl Iterator<Item = [usize; 2]> {
    let widths = (1..=side * 2 / step).map(move |n| n * step).filter(move |w| 2 * w >= side);
    widths.map(move |w| [w, side * side / w / step * step]).filter(|[_, h]| *h > 0)
}

/// The one of `sizes` whose aspect is nearest to that of `own`.
fn nearest(own: [usize; 2], sizes: impl Iterator<Item = [usize; 2]>) -> Option<[usize; 2]> {
    let aspect = |[w, h]: [usize; 2]| (w as f64 / h as f64).ln();
    let off = |size: &[usize; 2]| (aspect(*size) - aspect(own)).abs();
    sizes.min_by(|a, b| off(a).total_cmp(&off(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_about_the_aspect_and_no_more_pixels() {
        assert_eq!(eighths([1000, 1000], 512, 8), [512, 512]);
        assert_eq!(eighths([3000, 2000], 512, 8), [640, 384]);
        assert_eq!(eighths([2000, 3000], 512, 8), [384, 640]);
        assert_eq!(eighths([1920, 1080], 768, 8), [960, 576]);
        assert_eq!(eighths([10, 20_000], 512, 8), [256, 1024]);
        assert_eq!(eighths([64, 48], 64, 4), [72, 56]);
        // SDXL's own sizes (Podell et al. 2023, appendix I) are among these.
        assert_eq!(stepped([3000, 2000], 1024, 64), [1216, 832]);
        assert_eq!(stepped([1080, 1920], 1024, 64), [768, 1344]);
        assert_eq!(stepped([4000, 3000], 1024, 64), [1152, 896]);
        assert_eq!(stepped([3000, 2000], 1024, 32), [1248, 832]);
        // A square stays one where steps do not divide the side; sides below a step make a square.
        assert_eq!(stepped([700, 700], 1000, 64), [960, 960]);
        assert_eq!(stepped([700, 300], 48, 64), [48, 48]);
        for side in [64, 256, 512, 768, 1000, 1024] {
            for w in (1..40).map(|i| i * 37) {
                for (step, [a, b]) in [
                    (8, eighths([w, 700], side, 8)),
                    (64, stepped([w, 700], side, 64)),
                    (32, stepped([w, 700], side, 32)),
                ] {
                    assert!(a * b <= side * side && a * b > 0, "{w}: {a}x{b}");
                    assert!(a % step == 0 && b % step == 0, "{w}: {a}x{b} in steps of {step}");
                }
            }
        }
    }
}
