//! Images as vision models read them: what transformers' image processors do without torchvision (5.23,
//! `image_processing_backends.py`, `PilBackend`).

use super::filter::Filter;
use super::read::Decoded;
use super::resample::Window;
use crate::error::{Error, Result};

/// Most pixels of a prepared image: far more than any model reads.
const MOST_PIXELS: usize = 1 << 26;

/// Values of an image, channels first, as vision models read them.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// Number of channels.
    pub channels: usize,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// `channels * height * width` values.
    pub values: Vec<f32>,
}

/// Size that an image is scaled to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resize {
    /// Each side by itself.
    To {
        /// Pixels down.
        height: usize,
        /// Pixels across.
        width: usize,
    },
    /// The shorter side to so many pixels, the other in proportion.
    Shortest(usize),
    /// The shorter side to so many pixels, fewer if the longer one would exceed its own limit.
    ShortestWithin {
        /// Pixels of the shorter side.
        shortest: usize,
        /// Most pixels of the longer side.
        longest: usize,
    },
    /// In proportion, until one of the sides is as long as allowed.
    Within {
        /// Most pixels down.
        height: usize,
        /// Most pixels across.
        width: usize,
    },
}

impl Resize {
    /// Width and height of an image of `own` width and height once it is scaled. Rounds as transformers does.
    pub fn size(self, own: [usize; 2]) -> [usize; 2] {
        let [width, height] = own;
        let [w, h] = own.map(|side| side as f64);
        match self {
            Resize::To { height, width } => [width, height],
            Resize::Shortest(side) => {
                let long = |long: usize, short: usize| (side as u128 * long as u128 / short.max(1) as u128) as usize;
                if width <= height { [side, long(height, width)] } else { [long(width, height), side] }
            }
            Resize::ShortestWithin { shortest, longest } => {
                let (short, long, most) = (w.min(h), w.max(h), longest as f64);
                let exact = (long / short * shortest as f64 > most).then(|| most * short / long);
                let side = exact.map_or(shortest, |side| side.round_ties_even() as usize);
                let scaled = exact.unwrap_or(side as f64);
                match width.cmp(&height) {
                    _ if width.min(height) == side => own,
                    std::cmp::Ordering::Less => [side, (scaled * h / w) as usize],
                    _ => [(scaled * w / h) as usize, side],
                }
            }
            Resize::Within { height: most_height, width: most_width } => {
                let scale = (most_height as f64 / h).min(most_width as f64 / w);
                [(w * scale) as usize, (h * scale) as usize]
            }
        }
    }
}

/// Preparation of images for a vision model: resize, crop, rescale, normalize, each if it is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Size and filter.
    pub resize: Option<(Resize, Filter)>,
    /// Width and height of what is cut out of the middle. A smaller image gets black margins.
    pub crop: Option<[usize; 2]>,
    /// Factor of the bytes.
    pub rescale: Option<f64>,
    /// Mean and standard deviation of the channels.
    pub normalize: Option<[[f32; 3]; 2]>,
}

impl Preprocessing {
    /// Width and height of the image that [`apply`](Self::apply) makes of one of `own` width and height.
    pub fn size(&self, own: [usize; 2]) -> [usize; 2] {
        self.crop.unwrap_or_else(|| self.scaled(own))
    }

    fn scaled(&self, own: [usize; 2]) -> [usize; 2] {
        self.resize.map_or(own, |(resize, _)| resize.size(own))
    }

    /// Prepares `image`: three planes.
    ///
    /// # Errors
    /// [`Error::Usage`] if the result would have no pixels or more than 67 million.
    pub fn apply(&self, image: &Decoded) -> Result<Planes> {
        let own = image.size();
        let (full, size) = (self.scaled(own), self.size(own));
        let pixels = |[w, h]: [usize; 2]| w.checked_mul(h).filter(|pixels| (1..=MOST_PIXELS).contains(pixels));
        if pixels(size).is_none() || full.contains(&0) {
            let [[w, h], [x, y]] = [own, if full.contains(&0) { full } else { size }];
            let message = format!("an image of {w}x{h} pixels cannot be prepared: it would have {x}x{y}");
            return Err(Error::argument(message));
        }
        let filter = self.resize.map_or(Filter::Nearest, |(_, filter)| filter);
        let [columns, lines] = [0, 1].map(|side| Span::middle(full[side], size[side]));
        let window = Window { full, at: [columns.from, lines.from], size: [columns.count, lines.count] };
        let part = image.window(filter, window);
        let table = self.table();
        let mut values = Vec::with_capacity(3 * size[0] * size[1]);
        for (channel, table) in table.iter().enumerate() {
            let plane = values.len();
            // Margins are black pixels, which are rescaled and normalized as all are.
            values.resize(plane + size[0] * size[1], table[0]);
            for (row, pixels) in part.rgb.chunks_exact(columns.count * 3).enumerate() {
                let at = plane + (lines.to + row) * size[0] + columns.to;
                let line = &mut values[at..at + columns.count];
                line.iter_mut().zip(pixels.chunks_exact(3)).for_each(|(v, rgb)| *v = table[usize::from(rgb[channel])]);
            }
        }
        Ok(Planes { channels: 3, height: size[1], width: size[0], values })
    }

    /// Value of each byte, by channel: rescaled in f64, normalized in f32.
    fn table(&self) -> [[f32; 256]; 3] {
        let value = |channel: usize, byte: usize| {
            let x = self.rescale.map_or(byte as f32, |factor| (byte as f64 * factor) as f32);
            self.normalize.map_or(x, |[mean, std]| (x - mean[channel]) / std[channel])
        };
        std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte)))
    }
}

/// Pixels of one side that a crop keeps.
struct Span {
    /// First pixel kept.
    from: usize,
    /// Number of pixels kept.
    count: usize,
    /// Place of the first one in the result.
    to: usize,
}

impl Span {
    /// Middle `size` of `full` pixels, or all of them in the middle of `size` (`image_transforms.py`, `center_crop`).
    fn middle(full: usize, size: usize) -> Span {
        match full.checked_sub(size) {
            Some(cut) => Span { from: cut / 2, count: size, to: 0 },
            None => Span { from: 0, count: full, to: (size - full).div_ceil(2) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Picture;

    #[test]
    fn sizes_are_rounded_as_transformers_rounds() {
        for (resize, own, size) in [
            (Resize::To { height: 5, width: 9 }, [30, 40], [9, 5]),
            (Resize::Shortest(28), [57, 33], [48, 28]),
            (Resize::Shortest(28), [31, 90], [28, 81]),
            (Resize::Shortest(28), [28, 28], [28, 28]),
            (Resize::ShortestWithin { shortest: 28, longest: 40 }, [57, 33], [40, 23]),
            (Resize::ShortestWithin { shortest: 28, longest: 40 }, [31, 90], [14, 40]),
            (Resize::ShortestWithin { shortest: 28, longest: 400 }, [300, 28], [300, 28]),
            (Resize::ShortestWithin { shortest: 28, longest: 400 }, [300, 211], [39, 28]),
            (Resize::Within { height: 50, width: 50 }, [200, 100], [50, 25]),
            (Resize::Within { height: 200, width: 500 }, [200, 100], [400, 200]),
        ] {
            assert_eq!(resize.size(own), size, "{resize:?} of {own:?}");
        }
    }

    #[test]
    fn steps_that_are_off_leave_bytes_and_margins_are_black() {
        let rgb = (0..18).collect();
        let image = Decoded::from(Picture { width: 3, height: 2, rgb });
        let none = Preprocessing { resize: None, crop: None, rescale: None, normalize: None };
        let planes = none.apply(&image).unwrap();
        assert_eq!((planes.height, planes.width), (2, 3));
        assert_eq!(planes.values[..6], [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]);
        // Odd margins lie above and left, as there.
        let wide = Preprocessing { crop: Some([2, 5]), normalize: Some([[1.0; 3], [2.0; 3]]), ..none.clone() };
        let planes = wide.apply(&image).unwrap();
        let (m, at) = (-0.5, |byte: f32| (byte - 1.0) / 2.0);
        assert_eq!(planes.values[..10], [m, m, m, m, at(0.0), at(3.0), at(9.0), at(12.0), m, m]);
        let error = Preprocessing { crop: Some([1 << 20, 1 << 20]), ..none }.apply(&image).unwrap_err();
        assert!(error.to_string().contains("an image of 3x2 pixels"), "{error}");
    }
}
