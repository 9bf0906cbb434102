//! Reading a picture by what it is, not by what it is called.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::{Error, Result};
use crate::io::source::describe;
use crate::io::{Source, files};

/// Largest picture that is decoded, in pixels: beyond, memory goes to what is scaled away at once.
pub const MAX_PIXELS: u64 = 64_000_000;
/// What decoders may allocate: [`MAX_PIXELS`] with four 16-bit channels, and as much again to work in.
const MAX_DECODER_BYTES: u64 = MAX_PIXELS * 16;
const FORMATS: [(ImageFormat, &str, &[&str]); 6] = [
    (ImageFormat::Png, "PNG", &["png", "apng"]),
    (ImageFormat::Jpeg, "JPEG", &["jpg", "jpeg", "jfif"]),
    (ImageFormat::WebP, "WebP", &["webp"]),
    (ImageFormat::Gif, "GIF", &["gif"]),
    (ImageFormat::Bmp, "BMP", &["bmp"]),
    (ImageFormat::Tiff, "TIFF", &["tif", "tiff"]),
];

/// An 8-bit sRGB picture.
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
    /// Opens the picture at `path`: PNG, JPEG, WebP, GIF, BMP or TIFF, by its content, whatever it is called. EXIF
    /// orientation is applied, transparency is laid over white, 16 bits become 8, gray and CMYK become RGB; of an
    /// animation, the first frame.
    ///
    /// # Errors
    /// [`Error::File`] when it is missing, no picture, damaged, or larger than [`MAX_PIXELS`].
    pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
        Picture::from_source(&Source::open(path)?)
    }

    /// The same from bytes.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn from_source(source: &Source) -> Result<Picture> {
        decode(&source.bytes()?).map_err(|message| Error::file(source.name(), message))
    }
}

fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let Some(&(format, name, _)) = recognize(bytes) else { return Err(not_a_picture(bytes)) };
    let damaged = |e: image::ImageError| format!("damaged {name}: {}", e.to_string().replace('\n', " "));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let most = MAX_PIXELS / 1_000_000;
        return Err(format!("{width}x{height} pixels are too many, the limit is {most} million: scale it down first"));
    }
    if width == 0 || height == 0 {
        return Err(format!("damaged {name}: it has no pixels"));
    }
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err("damaged JPEG: it ends too early, get it again".into());
    }
    // A picture with orientation that cannot be read is shown as it lies by every viewer.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    let rgb = if picture.color().has_alpha() { over_white(picture) } else { picture.into_rgb8() };
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Ok(Picture { width, height, rgb: rgb.into_raw() })
}

fn recognize(bytes: &[u8]) -> Option<&'static (ImageFormat, &'static str, &'static [&'static str])> {
    let format = image::guess_format(bytes).ok()?;
    FORMATS.iter().find(|(known, _, _)| *known == format)
}

fn not_a_picture(bytes: &[u8]) -> String {
    let brand = bytes.get(4..12).unwrap_or_default();
    if [b"ftyphei", b"ftyphev", b"ftypmif", b"ftypavi"].iter().any(|known| brand.starts_with(&known[..])) {
        return "HEIC and AVIF pictures are not read: save it as JPEG or PNG".into();
    }
    if bytes.is_empty() {
        return "the file is empty".into();
    }
    let what = if bytes.is_ascii() { "a text file" } else { "no picture in a known format" };
    format!("is {what}: expected {}", accepted())
}

fn accepted() -> String {
    FORMATS.map(|(_, name, _)| name).join(", ")
}

/// The decoder fills what a cut JPEG lacks with gray; a complete one has an end marker after its last scan's start.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(0xd9) > last(0xda)
}

fn over_white(picture: DynamicImage) -> image::RgbImage {
    let rgba = picture.into_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let image::Rgba([r, g, b, a]) = *rgba.get_pixel(x, y);
        let alpha = u32::from(a);
        image::Rgb([r, g, b].map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// The pictures in `folder` (not below it), sorted by name: files with a picture's ending, and files that are pictures
/// whatever their ending. Hidden files and others, such as captions, are passed over.
///
/// # Errors
/// [`Error::File`] when the folder is missing or holds no picture.
pub fn list_pictures(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    if files::is_file(folder) {
        return Err(Error::file(folder, "is a file: give the folder that holds the pictures"));
    }
    let failed = |e: std::io::Error| Error::file(folder, describe(&e));
    let mut pictures = Vec::new();
    for path in files::entries(folder).map_err(failed)? {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && files::is_file(&path) && (has_ending(&path) || is_picture(&path)) {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        return Err(Error::file(folder, format!("holds no pictures: expected {} files", accepted())));
    }
    pictures.sort();
    Ok(pictures)
}

/// Longest caption that is believed to be one, in bytes.
const LONGEST_CAPTION: u64 = 16 << 10;

/// What the picture at `path` shows by the text file beside it, of the same name with the ending `.txt`; `None` where
/// there is none or it is blank. Lines are joined.
///
/// # Errors
/// [`Error::File`] when it is no UTF-8 text, or far longer than a caption.
pub fn caption(path: impl AsRef<Path>) -> Result<Option<String>> {
    let beside = path.as_ref().with_extension("txt");
    if !files::is_file(&beside) {
        return Ok(None);
    }
    let source = Source::open(&beside)?;
    if source.len() > LONGEST_CAPTION {
        let message = format!("{} bytes are no caption: give a line of text", source.len());
        return Err(Error::file(&beside, message));
    }
    let text = source.text()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok((!words.is_empty()).then(|| words.join(" ")))
}

fn has_ending(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    FORMATS.iter().any(|(_, _, endings)| endings.contains(&ending.as_str()))
}

fn is_picture(path: &Path) -> bool {
    let start = Source::open(path).and_then(|source| Ok(source.read(0..32)?.into_owned()));
    start.is_ok_and(|start| recognize(&start).is_some())
}
