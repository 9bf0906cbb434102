//! PNG files that carry how they were made.

use std::path::Path;

use super::Picture;
use crate::error::{Error, Result};
use crate::io::write_atomic;

/// Parameters of an image, written as A1111 writes them, so that other programs show them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; empty is left out.
    pub negative: String,
    /// Sampling steps.
    pub steps: usize,
    /// The sampler's name.
    pub sampler: String,
    /// Guidance scale.
    pub guidance: f64,
    /// The image's own seed.
    pub seed: u64,
    /// Size in pixels, across and down.
    pub size: (usize, usize),
    /// The model's name.
    pub model: String,
    /// LoRA names and their scales.
    pub loras: Vec<(String, f64)>,
    /// Denoising strength of image-to-image.
    pub strength: Option<f64>,
    /// Karras noise levels.
    pub karras: bool,
    /// Further fields, with the names that they get: what else decides the image.
    pub more: Vec<(&'static str, String)>,
}

/// Title of the file or folder at `path`: its name without `.safetensors`. Other endings are part of the name, because
/// versions have dots in them.
pub fn title(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // "." and ".." have the name of the folder that they stand for.
    let name = name(path).or_else(|| name(&path.canonicalize().ok()?)).unwrap_or_default();
    match name.to_lowercase().strip_suffix(".safetensors") {
        Some(stem) if !stem.is_empty() => name.chars().take(name.chars().count() - ".safetensors".len()).collect(),
        _ => name,
    }
}

impl std::fmt::Display for Parameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.prompt)?;
        if !self.negative.is_empty() {
            writeln!(f, "Negative prompt: {}", self.negative)?;
        }
        let (width, height) = self.size;
        write!(f, "Steps: {}, Sampler: {}, ", self.steps, quoted(&self.sampler))?;
        if self.karras {
            write!(f, "Schedule type: Karras, ")?;
        }
        write!(f, "CFG scale: {}, ", self.guidance)?;
        write!(f, "Seed: {}, Size: {width}x{height}, Model: {}", self.seed, quoted(&self.model))?;
        if let Some(strength) = self.strength {
            write!(f, ", Denoising strength: {strength}")?;
        }
        for (name, value) in &self.more {
            write!(f, ", {name}: {}", quoted(value))?;
        }
        if !self.loras.is_empty() {
            let list: Vec<String> = self.loras.iter().map(|(name, scale)| format!("{name}: {scale}")).collect();
            write!(f, ", Lora: {}", quoted(&list.join(", ")))?;
        }
        write!(f, ", Version: portray {}", env!("CARGO_PKG_VERSION"))
    }
}

/// A value that holds a separator is written as a JSON string, as A1111 does.
fn quoted(value: &str) -> String {
    if value.contains([',', '\n', ':']) { serde_json::Value::from(value).to_string() } else { value.to_owned() }
}

/// `picture` as a PNG file's bytes, with `text` as chunks of keyword and value (Latin-1 as `tEXt`, else `iTXt`).
///
/// # Errors
/// [`Error::Usage`] when the image's size and bytes disagree or a keyword is not 1 to 79 Latin-1 characters.
pub fn encode_png(picture: &Picture, text: &[(&str, &str)]) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::argument(format!("cannot encode the image as PNG: {e}"));
    let size =
        |n: usize| u32::try_from(n).map_err(|_| Error::argument(format!("a PNG cannot be {n} pixels wide or high")));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size(picture.width)?, size(picture.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, value) in text {
        // A NUL ends a keyword in the format and is allowed nowhere else.
        let value = value.replace('\0', "");
        let latin = value.chars().all(|c| u32::from(c) < 256);
        let keyword = (*keyword).to_owned();
        let added = if latin { encoder.add_text_chunk(keyword, value) } else { encoder.add_itxt_chunk(keyword, value) };
        added.map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Writes `picture` to `path` as PNG, atomically; what is there is replaced, so ask before.
///
/// # Errors
/// As [`encode_png`], and [`Error::File`] when it cannot be written.
pub fn write_png(path: impl AsRef<Path>, picture: &Picture, text: &[(&str, &str)]) -> Result<()> {
    let bytes = encode_png(picture, text)?;
    write_atomic(path, |out| out.write_all(&bytes))
}
