//! The tokens that an image tower begins with, on the host: class token, registers and positions, interpolated for images of
//! another size than the trained one; and images as rows of patches.

use super::config::{VisionConfig, VisionKind};
use crate::error::{Error, Result};
use crate::io::image::{Filter, Planes};

/// Patches down and across of an image of `height` x `width` pixels; what is left over at the edges is not seen.
pub fn grid(config: &VisionConfig, height: usize, width: usize) -> [usize; 2] {
    [height / config.patch[0], width / config.patch[1]]
}

/// Checks that the tower reads `image`.
///
/// # Errors
/// [`Error::Usage`] if it has other channels than the tower reads, or no patch.
pub fn check_image(config: &VisionConfig, image: &Planes) -> Result<()> {
    let Planes { channels, height, width, values } = image;
    let [rows, columns] = grid(config, *height, *width);
    let [down, across] = config.patch;
    if *channels != config.channels || rows * columns == 0 || values.len() != channels * height * width {
        let (count, given) = (config.channels, values.len());
        return Err(Error::argument(format!(
            "an image of {channels} channels, {width}x{height} pixels ({given} values): the model reads {count} channels and \
             {across}x{down} pixels or more"
        )));
    }
    Ok(())
}

/// Rows `[patches, channels * patch height * patch width]` of an image, as a convolution over its patches reads them.
///
/// # Errors
/// As [`check_image`].
pub fn patches(config: &VisionConfig, image: &Planes) -> Result<Vec<f32>> {
    check_image(config, image)?;
    let Planes { channels, height, width, values } = image;
    let [rows, columns] = grid(config, *height, *width);
    let [down, across] = config.patch;
    let mut patches = Vec::with_capacity(rows * columns * config.patch_values());
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        for (channel, y) in (0..*channels).flat_map(|channel| (0..down).map(move |y| (channel, y))) {
            let at = (channel * height + row * down + y) * width + column * across;
            patches.extend_from_slice(&values[at..at + across]);
        }
    }
    Ok(patches)
}

/// Tokens that are added or put in front.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Class token with its position, then the registers: `[1 + registers, hidden_size]`.
    pub leading: Vec<f32>,
    /// Positions of the patches: `[patches, hidden_size]`.
    pub positions: Vec<f32>,
}

impl Tokens {
    /// Tokens for images of `height` x `width` pixels, from the class token, the registers and the trained positions
    /// `[1 + patches, hidden_size]`.
    ///
    /// # Errors
    /// [`Error::Usage`] if positions that are no square would have to be interpolated.
    pub fn new(config: &VisionConfig, [class, registers, trained]: [&[f32]; 3], sides: [usize; 2]) -> Result<Tokens> {
        let channels = config.hidden_size;
        let [own, rest] = [&trained[..channels], &trained[channels..]];
        let mut leading: Vec<f32> = class.iter().zip(own).map(|(class, own)| class + own).collect();
        leading.extend_from_slice(registers);
        let count = rest.len() / channels;
        let to = grid(config, sides[0], sides[1]);
        let as_trained = match config.kind {
            VisionKind::Vit | VisionKind::Clip => sides == config.image,
            _ => false,
        };
        if as_trained || (to[0] * to[1] == count && sides[0] == sides[1]) {
            return Ok(Tokens { leading, positions: rest.to_vec() });
        }
        let side = count.isqrt();
        if side * side != count {
            let ([down, across], [height, width]) = (config.image, sides);
            return Err(Error::argument(format!(
                "the model's positions are those of {across}x{down} pixels, no square: an image of {width}x{height} pixels \
                 cannot be embedded"
            )));
        }
        let antialias = config.kind == VisionKind::Dinov2WithRegisters;
        let [down, across] = to.map(|to| if antialias { smooth(side, to) } else { cubic(side, to) });
        Ok(Tokens { leading, positions: resample(rest, channels, side, [&down, &across]) })
    }
}

/// Weighted source positions of a destination.
type Taps = Vec<(usize, f64)>;

/// Taps of PyTorch's bicubic `interpolate` without antialiasing: a = -0.75, positions beyond the edge are the edge's.
fn cubic(from: usize, to: usize) -> Vec<Taps> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let center = (i as f64 + 0.5) * scale - 0.5;
            let (first, t) = (center.floor(), center - center.floor());
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            let place = |k: usize| (first + k as f64 - 1.0).clamp(0.0, (from - 1) as f64) as usize;
            weights.into_iter().enumerate().map(|(k, weight)| (place(k), weight)).collect()
        })
        .collect()
}

/// Taps of the same with `antialias=True`, which is Pillow's filter.
fn smooth(from: usize, to: usize) -> Vec<Taps> {
    let taps = |(start, weights): (usize, Vec<f64>)| (start..).zip(weights).collect();
    Filter::Bicubic.weights(from, to, 0..to).map(taps).collect()
}

/// Positions `[side, side, channels]` under the taps down and across.
fn resample(table: &[f32], channels: usize, side: usize, [down, across]: [&[Taps]; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(down.len() * across.len() * channels);
    for (rows, columns) in down.iter().flat_map(|rows| across.iter().map(move |columns| (rows, columns))) {
        let mut sums = vec![0.0f64; channels];
        for ((row, by), (column, factor)) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)))
        {
            let at = (row * side + column) * channels;
            let weight = by * factor;
            sums.iter_mut().zip(&table[at..at + channels]).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        }
        out.extend(sums.into_iter().map(|sum| sum as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.interpolate(torch.arange(9.).reshape(1, 1, 3, 3) ** 2, (2, 4), mode="bicubic")`, and with
    /// `antialias=True` (torch 2.15).
    #[test]
    fn positions_are_interpolated_as_pytorch_does() {
        let table: Vec<f32> = (0..9).map(|i| (i * i) as f32).collect();
        for (taps, expected) in [(cubic as fn(usize, usize) -> Vec<Taps>, PLAIN), (smooth, SMOOTH)] {
            let made = resample(&table, 1, 3, [&taps(3, 2), &taps(3, 4)]);
            let far = made.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 2e-5, "{made:?}, {far} off");
        }
    }

    const PLAIN: [f32; 8] = [0.935635, 2.008327, 4.969212, 7.684483, 29.34854, 36.25828, 48.34427, 56.89657];
    const SMOOTH: [f32; 8] = [1.916471, 3.516654, 6.938631, 10.037118, 26.33132, 32.97417, 43.74115, 51.88231];

    #[test]
    fn a_patch_is_read_channel_by_channel() {
        let json = serde_json::json!({"image_size": 4, "patch_size": [1, 2], "num_channels": 2});
        let config = VisionConfig::parse("config.json", &json, VisionKind::Vit, None).unwrap();
        let image = Planes { channels: 2, height: 2, width: 3, values: (0..12).map(|i| i as f32).collect() };
        assert_eq!(patches(&config, &image).unwrap(), [0.0, 1.0, 6.0, 7.0, 3.0, 4.0, 9.0, 10.0]);
        let error = patches(&config, &Planes { width: 1, height: 6, ..image }).unwrap_err().to_string();
        assert!(error.contains("2x1 pixels or more"), "{error}");
    }
}
