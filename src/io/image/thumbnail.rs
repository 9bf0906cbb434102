//! Small JPEG images for pages.

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use super::{Crop, Picture};
use crate::error::{Error, Result};

/// Quality of the JPEG, of 100: its artifacts are not visible at this size.
const QUALITY: u8 = 85;

/// Encodes `picture` as JPEG, scaled down with Lanczos to at most `side` pixels a side; a smaller one keeps its size.
///
/// # Errors
/// [`Error::Usage`] for an image without pixels.
pub fn thumbnail(picture: &Picture, side: usize) -> Result<Vec<u8>> {
    let longest = picture.width.max(picture.height);
    let scaled = |n: usize| if longest > side { (n * side / longest.max(1)).max(1) } else { n };
    let (width, height) = (scaled(picture.width), scaled(picture.height));
    let small;
    let shown = if longest > side {
        small = picture.cover(width, height, Crop::CENTER)?;
        &small
    } else {
        picture
    };
    let failed = |e: &dyn std::fmt::Display| Error::argument(format!("cannot encode the image as JPEG: {e}"));
    let size = |n: usize| u32::try_from(n).map_err(|e| failed(&e));
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    encoder.encode(&shown.rgb, size(width)?, size(height)?, ExtendedColorType::Rgb8).map_err(|e| failed(&e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_get_smaller_and_keep_their_aspect() {
        for (width, height, expected) in
            [(100, 60, (100, 60)), (512, 256, (256, 128)), (3, 700, (1, 256)), (256, 257, (255, 256))]
        {
            let rgb = [200, 120, 40].repeat(width * height);
            let bytes = thumbnail(&Picture { width, height, rgb }, 256).unwrap();
            let read = image::load_from_memory(&bytes).unwrap().into_rgb8();
            assert_eq!((read.width(), read.height()), expected);
            assert!(read.pixels().all(|p| p.0.iter().zip([200, 120, 40]).all(|(a, b)| a.abs_diff(b) < 8)));
        }
        assert!(thumbnail(&Picture { width: 0, height: 0, rgb: Vec::new() }, 256).is_err());
    }
}
