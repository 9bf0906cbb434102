//! Identification of a file by its content: a supported image, one of another kind, or neither.

use std::path::Path;

use image::ImageFormat;

use super::tiff;
use crate::error::Result;
use crate::io::Source;

/// A format that is read.
pub(super) struct Format {
    pub image: ImageFormat,
    pub name: &'static str,
    /// Endings of its files, in small letters.
    endings: &'static [&'static str],
}

const FORMATS: [Format; 6] = [
    Format { image: ImageFormat::Png, name: "PNG", endings: &["png", "apng"] },
    Format { image: ImageFormat::Jpeg, name: "JPEG", endings: &["jpg", "jpeg", "jpe", "jfif"] },
    Format { image: ImageFormat::WebP, name: "WebP", endings: &["webp"] },
    Format { image: ImageFormat::Gif, name: "GIF", endings: &["gif"] },
    Format { image: ImageFormat::Bmp, name: "BMP", endings: &["bmp", "dib"] },
    Format { image: ImageFormat::Tiff, name: "TIFF", endings: &["tif", "tiff"] },
];

/// The names of all formats that are read.
pub(super) fn accepted() -> String {
    FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", ")
}

/// A kind of image or video that is not read.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its name, for messages.
    pub name: &'static str,
    /// Name of one such file.
    pub one: &'static str,
    /// Beginnings of its files.
    marks: &'static [&'static [u8]],
    /// Endings of its files, in small letters: for content that says nothing.
    endings: &'static [&'static str],
}

impl Foreign {
    /// Returns whether `name` ends as files of this kind do.
    fn is_called(&self, name: &str) -> bool {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        self.endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
    }
}

const fn kind(name: &'static str, marks: &'static [&'static [u8]], endings: &'static [&'static str]) -> Foreign {
    Foreign { name, one: "image", marks, endings }
}

static HEIC: Foreign = kind("HEIC", &[], &["heic", "heif", "hif", "heics", "heifs"]);
static AVIF: Foreign = kind("AVIF", &[], &["avif", "avifs"]);
static VIDEO: Foreign = Foreign {
    name: "video",
    one: "file",
    marks: &[b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"],
    endings: &["mp4", "mov", "m4v", "avi", "mkv", "webm", "3gp", "mts", "m2ts", "wmv", "mpg", "mpeg"],
};
static RAW: Foreign = Foreign {
    name: "raw",
    one: "photo",
    marks: &[b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR"],
    endings: &[
        "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "srf", "raf", "orf", "rw2", "rwl", "pef", "srw", "x3f",
        "3fr", "fff", "iiq", "mos", "mrw", "erf", "kdc", "dcr", "raw", "gpr",
    ],
};
static SVG: Foreign = kind("SVG", &[], &["svg", "svgz"]);
static OTHERS: [Foreign; 15] = [
    kind("JPEG XL", &[b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"], &["jxl"]),
    kind("JPEG 2000", &[b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"], &["jp2", "j2k", "jpf", "jpx", "j2c"]),
    kind("JPEG XR", &[b"II\xbc\x01"], &["jxr", "wdp", "hdp"]),
    kind("Photoshop", &[b"8BPS"], &["psd", "psb"]),
    kind("PDF", &[b"%PDF-"], &["pdf", "ai"]),
    kind("PostScript", &[b"%!PS"], &["eps", "ps"]),
    kind("OpenEXR", &[b"v/1\x01"], &["exr"]),
    kind("Radiance HDR", &[b"#?RADIANCE"], &["hdr"]),
    kind("icon", &[b"\0\0\x01\0"], &["ico"]),
    kind("QOI", &[b"qoif"], &["qoi"]),
    kind("anymap", &[], &["ppm", "pgm", "pbm", "pnm", "pam"]),
    kind("DDS", &[b"DDS "], &["dds"]),
    kind("farbfeld", &[b"farbfeld"], &["ff"]),
    kind("GIMP", &[b"gimp xcf"], &["xcf"]),
    kind("Targa", &[], &["tga"]),
];

impl Foreign {
    /// Way to get a supported image from one of the kind.
    pub fn remedy(&self) -> &'static str {
        match self.name {
            "HEIC" => "save as JPEG or PNG, for example with `magick IN.HEIC OUT.jpg`",
            "raw" => "develop to JPEG or PNG",
            "video" => "save frames as JPEG or PNG",
            _ => "save as JPEG or PNG",
        }
    }
}

/// Content of a file.
pub(super) enum Content {
    /// An image of a format that is read.
    Picture(&'static Format),
    /// An image or video of a kind that is not read.
    Foreign(&'static Foreign),
    /// No image, as far as its content says.
    Unknown,
}

/// Bytes at a file's beginning that are looked at.
const HEAD: u64 = 1024;

/// Identifies the file by its content, whatever its name.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if it cannot be read.
pub(super) fn content(source: &Source) -> Result<Content> {
    let head = source.read(0..source.len().min(HEAD))?;
    if let Some(foreign) = foreign(&head) {
        return Ok(Content::Foreign(foreign));
    }
    let format = image::guess_format(&head).ok();
    let format = FORMATS.iter().find(|known| Some(known.image) == format);
    Ok(match format {
        // Two letters alone are a word's beginning as well: a caption may start with "BMW".
        Some(Format { image: ImageFormat::Bmp, .. }) if !is_bitmap(&head) => Content::Unknown,
        // Raw photos are TIFFs inside, told by their tags or, where those are a maker's own, by their ending.
        Some(Format { image: ImageFormat::Tiff, .. })
            if RAW.is_called(source.name()) || tiff::Tags::of(source).is_some_and(|tags| tags.raw()) =>
        {
            Content::Foreign(&RAW)
        }
        Some(format) => Content::Picture(format),
        None => Content::Unknown,
    })
}

/// The size of a bitmap's header is one of a few.
fn is_bitmap(head: &[u8]) -> bool {
    let size = head.get(14..18).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    matches!(size, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124)
}

fn foreign(head: &[u8]) -> Option<&'static Foreign> {
    if let Some(boxed) = media_file(head) {
        return Some(boxed);
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ") {
        return Some(&VIDEO);
    }
    // Canon's older raw files are TIFFs with a mark behind the header.
    if head.starts_with(b"II*\0") && head.get(8..10) == Some(b"CR") {
        return Some(&RAW);
    }
    if let [b'P', b'1'..=b'7', b'\n' | b'\r', ..] = head {
        return OTHERS.iter().find(|kind| kind.name == "anymap");
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if text.starts_with(b"<") && text.windows(4).any(|w| w == b"<svg") {
        return Some(&SVG);
    }
    let mut all = OTHERS.iter().chain([&RAW, &VIDEO]);
    all.find(|kind| kind.marks.iter().any(|mark| head.starts_with(mark)))
}

/// Identifies a file of ISO/IEC 14496-12 boxes: images by the brands that it names, else a video.
fn media_file(head: &[u8]) -> Option<&'static Foreign> {
    let name = head.get(4..8)?;
    if [b"moov", b"mdat", b"wide", b"pnot"].iter().any(|known| name == &known[..]) {
        return Some(&VIDEO);
    }
    if name != b"ftyp" {
        return None;
    }
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let brands = head.get(8..length.clamp(12, head.len().max(12))).unwrap_or_default();
    // The first brand is the file's own; four bytes of a version follow, then all that it is compatible with.
    let brands = || brands.chunks(4).enumerate().filter(|(i, _)| *i != 1).map(|(_, brand)| brand);
    let own = brands().next().unwrap_or_default();
    if own == b"crx " {
        return Some(&RAW);
    }
    let has = |wanted: &[&[u8]]| brands().any(|brand| wanted.contains(&brand));
    if has(&[b"avif", b"avis"]) {
        return Some(&AVIF);
    }
    // "mif1" and "msf1" stand for an image of whatever coding.
    if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"]) {
        return Some(&HEIC);
    }
    if own == b"jxl " {
        return OTHERS.iter().find(|kind| kind.name == "JPEG XL");
    }
    Some(&VIDEO)
}

fn ending(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Returns whether the file at `path` has a supported image's name.
pub(super) fn is_called_picture(path: &Path) -> bool {
    let ending = ending(path);
    FORMATS.iter().any(|format| format.endings.contains(&ending.as_str()))
}

/// The kind that is not read which the file at `path` is called as.
pub(super) fn called_foreign(path: &Path) -> Option<&'static Foreign> {
    let ending = ending(path);
    let mut all = OTHERS.iter().chain([&HEIC, &AVIF, &VIDEO, &RAW, &SVG]);
    all.find(|kind| kind.endings.contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(head: &[u8]) -> &'static str {
        match content(&Source::from_bytes("x", head)).expect("bytes") {
            Content::Picture(format) => format.name,
            Content::Foreign(foreign) => foreign.name,
            Content::Unknown => "none",
        }
    }

    #[test]
    fn content_decides() {
        for (head, expected) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            (b"\0\0\0\x18ftypheic", "HEIC"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "AVIF"),
            (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "raw"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "video"),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
            (b"\0\0\0\x08wide\0\0\0\0mdat", "video"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\xff\x0a\xfa\x1f", "JPEG XL"),
            (b"8BPS\0\x01", "Photoshop"),
            (b"\xef\xbb\xbf<?xml version=\"1.0\"?><svg>", "SVG"),
            (b"<!-- made by hand --><svg viewBox=\"0 0 1 1\"/>", "SVG"),
            (b"<!doctype html><p>no", "none"),
            (b"%PDF-1.7", "PDF"),
            (b"RIFF\x10\0\0\0AVI LIST", "video"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
            (b"II*\0\x10\0\0\0CR\x02\0", "raw"),
            (b"P6\n1 1\n255\nabc", "anymap"),
            (b"P5 is a street in my town", "none"),
            (b"BMW on a wet road at night", "none"),
            (b"\xff\xd8\xff\xe0", "JPEG"),
            (b"", "none"),
            (b"a dog", "none"),
        ] {
            assert_eq!(name(head), expected, "{}", String::from_utf8_lossy(head));
        }
        assert!(is_called_picture(Path::new("A.JPEG")) && is_called_picture(Path::new("a.b.Jfif")));
        assert_eq!(called_foreign(Path::new("IMG_1.HEIC")).map(|k| k.name), Some("HEIC"));
        assert!(!is_called_picture(Path::new("jpg")) && called_foreign(Path::new("a.txt")).is_none());
    }
}
