//! The choices for a sampling run: the caller's options, else the model's scheduler file, else the sampler's own.

use super::prediction::Prediction;
use super::recurrence::{Resolved, Sampler, Setting};
use super::samplers::SamplerKind;
use super::schedule::NoiseSchedule;
use super::schedule_config::ScheduleConfig;
use super::spacing::Spacing;
use crate::error::{Error, Result, message, option};

/// Choices of the user; the default is everything that the model's `scheduler_config.json` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplerOptions {
    /// A named sampler: its diffusers class with its own defaults and, where it has a leading spacing, offset 1. The
    /// model's own sampler keeps the settings of the model's file; so does every sampler of a model with zero terminal
    /// SNR (as diffusers' `from_config`), which has to begin at its last timestep.
    pub kind: Option<SamplerKind>,
    /// Spacing, instead of the sampler's own.
    pub spacing: Option<Spacing>,
    /// Karras noise levels, for samplers that have them.
    pub karras: bool,
    /// Prediction type, instead of the model's own.
    pub prediction: Option<Prediction>,
    /// Steps of the distilled schedule that lcm takes its steps from; default 50, or the model's if its scheduler is
    /// LCM.
    pub original_steps: Option<usize>,
}

/// Resolves the sampler of a run and its settings, with notes for the user.
///
/// # Errors
/// [`Error::Usage`] if options do not fit the sampler or the scheduler file is not supported.
pub(super) fn resolve(
    config: &ScheduleConfig,
    options: &SamplerOptions,
) -> Result<(SamplerKind, Resolved, Vec<String>)> {
    let own = SamplerKind::from_class(&config.class_name);
    let kind = options.kind.or(own).ok_or_else(|| {
        let fault = format!("the model's scheduler {} is not supported; choose ", config.class_name);
        Error::usage("sampler", message![fault, option("sampler"), format!(" {}", SamplerKind::names())])
    })?;
    let sampler = kind.sampler();
    let mut notes = Vec::new();
    let mut from_file = options.kind.is_none() || own == Some(kind) || config.rescale_betas_zero_snr;
    if let Err(fault) = refuse_settings(config, sampler) {
        match options.kind {
            None => {
                return Err(Error::usage("sampler", message![fault, "; name a sampler with ", option("sampler")]));
            }
            // Another class has settings of its own.
            Some(_) if own != Some(kind) => {}
            Some(_) => {
                from_file = config.rescale_betas_zero_snr;
                notes.push(format!("{fault}: {} runs without the settings of that file", sampler.name));
            }
        }
    }
    refuse_options(options, sampler)?;
    let prediction = options.prediction.unwrap_or(config.prediction_type);
    if prediction == Prediction::Sample && !sampler.sample_prediction {
        let fault = format!(": {} cannot run a model that predicts the sample; use euler", sampler.name);
        return Err(Error::usage("sampler", option("sampler") + fault));
    }
    let file_spacing = config.timestep_spacing.filter(|_| from_file);
    let spacing = options.spacing.or(file_spacing).unwrap_or(sampler.spacing);
    if sampler.whole_strides && spacing == Spacing::Linspace {
        notes.push(format!(
            "{} with linspace spacing goes on by a whole stride from each timestep, as in diffusers, and misses the \
             next one: noise is left over; leading and trailing spacing do not",
            sampler.name
        ));
    }
    let original_steps = original_steps(config, options, from_file)?;
    let levels =
        ScheduleConfig { rescale_betas_zero_snr: config.rescale_betas_zero_snr && sampler.zero_snr, ..config.clone() };
    let resolved = Resolved {
        spacing,
        karras: sampler.karras && (options.karras || (from_file && config.use_karras_sigmas)),
        set_alpha_to_one: from_file && config.set_alpha_to_one.unwrap_or(sampler.set_alpha_to_one),
        end_at_sigma_min: from_file && sampler.final_sigmas && config.final_sigmas_type.as_deref() == Some("sigma_min"),
        prediction,
        original_steps,
        timestep_scaling: if from_file { config.timestep_scaling } else { 10.0 },
        zero_snr: levels.rescale_betas_zero_snr,
        alphas_cumprod: NoiseSchedule::new(&levels).alphas_cumprod,
    };
    Ok((kind, resolved, notes))
}

/// Steps of the distilled schedule.
fn original_steps(config: &ScheduleConfig, options: &SamplerOptions, from_file: bool) -> Result<usize> {
    let steps = options.original_steps.unwrap_or(if from_file { config.original_inference_steps } else { 50 });
    if steps == 0 || steps > config.num_train_timesteps {
        return Err(Error::argument(format!(
            "lcm's original steps {steps} must lie between 1 and {}",
            config.num_train_timesteps
        )));
    }
    Ok(steps)
}

/// Refuses options that `sampler` has no use for.
fn refuse_options(options: &SamplerOptions, sampler: &Sampler) -> Result<()> {
    if options.karras && !sampler.karras {
        let with: Vec<&str> = SamplerKind::ALL.iter().filter(|k| k.sampler().karras).map(|k| k.name()).collect();
        let (last, others) = with.split_last().unwrap_or((&"", &[]));
        let (name, others) = (sampler.name, others.join(", "));
        let fault = format!(": {name} has no Karras noise levels; use {others} or {last}");
        return Err(Error::usage("karras", option("karras") + fault));
    }
    if sampler.distilled && options.spacing.is_some_and(|s| s != Spacing::Leading) {
        let fault = format!(": {} has a spacing of its own; leave the option out", sampler.name);
        return Err(Error::usage("spacing", option("spacing") + fault));
    }
    Ok(())
}

/// Refuses a scheduler file whose class has settings that change the result and are not implemented.
fn refuse_settings(config: &ScheduleConfig, sampler: &Sampler) -> Result<(), String> {
    let all: &[(&str, Setting)] = &[("thresholding", Setting::Bool(false))];
    for (field, supported) in [all].iter().chain(sampler.only).copied().flatten() {
        let supported = supported.json();
        if let Some(value) = config.rest.get(*field)
            && *value != supported
        {
            let class = &config.class_name;
            return Err(format!("the model's {class} has {field} {value}, which is not supported (only {supported})"));
        }
    }
    let ends = config.final_sigmas_type.as_deref().filter(|_| sampler.final_sigmas);
    if let Some(end) = ends.filter(|end| !["zero", "sigma_min"].contains(end)) {
        return Err(format!(
            "the model's {} has final_sigmas_type \"{end}\", which is not supported (only \"zero\" and \"sigma_min\")",
            config.class_name
        ));
    }
    Ok(())
}

/// Steps and guidance where the user gives none: 4 and 1.0 for lcm and for a distilled model, else 25 and `guidance`,
/// which is the family's. `kind` is the named sampler, if any.
///
/// A distilled model (Turbo) is one that predicts noise and whose own scheduler is Euler or Euler ancestral with
/// trailing spacing; models of zero terminal SNR are spaced so because they have to begin at their last timestep.
pub fn default_steps_and_guidance(config: &ScheduleConfig, kind: Option<SamplerKind>, guidance: f32) -> (usize, f32) {
    let own = SamplerKind::from_class(&config.class_name);
    let turbo = matches!(own, Some(SamplerKind::Euler | SamplerKind::EulerA))
        && config.timestep_spacing == Some(Spacing::Trailing)
        && config.prediction_type == Prediction::Epsilon
        && !config.rescale_betas_zero_snr;
    let distilled = kind.or(own).is_some_and(|kind| kind.sampler().distilled);
    if turbo || distilled { (4, 1.0) } else { (25, guidance) }
}
