//! The sheet of results: one image with everything on it, twice as large as a README shows it.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use portray::{Error, Picture, Result};

use crate::cli::lettering::{Lettering, Type, blend};

const INK: [u8; 3] = [24, 24, 27];
const GREY: [u8; 3] = [96, 96, 104];
const RULE: [u8; 3] = [228, 228, 231];
const PAPER: [u8; 3] = [255, 255, 255];

const WIDTH: u32 = 1800;
const MARGIN: u32 = 72;
const GAP: u32 = 24;
/// Personalized images are four to a row: three times as large as the bundled model makes them.
const LARGE: u32 = (WIDTH - 2 * MARGIN - 3 * GAP) / 4;
/// The base model's image of the same prompt and seed stands below, beside the prompt.
const SMALL: u32 = 176;
/// Photos stand beside the title.
const PHOTO: u32 = 256;
const TITLE_WIDTH: u32 = WIDTH - 2 * MARGIN - 4 * (PHOTO + GAP) - GAP;
/// Class images, six to a row.
const CLASS: u32 = (WIDTH - 2 * MARGIN - 5 * GAP) / 6;
const SECTION_GAP: u32 = 52;
const HEADING_HEIGHT: u32 = 60;
const CORNER: f32 = 14.0;

const TITLE: Type = Type { bold: true, size: 64.0, color: INK };
const SUBTITLE: Type = Type { bold: false, size: 26.0, color: GREY };
const HEADING: Type = Type { bold: true, size: 36.0, color: INK };
const NOTE: Type = Type { bold: false, size: 26.0, color: GREY };
const PROMPT: Type = Type { bold: true, size: 27.0, color: INK };
const LABEL: Type = Type { bold: false, size: 22.0, color: GREY };

/// A prompt, and what came of it.
pub struct Cell<'a> {
    /// What was asked for.
    pub prompt: &'a str,
    /// The personalized image.
    pub tuned: &'a Picture,
    /// The base model's of the same prompt and seed, where it is made already.
    pub base: Option<&'a Picture>,
}

/// A titled row of four.
pub struct Row<'a> {
    /// Title.
    pub title: &'static str,
    /// A few words about it.
    pub note: &'a str,
    /// Its images.
    pub cells: Vec<Cell<'a>>,
}

/// A labelled row of class images.
pub struct Strip<'a> {
    /// What they are.
    pub label: &'a str,
    /// The images, of which six are shown.
    pub pictures: &'a [Picture],
}

/// All that is on the page.
pub struct Sheet<'a> {
    /// Title.
    pub title: &'a str,
    /// What stands below the title.
    pub subtitle: &'a str,
    /// The training images, of which four are shown.
    pub photos: &'a [Picture],
    /// Rows of results, as far as they are made.
    pub rows: Vec<Row<'a>>,
    /// Rows of class images, the same seeds in each.
    pub strips: Vec<Strip<'a>>,
}

impl Sheet<'_> {
    /// Draws it.
    ///
    /// # Errors
    /// [`Error::File`] when a face does not open or an image's pixels do not fit its size.
    pub fn draw(&self) -> Result<RgbImage> {
        let letters = Lettering::new()?;
        let strip_height = CLASS + HEADING_HEIGHT + GAP;
        let height = self.header_height(&letters)
            + self.rows.len() as u32 * (row_height() + SECTION_GAP)
            + self.strips.len() as u32 * strip_height
            + MARGIN;
        let mut page = RgbImage::from_pixel(WIDTH, height, Rgb(PAPER));
        self.draw_header(&mut page, &letters)?;
        let mut y = self.header_height(&letters);
        for row in &self.rows {
            draw_row(&mut page, &letters, row, y)?;
            y += row_height() + SECTION_GAP;
        }
        for strip in &self.strips {
            letters.draw(&mut page, MARGIN as f32, y as f32, strip.label, NOTE);
            for (picture, x) in strip.pictures.iter().zip((MARGIN..).step_by((CLASS + GAP) as usize)).take(6) {
                place(&mut page, picture, x, y + HEADING_HEIGHT - 12, CLASS)?;
            }
            y += strip_height;
        }
        Ok(page)
    }

    fn header_height(&self, letters: &Lettering) -> u32 {
        let lines = |text, style| letters.wrap(text, TITLE_WIDTH as f32, style).len() as u32;
        let text = 68 * lines(self.title, TITLE) + 24 + 34 * lines(self.subtitle, SUBTITLE);
        MARGIN + text.max(PHOTO) + SECTION_GAP
    }

    fn draw_header(&self, page: &mut RgbImage, letters: &Lettering) -> Result<()> {
        let mut y = MARGIN as f32 - 12.0;
        for line in letters.wrap(self.title, TITLE_WIDTH as f32, TITLE) {
            letters.draw(page, MARGIN as f32, y, &line, TITLE);
            y += 68.0;
        }
        y += 24.0;
        for line in letters.wrap(self.subtitle, TITLE_WIDTH as f32, SUBTITLE) {
            letters.draw(page, MARGIN as f32, y, &line, SUBTITLE);
            y += 34.0;
        }
        let shown = self.photos.len().min(4) as u32;
        for (i, photo) in (0..shown).zip(self.photos) {
            place(page, photo, WIDTH - MARGIN - (shown - i) * (PHOTO + GAP) + GAP, MARGIN, PHOTO)?;
        }
        Ok(())
    }
}

fn row_height() -> u32 {
    SECTION_GAP + HEADING_HEIGHT + LARGE + GAP / 2 + SMALL
}

fn draw_row(page: &mut RgbImage, letters: &Lettering, row: &Row<'_>, top: u32) -> Result<()> {
    imageops::replace(page, &RgbImage::from_pixel(WIDTH - 2 * MARGIN, 2, Rgb(RULE)), MARGIN.into(), top.into());
    let y = top + SECTION_GAP - 12;
    letters.draw(page, MARGIN as f32, y as f32, row.title, HEADING);
    let beside = MARGIN as f32 + letters.width(row.title, HEADING) + GAP as f32;
    let note = letters.fit(row.note, (WIDTH - MARGIN) as f32 - beside, NOTE);
    letters.draw(page, beside, y as f32 + 8.0, &note, NOTE);
    let y = top + SECTION_GAP + HEADING_HEIGHT - 8;
    for (cell, x) in row.cells.iter().zip((MARGIN..).step_by((LARGE + GAP) as usize)) {
        place(page, cell.tuned, x, y, LARGE)?;
        draw_asked(page, letters, cell, [x, y + LARGE + GAP / 2])?;
    }
    Ok(())
}

/// The prompt beside what the base model makes of it.
fn draw_asked(page: &mut RgbImage, letters: &Lettering, cell: &Cell<'_>, [x, y]: [u32; 2]) -> Result<()> {
    let left = (x + SMALL + 16) as f32;
    let width = (LARGE - SMALL - 16) as f32;
    let mut line_y = y as f32;
    for line in letters.wrap(cell.prompt, width, PROMPT).iter().take(4) {
        letters.draw(page, left, line_y, &letters.fit(line, width, PROMPT), PROMPT);
        line_y += 34.0;
    }
    if let Some(base) = cell.base {
        place(page, base, x, y, SMALL)?;
        letters.draw(page, left, (y + SMALL) as f32 - 27.0, &letters.fit("before training", width, LABEL), LABEL);
    }
    Ok(())
}

/// The image, enlarged, with rounded corners and a hairline round it.
fn place(page: &mut RgbImage, picture: &Picture, x: u32, y: u32, side: u32) -> Result<()> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    let source = RgbImage::from_raw(width, height, picture.rgb.clone()).ok_or_else(|| {
        Error::file("sheet.png", format!("an image of {width}x{height} has {} bytes", picture.rgb.len()))
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

    fn sheet<'a>(tuned: &'a [Picture], base: &'a [Picture], photos: &'a [Picture]) -> Sheet<'a> {
        let cell = |(i, tuned)| Cell { prompt: "a cat wearing a graduation cap", tuned, base: base.get(i) };
        Sheet {
            title: "A title of several words",
            subtitle: "And what it is",
            photos,
            rows: vec![Row { title: "One", note: "a note", cells: tuned.iter().enumerate().map(cell).collect() }],
            strips: vec![Strip { label: "class", pictures: base }],
        }
    }

    #[test]
    fn every_picture_is_on_the_page() {
        let of = |colors: &[[u8; 3]]| colors.iter().map(|c| picture(*c)).collect::<Vec<_>>();
        let tuned = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]];
        let base = [[0, 200, 200], [200, 0, 200], [90, 90, 0], [0, 90, 90]];
        let photos = [[90, 0, 90], [10, 20, 30], [70, 60, 50], [120, 10, 10]];
        let (large, small, shown) = (of(&tuned), of(&base), of(&photos));
        let page = sheet(&large, &small, &shown).draw().unwrap();
        let count = |c: &[u8; 3]| page.pixels().filter(|p| p.0 == *c).count() as u32;
        assert!(tuned.iter().all(|c| count(c) > LARGE * LARGE * 9 / 10));
        assert!(base.iter().all(|c| count(c) > (SMALL * SMALL + CLASS * CLASS) * 9 / 10));
        assert!(photos.iter().all(|c| count(c) > PHOTO * PHOTO * 9 / 10));
        // Nothing is drawn over the margins.
        assert!(page.enumerate_pixels().all(|(x, y, p)| {
            p.0 == PAPER || ((MARGIN..WIDTH - MARGIN).contains(&x) && y > MARGIN / 2 && y < page.height() - MARGIN / 2)
        }));
    }

    #[test]
    fn a_page_grows_with_its_rows() {
        let pictures = [picture([200, 0, 0])];
        let mut one = sheet(&pictures, &[], &pictures);
        let height = one.draw().unwrap().height();
        one.rows.push(Row { title: "Two", note: "", cells: Vec::new() });
        assert_eq!(one.draw().unwrap().height(), height + row_height() + SECTION_GAP);
    }

    #[test]
    fn a_broken_picture_is_an_error() {
        let mut broken = picture([0; 3]);
        broken.rgb.pop();
        assert!(sheet(&[broken], &[], &[]).draw().is_err());
    }
}
