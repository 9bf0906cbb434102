//! Whether a subject was learned and its class kept: figures from pixels alone.
//!
//! Pixel values count from 0 to 1. [`diversity`] and [`change`] look at whole pictures of the class prompt, made with the
//! same seeds. [`likeness`] compares a picture with photos of the subject and leaves the background out.

use crate::event::Picture;

fn unit(p: &Picture) -> impl Iterator<Item = f64> + '_ {
    p.rgb.iter().map(|&v| f64::from(v) / 255.0)
}

/// Mean squared distance of `pictures` to their mean picture; 0 for none.
pub fn diversity(pictures: &[Picture]) -> f64 {
    let Some(first) = pictures.first() else { return 0.0 };
    let mut mean = vec![0.0; first.rgb.len()];
    for p in pictures {
        mean.iter_mut().zip(unit(p)).for_each(|(m, v)| *m += v / pictures.len() as f64);
    }
    let squares: f64 = pictures.iter().flat_map(|p| unit(p).zip(&mean).map(|(v, m)| (v - m).powi(2))).sum();
    squares / (pictures.len() * first.rgb.len()).max(1) as f64
}

/// Mean squared pixel difference between two sets of pictures, pair by pair.
pub fn change(a: &[Picture], b: &[Picture]) -> f64 {
    let squares: f64 = a.iter().zip(b).flat_map(|(a, b)| unit(a).zip(unit(b)).map(|(x, y)| (x - y).powi(2))).sum();
    squares / a.iter().take(b.len()).map(|p| p.rgb.len()).sum::<usize>().max(1) as f64
}

/// Bins of each of the three colour axes.
const BINS: [usize; 3] = [5, 9, 9];

/// How alike the subject's colours are in `picture` and in `photos`, 0 to 1: the mean intersection of soft colour
/// histograms of their foregrounds (Swain and Ballard 1991, "Color Indexing"), in lightness and two opponent axes.
///
/// The foreground is what differs by more than 0.1 from the median colour of the border; each pixel counts by its
/// distance to the middle as well, because that is where a subject is.
pub fn likeness(picture: &Picture, photos: &[Picture]) -> f64 {
    let own = histogram(picture);
    let overlap = |p: &Picture| own.iter().zip(histogram(p)).map(|(a, b)| a.min(b)).sum::<f64>();
    photos.iter().map(overlap).sum::<f64>() / photos.len().max(1) as f64
}

/// The median colour of the outermost pixels.
fn background(p: &Picture) -> [f64; 3] {
    let (w, h) = (p.width, p.height);
    let border = (0..w * h).filter(|i| i % w == 0 || i % w == w - 1 || i / w == 0 || i / w == h - 1);
    let border: Vec<usize> = border.collect();
    std::array::from_fn(|c| {
        let mut values: Vec<u8> = border.iter().map(|i| p.rgb[i * 3 + c]).collect();
        values.sort_unstable();
        values.get(values.len() / 2).map_or(1.0, |&v| f64::from(v) / 255.0)
    })
}

fn histogram(p: &Picture) -> Vec<f64> {
    let back = background(p);
    let mut bins = vec![0.0; BINS.iter().product()];
    for (i, pixel) in p.rgb.chunks(3).enumerate() {
        let [r, g, b] = [0, 1, 2].map(|c| f64::from(pixel[c]) / 255.0);
        let distance = ((r - back[0]).powi(2) + (g - back[1]).powi(2) + (b - back[2]).powi(2)).sqrt();
        if distance < 0.1 {
            continue;
        }
        let centred = |at: usize, of: usize| (at as f64 + 0.5) / of as f64 * 2.0 - 1.0;
        let (x, y) = (centred(i % p.width, p.width), centred(i / p.width, p.height));
        let weight = (-(x * x + y * y)).exp();
        // Lightness, red against green, yellow against blue, each from 0 to 1.
        let axes = [(r + g + b) / 3.0, (r - g + 1.0) / 2.0, ((r + g) / 2.0 - b + 1.0) / 2.0];
        spread(&mut bins, axes, weight);
    }
    let total: f64 = bins.iter().sum();
    bins.iter_mut().for_each(|b| *b /= total.max(1e-9));
    bins
}

/// Shares `weight` between the eight bins around a colour.
fn spread(bins: &mut [f64], axes: [f64; 3], weight: f64) {
    let place = |axis: usize| {
        let at = axes[axis].clamp(0.0, 1.0) * (BINS[axis] - 1) as f64;
        (at as usize, at.fract())
    };
    let places = [place(0), place(1), place(2)];
    for corner in 0..8usize {
        let (mut index, mut share) = (0, weight);
        for (axis, (low, part)) in places.iter().enumerate() {
            let up = corner >> axis & 1;
            index = index * BINS[axis] + (low + up).min(BINS[axis] - 1);
            share *= if up == 1 { *part } else { 1.0 - part };
        }
        bins[index] += share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disc of `colour` on `ground`.
    fn disc(colour: [u8; 3], ground: [u8; 3]) -> Picture {
        let inside = |i: usize| (i % 32).abs_diff(16).pow(2) + (i / 32).abs_diff(16).pow(2) < 100;
        let rgb = (0..1024).flat_map(|i| if inside(i) { colour } else { ground }).collect();
        Picture { width: 32, height: 32, rgb, prompt: String::new(), seed: 0, index: 0, parameters: String::new() }
    }

    #[test]
    fn likeness_sees_the_subject_and_not_the_ground() {
        let purple = disc([130, 60, 200], [255; 3]);
        let on_sand = disc([130, 60, 200], [230, 210, 150]);
        let orange = disc([240, 150, 40], [255; 3]);
        let photos = [purple.clone()];
        assert!(likeness(&on_sand, &photos) > 0.95);
        assert!(likeness(&orange, &photos) < 0.3);
    }

    #[test]
    fn diversity_and_change_are_squares_of_unit_pixels() {
        let (black, white) = (disc([0; 3], [0; 3]), disc([255; 3], [255; 3]));
        assert_eq!(diversity(&[black.clone(), white.clone()]), 0.25);
        assert_eq!(diversity(&[black.clone(), black.clone()]), 0.0);
        assert_eq!(change(std::slice::from_ref(&black), &[white]), 1.0);
        assert_eq!(change(std::slice::from_ref(&black), std::slice::from_ref(&black)), 0.0);
    }
}
