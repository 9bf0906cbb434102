//! `preprocessor_config.json`, or the image processor in `processor_config.json`, with the defaults of transformers' classes
//! (5.23).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::kind::TAKES;
use crate::base::json;
use crate::error::{Error, Result};
use crate::io::Source;
use crate::io::checkpoints::discover::present;
use crate::io::image::{Filter, Preprocessing, Resize};
use crate::io::source::object;
use crate::models::vision::VisionKind;

/// Most pixels of a side.
const PIXELS: u64 = 1 << 14;

/// Mean and deviation of OpenAI's CLIP.
const CLIP: [[f64; 3]; 2] = [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]];
const HALF: [[f64; 3]; 2] = [[0.5; 3]; 2];

/// A size as files have it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, a list of two, or an object of sides in pixels")]
enum Size {
    Side(u64),
    Sides([u64; 2]),
    Named(BTreeMap<String, Option<u64>>),
}

/// One value for all channels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a list of three")]
enum Channels {
    All(f64),
    Each([f64; 3]),
}

impl Channels {
    fn each(&self) -> [f32; 3] {
        match self {
            Channels::All(x) => [*x as f32; 3],
            Channels::Each(x) => x.map(|x| x as f32),
        }
    }
}

/// Fields that are read. One that is null stands for the class's default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Channels>,
    image_std: Option<Channels>,
    do_pad: Option<bool>,
}

/// What a class of image processors does where a file says nothing.
struct Class {
    /// Filter, by Pillow's number.
    resample: u64,
    statistics: [[f64; 3]; 2],
    /// Whether a size that is one number stands for both sides, not for the shorter one.
    square: bool,
    crop: bool,
}

const VIT: Class = Class { resample: 2, statistics: HALF, square: true, crop: false };
/// `CLIPImageProcessor`, and `BitImageProcessor`, which DINOv2 has.
const CLIP_OR_BIT: Class = Class { resample: 3, statistics: CLIP, square: false, crop: true };

/// Reads how the folder's images are prepared.
///
/// # Errors
/// [`Error::File`] that names the file and the field.
pub(super) fn read(folder: &Path, kind: VisionKind) -> Result<Preprocessing> {
    let (json, file) = find(folder)?;
    let wrong = |message: String| Error::file(&file, message);
    let fields: Fields = json::fields(&json).map_err(wrong)?;
    let class = class(&fields, kind).map_err(wrong)?;
    preprocessing(&fields, &class).map_err(wrong)
}

/// The image processor's fields, and the file that has them.
fn find(folder: &Path) -> Result<(Value, String)> {
    let (whole, alone) = (folder.join("processor_config.json"), folder.join("preprocessor_config.json"));
    if present(&whole)? {
        let source = Source::open(&whole)?;
        if let Some(json) = object(&source)?.get("image_processor").filter(|json| json.is_object()) {
            return Ok((json.clone(), source.name().to_owned()));
        }
    }
    if !present(&alone)? {
        let message = format!("has no preprocessor_config.json, which says how images are prepared: {TAKES}");
        return Err(Error::file(folder, message));
    }
    let source = Source::open(&alone)?;
    Ok((object(&source)?, source.name().to_owned()))
}

fn class(fields: &Fields, kind: VisionKind) -> Result<Class, String> {
    // Early files have the class's older name, under either key.
    let name = fields.image_processor_type.as_ref().or(fields.feature_extractor_type.as_ref());
    let name = name.map(|name| name.replace("FeatureExtractor", "ImageProcessor"));
    let stem = name.as_deref().map(|name| name.trim_end_matches("Fast").trim_end_matches("Pil"));
    match stem {
        Some("ViTImageProcessor") => Ok(VIT),
        Some("CLIPImageProcessor" | "BitImageProcessor") => Ok(CLIP_OR_BIT),
        None if kind == VisionKind::Vit => Ok(VIT),
        None => Ok(CLIP_OR_BIT),
        Some(other) => Err(format!(
            "image_processor_type is {other}; only ViTImageProcessor, BitImageProcessor and CLIPImageProcessor are supported"
        )),
    }
}

fn preprocessing(fields: &Fields, class: &Class) -> Result<Preprocessing, String> {
    if fields.do_pad == Some(true) {
        return Err("do_pad is true, which is not supported: images are cropped or stretched to one size".into());
    }
    let default = || if class.square { Size::Sides([224; 2]) } else { Size::Side(224) };
    let resize = match fields.do_resize.unwrap_or(true) {
        true => Some((resize(&fields.size.clone().unwrap_or_else(default), class.square)?, filter(fields, class)?)),
        false => None,
    };
    let crop = match fields.do_center_crop.unwrap_or(class.crop) {
        true => Some(match &fields.crop_size {
            Some(size) => both("crop_size", size)?,
            None if class.crop => [224; 2],
            None => return Err("do_center_crop is true, but there is no crop_size".into()),
        }),
        false => None,
    };
    let factor = fields.rescale_factor.unwrap_or(1.0 / 255.0);
    if !factor.is_finite() {
        return Err(format!("rescale_factor is {factor}, must be a number"));
    }
    let [mean, std] = class.statistics.map(|values| values.map(|x| x as f32));
    let mean = fields.image_mean.as_ref().map_or(mean, Channels::each);
    let std = fields.image_std.as_ref().map_or(std, Channels::each);
    if std.iter().any(|x| *x == 0.0 || !x.is_finite()) {
        return Err(format!("image_std is {std:?}, must be numbers other than 0"));
    }
    Ok(Preprocessing {
        resize,
        crop: crop.map(|[height, width]| [width, height]),
        rescale: fields.do_rescale.unwrap_or(true).then_some(factor),
        normalize: fields.do_normalize.unwrap_or(true).then_some([mean, std]),
    })
}

fn filter(fields: &Fields, class: &Class) -> Result<Filter, String> {
    let number = fields.resample.unwrap_or(class.resample);
    Filter::from_pillow(number).ok_or_else(|| format!("resample is {number}; Pillow's filters are 0 to 5"))
}

/// Pixels of the side `field`, as a number that fits memory.
fn side(field: &str, pixels: u64) -> Result<usize, String> {
    match pixels {
        1..=PIXELS => Ok(pixels as usize),
        _ => Err(format!("{field} is {pixels} pixels, must be 1 to {PIXELS}")),
    }
}

/// Height and width.
fn both(field: &str, size: &Size) -> Result<[usize; 2], String> {
    let [height, width] = match size {
        Size::Side(side) => [*side; 2],
        Size::Sides(sides) => *sides,
        Size::Named(sides) => match (named(sides, "height"), named(sides, "width")) {
            (Some(height), Some(width)) => [height, width],
            _ => return Err(format!("{field} has {}, must have height and width", names(sides))),
        },
    };
    Ok([side(field, height)?, side(field, width)?])
}

fn named(sides: &BTreeMap<String, Option<u64>>, name: &str) -> Option<u64> {
    sides.get(name).copied().flatten()
}

fn names(sides: &BTreeMap<String, Option<u64>>) -> String {
    let names: Vec<&str> = sides.keys().map(String::as_str).collect();
    if names.is_empty() { "no sides".into() } else { names.join(" and ") }
}

fn resize(size: &Size, square: bool) -> Result<Resize, String> {
    let number = |pixels| side("size", pixels);
    let sides = match size {
        Size::Side(pixels) if !square => return Ok(Resize::Shortest(number(*pixels)?)),
        Size::Named(sides) => sides,
        both_sides => {
            let [height, width] = both("size", both_sides)?;
            return Ok(Resize::To { height, width });
        }
    };
    let of = |name: &str| named(sides, name).map(number).transpose();
    match (of("shortest_edge")?, of("longest_edge")?, of("max_height")?.zip(of("max_width")?)) {
        (Some(shortest), Some(longest), _) => Ok(Resize::ShortestWithin { shortest, longest }),
        (Some(shortest), None, _) => Ok(Resize::Shortest(shortest)),
        (None, None, Some((height, width))) => Ok(Resize::Within { height, width }),
        (None, None, None) if of("height")?.is_some() && of("width")?.is_some() => {
            let [height, width] = both("size", size)?;
            Ok(Resize::To { height, width })
        }
        _ => Err(format!(
            "size has {}, must have height and width, or shortest_edge, or max_height and max_width",
            names(sides)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: Value, kind: VisionKind) -> Result<Preprocessing, String> {
        let fields: Fields = json::fields(&json)?;
        preprocessing(&fields, &class(&fields, kind)?)
    }

    #[test]
    fn absent_fields_are_the_classs_defaults() {
        use serde_json::json;
        let vit = of(json!({}), VisionKind::Vit).unwrap();
        assert_eq!(vit.resize, Some((Resize::To { height: 224, width: 224 }, Filter::Bilinear)));
        assert_eq!((vit.crop, vit.normalize), (None, Some([[0.5; 3], [0.5; 3]])));
        assert_eq!(vit.rescale, Some(1.0 / 255.0));
        let dinov2 = of(json!({"do_center_crop": null}), VisionKind::Dinov2).unwrap();
        assert_eq!(dinov2.resize, Some((Resize::Shortest(224), Filter::Bicubic)));
        assert_eq!(dinov2.crop, Some([224; 2]));
        // A number is a square for ViT and the shorter side for the others, by the class that the file names.
        let clip = of(json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 28}), VisionKind::Vit).unwrap();
        assert_eq!(clip.resize, Some((Resize::Shortest(28), Filter::Bicubic)));
        let vit = of(json!({"image_processor_type": "ViTImageProcessorFast", "size": 28}), VisionKind::Clip).unwrap();
        assert_eq!(vit.resize.unwrap().0, Resize::To { height: 28, width: 28 });
        let listed = json!({"size": [3, 4], "crop_size": [5, 6], "do_center_crop": true, "image_mean": 0.25, "do_rescale": false});
        let listed = of(listed, VisionKind::Vit).unwrap();
        assert_eq!((listed.resize.unwrap().0, listed.crop), (Resize::To { height: 3, width: 4 }, Some([6, 5])));
        assert_eq!((listed.rescale, listed.normalize.unwrap()[0]), (None, [0.25; 3]));
        let off = of(json!({"do_resize": false, "do_normalize": false}), VisionKind::Vit).unwrap();
        assert_eq!((off.resize, off.normalize), (None, None));
    }

    #[test]
    fn fields_that_cannot_be_are_named() {
        use serde_json::json;
        for (json, says) in [
            (
                json!({"image_processor_type": "ConvNextImageProcessor"}),
                "image_processor_type is ConvNextImageProcessor",
            ),
            (json!({"size": "large"}), "size is \"large\": expected a whole number"),
            (json!({"size": {"longest_edge": 30}}), "size has longest_edge, must have height and width"),
            (json!({"size": {"height": 30}}), "size has height, must have"),
            (json!({"size": {}}), "size has no sides"),
            (json!({"size": 0}), "size is 0 pixels, must be 1 to 16384"),
            (json!({"size": 99999999999u64}), "size is 99999999999 pixels"),
            (json!({"crop_size": {"shortest_edge": 5}, "do_center_crop": true}), "crop_size has shortest_edge"),
            (json!({"do_center_crop": true}), "no crop_size"),
            (json!({"resample": 9}), "resample is 9"),
            (json!({"resample": "bicubic"}), "resample is \"bicubic\""),
            (json!({"image_std": [0.5, 0, 0.5]}), "image_std is [0.5, 0.0, 0.5]"),
            (json!({"image_mean": [0.5, 0.5]}), "image_mean is [0.5,0.5]: expected a number"),
            (json!({"do_pad": true}), "do_pad is true"),
        ] {
            let message = of(json.clone(), VisionKind::Vit).unwrap_err();
            assert!(message.contains(says), "{json}: {message}");
        }
    }
}
