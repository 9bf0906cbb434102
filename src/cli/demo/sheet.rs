//! The sheet of results: one picture with everything on it, labelled.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use portray::event::Picture;
use portray::{Error, Result};

use crate::cli::lettering::{Lettering, Type, blend};

const INK: [u8; 3] = [24, 24, 27];
const GREY: [u8; 3] = [96, 96, 104];
const RULE: [u8; 3] = [228, 228, 231];

const MARGIN: u32 = 72;
const LABELS: u32 = 252;
const GRID: u32 = 1072;
const GRID_LEFT: u32 = MARGIN + LABELS + 36;
const WIDTH: u32 = GRID_LEFT + GRID + MARGIN;
/// Large cells are four to a line: 64-pixel pictures come out four times as large.
const LARGE: u32 = 256;
/// Small cells are six to a line.
const SMALL: u32 = 165;
const CAPTION: u32 = 30;
const LINE_GAP: u32 = 14;
const SECTION_GAP: u32 = 30;
const CORNER: f32 = 8.0;

const TITLE: Type = Type { bold: true, size: 52.0, color: INK };
const SUBTITLE: Type = Type { bold: false, size: 22.0, color: GREY };
const HEADING: Type = Type { bold: true, size: 25.0, color: INK };
const SUBHEADING: Type = Type { bold: true, size: 18.0, color: INK };
const NOTE: Type = Type { bold: false, size: 18.0, color: GREY };
const LABEL: Type = Type { bold: false, size: 18.0, color: GREY };

/// A labelled picture.
pub struct Cell<'a> {
    /// The picture.
    pub picture: &'a Picture,
    /// What stands below it.
    pub caption: String,
}

/// Pictures of one size under one another.
pub struct Band<'a> {
    /// Stands beside it, below the section's note; may be empty.
    pub label: &'static str,
    /// Whether its cells are large ones.
    pub large: bool,
    /// Its pictures.
    pub cells: Vec<Cell<'a>>,
}

/// A titled part of the sheet.
pub struct Section<'a> {
    /// Title.
    pub title: &'static str,
    /// A few words about it.
    pub note: String,
    /// Its pictures.
    pub bands: Vec<Band<'a>>,
}

impl Band<'_> {
    fn columns(&self) -> u32 {
        if self.large { 4 } else { 6 }
    }

    fn side(&self) -> u32 {
        if self.large { LARGE } else { SMALL }
    }

    fn height(&self) -> u32 {
        let lines = (self.cells.len() as u32).div_ceil(self.columns()).max(1);
        lines * (self.side() + CAPTION) + (lines - 1) * LINE_GAP
    }
}

/// Draws the sheet.
///
/// # Errors
/// [`Error::File`] when a face does not open or a picture's pixels do not fit its size.
pub fn draw(title: &str, subtitle: &str, sections: &[Section<'_>]) -> Result<RgbImage> {
    let letters = Lettering::new()?;
    let subtitle = letters.wrap(subtitle, (WIDTH - 2 * MARGIN) as f32, SUBTITLE);
    let header = MARGIN + 64 + 30 * subtitle.len() as u32 + 28;
    let heights: Vec<u32> = sections.iter().map(|s| section_height(&letters, s)).collect();
    let height = header + heights.iter().map(|h| h + 2 * SECTION_GAP).sum::<u32>() + MARGIN - SECTION_GAP;
    let mut page = RgbImage::from_pixel(WIDTH, height, Rgb([255; 3]));
    letters.draw(&mut page, MARGIN as f32, MARGIN as f32 - 10.0, title, TITLE);
    for (i, line) in subtitle.iter().enumerate() {
        letters.draw(&mut page, MARGIN as f32, (MARGIN + 60 + 30 * i as u32) as f32, line, SUBTITLE);
    }
    let mut y = header;
    for (section, height) in sections.iter().zip(heights) {
        imageops::replace(&mut page, &RgbImage::from_pixel(WIDTH - 2 * MARGIN, 1, Rgb(RULE)), MARGIN.into(), y.into());
        draw_section(&mut page, &letters, section, y + SECTION_GAP)?;
        y += height + 2 * SECTION_GAP;
    }
    Ok(page)
}

fn note_lines(letters: &Lettering, section: &Section<'_>) -> Vec<String> {
    letters.wrap(&section.note, LABELS as f32, NOTE)
}

fn section_height(letters: &Lettering, section: &Section<'_>) -> u32 {
    let text = 40 + 25 * note_lines(letters, section).len() as u32;
    let labelled = section.bands.iter().any(|b| !b.label.is_empty());
    let bands: u32 = section.bands.iter().map(Band::height).sum();
    let gaps = section.bands.len().saturating_sub(1) as u32 * LINE_GAP;
    // Labels of bands stand where the bands are, so the note above them needs room of its own.
    if labelled { bands + gaps + text + LINE_GAP } else { (bands + gaps).max(text) }
}

fn draw_section(page: &mut RgbImage, letters: &Lettering, section: &Section<'_>, top: u32) -> Result<()> {
    let labelled = section.bands.iter().any(|b| !b.label.is_empty());
    let left = MARGIN as f32;
    letters.draw(page, left, top as f32 - 4.0, section.title, HEADING);
    let width = if labelled { WIDTH - 2 * MARGIN } else { LABELS };
    let mut text_y = top + 34;
    for line in letters.wrap(&section.note, width as f32, NOTE) {
        letters.draw(page, left, text_y as f32, &line, NOTE);
        text_y += 25;
    }
    let mut y = if labelled { text_y + LINE_GAP } else { top };
    for band in &section.bands {
        for (i, line) in letters.wrap(band.label, LABELS as f32, SUBHEADING).iter().enumerate() {
            letters.draw(page, left, y as f32 + 25.0 * i as f32, line, SUBHEADING);
        }
        draw_band(page, letters, band, y)?;
        y += band.height() + LINE_GAP;
    }
    Ok(())
}

fn draw_band(page: &mut RgbImage, letters: &Lettering, band: &Band<'_>, top: u32) -> Result<()> {
    let (columns, side) = (band.columns(), band.side());
    let step = (GRID - side) as f32 / (columns - 1) as f32;
    for (i, cell) in band.cells.iter().enumerate() {
        let (column, line) = (i as u32 % columns, i as u32 / columns);
        let x = GRID_LEFT + (column as f32 * step).round() as u32;
        let y = top + line * (side + CAPTION + LINE_GAP);
        place(page, cell.picture, x, y, side)?;
        let caption = letters.fit(&cell.caption, side as f32, LABEL);
        letters.draw(page, x as f32, (y + side) as f32 + 5.0, &caption, LABEL);
    }
    Ok(())
}

/// The picture, enlarged, with rounded corners and a hairline round it.
fn place(page: &mut RgbImage, picture: &Picture, x: u32, y: u32, side: u32) -> Result<()> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    let source = RgbImage::from_raw(width, height, picture.rgb.clone()).ok_or_else(|| {
        Error::file("sheet.png", format!("a picture of {width}x{height} has {} bytes", picture.rgb.len()))
    })?;
    let scale = side as f32 / width.max(height).max(1) as f32;
    let size = |n: u32| ((n as f32 * scale).round() as u32).clamp(1, side);
    let large = imageops::resize(&source, size(width), size(height), FilterType::Lanczos3);
    let (left, top) = (x + (side - large.width()) / 2, y + (side - large.height()) / 2);
    for (dx, dy, pixel) in large.enumerate_pixels() {
        let edge = inside(dx, dy, large.width(), large.height());
        let target = page.get_pixel_mut(left + dx, top + dy);
        blend(target, pixel.0, edge + 0.5);
        // Where photo and page are both white, the hairline shows where one ends.
        blend(target, RULE, (1.0 - (edge - 0.5).abs()).clamp(0.0, 1.0));
    }
    Ok(())
}

/// Pixels from the centre of `(x, y)` to the rounded rectangle's edge, positive inside.
fn inside(x: u32, y: u32, width: u32, height: u32) -> f32 {
    let (w, h) = (width as f32 / 2.0, height as f32 / 2.0);
    let dx = (x as f32 + 0.5 - w).abs() - (w - CORNER);
    let dy = (y as f32 + 0.5 - h).abs() - (h - CORNER);
    CORNER - dx.max(0.0).hypot(dy.max(0.0)) - dx.max(dy).min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(rgb: [u8; 3]) -> Picture {
        let rgb = rgb.repeat(64 * 64);
        Picture { width: 64, height: 64, rgb, prompt: String::new(), seed: 0, index: 0, parameters: String::new() }
    }

    #[test]
    fn every_picture_is_on_the_page() {
        let colors = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200], [200, 0, 200], [90, 90, 0]];
        let pictures: Vec<Picture> = colors.iter().map(|c| picture(*c)).collect();
        let cells = |n: usize| pictures[..n].iter().map(|p| Cell { picture: p, caption: "a caption".into() }).collect();
        let band = |label, large, n| Band { label, large, cells: cells(n) };
        let sections = [
            Section {
                title: "One",
                note: "A note of several words that has to be wrapped.".into(),
                bands: vec![band("", true, 4)],
            },
            Section { title: "Two", note: String::new(), bands: vec![band("a", false, 7), band("b", false, 7)] },
        ];
        let page = draw("Title", "Subtitle", &sections).unwrap();
        let count = |c: [u8; 3]| page.pixels().filter(|p| p.0 == c).count();
        for c in &colors[..4] {
            assert!(count(*c) > (LARGE * LARGE + 2 * SMALL * SMALL) as usize * 9 / 10, "{c:?}");
        }
        assert!(count(colors[6]) > (2 * SMALL * SMALL) as usize * 9 / 10);
        // Nothing is drawn over the margins.
        assert!(page.enumerate_pixels().all(|(x, y, p)| {
            p.0 == [255; 3]
                || ((MARGIN..WIDTH - MARGIN).contains(&x) && y > MARGIN / 2 && y < page.height() - MARGIN / 2)
        }));
    }

    #[test]
    fn a_broken_picture_is_an_error() {
        let mut broken = picture([0; 3]);
        broken.rgb.pop();
        let bands =
            vec![Band { label: "", large: true, cells: vec![Cell { picture: &broken, caption: String::new() }] }];
        assert!(draw("t", "s", &[Section { title: "x", note: String::new(), bands }]).is_err());
    }
}
