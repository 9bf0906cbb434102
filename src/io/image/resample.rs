//! Resizing and cropping in one go, as Pillow's filters and torchvision's crops do it.

use std::borrow::Cow;
use std::ops::Range;

use super::filter::{Filter, Taps, byte};
use crate::error::{Error, Result};

/// Position of a crop: the share of what is cut that is left of it and above it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// 0: the left edge is kept, 1: the right one.
    pub x: f64,
    /// 0: the upper edge is kept, 1: the lower one.
    pub y: f64,
}

impl Crop {
    /// The middle.
    pub const CENTER: Crop = Crop { x: 0.5, y: 0.5 };
}

/// Way to resize an image to a given size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fit {
    /// Scaled until it just covers the size, then cropped to it.
    Cover(Crop),
    /// Each side scaled by itself, as diffusers' `VaeImageProcessor.resize` does: nothing is left out.
    Stretch,
}

/// Width and height of an image of `from` once it is scaled to cover `to`; cropping leaves `to` of it.
pub fn covering(from: [usize; 2], to: [usize; 2]) -> [usize; 2] {
    let ([w, h], [width, height]) = (from.map(|n| n as u128), to.map(|n| n as u128));
    // The side that has less to spare gets its exact size, the other one follows, rounded down as torchvision does.
    match width * h >= height * w {
        true => [to[0], (h * width / w.max(1)) as usize],
        false => [(w * height / h.max(1)) as usize, to[1]],
    }
}

/// Pixels that are cut left of and above an image of `from`, of the image scaled to cover `to`: left, top.
pub fn cut(from: [usize; 2], to: [usize; 2], crop: Crop) -> [usize; 2] {
    let [w, h] = covering(from, to);
    [offset(w, to[0], crop.x), offset(h, to[1], crop.y)]
}

/// Source rows that are looked at in one go.
const BAND: usize = 64;

/// Part of a scaled image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Width and height of the whole image once it is scaled.
    pub full: [usize; 2],
    /// Pixels left of the part and above it.
    pub at: [usize; 2],
    /// Width and height of the part.
    pub size: [usize; 2],
}

/// Pixels (RGB) of the image of `from` pixels whose rows `rows` gives, resized with Lanczos to `to` as `fit` says.
///
/// # Errors
/// [`Error::Usage`] when a side of `to` is zero or the crop is not within 0 to 1.
pub(super) fn resample<'a>(
    from: [usize; 2],
    to: [usize; 2],
    fit: Fit,
    rows: impl Fn(Range<usize>) -> Cow<'a, [u8]>,
) -> Result<Vec<u8>> {
    let [width, height] = to;
    let within = |share: f64| (0.0..=1.0).contains(&share);
    let crop = if let Fit::Cover(crop) = fit { crop } else { Crop::CENTER };
    if width == 0 || height == 0 || !within(crop.x) || !within(crop.y) {
        return Err(Error::argument(format!("cannot crop to {width}x{height} at {}, {}", crop.x, crop.y)));
    }
    let [full_width, full_height] = if fit == Fit::Stretch { to } else { covering(from, to) };
    let at = [offset(full_width, width, crop.x), offset(full_height, height, crop.y)];
    let window = Window { full: [full_width.max(width), full_height.max(height)], at, size: to };
    Ok(resample_window(from, Filter::Lanczos, window, rows))
}

/// Pixels (RGB) of `window` of the image of `from` pixels whose rows `rows` gives, scaled with `filter`. It asks for each
/// row once, in order, and only for those that count; so a 20000x20 image costs no more than a square one.
pub(super) fn resample_window<'a>(
    from: [usize; 2],
    filter: Filter,
    window: Window,
    rows: impl Fn(Range<usize>) -> Cow<'a, [u8]>,
) -> Vec<u8> {
    let Window { full, at, size: [width, height] } = window;
    let columns = filter.taps(from[0], full[0], at[0], width);
    let lines = filter.taps(from[1], full[1], at[1], height);
    if down_first(from, full) {
        let narrow = down(from[0] * 3, &lines, rows);
        return across(from[0] * 3, &columns, &narrow);
    }
    let first = lines.iter().map(|taps| taps.start).min().unwrap_or(0);
    let end = lines.iter().map(Taps::end).max().unwrap_or(0);
    let mut narrow = Vec::with_capacity((end - first) * width * 3);
    for begin in (first..end).step_by(BAND) {
        narrow.extend(across(from[0] * 3, &columns, &rows(begin..(begin + BAND).min(end))));
    }
    let row = width * 3;
    down(row, &lines, |some| Cow::Borrowed(&narrow[(some.start - first) * row..(some.end - first) * row]))
}

/// Pillow's order of the two passes, of which the first rounds to bytes (`ImagingResample` in 13.0): across first, unless
/// the other leaves out more than twice as many rows as columns.
fn down_first(from: [usize; 2], to: [usize; 2]) -> bool {
    let [columns, rows] = [0, 1].map(|side| from[side] as i128 - to[side] as i128);
    rows > 0 && rows > 2 * columns
}

/// Rows of `row` bytes under the taps of their columns.
fn across(row: usize, columns: &[Taps], source: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(source.len() / row.max(1) * columns.len() * 3);
    for source in source.chunks_exact(row) {
        for taps in columns {
            out.extend((0..3).map(|channel| taps.sum(|i| source[i * 3 + channel])));
        }
    }
    out
}

/// Rows under the taps `lines`, from source rows of `row` bytes that `rows` gives.
fn down<'a>(row: usize, lines: &[Taps], rows: impl Fn(Range<usize>) -> Cow<'a, [u8]>) -> Vec<u8> {
    let first = lines.iter().map(|taps| taps.start).min().unwrap_or(0);
    let end = lines.iter().map(Taps::end).max().unwrap_or(0);
    let mut sums = vec![0i32; lines.len() * row];
    for begin in (first..end).step_by(BAND) {
        let last = (begin + BAND).min(end);
        let source = rows(begin..last);
        for (taps, sums) in lines.iter().zip(sums.chunks_exact_mut(row)) {
            for at in begin.max(taps.start)..last.min(taps.end()) {
                let (Some(weight), from) = (taps.weight(at), (at - begin) * row) else { continue };
                let bytes = &source[from..from + row];
                sums.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum += weight * i32::from(*byte));
            }
        }
    }
    sums.into_iter().map(byte).collect()
}

/// Offset of a crop, rounded as torchvision's centre crop is.
fn offset(full: usize, kept: usize, share: f64) -> usize {
    (full.saturating_sub(kept) as f64 * share).round_ties_even() as usize
}
