//! Masks that an inpainting model is trained with: random rectangles and ellipses, as diffusers' inpainting DreamBooth
//! script draws them. Each is encoded with its image before the training begins.

use crate::base::rng::CounterRng;
use crate::io::image::Mask;

/// Masks encoded of each of a few images: a masked image costs about a quarter of a training step once, and encoding one at
/// every step would keep the autoencoder beside the UNet.
const MASKS: usize = 16;
/// Masks encoded of each of many images.
const LEAST_MASKS: usize = 4;
/// Masks encoded of all images together, where that leaves each [`LEAST_MASKS`].
const MASKS_OF_ALL: usize = 256;

/// How many masks are encoded with each view of one of `images` images that has `views` views. Class images, which are many
/// and shown once each, get one.
pub fn masks_of_view(images: usize, views: usize, class: bool) -> usize {
    if class {
        return 1;
    }
    let of_image = (MASKS_OF_ALL / images.max(1)).clamp(LEAST_MASKS, MASKS);
    of_image.div_ceil(views.max(1))
}

/// A rectangle or an ellipse of any size and place within `width` x `height` pixels: mask `number` of image `image`, where
/// `kind` is 0 for images of the subject and 1 for those of its class.
pub fn random_mask(rng: CounterRng, [kind, image, number]: [usize; 3], [width, height]: [usize; 2]) -> Mask {
    let (step, first) = ((2 * image + kind) as u32, 5 * number as u64);
    let upto = |place: u64, most: usize| rng.below(step, first + place, most as u64 + 1) as usize;
    let (w, h) = (upto(0, width), upto(1, height));
    let (x, y) = (w / 2 + upto(2, width - w / 2 * 2), h / 2 + upto(3, height - h / 2 * 2));
    let off = |at: usize, centre: usize, half: usize| at.abs_diff(centre) as f64 / (half as f64 + 0.5);
    let ellipse = upto(4, 1) == 1;
    Mask::new(width, height, |px, py| {
        let (dx, dy) = (off(px, x, w / 2), off(py, y, h / 2));
        if ellipse { dx * dx + dy * dy <= 1.0 } else { dx <= 1.0 && dy <= 1.0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Stream;

    #[test]
    fn masks_are_rectangles_and_ellipses_of_all_sizes() {
        let rng = CounterRng::new(1, Stream::Mask);
        let size = [40, 24];
        let masks: Vec<Mask> = (0..400).map(|i| random_mask(rng, [0, 3, i], size)).collect();
        assert_eq!(masks[7], random_mask(rng, [0, 3, 7], size), "a mask depends on its numbers alone");
        assert!([[1, 3, 7], [0, 4, 7], [0, 3, 8]].iter().all(|other| random_mask(rng, *other, size) != masks[7]));
        let shares: Vec<f64> = masks.iter().map(Mask::share).collect();
        assert!(shares.iter().filter(|share| **share == 0.0).count() < 12, "few masks are empty");
        assert!(shares.iter().any(|share| *share < 0.05) && shares.iter().any(|share| *share > 0.7), "{shares:?}");
        // Of its bounding box, a rectangle fills all and an ellipse about pi / 4.
        let filled = |mask: &Mask| {
            let rows: Vec<&[bool]> = mask.anew.chunks(40).filter(|row| row.contains(&true)).collect();
            let columns = (0..40).filter(|&x| rows.iter().any(|row| row[x])).count();
            (mask.share() * 960.0) / (rows.len() * columns) as f64
        };
        let large: Vec<f64> = masks.iter().filter(|mask| mask.share() > 0.2).map(filled).collect();
        let rectangles = large.iter().filter(|share| **share > 0.999).count();
        assert!(large.iter().all(|share| *share > 0.999 || (0.72..0.95).contains(share)), "{large:?}");
        assert!(rectangles * 4 > large.len() && rectangles * 4 < 3 * large.len(), "{rectangles} of {}", large.len());
    }

    #[test]
    fn many_images_have_fewer_masks_each() {
        assert_eq!([1, 4, 16, 32, 64, 1000].map(|images| masks_of_view(images, 1, false)), [16, 16, 16, 8, 4, 4]);
        assert_eq!([1, 2, 8, 40].map(|views| masks_of_view(4, views, false)), [16, 8, 2, 1]);
        assert_eq!(masks_of_view(100, 1, true), 1);
    }
}
