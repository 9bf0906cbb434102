//! Prediction type as a single file states it: in its metadata, by marker tensors, in the configuration of the original
//! code beside it, or in its name.

use std::path::Path;

use crate::diffusion::Prediction;
use crate::error::Result;
use crate::io::{SafeTensors, Source, files};

/// Prediction type, and where it is stated.
pub struct Stated {
    pub prediction: Prediction,
    pub by: String,
}

/// Returns what `file` at `path` states, if anything.
pub fn prediction(path: &Path, file: &SafeTensors) -> Result<Option<Stated>> {
    let stated = |prediction, by: &str| Some(Stated { prediction, by: by.to_owned() });
    // Markers of newer trainers. Noise levels that end in pure noise leave no noise to predict.
    if let Some(marker) = ["v_pred", "ztsnr"].into_iter().find(|marker| file.contains(marker)) {
        return Ok(stated(Prediction::V, &format!("its tensor '{marker}'")));
    }
    for key in ["modelspec.prediction_type", "ss_v_parameterization"] {
        if let Some(prediction) = file.metadata().get(key).and_then(|value| named(value)) {
            return Ok(stated(prediction, &format!("its metadata ({key})")));
        }
    }
    for (ending, known) in [("-v2-768-v", Prediction::V), ("-v2-512", Prediction::Epsilon)] {
        let key = "modelspec.architecture";
        if file.metadata().get(key).is_some_and(|value| value.to_lowercase().contains(ending)) {
            return Ok(stated(known, &format!("its metadata ({key})")));
        }
    }
    for ending in ["yaml", "yml"] {
        let beside = path.with_extension(ending);
        if files::is_file(&beside) {
            // It may be another program's.
            let Ok(text) = Source::open(&beside)?.text().map(|text| text.into_owned()) else { continue };
            return Ok(of_yaml(&text).and_then(|prediction| stated(prediction, &beside.display().to_string())));
        }
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(predicts_sample(&name).then(|| stated(Prediction::Sample, "its name")).flatten())
}

/// Returns whether a file of that name is SDXL-Lightning's for one step, `sdxl_lightning_1step_x0` or
/// `sdxl_lightning_1step_unet_x0`, which predicts the clean sample and says so in its name alone.
fn predicts_sample(name: &str) -> bool {
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    name.contains("lightning") && words.any(|word| word == "x0")
}

fn named(value: &str) -> Option<Prediction> {
    match value.trim().trim_matches(['"', '\'']).to_lowercase().as_str() {
        "v" | "v_prediction" | "v-prediction" | "velocity" | "true" => Some(Prediction::V),
        "epsilon" | "eps" | "noise" | "false" => Some(Prediction::Epsilon),
        "sample" | "x0" => Some(Prediction::Sample),
        _ => None,
    }
}

/// The parameterization in a configuration of the original code, where it is epsilon unless it says otherwise, or the
/// prediction type in one of diffusers. Of YAML no more is needed than the value behind a key, in a line or in braces.
fn of_yaml(text: &str) -> Option<Prediction> {
    const KEYS: [&str; 3] = ["parameterization", "prediction_type", "v_parameterization"];
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        if line.trim_start().starts_with('#') {
            continue;
        }
        for entry in line.split(['{', ',', '}']) {
            let Some((key, value)) = entry.split_once(':') else { continue };
            let key = key.trim().trim_start_matches("- ").trim_matches(['"', '\'']);
            if let Some(found) = named(value).filter(|_| KEYS.contains(&key)) {
                return Some(found);
            }
        }
    }
    text.contains("ldm.models.diffusion").then_some(Prediction::Epsilon)
}

#[cfg(test)]
mod tests {
    use super::{Prediction, of_yaml, predicts_sample};

    #[test]
    fn the_parameterization_is_found_however_it_is_written() {
        for text in [
            "model:\n  params:\n    parameterization: \"v\"\n",
            "model:\r\n  params:\r\n    parameterization: v # 768\r\n",
            "model: {target: x, params: {parameterization: 'v'}}",
            "{\"prediction_type\": \"v_prediction\"}",
            "prediction_type: v_prediction",
            "\u{feff}v_parameterization: true",
        ] {
            let text = text.trim_start_matches('\u{feff}');
            assert_eq!(of_yaml(text), Some(Prediction::V), "{text}");
        }
        for text in [
            "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n",
            "  parameterization: \"eps\"",
            "  # parameterization: v\n  target: ldm.models.diffusion.ddpm.LatentDiffusion",
        ] {
            assert_eq!(of_yaml(text), Some(Prediction::Epsilon), "{text}");
        }
        for text in ["", "my_parameterization: v", "notes: the v parameterization"] {
            assert_eq!(of_yaml(text), None, "{text}");
        }
        assert_eq!(of_yaml("    parameterization: \"x0\""), Some(Prediction::Sample));
    }

    #[test]
    fn one_file_says_by_its_name_that_it_predicts_the_sample() {
        for name in ["sdxl_lightning_1step_x0", "SDXL-Lightning-1step-UNet-x0 (2)"] {
            assert!(predicts_sample(name), "{name}");
        }
        for name in ["sdxl_lightning_4step_unet", "lightning_0x01", "model_x0", ""] {
            assert!(!predicts_sample(name), "{name}");
        }
    }
}
