//! Letters on an image.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _};
use image::{Rgb, RgbImage};
use portray::{Error, Result};

static REGULAR: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/fonts/Inter-Regular.otf"));
static SEMIBOLD: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/fonts/Inter-SemiBold.otf"));

/// A face in a size and colour.
#[derive(Clone, Copy)]
pub struct Type {
    /// Whether it is the heavier face.
    pub bold: bool,
    /// Pixels from ascender to descender.
    pub size: f32,
    /// Colour.
    pub color: [u8; 3],
}

/// The two faces.
pub struct Lettering {
    regular: FontRef<'static>,
    semibold: FontRef<'static>,
}

impl Lettering {
    /// Opens the faces inside the binary.
    ///
    /// # Errors
    /// [`Error::File`] when one does not parse.
    pub fn new() -> Result<Lettering> {
        let open =
            |bytes| FontRef::try_from_slice(bytes).map_err(|e| Error::file("Inter.otf (in the binary)", e.to_string()));
        Ok(Lettering { regular: open(REGULAR)?, semibold: open(SEMIBOLD)? })
    }

    fn face(&self, bold: bool) -> &FontRef<'static> {
        if bold { &self.semibold } else { &self.regular }
    }

    /// Pixels that `text` is wide.
    pub fn width(&self, text: &str, style: Type) -> f32 {
        let font = self.face(style.bold).as_scaled(PxScale::from(style.size));
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
    }

    /// Draws one line with its top left corner at `(x, y)`.
    pub fn draw(&self, page: &mut RgbImage, x: f32, y: f32, text: &str, style: Type) {
        let face = self.face(style.bold);
        let font = face.as_scaled(PxScale::from(style.size));
        let baseline = (y + font.ascent()).round();
        let mut pen = x;
        for c in text.chars() {
            let id = font.glyph_id(c);
            let glyph = id.with_scale_and_position(PxScale::from(style.size), ab_glyph::point(pen, baseline));
            pen += font.h_advance(id);
            let Some(outline) = face.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, coverage| {
                let (px, py) = (corner.x + dx as f32, corner.y + dy as f32);
                if px >= 0.0 && py >= 0.0 && (px as u32) < page.width() && (py as u32) < page.height() {
                    blend(page.get_pixel_mut(px as u32, py as u32), style.color, coverage);
                }
            });
        }
    }

    /// `text` in lines at most `width` wide, broken between words.
    pub fn wrap(&self, text: &str, width: f32, style: Type) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}"), style) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }

    /// `text`, shortened with an ellipsis to fit `width`.
    pub fn fit(&self, text: &str, width: f32, style: Type) -> String {
        if self.width(text, style) <= width {
            return text.to_owned();
        }
        let mut kept: String = text.to_owned();
        while kept.pop().is_some() {
            let shown = format!("{}…", kept.trim_end());
            if self.width(&shown, style) <= width {
                return shown;
            }
        }
        String::new()
    }
}

/// Lays `color` over `pixel` with `coverage` from 0 to 1.
pub fn blend(pixel: &mut Rgb<u8>, color: [u8; 3], coverage: f32) {
    let c = coverage.clamp(0.0, 1.0);
    for (below, above) in pixel.0.iter_mut().zip(color) {
        *below = (f32::from(*below) * (1.0 - c) + f32::from(above) * c).round() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Type = Type { bold: false, size: 16.0, color: [0; 3] };

    #[test]
    fn letters_leave_ink_and_stay_on_the_page() {
        let letters = Lettering::new().unwrap();
        let mut page = RgbImage::from_pixel(60, 24, Rgb([255; 3]));
        letters.draw(&mut page, 40.0, 2.0, "Wide enough to leave the page", SMALL);
        assert!(page.pixels().any(|p| p.0[0] < 64));
    }

    #[test]
    fn lines_fit() {
        let letters = Lettering::new().unwrap();
        let lines = letters.wrap("the quick brown fox jumps over the lazy dog", 100.0, SMALL);
        assert!(lines.len() > 2 && lines.iter().all(|l| letters.width(l, SMALL) <= 100.0));
        let short = letters.fit("the quick brown fox", 80.0, SMALL);
        assert!(short.ends_with('…') && letters.width(&short, SMALL) <= 80.0);
    }
}
