//! Reading an image by what it is, not by what it is called.

use std::borrow::Cow;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use super::filter::Filter;
use super::kind::{Content, Format, accepted, content};
use super::resample::{Crop, Fit, Window, resample, resample_window};
use super::{jpeg, tiff};
use crate::error::{Error, Result, message, option};
use crate::io::Source;

/// The largest image that is decoded, in pixels: phones make 200 million. Less where addresses have 32 bits, as in a
/// browser, for all memory is 4 GB there.
pub const MAX_PIXELS: u64 = if cfg!(target_pointer_width = "32") { 128_000_000 } else { 256_000_000 };
/// Largest allocation of decoders: the largest image with four 16-bit channels.
const MAX_DECODER_BYTES: u64 = MAX_PIXELS * 8;

/// An 8-bit sRGB image.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height * width * 3` bytes, row by row.
    pub rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

impl Picture {
    /// Opens the image at `path`: PNG, JPEG, WebP, GIF, BMP or TIFF, by its content, whatever it is called. EXIF
    /// orientation is applied, transparency is laid over white, 16 bits become 8, gray and CMYK become RGB; of an
    /// animation, the first frame.
    ///
    /// # Errors
    /// [`Error::File`] when it is missing, no image, damaged, or larger than [`MAX_PIXELS`].
    pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
        Picture::from_source(&Source::open(path)?)
    }

    /// Decodes the image in `source`.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn from_source(source: &Source) -> Result<Picture> {
        Decoded::from_source(source).map(Decoded::into_picture)
    }
}

/// Width and height of the image at `path`, as EXIF turns it, by its header alone; files that end too early are
/// found.
///
/// # Errors
/// As [`Picture::open`], but for damage among the pixels.
pub fn size(path: impl AsRef<Path>) -> Result<[usize; 2]> {
    let source = Source::open(path)?;
    let bytes = source.bytes()?;
    let header = Header::read(&source, &bytes)?;
    Ok(turned(header.decoder.dimensions(), header.orientation))
}

impl Picture {
    /// Scaled with Lanczos until it just covers `width` x `height`, then cropped to it.
    ///
    /// # Errors
    /// [`Error::Usage`] when `width` or `height` is zero or the crop is not within 0 to 1.
    pub fn cover(&self, width: usize, height: usize, crop: Crop) -> Result<Picture> {
        let row = self.width * 3;
        let rows = |rows: Range<usize>| Cow::Borrowed(&self.rgb[rows.start * row..rows.end * row]);
        let rgb = resample([self.width, self.height], [width, height], Fit::Cover(crop), rows)?;
        Ok(Picture { width, height, rgb })
    }

    /// Values for the autoencoder: [`cover`](Self::cover)ed, mirrored if `flip`, as NHWC values in [-1, 1].
    ///
    /// # Errors
    /// As [`Picture::cover`].
    pub fn prepare(&self, width: usize, height: usize, crop: Crop, flip: bool) -> Result<Vec<f32>> {
        Ok(self.cover(width, height, crop)?.to_unit(flip))
    }

    /// The image as NHWC values in [-1, 1], mirrored if `flip`.
    pub fn to_unit(&self, flip: bool) -> Vec<f32> {
        let unit = |&value: &u8| f32::from(value) / 127.5 - 1.0;
        match flip {
            false => self.rgb.iter().map(unit).collect(),
            true => self.rgb.chunks(self.width * 3).flat_map(|row| row.chunks(3).rev().flatten()).map(unit).collect(),
        }
    }

    /// The image of NHWC `values` in [-1, 1], rounded as diffusers rounds.
    ///
    /// # Errors
    /// [`Error::Usage`] when their number is not `height * width * 3`, [`Error::Limit`] when one is NaN.
    pub fn from_unit(width: usize, height: usize, values: &[f32]) -> Result<Picture> {
        if values.len() != width * height * 3 {
            return Err(Error::argument(format!("{} values are no {width}x{height} image", values.len())));
        }
        if let Some(i) = values.iter().position(|v| v.is_nan()) {
            let fault =
                format!("the image holds NaN (value {i}); numbers on the way to it grew too large: try a lower ");
            let remedy = message![option("guidance"), ", smaller LoRA scales, or another ", option("sampler")];
            return Err(Error::limit(message![fault, remedy]));
        }
        let byte = |&v: &f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        Ok(Picture { width, height, rgb: values.iter().map(byte).collect() })
    }
}

/// A decoded image as its file holds it: in its own depth and not turned. Rows are turned and become RGB as they are
/// asked for, so that a large photo is in memory once.
pub struct Decoded {
    pixels: DynamicImage,
    orientation: Orientation,
}

impl From<Picture> for Decoded {
    fn from(picture: Picture) -> Decoded {
        let Picture { width, height, rgb } = picture;
        let pixels = RgbImage::from_raw(width as u32, height as u32, rgb).unwrap_or_default();
        Decoded { pixels: DynamicImage::ImageRgb8(pixels), orientation: Orientation::NoTransforms }
    }
}

impl Decoded {
    /// Opens the image at `path`, as [`Picture::open`] does.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Decoded> {
        Decoded::from_source(&Source::open(path)?)
    }

    /// Decodes the image in `source`.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn from_source(source: &Source) -> Result<Decoded> {
        let bytes = source.bytes()?;
        let Header { decoder, format, orientation } = Header::read(source, &bytes)?;
        let pixels = DynamicImage::from_decoder(decoder).map_err(|e| refused(source, format, e))?;
        Ok(Decoded { pixels, orientation })
    }

    /// Takes the pixels of `picture`.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are not as many as its sides say.
    pub fn from_picture(Picture { width, height, rgb }: Picture) -> Result<Decoded> {
        let pixels = image::RgbImage::from_raw(width as u32, height as u32, rgb);
        let wrong = || Error::argument(format!("an image of {width}x{height} has another number of pixels"));
        let pixels = DynamicImage::ImageRgb8(pixels.ok_or_else(wrong)?);
        Ok(Decoded { pixels, orientation: Orientation::NoTransforms })
    }

    /// Width and height.
    pub fn size(&self) -> [usize; 2] {
        turned((self.pixels.width(), self.pixels.height()), self.orientation)
    }

    /// The image brought to `width` x `height` as `fit` says.
    ///
    /// # Errors
    /// [`Error::Usage`] when `width` or `height` is zero or the crop is not within 0 to 1.
    pub fn resized(&self, [width, height]: [usize; 2], fit: Fit) -> Result<Picture> {
        let rgb = resample(self.size(), [width, height], fit, |rows| self.rows(rows))?;
        Ok(Picture { width, height, rgb })
    }

    /// Part `window` of the image, scaled with `filter`.
    pub(super) fn window(&self, filter: Filter, window: Window) -> Picture {
        let [width, height] = window.size;
        Picture { width, height, rgb: resample_window(self.size(), filter, window, |rows| self.rows(rows)) }
    }

    /// The whole image.
    fn into_picture(self) -> Picture {
        let [width, height] = self.size();
        let rgb = match (self.pixels, self.orientation) {
            (DynamicImage::ImageRgb8(pixels), Orientation::NoTransforms) => pixels.into_raw(),
            (pixels, orientation) => Decoded { pixels, orientation }.rows(0..height).into_owned(),
        };
        Picture { width, height, rgb }
    }

    /// RGB of some rows, turned.
    fn rows(&self, rows: Range<usize>) -> Cow<'_, [u8]> {
        use Orientation as O;
        let (w, h) = (self.pixels.width(), self.pixels.height());
        let Range { start, end } = rows;
        if let (DynamicImage::ImageRgb8(pixels), O::NoTransforms) = (&self.pixels, self.orientation) {
            let row = w as usize * 3;
            return Cow::Borrowed(&pixels.as_raw()[start * row..end * row]);
        }
        // Sides are 32-bit numbers in the library's own types.
        let (from, count) = (start as u32, (end - start) as u32);
        let mut band = match self.orientation {
            O::NoTransforms | O::FlipHorizontal => self.pixels.crop_imm(0, from, w, count),
            O::Rotate180 | O::FlipVertical => self.pixels.crop_imm(0, h - from - count, w, count),
            O::Rotate90 | O::Rotate90FlipH => self.pixels.crop_imm(from, 0, count, h),
            O::Rotate270 | O::Rotate270FlipH => self.pixels.crop_imm(w - from - count, 0, count, h),
        };
        band.apply_orientation(self.orientation);
        let rgb = if band.color().has_alpha() { over_white(band) } else { band.into_rgb8() };
        Cow::Owned(rgb.into_raw())
    }
}

fn turned((width, height): (u32, u32), orientation: Orientation) -> [usize; 2] {
    use Orientation as O;
    let [width, height] = [width as usize, height as usize];
    match orientation {
        O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH => [height, width],
        _ => [width, height],
    }
}

fn over_white(picture: DynamicImage) -> image::RgbImage {
    let rgba = picture.into_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let image::Rgba([r, g, b, a]) = *rgba.get_pixel(x, y);
        let alpha = u32::from(a);
        image::Rgb([r, g, b].map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Header of an image file, before its pixels.
struct Header<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    format: &'static Format,
    orientation: Orientation,
}

impl<'a> Header<'a> {
    fn read(source: &Source, bytes: &'a [u8]) -> Result<Header<'a>> {
        let wrong = |message: String| Error::file(source.name(), message);
        let format = match content(source)? {
            Content::Picture(format) => format,
            Content::Foreign(foreign) => {
                let (name, one, remedy) = (foreign.name, foreign.one, foreign.remedy());
                let message = format!("is a {name} {one}, which is not read: {remedy}");
                return Err(wrong(message.replace("a HEIC", "an HEIC").replace("a video file", "a video")));
            }
            Content::Unknown => return Err(wrong(not_a_picture(bytes))),
        };
        match format.image {
            ImageFormat::Jpeg => jpeg::check(bytes).map_err(wrong)?,
            ImageFormat::Png if png_is_cut(bytes) => {
                return Err(wrong("damaged PNG: it ends too early, get it again".into()));
            }
            _ => {}
        }
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format.image);
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODER_BYTES);
        reader.limits(limits);
        let mut decoder = Box::new(reader.into_decoder().map_err(|e| refused(source, format, e))?);
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS {
            let most = MAX_PIXELS / 1_000_000;
            let message = format!("{width}x{height} pixels are too many, the limit is {most} million");
            return Err(wrong(format!("{message}: scale it down first")));
        }
        if pixels == 0 {
            return Err(wrong(format!("has no pixels ({width}x{height}): get it again")));
        }
        // An image whose orientation cannot be read is shown as it lies by every viewer.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        Ok(Header { decoder, format, orientation })
    }
}

/// Why the library gave up, in words that are true of the file.
fn refused(source: &Source, format: &Format, error: ImageError) -> Error {
    let name = format.name;
    let message = match error {
        ImageError::Unsupported(_) if format.image == ImageFormat::Tiff => {
            let what = tiff::Tags::of(source).unwrap_or_default().unusual();
            format!("is a TIFF of {what}, which is not read: save it as PNG or JPEG of 8 bits a colour")
        }
        ImageError::Unsupported(e) => {
            format!("is a {name} of a kind that is not read ({e}): save it as a usual PNG or JPEG")
        }
        ImageError::Limits(_) => {
            let most = MAX_DECODER_BYTES / 1_000_000;
            format!(
                "takes more memory to decode than is allowed ({most} MB): scale it down, or save it with 8 bits a \
                 colour"
            )
        }
        error => format!("damaged {name}: {error}"),
    };
    Error::file(source.name(), message.replace('\n', " "))
}

fn not_a_picture(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "the file is empty".into();
    }
    let what = if bytes.is_ascii() { "a text file" } else { "no image in a known format" };
    format!("is {what}: expected {}", accepted())
}

/// Returns whether the file ends within a chunk of pixels.
fn png_is_cut(bytes: &[u8]) -> bool {
    let mut at = 8;
    while let Some(&[a, b, c, d, ref kind @ ..]) = bytes.get(at..at + 8) {
        let end = at.saturating_add(12).saturating_add(u32::from_be_bytes([a, b, c, d]) as usize);
        if kind == b"IEND" || end > bytes.len() {
            return kind == b"IDAT";
        }
        at = end;
    }
    false
}
