//! What the window shows, and where: text, the loss curve, and places for images. Drawn on the host; images come on top
//! from their textures.

use image::{Rgb, RgbImage};
use portray::wgpu::Texture;

use crate::cli::lettering::{Lettering, Type, blend};

// The colours of the page in a browser, dark.
const WALL: [u8; 3] = [16, 22, 20];
const PAPER: [u8; 3] = [24, 32, 29];
const LINE: [u8; 3] = [51, 64, 58];
const INK: [u8; 3] = [232, 239, 234];
const SOFT: [u8; 3] = [163, 179, 170];
const ACCENT: [u8; 3] = [127, 214, 185];
const MARK: [u8; 3] = [240, 192, 74];

/// What there is to show.
#[derive(Default)]
pub struct View {
    /// What is made, or what is taught.
    pub title: String,
    /// What goes on.
    pub phase: String,
    /// How far it is.
    pub detail: String,
    /// Done, from 0 to 1.
    pub share: Option<f32>,
    /// Whether the user halted it.
    pub paused: bool,
    /// What happened last.
    pub notice: String,
    /// Keys and what they do.
    pub keys: &'static [(&'static str, &'static str)],
    /// Whether there is a loss to plot.
    pub chart: bool,
    /// Its running mean by step, from step `first` of `steps` on.
    pub losses: Vec<f64>,
    /// The first step that was seen.
    pub first: Option<usize>,
    /// Steps in all.
    pub steps: usize,
    /// Numbers of the last step.
    pub numbers: Vec<(&'static str, String)>,
    /// Images.
    pub tiles: Vec<Tile>,
}

/// An image with its label.
#[derive(Clone, Default)]
pub struct Tile {
    /// The line below it.
    pub label: String,
    /// The image.
    pub face: Option<Texture>,
}

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

impl View {
    /// Shows `tile` as image number `index`.
    pub fn put(&mut self, index: usize, tile: Tile) {
        if self.tiles.len() <= index {
            self.tiles.resize(index + 1, Tile::default());
        }
        self.tiles[index] = tile;
    }

    /// Changes with what is shown.
    pub fn stamp(&self) -> impl PartialEq + use<> {
        let tiles: Vec<_> = self.tiles.iter().map(|tile| (tile.label.clone(), tile.face.clone())).collect();
        let text = [&self.phase, &self.detail, &self.notice].map(String::clone);
        (text, self.share.map(f32::to_bits), self.paused, self.losses.len(), tiles)
    }

    /// A line for the window's frame.
    pub fn window_title(&self) -> String {
        let share = self.share.filter(|share| *share < 1.0).map(|share| format!("{:.0} %  ", share * 100.0));
        format!("{}{} - Portray", share.unwrap_or_default(), self.title)
    }

    /// The page of `width` x `height` pixels, `scale` of them to a point, and the places of the images.
    pub fn paint(&self, letters: &Lettering, [width, height]: [u32; 2], scale: f32) -> (RgbImage, Vec<Place>) {
        let mut page = Page { image: RgbImage::from_pixel(width, height, Rgb(WALL)), letters, scale };
        let margin = 28.0 * scale;
        let whole = Place {
            x: margin,
            y: margin,
            width: (width as f32 - 2.0 * margin).max(1.0),
            height: (height as f32 - 2.0 * margin).max(1.0),
        };
        let body = self.frame(&mut page, whole);
        if !self.chart {
            let places = self.grid(&mut page, body);
            return (page.image, places);
        }
        let half = (body.width - margin) / 2.0;
        self.plot(&mut page, Place { width: half, ..body });
        let right = Place { x: body.x + half + margin, width: half, ..body };
        if self.tiles.is_empty() {
            page.text(right.x, right.y, "Images appear here with --sample-prompt", page.kind(false, 14.0, SOFT));
        }
        let places = self.grid(&mut page, right);
        (page.image, places)
    }

    /// Title, progress and keys; returns the room between them.
    fn frame(&self, page: &mut Page<'_>, whole: Place) -> Place {
        let s = page.scale;
        let title = page.kind(true, 26.0, INK);
        page.text(whole.x, whole.y, &page.letters.fit(&self.title, whole.width, title), title);
        let phase = if self.paused { "paused" } else { &self.phase };
        let head = page.kind(true, 15.0, if self.paused { MARK } else { ACCENT });
        let y = whole.y + 36.0 * s;
        page.text(whole.x, y, phase, head);
        let after = whole.x + page.letters.width(phase, head) + 12.0 * s;
        let detail = page.kind(false, 15.0, SOFT);
        page.text(after, y, &page.letters.fit(&self.detail, whole.x + whole.width - after, detail), detail);
        let bar = Place { y: whole.y + 64.0 * s, height: 3.0 * s, ..whole };
        page.fill(bar, LINE);
        page.fill(
            Place { width: bar.width * self.share.unwrap_or(0.0), ..bar },
            if self.paused { MARK } else { ACCENT },
        );

        let foot = whole.y + whole.height - 16.0 * s;
        let mut x = whole.x;
        for (key, meaning) in self.keys {
            let (bold, plain) = (page.kind(true, 13.0, INK), page.kind(false, 13.0, SOFT));
            let meaning = if self.paused && *meaning == "pause" { "go on" } else { meaning };
            let cap = page.letters.width(key, bold) + 12.0 * s;
            page.fill(Place { x, y: foot - 4.0 * s, width: cap, height: 22.0 * s }, LINE);
            page.text(x + 6.0 * s, foot, key, bold);
            x += cap + 8.0 * s;
            page.text(x, foot, meaning, plain);
            x += page.letters.width(meaning, plain) + 24.0 * s;
        }
        let notice = page.kind(false, 13.0, MARK);
        let text = page.letters.fit(&self.notice, whole.x + whole.width - x, notice);
        page.text(whole.x + whole.width - page.letters.width(&text, notice), foot, &text, notice);
        let top = bar.y + 24.0 * s;
        Place { y: top, height: (foot - 20.0 * s - top).max(1.0), ..whole }
    }

    /// Places of the images in `room`, as large as they fit, each above its label.
    fn grid(&self, page: &mut Page<'_>, room: Place) -> Vec<Place> {
        let (gap, label) = (16.0 * page.scale, 22.0 * page.scale);
        let count = self.tiles.len().max(1);
        let size = |columns: usize| {
            let rows = count.div_ceil(columns) as f32;
            let wide = (room.width - gap * (columns as f32 - 1.0)) / columns as f32;
            let high = (room.height - gap * (rows - 1.0)) / rows - label;
            wide.min(high)
        };
        // As large as they can be, unless that leaves much of the last row empty.
        let worth =
            |columns: usize| size(columns) * (count as f32 / (columns * count.div_ceil(columns)) as f32).powf(0.25);
        let columns = (1..=count).max_by(|&a, &b| worth(a).total_cmp(&worth(b))).unwrap_or(1);
        let side = size(columns).max(1.0);
        // In the middle of the room; beside a chart at its top, where the chart begins.
        let rows = count.div_ceil(columns) as f32;
        let spare = |length: f32, cells: f32, cell: f32| (length - cells * cell - (cells - 1.0) * gap).max(0.0) / 2.0;
        let left = spare(room.width, columns as f32, side);
        let top = if self.chart { 0.0 } else { spare(room.height, rows, side + label) };
        let style = page.kind(false, 13.0, SOFT);
        let mut places = Vec::with_capacity(self.tiles.len());
        for (i, tile) in self.tiles.iter().enumerate() {
            let (column, row) = ((i % columns) as f32, (i / columns) as f32);
            let cell = Place {
                x: room.x + left + column * (side + gap),
                y: room.y + top + row * (side + label + gap),
                width: side,
                height: side,
            };
            page.fill(cell, PAPER);
            page.text(cell.x, cell.y + side + 6.0 * page.scale, &page.letters.fit(&tile.label, side, style), style);
            let [w, h] = tile.face.as_ref().map_or([1, 1], |t| [t.width(), t.height()]).map(|n| n as f32);
            let (width, height) = (side * (w / h).min(1.0), side * (h / w).min(1.0));
            let (x, y) = (cell.x + (side - width) / 2.0, cell.y + (side - height) / 2.0);
            places.push(Place { x, y, width, height });
        }
        places
    }

    /// The loss by step, and the numbers of the last one.
    fn plot(&self, page: &mut Page<'_>, room: Place) {
        let s = page.scale;
        page.fill(room, PAPER);
        let (small, bold) = (page.kind(false, 12.0, SOFT), page.kind(true, 15.0, INK));
        let pad = 16.0 * s;
        let mut x = room.x + pad;
        let foot = room.y + room.height - 52.0 * s;
        for (name, value) in &self.numbers {
            page.text(x, foot, name, small);
            page.text(x, foot + 17.0 * s, value, bold);
            x += page.letters.width(name, small).max(page.letters.width(value, bold)) + 18.0 * s;
        }
        page.text(room.x + pad, room.y + 12.0 * s, "loss, running mean", small);
        let area = Place {
            x: room.x + 56.0 * s,
            y: room.y + 40.0 * s,
            width: (room.width - 56.0 * s - pad).max(1.0),
            height: (foot - 30.0 * s - room.y - 40.0 * s).max(1.0),
        };
        if self.losses.is_empty() {
            page.text(area.x, area.y, "appears with the first step", page.kind(false, 14.0, SOFT));
            return;
        }
        let (first, steps) = (self.first.unwrap_or(0), self.steps.max(2));
        let most = self.losses.iter().copied().fold(0.0, f64::max).max(1e-9) * 1.1;
        let tick = nice(most / 5.0);
        for i in 0..=(most / tick) as usize {
            let value = i as f64 * tick;
            let y = area.y + area.height * (1.0 - (value / most) as f32);
            page.fill(Place { y, height: s.max(1.0), ..area }, LINE);
            let text = format!("{value:.*}", (-tick.log10().floor()).max(0.0) as usize);
            page.text(area.x - page.letters.width(&text, small) - 8.0 * s, y - 7.0 * s, &text, small);
        }
        let end = format!("{steps}");
        page.text(area.x, area.y + area.height + 8.0 * s, "step 0", small);
        let right = area.x + area.width - page.letters.width(&end, small);
        page.text(right, area.y + area.height + 8.0 * s, &end, small);
        let point = |i: usize| {
            let across = (first + i + 1) as f32 / steps as f32;
            let up = (self.losses[i] / most) as f32;
            [area.x + area.width * across.min(1.0), area.y + area.height * (1.0 - up)]
        };
        for i in 1..self.losses.len() {
            page.stroke(point(i - 1), point(i), 2.0 * s, ACCENT);
        }
        // A stroke of no length is a dot: where the training is now.
        if let Some(last) = self.losses.len().checked_sub(1) {
            page.stroke(point(last), point(last), 8.0 * s, ACCENT);
        }
    }
}

/// A step between ticks that people count in: 1, 2 or 5 of a power of ten, at least `least`.
fn nice(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|&step| step >= least).unwrap_or(10.0 * power)
}

struct Page<'l> {
    image: RgbImage,
    letters: &'l Lettering,
    scale: f32,
}

impl Page<'_> {
    fn kind(&self, bold: bool, size: f32, color: [u8; 3]) -> Type {
        Type { bold, size: size * self.scale, color }
    }

    fn text(&mut self, x: f32, y: f32, text: &str, style: Type) {
        self.letters.draw(&mut self.image, x, y, text, style);
    }

    fn fill(&mut self, place: Place, color: [u8; 3]) {
        let end = |from: f32, length: f32, most: u32| ((from + length).round().max(0.0) as u32).min(most);
        let (right, bottom) =
            (end(place.x, place.width, self.image.width()), end(place.y, place.height, self.image.height()));
        for y in (place.y.round().max(0.0) as u32)..bottom {
            for x in (place.x.round().max(0.0) as u32)..right {
                self.image.put_pixel(x, y, Rgb(color));
            }
        }
    }

    /// A line of `width`, by each pixel's distance from it.
    fn stroke(&mut self, a: [f32; 2], b: [f32; 2], width: f32, color: [u8; 3]) {
        let reach = width / 2.0 + 1.0;
        let span = |i: usize, most: u32| {
            let (low, high) = (a[i].min(b[i]) - reach, a[i].max(b[i]) + reach);
            (low.max(0.0) as u32)..(high.max(0.0).ceil() as u32).min(most)
        };
        let along = [b[0] - a[0], b[1] - a[1]];
        let square = (along[0] * along[0] + along[1] * along[1]).max(1e-6);
        for y in span(1, self.image.height()) {
            for x in span(0, self.image.width()) {
                let from = [x as f32 + 0.5 - a[0], y as f32 + 0.5 - a[1]];
                let t = ((from[0] * along[0] + from[1] * along[1]) / square).clamp(0.0, 1.0);
                let off = [from[0] - t * along[0], from[1] - t * along[1]];
                let distance = (off[0] * off[0] + off[1] * off[1]).sqrt();
                blend(self.image.get_pixel_mut(x, y), color, width / 2.0 + 0.5 - distance);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_places_that_do_not_overlap() {
        let letters = Lettering::new().unwrap();
        for count in [1, 2, 3, 7] {
            let view = View { tiles: vec![Tile::default(); count], title: "a cat".into(), ..View::default() };
            let (page, places) = view.paint(&letters, [900, 600], 1.0);
            assert_eq!((page.dimensions(), places.len()), ((900, 600), count));
            for (i, a) in places.iter().enumerate() {
                assert!(a.x >= 0.0 && a.y >= 0.0 && a.x + a.width <= 900.0 && a.y + a.height <= 600.0, "{a:?}");
                assert!(a.width > 60.0);
                let meets = |b: &Place| {
                    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
                };
                assert!(!places[..i].iter().any(meets), "{count}: {places:?}");
            }
        }
    }

    #[test]
    fn the_loss_leaves_a_line() {
        let letters = Lettering::new().unwrap();
        let accents = |losses: Vec<f64>| {
            let view = View { chart: true, losses, steps: 100, ..View::default() };
            let (page, _) = view.paint(&letters, [900, 600], 1.0);
            page.pixels().filter(|p| p.0 == ACCENT).count()
        };
        assert_eq!(accents(Vec::new()), 0);
        assert!(accents((0..60).map(|i| 1.0 / (1.0 + f64::from(i))).collect()) > 100);
        // No size is too small to draw on.
        let view =
            View { chart: true, losses: vec![0.0, f64::NAN, 1.0], tiles: vec![Tile::default(); 3], ..View::default() };
        view.paint(&letters, [1, 1], 1.0);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!([0.03, 0.011, 0.6, 7.0].map(nice), [0.05, 0.02, 1.0, 10.0]);
    }
}
