//! Prediction type as a single file states it: in its metadata, by marker tensors, or in the configuration of the
//! original code beside it.

use std::path::Path;

use crate::error::Result;
use crate::io::{SafeTensors, Source, files};

/// Prediction type, and where it is stated.
pub struct Stated {
    pub velocity: bool,
    pub by: String,
}

/// Returns what `file` at `path` states, if anything.
pub fn prediction(path: &Path, file: &SafeTensors) -> Result<Option<Stated>> {
    let stated = |velocity, by: &str| Some(Stated { velocity, by: by.to_owned() });
    // Markers of newer trainers. Noise levels that end in pure noise leave no noise to predict.
    if let Some(marker) = ["v_pred", "ztsnr"].into_iter().find(|marker| file.contains(marker)) {
        return Ok(stated(true, &format!("its tensor '{marker}'")));
    }
    for key in ["modelspec.prediction_type", "ss_v_parameterization"] {
        if let Some(velocity) = file.metadata().get(key).and_then(|value| velocity(value)) {
            return Ok(stated(velocity, &format!("its metadata ({key})")));
        }
    }
    for (ending, known) in [("-v2-768-v", true), ("-v2-512", false)] {
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
            return Ok(of_yaml(&text).and_then(|velocity| stated(velocity, &beside.display().to_string())));
        }
    }
    Ok(None)
}

fn velocity(value: &str) -> Option<bool> {
    match value.trim().trim_matches(['"', '\'']).to_lowercase().as_str() {
        "v" | "v_prediction" | "v-prediction" | "velocity" | "true" => Some(true),
        "epsilon" | "eps" | "noise" | "false" => Some(false),
        _ => None,
    }
}

/// The parameterization in a configuration of the original code, where it is epsilon unless it says otherwise, or the
/// prediction type in one of diffusers. Of YAML no more is needed than the value behind a key, in a line or in braces.
fn of_yaml(text: &str) -> Option<bool> {
    const KEYS: [&str; 3] = ["parameterization", "prediction_type", "v_parameterization"];
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        if line.trim_start().starts_with('#') {
            continue;
        }
        for entry in line.split(['{', ',', '}']) {
            let Some((key, value)) = entry.split_once(':') else { continue };
            let key = key.trim().trim_start_matches("- ").trim_matches(['"', '\'']);
            if let Some(found) = velocity(value).filter(|_| KEYS.contains(&key)) {
                return Some(found);
            }
        }
    }
    text.contains("ldm.models.diffusion").then_some(false)
}

#[cfg(test)]
mod tests {
    use super::of_yaml;

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
            assert_eq!(of_yaml(text), Some(true), "{text}");
        }
        for text in [
            "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n",
            "  parameterization: \"eps\"",
            "  # parameterization: v\n  target: ldm.models.diffusion.ddpm.LatentDiffusion",
        ] {
            assert_eq!(of_yaml(text), Some(false), "{text}");
        }
        for text in ["", "parameterization: x0", "my_parameterization: v", "notes: the v parameterization"] {
            assert_eq!(of_yaml(text), None, "{text}");
        }
    }
}
