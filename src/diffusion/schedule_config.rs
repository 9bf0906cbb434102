//! A diffusers `scheduler_config.json`.

use serde::Deserialize;

use super::prediction::Prediction;
use super::samplers::SamplerKind;
use super::spacing::Spacing;
use crate::base::json;
use crate::error::{Error, Result};

/// Growth of the betas from `beta_start` to `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Linear in beta (Ho et al. 2020).
    Linear,
    /// Linear in sqrt(beta): every Stable Diffusion model.
    ScaledLinear,
    /// The cosine schedule, betas capped at 0.999 (Nichol and Dhariwal 2021).
    SquaredcosCapV2,
}

/// A model's `scheduler_config.json`: its noise levels, what its network predicts, and the sampler it comes with.
///
/// A field that is absent has the default of the diffusers class the file names, except that, as in
/// `StableDiffusionPipeline`, `steps_offset` is 1 whatever the file says and `clip_sample` is never applied: latents
/// have no fixed range. Fields that the class does not know are ignored, as diffusers does.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ScheduleConfig {
    /// The diffusers class, as `DDIMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// Growth of the betas between them.
    pub beta_schedule: BetaSchedule,
    /// Betas, instead of the three fields above.
    pub trained_betas: Option<Vec<f32>>,
    /// Number of noise levels that the model was trained on.
    pub num_train_timesteps: usize,
    /// Prediction type.
    pub prediction_type: Prediction,
    /// Spacing of sampling timesteps; absent: the class's default.
    pub timestep_spacing: Option<Spacing>,
    /// Goes to abar = 1 instead of `abar[0]` after the last step; absent: the class's default.
    pub set_alpha_to_one: Option<bool>,
    /// Betas rescaled so that the last level is pure noise (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// Karras et al. 2022 noise levels.
    pub use_karras_sigmas: bool,
    /// `zero` or `sigma_min`: where the sigma samplers end.
    pub final_sigmas_type: Option<String>,
    /// LCM: steps of the distilled schedule.
    pub original_inference_steps: usize,
    /// LCM: factor on the timestep in the boundary condition.
    pub timestep_scaling: f64,
    /// Every other field of the file, to refuse those that would change the result.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig {
            class_name: "PNDMScheduler".into(),
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            num_train_timesteps: 1000,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            set_alpha_to_one: None,
            rescale_betas_zero_snr: false,
            use_karras_sigmas: false,
            final_sigmas_type: None,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            rest: serde_json::Map::new(),
        }
    }
}

impl ScheduleConfig {
    /// Reads the text of a `scheduler_config.json`; `path` names it in errors.
    ///
    /// Python writes infinite defaults as `-Infinity`, which JSON does not know; it is read as null.
    pub fn from_json(text: &str, path: &str) -> Result<Self> {
        let refuse = |message: String| Error::file(path, message);
        let mut value: serde_json::Value = json::parse(text).map_err(|e| refuse(format!("not JSON: {e}")))?;
        let fields = value.as_object_mut().ok_or_else(|| refuse("not a JSON object".into()))?;
        fields.retain(|_, v| !v.is_null());
        let class = fields.get("_class_name").and_then(|v| v.as_str()).unwrap_or_default();
        for (field, default) in SamplerKind::from_class(class).map_or(&[][..], SamplerKind::class_defaults) {
            fields.entry(*field).or_insert(default.json());
        }
        let config = ScheduleConfig::deserialize(&value).map_err(|e| {
            // Every field has a default, so the one that is wrong is wrong alone too.
            let alone = |(name, v): (&String, &serde_json::Value)| {
                let wrong = ScheduleConfig::deserialize(serde_json::json!({ name: v })).is_err();
                wrong.then(|| format!("{name}: "))
            };
            let field = value.as_object().and_then(|fields| fields.iter().find_map(alone)).unwrap_or_default();
            refuse(format!("{field}{e}"))
        })?;
        let count = config.trained_betas.as_ref().map_or(config.num_train_timesteps, Vec::len);
        if count < 2 || count != config.num_train_timesteps || count > 1 << 20 {
            return Err(refuse(format!(
                "num_train_timesteps {} with {count} betas: expected the same number, 2 to 1048576",
                config.num_train_timesteps
            )));
        }
        let range = (config.beta_start, config.beta_end);
        if !(range.0 > 0.0 && range.1 > 0.0 && range.0 < 1.0 && range.1 < 1.0) {
            return Err(refuse(format!("beta_start {} and beta_end {} must lie between 0 and 1", range.0, range.1)));
        }
        let betas = config.trained_betas.iter().flatten();
        // The last one may be 1: pure noise.
        if let Some(beta) = betas.copied().find(|beta| !(*beta > 0.0 && *beta <= 1.0)) {
            return Err(refuse(format!("trained_betas holds {beta}, must lie between 0 and 1")));
        }
        Ok(config)
    }

    /// Schedule of checkpoints without a scheduler file: the betas of every Stable Diffusion 1.x and 2.x model, with
    /// PNDM for models that predict noise and DDIM for all others, as their diffusers folders have it.
    pub fn stable_diffusion(prediction: Prediction) -> Self {
        ScheduleConfig {
            class_name: match prediction {
                Prediction::Epsilon => "PNDMScheduler".into(),
                Prediction::V | Prediction::Sample => "DDIMScheduler".into(),
            },
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type: prediction,
            set_alpha_to_one: Some(false),
            rest: [("skip_prk_steps".to_owned(), true.into())].into_iter().collect(),
            ..ScheduleConfig::default()
        }
    }

    /// Schedule of Stable Diffusion XL checkpoints without a scheduler file: the same betas, with Euler over leading
    /// timesteps as its diffusers folder has it; with `zero_terminal_snr` rescaled and over trailing ones, which begin at
    /// the last.
    pub fn stable_diffusion_xl(prediction: Prediction, zero_terminal_snr: bool) -> Self {
        ScheduleConfig {
            class_name: "EulerDiscreteScheduler".into(),
            timestep_spacing: Some(if zero_terminal_snr { Spacing::Trailing } else { Spacing::Leading }),
            rescale_betas_zero_snr: zero_terminal_snr,
            set_alpha_to_one: None,
            rest: serde_json::Map::new(),
            ..Self::stable_diffusion(prediction)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_python_writes() {
        let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "note": "-Infinity \" Infinity",
            "lambda_min_clipped": -Infinity, "beta_schedule": "scaled_linear", "timestep_spacing": null,
            "prediction_type": "v_prediction", "num_train_timesteps": 1000, "trained_betas": null}"#;
        let config = ScheduleConfig::from_json(text, "scheduler_config.json").unwrap();
        assert_eq!(config.class_name, "DPMSolverMultistepScheduler");
        assert_eq!(config.prediction_type, Prediction::V);
        assert_eq!((config.beta_start, config.timestep_spacing), (0.0001, None));
        assert_eq!(config.rest["note"], "-Infinity \" Infinity");
        assert!(!config.rest.contains_key("lambda_min_clipped"));
    }

    #[test]
    fn lcm_has_stable_diffusions_betas_by_default() {
        let config = ScheduleConfig::from_json(r#"{"_class_name": "LCMScheduler"}"#, "x").unwrap();
        assert_eq!((config.beta_start, config.beta_schedule), (0.00085, BetaSchedule::ScaledLinear));
    }

    #[test]
    fn refuses_what_it_cannot_honour() {
        for (text, expected) in [
            ("[1]", "not a JSON object"),
            ("{", "not JSON"),
            (r#"{"prediction_type": "flow_prediction"}"#, "flow_prediction"),
            (r#"{"beta_schedule": "sigmoid"}"#, "sigmoid"),
            (r#"{"num_train_timesteps": 1}"#, "num_train_timesteps 1"),
            (r#"{"trained_betas": [0.1, 0.2]}"#, "2 betas"),
            (r#"{"beta_end": 2.0}"#, "beta_end 2"),
            (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, 1.5]}"#, "trained_betas holds 1.5"),
            (r#"{"num_train_timesteps": 2, "trained_betas": [0, 0.5]}"#, "trained_betas holds 0"),
        ] {
            let error = ScheduleConfig::from_json(text, "f.json").unwrap_err().to_string();
            assert!(error.starts_with("f.json: ") && error.contains(expected), "{error}");
        }
    }
}
