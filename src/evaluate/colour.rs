//! Built-in measure: figures from colours alone, for when there is no vision model.
//!
//! [`Embedding::new`] turns an image into two vectors whose cosines take the place of those of a vision model: colours of
//! what stands in the middle, with the background left out, and colours of the whole image by place. The other functions
//! serve `portray demo --check`; they count pixel values from 0 to 1.

use crate::event::Picture;

/// Sentence on what the measure cannot see. For people.
pub const BLIND_TO: &str = "The built-in measure sees colours alone: the subject's by the colours of what stands in the \
    middle, whole images by the colours of their parts. It sees neither shapes, textures and faces nor what an image shows; \
    another subject of the same colours looks the same to it. Give a DINO model for likeness.";

/// Pixels of an image.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    width: usize,
    height: usize,
    rgb: &'a [u8],
}

impl<'a> From<&'a Picture> for Pixels<'a> {
    fn from(picture: &'a Picture) -> Pixels<'a> {
        Pixels { width: picture.width, height: picture.height, rgb: &picture.rgb }
    }
}

fn unit(p: &Picture) -> impl Iterator<Item = f64> + '_ {
    p.rgb.iter().map(|&v| f64::from(v) / 255.0)
}

/// Mean squared distance of `pictures` to their mean image; 0 for none.
pub fn diversity(pictures: &[Picture]) -> f64 {
    let Some(first) = pictures.first() else { return 0.0 };
    let mut mean = vec![0.0; first.rgb.len()];
    for p in pictures {
        mean.iter_mut().zip(unit(p)).for_each(|(m, v)| *m += v / pictures.len() as f64);
    }
    let squares: f64 = pictures.iter().flat_map(|p| unit(p).zip(&mean).map(|(v, m)| (v - m).powi(2))).sum();
    squares / (pictures.len() * first.rgb.len()).max(1) as f64
}

/// Mean squared pixel difference between two sets of images, pair by pair.
pub fn change(a: &[Picture], b: &[Picture]) -> f64 {
    let squares: f64 = a.iter().zip(b).flat_map(|(a, b)| unit(a).zip(unit(b)).map(|(x, y)| (x - y).powi(2))).sum();
    squares / a.iter().take(b.len()).map(|p| p.rgb.len()).sum::<usize>().max(1) as f64
}

/// Side of the grid that images of any size are averaged to before they are compared.
const GRID: usize = 64;
/// Bins of lightness and of the two opponent axes.
const BINS: [usize; 3] = [6, 13, 13];
/// Parts of a side of an image that are looked at apart.
const PARTS: usize = 16;
/// The share of the border that must have a pixel's colour for it to be background: a subject that touches the border
/// somewhere does not count as background everywhere.
const BORDER_SHARE: f64 = 0.05;
/// Colour differences (CIE76) up to which a pixel is background, and from which it is foreground.
const BACKGROUND: [f64; 2] = [8.0, 20.0];

/// Vectors of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Colours of the foreground, for likeness to photos. Cosines are Bhattacharyya coefficients of histograms (Kailath 1967):
    /// 1 for the same colours, 0 for none in common. An image that is all background has a direction of its own.
    pub subject: Vec<f64>,
    /// Colours of each of 16 x 16 parts of the whole image, for diversity and drift.
    pub scene: Vec<f64>,
}

impl Embedding {
    /// Embeds an image of `width` x `height` pixels: RGB, 8 bits per channel, row by row.
    pub fn new(width: usize, height: usize, rgb: &[u8]) -> Embedding {
        let pixels = Pixels { width, height, rgb };
        let mut subject: Vec<f64> = histogram(pixels).into_iter().map(f64::sqrt).collect();
        let is_empty = subject.iter().all(|x| *x == 0.0);
        subject.push(f64::from(u8::from(is_empty)));
        Embedding { subject, scene: scene(pixels) }
    }
}

/// Lightness, from the middle, and the two opponent axes of each part of an image, in CIE L*a*b*.
fn scene(p: Pixels<'_>) -> Vec<f64> {
    let (lab, width, height) = grid(p);
    // An image of fewer pixels shows some of them in several parts.
    let part = |at: usize, of: usize| at * of / PARTS..((at + 1) * of / PARTS).max(at * of / PARTS + 1);
    let mut values = Vec::with_capacity(PARTS * PARTS * 3 + 1);
    for (y, x) in (0..PARTS).flat_map(|y| (0..PARTS).map(move |x| (y, x))) {
        let (rows, columns) = (part(y, height), part(x, width));
        let count = (rows.len() * columns.len()) as f64;
        let mut mean = [-50.0, 0.0, 0.0];
        for cell in rows.flat_map(|row| columns.clone().map(move |column| row * width + column)) {
            mean.iter_mut().zip(lab[cell]).for_each(|(mean, value)| *mean += value / count);
        }
        values.extend(mean);
    }
    // Gives an even grey a direction, and counts little beside colours.
    values.push(PARTS as f64);
    values
}

/// How alike the subject's colours are in `picture` and in `photos`, 0 to 1: the mean intersection of soft colour
/// histograms of their foregrounds (Swain and Ballard 1991, "Color Indexing") in CIE L*a*b*; 0 for an image that is
/// nothing but background.
///
/// Background is what looks like the border: a pixel counts in full where fewer than 5 % of the border pixels are within
/// a colour difference of 20, not at all where as many are within 8, and in part between. So a ground of several colours
/// (sky, sea and sand) is left out whole. Each pixel counts by its distance to the middle as well, because that is where
/// a subject is.
pub fn likeness(picture: &Picture, photos: &[Picture]) -> f64 {
    let own = histogram(picture.into());
    let overlap = |p: &Picture| own.iter().zip(histogram(p.into())).map(|(a, b)| a.min(b)).sum::<f64>();
    photos.iter().map(overlap).sum::<f64>() / photos.len().max(1) as f64
}

/// The foreground's colours; sums to 1, or to 0 where there is no foreground.
fn histogram(p: Pixels<'_>) -> Vec<f64> {
    let mut bins = vec![0.0; BINS.iter().product()];
    let (lab, width, height) = grid(p);
    let on_border =
        |i: usize| i.is_multiple_of(width) || i % width == width - 1 || i / width == 0 || i / width == height - 1;
    let border: Vec<[f64; 3]> = (0..lab.len()).filter(|&i| on_border(i)).map(|i| lab[i]).collect();
    let rank = (border.len() as f64 * BORDER_SHARE) as usize;
    let mut squares = Vec::with_capacity(border.len());
    for (i, colour) in lab.iter().enumerate() {
        squares.clear();
        squares.extend(border.iter().map(|b| colour.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>()));
        let foreground = foreground(&mut squares, rank);
        let centred = |at: usize, of: usize| (at as f64 + 0.5) / of as f64 * 2.0 - 1.0;
        let (x, y) = (centred(i % width, width), centred(i / width, height));
        spread(&mut bins, axes(*colour), foreground * (-(x * x + y * y)).exp());
    }
    let total: f64 = bins.iter().sum();
    bins.iter_mut().for_each(|b| *b /= total.max(1e-9));
    bins
}

/// How much of a pixel is foreground, from the squares of its differences to the border: 0 if more than `rank` are small.
fn foreground(squares: &mut [f64], rank: usize) -> f64 {
    let within = |limit: f64| squares.iter().filter(|square| **square <= limit * limit).count();
    // Most pixels are clearly one or the other, and counting is faster than sorting.
    if within(BACKGROUND[0]) > rank {
        return 0.0;
    }
    if within(BACKGROUND[1]) <= rank {
        return 1.0;
    }
    let difference = squares.select_nth_unstable_by(rank, f64::total_cmp).1.sqrt();
    ((difference - BACKGROUND[0]) / (BACKGROUND[1] - BACKGROUND[0])).clamp(0.0, 1.0)
}

/// The image in L*a*b*, averaged to at most `GRID` cells a side, with its width and height in cells.
fn grid(p: Pixels<'_>) -> (Vec<[f64; 3]>, usize, usize) {
    let (width, height) = (p.width.min(GRID), p.height.min(GRID));
    let mut cells = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let rows = y * p.height / height..(y + 1) * p.height / height;
            let columns = x * p.width / width..(x + 1) * p.width / width;
            let count = (rows.len() * columns.len()) as f64;
            let mut sum = [0.0; 3];
            for i in rows.flat_map(|row| columns.clone().map(move |column| row * p.width + column)) {
                for (sum, value) in sum.iter_mut().zip(p.rgb.iter().skip(i * 3)) {
                    *sum += f64::from(*value) / 255.0;
                }
            }
            cells.push(lab(sum.map(|s| s / count)));
        }
    }
    (cells, width, height)
}

/// CIE L*a*b* (D65) of an sRGB colour with values from 0 to 1.
fn lab(rgb: [f64; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(|v| if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) });
    let x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047;
    let y = 0.2126729 * r + 0.7151522 * g + 0.0721750 * b;
    let z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883;
    let [x, y, z] = [x, y, z].map(|v: f64| if v > 0.008856 { v.cbrt() } else { 7.787 * v + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// Position of a colour on the axes of histograms, 0 to 1.
fn axes(lab: [f64; 3]) -> [f64; 3] {
    // sRGB lies within -90..100 on both opponent axes but for the deepest blue, which the last bin takes.
    [lab[0] / 100.0, (lab[1] + 90.0) / 180.0, (lab[2] + 90.0) / 180.0]
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

    fn picture(width: usize, rgb: Vec<u8>) -> Picture {
        let height = rgb.len() / 3 / width;
        Picture { width, height, rgb, prompt: String::new(), seed: 0, index: 0, parameters: String::new() }
    }

    /// A disc of `colour` on `ground`.
    fn disc(colour: [u8; 3], ground: [u8; 3]) -> Picture {
        disc_on(colour, |_| ground)
    }

    /// A disc of `colour` where `ground` gives the colour of each of 32 rows.
    fn disc_on(colour: [u8; 3], ground: impl Fn(usize) -> [u8; 3]) -> Picture {
        let inside = |i: usize| (i % 32).abs_diff(16).pow(2) + (i / 32).abs_diff(16).pow(2) < 100;
        picture(32, (0..1024).flat_map(|i| if inside(i) { colour } else { ground(i / 32) }).collect())
    }

    /// Four bundled photos of a subject.
    fn photos(subject: &str) -> Vec<Picture> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects").join(subject);
        (0..4)
            .map(|i| {
                let image = image::open(folder.join(format!("{i}.png"))).unwrap().into_rgb8();
                picture(image.width() as usize, image.into_raw())
            })
            .collect()
    }

    const PURPLE: [u8; 3] = [130, 60, 200];
    const ORANGE: [u8; 3] = [240, 150, 40];

    #[test]
    fn likeness_sees_the_subject_and_not_the_ground() {
        let photos = [disc(PURPLE, [255; 3])];
        assert!(likeness(&disc(PURPLE, [230, 210, 150]), &photos) > 0.95);
        assert!(likeness(&disc(ORANGE, [255; 3]), &photos) < 0.05);
        // The same ground as in the photo, and the subject's colour as the ground, make nothing more alike.
        assert!(likeness(&disc(ORANGE, PURPLE), &photos) < 0.05);
        assert_eq!(likeness(&disc([255; 3], [255; 3]), &photos), 0.0);
        assert_eq!(likeness(&photos[0], &[]), 0.0);
    }

    #[test]
    fn a_ground_of_several_colours_is_left_out() {
        let beach = |row: usize| match row {
            0..12 => [130, 190, 240],
            12..18 => [40, 110, 190],
            _ => [240, 215, 150],
        };
        let photos = [disc(PURPLE, [255; 3])];
        assert!(likeness(&disc_on(PURPLE, beach), &photos) > 0.95);
        assert!(likeness(&disc_on(ORANGE, beach), &photos) < 0.05);
    }

    #[test]
    fn photos_of_one_subject_are_alike_on_any_ground() {
        let (cat, dog) = (photos("cat"), photos("dog"));
        for i in 0..4 {
            let others =
                |of: &[Picture]| of.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p.clone()).collect();
            let (cats, dogs): (Vec<_>, Vec<_>) = (others(&cat), others(&dog));
            let (same, other) = (likeness(&cat[i], &cats), likeness(&cat[i], &dogs));
            assert!(same > 0.75 && other < 0.25, "cat {i}: {same:.3} to cats, {other:.3} to dogs");
            let (same, other) = (likeness(&dog[i], &dogs), likeness(&dog[i], &cats));
            assert!(same > 0.6 && other < 0.25, "dog {i}: {same:.3} to dogs, {other:.3} to cats");
        }
    }

    #[test]
    fn size_does_not_matter() {
        let photo = photos("cat").swap_remove(1);
        let (w, h) = (photo.width, photo.height);
        let double = (0..4 * w * h).flat_map(|i| {
            let at = (i / (2 * w) / 2 * w + i % (2 * w) / 2) * 3;
            [photo.rgb[at], photo.rgb[at + 1], photo.rgb[at + 2]]
        });
        assert!(likeness(&picture(2 * w, double.collect()), std::slice::from_ref(&photo)) > 0.999);
        assert!(likeness(&picture(1, PURPLE.to_vec()), &[photo]) < 1e-9, "one pixel is all border");
    }

    fn cosine(a: &[f64], b: &[f64]) -> f64 {
        let unit = |v: &[f64]| super::super::UnitVectors::new(v.len(), v.iter().copied()).unwrap();
        unit(a).cosine(0, &unit(b), 0)
    }

    #[test]
    fn embeddings_tell_subjects_and_places_apart() {
        let embed = |p: &Picture| Embedding::new(p.width, p.height, &p.rgb);
        let (white, sand) = (embed(&disc(PURPLE, [255; 3])), embed(&disc(PURPLE, [230, 210, 150])));
        let other = embed(&disc(ORANGE, [255; 3]));
        assert!(cosine(&white.subject, &sand.subject) > 0.95 && cosine(&white.subject, &other.subject) < 0.05);
        let night = embed(&disc(PURPLE, [20, 30, 60]));
        let (sand, night) = (cosine(&white.scene, &sand.scene), cosine(&white.scene, &night.scene));
        assert!((0.5..0.95).contains(&sand) && night < 0.2, "the ground is another: {sand:.3}, {night:.3}");
        assert!((cosine(&white.subject, &white.subject) - 1.0).abs() < 1e-12);
        assert!((cosine(&white.scene, &white.scene) - 1.0).abs() < 1e-12);
        // One colour has no foreground: it is like another such image, and like no subject.
        let (blank, also) = (embed(&disc([255; 3], [255; 3])), embed(&disc(PURPLE, PURPLE)));
        assert_eq!((cosine(&blank.subject, &also.subject), cosine(&blank.subject, &white.subject)), (1.0, 0.0));
        // The same colours elsewhere.
        let half = |flip: bool| {
            let side = |i: usize| if (i % 32 < 16) == flip { PURPLE } else { ORANGE };
            embed(&picture(32, (0..1024).flat_map(side).collect()))
        };
        assert!(cosine(&half(true).scene, &half(false).scene) < 0.05);
        // The mean over four photos of a subject is above any likeness to the other's.
        let photos = |name: &str| photos(name).iter().map(embed).collect::<Vec<_>>();
        let (cats, dogs) = (photos("cat"), photos("dog"));
        for (i, cat) in cats.iter().enumerate() {
            let own: f64 =
                (0..4).filter(|j| *j != i).map(|j| cosine(&cat.subject, &cats[j].subject)).sum::<f64>() / 3.0;
            let most = dogs.iter().map(|dog| cosine(&cat.subject, &dog.subject)).fold(0.0, f64::max);
            assert!(own > most + 0.2, "cat {i}: {own:.3} to cats, up to {most:.3} to dogs");
        }
    }

    #[test]
    fn sizes_of_every_kind_are_embedded() {
        for (width, height) in [(1, 1), (1, 9), (7, 3), (200, 5), (65, 64)] {
            let embedding = Embedding::new(width, height, &PURPLE.repeat(width * height));
            assert!((cosine(&embedding.scene, &embedding.scene) - 1.0).abs() < 1e-12, "{width}x{height}");
            assert_eq!(embedding.scene.len(), PARTS * PARTS * 3 + 1);
        }
        // Halves of a 2 x 1 image are halves of its parts; an even grey has a direction.
        let scene = Embedding::new(2, 1, &[0, 0, 0, 255, 255, 255]).scene;
        assert!((scene[7 * 3] + 50.0).abs() < 1e-9 && (scene[8 * 3] - 50.0).abs() < 1e-3);
        for grey in [118, 119, 120] {
            let embedding = Embedding::new(3, 3, &[grey; 27]);
            assert!((cosine(&embedding.scene, &embedding.scene) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_pixel_is_foreground_by_the_border_pixels_that_it_resembles() {
        let share = |differences: &[f64]| foreground(&mut differences.iter().map(|d| d * d).collect::<Vec<_>>(), 1);
        assert_eq!([share(&[8.0, 50.0, 3.0]), share(&[7.0, 20.5, 90.0]), share(&[99.0; 3])], [0.0, 1.0, 1.0]);
        assert!((share(&[3.0, 14.0, 60.0]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn lab_of_known_colours() {
        for (rgb, expected) in [
            ([1.0, 1.0, 1.0], [100.0, 0.0, 0.0]),
            ([1.0, 0.0, 0.0], [53.24, 80.09, 67.2]),
            ([0.0, 0.0, 1.0], [32.3, 79.19, -107.86]),
            ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ] {
            for (value, expected) in lab(rgb).into_iter().zip(expected) {
                assert!((value - expected).abs() < 0.05, "{rgb:?}: {value} for {expected}");
            }
        }
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
