//! Samplers as linear recurrences.
//!
//! Every supported sampler updates the sample by a linear combination of itself, the network's output, fresh noise and a few
//! remembered tensors, with coefficients that depend on the step alone. So a whole run is a list of small matrices, computed
//! here in f64 before it starts, and one GPU op serves all samplers.

use std::str::FromStr;

use super::linear::Form;
use super::schedule::NoiseSchedule;
use super::schedule_config::{Prediction, ScheduleConfig};
use super::spacing::Spacing;
use super::{sigma_steps, time_steps};
use crate::error::{Error, Result, message, option};

/// A sampler by its command-line name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum SamplerKind {
    /// DDIM with eta 0 (Song et al. 2021).
    Ddim,
    /// DDPM, ancestral, with the small fixed variance (Ho et al. 2020).
    Ddpm,
    /// PNDM without Runge-Kutta start, that is PLMS (Liu et al. 2022).
    Pndm,
    /// Euler (Karras et al. 2022, algorithm 2 without churn).
    Euler,
    /// Euler with ancestral noise.
    EulerA,
    /// DPM-Solver++ 2M, midpoint (Lu et al. 2022).
    Dpmpp2m,
    /// UniPC of order 2, B(h) = expm1(h) (Zhao et al. 2023).
    UniPc,
    /// Latent consistency (Luo et al. 2023).
    Lcm,
}

impl SamplerKind {
    /// Every sampler with its command-line name and its diffusers class.
    pub const ALL: [(SamplerKind, &'static str, &'static str); 8] = [
        (SamplerKind::Ddim, "ddim", "DDIMScheduler"),
        (SamplerKind::Ddpm, "ddpm", "DDPMScheduler"),
        (SamplerKind::Pndm, "pndm", "PNDMScheduler"),
        (SamplerKind::Euler, "euler", "EulerDiscreteScheduler"),
        (SamplerKind::EulerA, "euler-a", "EulerAncestralDiscreteScheduler"),
        (SamplerKind::Dpmpp2m, "dpm++2m", "DPMSolverMultistepScheduler"),
        (SamplerKind::UniPc, "unipc", "UniPCMultistepScheduler"),
        (SamplerKind::Lcm, "lcm", "LCMScheduler"),
    ];

    /// The command-line name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// The sampler a diffusers class is, if it is supported.
    pub fn from_class(class: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, _, c)| *c == class).map(|(kind, ..)| *kind)
    }

    /// Whether its class reads `final_sigmas_type`.
    fn has_final_sigmas_type(self) -> bool {
        matches!(self, SamplerKind::Euler | SamplerKind::Dpmpp2m | SamplerKind::UniPc)
    }

    fn names() -> String {
        Self::ALL.map(|(_, name, _)| name).join(", ")
    }
}

impl TryFrom<String> for SamplerKind {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl FromStr for SamplerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .find(|(_, n, _)| *n == name)
            .map(|(kind, ..)| *kind)
            .ok_or_else(|| Error::value("sampler", name, format!("not supported; use one of {}", Self::names())))
    }
}

/// What the user chose; the default is all that the model's `scheduler_config.json` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplerOptions {
    /// A named sampler: its diffusers class with its own defaults and, where it has a leading spacing, offset 1. The model's
    /// own sampler keeps the settings of the model's file; so does every sampler of a model with zero terminal SNR (as
    /// diffusers' `from_config`), which has to begin at its last timestep.
    pub kind: Option<SamplerKind>,
    /// In place of the sampler's own spacing.
    pub spacing: Option<Spacing>,
    /// Karras noise levels: euler, dpm++2m and unipc.
    pub karras: bool,
    /// In place of the model's own.
    pub prediction: Option<Prediction>,
    /// Steps of the distilled schedule that lcm takes its steps from; default 50, or the model's if its scheduler is LCM.
    pub original_steps: Option<usize>,
}

/// One evaluation of the network and the update after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What the network is told; fractional for some samplers.
    pub timestep: f64,
    /// The network's input is slot 0 times this.
    pub input_scale: f32,
    /// `[slots][slots + 2]`, row-major: the new slots are this times (slots.., network output, noise).
    pub matrix: Vec<f32>,
    /// Whether the step takes a fresh draw of N(0, 1) of the sample's shape. It is drawn even where its coefficient is 0, so
    /// that the stream stays in step with diffusers'.
    pub noise: bool,
}

/// All the numbers of a sampling run. Before its first step slot 0 holds the first sample and the other slots zeros; after
/// its last one slot 0 holds the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// The sampler that was chosen.
    pub kind: SamplerKind,
    /// How many tensors of the sample's shape the sampler keeps, 1 to 5; the first is the sample.
    pub slots: usize,
    /// Factor of a starting image's (scaled) latent in the first sample; 0 where there is none.
    pub image_scale: f32,
    /// Factor of N(0, 1) noise in the first sample: `image_scale * latent + init_scale * noise`.
    pub init_scale: f32,
    /// The steps, first to last.
    pub steps: Vec<Step>,
    /// The timesteps of `steps`: diffusers' `scheduler.timesteps`.
    pub timesteps: Vec<f64>,
    /// For the user: what of the choices may not be what is expected, one sentence each.
    pub notes: Vec<String>,
}

/// Every choice made: options, else the model's file or the named class.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) kind: SamplerKind,
    pub(super) spacing: Spacing,
    pub(super) karras: bool,
    pub(super) set_alpha_to_one: bool,
    /// Sigma samplers end at the smallest trained noise level instead of 0.
    pub(super) end_at_sigma_min: bool,
    pub(super) prediction: Prediction,
    pub(super) original_steps: usize,
    pub(super) timestep_scaling: f64,
    pub(super) zero_snr: bool,
    pub(super) alphas_cumprod: Vec<f64>,
    notes: Vec<String>,
}

/// A sampler's steps before they are packed: for each, (timestep, input scale, new slots, draws noise).
pub(super) struct Recurrence {
    pub(super) init_scale: f64,
    pub(super) image: (f64, f64),
    pub(super) steps: Vec<(f64, f64, Vec<Form>, bool)>,
}

impl Trajectory {
    /// A run from noise in `steps` steps.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sampler cannot take so many steps, the options do not fit it, or the model's scheduler is one
    /// that is not supported.
    pub fn new(config: &ScheduleConfig, options: &SamplerOptions, steps: usize) -> Result<Self> {
        Self::from_step(config, options, steps, 0, false)
    }

    /// A run from an image, as diffusers' `StableDiffusionImg2ImgPipeline`: the last `floor(steps * strength)` of `steps`
    /// steps, begun at the image's latent with the noise of the first of them. `image_scale` and `init_scale` say how the
    /// two are mixed.
    ///
    /// # Errors
    /// As [`Trajectory::new`], and if `strength` is outside 0..=1 or leaves no step.
    pub fn image_to_image(
        config: &ScheduleConfig,
        options: &SamplerOptions,
        steps: usize,
        strength: f64,
    ) -> Result<Self> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::value("strength", format!("{strength:?}"), "must lie between 0 and 1"));
        }
        let run = ((steps as f64 * strength) as usize).min(steps);
        if steps > 0 && run == 0 {
            let problem = " leaves no step to run; raise one of them until their product is 1";
            let named = message![option("strength"), format!(" {strength:?} of "), option("steps"), format!(" {steps}")];
            return Err(Error::usage("strength", named + problem));
        }
        Self::from_step(config, options, steps, steps - run, true)
    }

    fn from_step(
        config: &ScheduleConfig,
        options: &SamplerOptions,
        steps: usize,
        start: usize,
        from_image: bool,
    ) -> Result<Self> {
        let resolved = Resolved::new(config, options)?;
        let name = resolved.kind.name();
        let most = if resolved.kind == SamplerKind::Lcm { resolved.original_steps } else { config.num_train_timesteps };
        if steps == 0 || steps > most {
            return Err(Error::value("steps", steps, format!("{name} takes 1 to {most}")));
        }
        let recurrence = match resolved.kind {
            SamplerKind::Euler | SamplerKind::EulerA | SamplerKind::Dpmpp2m | SamplerKind::UniPc => {
                sigma_steps::recurrence(&resolved, steps, start)
            }
            _ => time_steps::recurrence(&resolved, steps, start)?,
        };
        let (image, noise) = if from_image { recurrence.image } else { (0.0, recurrence.init_scale) };
        let steps_out: Vec<Step> = recurrence
            .steps
            .iter()
            .map(|(timestep, input_scale, rows, noise)| Step {
                timestep: *timestep,
                input_scale: *input_scale as f32,
                matrix: rows.iter().flat_map(|row| row.0.iter().map(|c| *c as f32)).collect(),
                noise: *noise,
            })
            .collect();
        if let Some(step) = steps_out.iter().find(|s| s.matrix.iter().any(|c| !c.is_finite())) {
            let fault = format!(" {steps} has no finite step from timestep {}: try fewer steps, another ", step.timestep);
            let problem = message![format!("{name} with "), option("steps"), fault, option("spacing"), ", or euler"];
            return Err(Error::usage("steps", problem));
        }
        Ok(Trajectory {
            kind: resolved.kind,
            slots: recurrence.steps.first().map_or(1, |(_, _, rows, _)| rows.len()),
            image_scale: image as f32,
            init_scale: noise as f32,
            timesteps: steps_out.iter().map(|s| s.timestep).collect(),
            steps: steps_out,
            notes: resolved.notes,
        })
    }
}

impl Resolved {
    fn new(config: &ScheduleConfig, options: &SamplerOptions) -> Result<Self> {
        let own = SamplerKind::from_class(&config.class_name);
        let kind = options.kind.or(own).ok_or_else(|| {
            let fault = format!("the model's scheduler {} is not supported; choose ", config.class_name);
            Error::usage("sampler", message![fault, option("sampler"), format!(" {}", SamplerKind::names())])
        })?;
        let mut notes = Vec::new();
        let mut from_file = options.kind.is_none() || own == Some(kind) || config.rescale_betas_zero_snr;
        if let Err(fault) = refuse_variants(config, kind) {
            match options.kind {
                None => {
                    let advice = "; name a sampler with ";
                    return Err(Error::usage("sampler", message![fault, advice, option("sampler")]));
                }
                // Another class has settings of its own.
                Some(_) if own != Some(kind) => {}
                Some(_) => {
                    from_file = config.rescale_betas_zero_snr;
                    notes.push(format!("{fault}: {} runs without the settings of that file", kind.name()));
                }
            }
        }
        let by_sigma =
            matches!(kind, SamplerKind::Euler | SamplerKind::EulerA | SamplerKind::Dpmpp2m | SamplerKind::UniPc);
        let karras = options.karras || (from_file && config.use_karras_sigmas && by_sigma);
        if options.karras && (!by_sigma || kind == SamplerKind::EulerA) {
            let fault = format!(": {} has no Karras noise levels; use euler, dpm++2m or unipc", kind.name());
            return Err(Error::usage("karras", option("karras") + fault));
        }
        let file_spacing = config.timestep_spacing.filter(|_| from_file);
        let class_spacing = if by_sigma { Spacing::Linspace } else { Spacing::Leading };
        if kind == SamplerKind::Lcm && options.spacing.is_some_and(|s| s != Spacing::Leading) {
            let fault = ": lcm has a spacing of its own; leave the option out";
            return Err(Error::usage("spacing", option("spacing") + fault));
        }
        let original_steps =
            options.original_steps.unwrap_or(if from_file { config.original_inference_steps } else { 50 });
        if original_steps == 0 || original_steps > config.num_train_timesteps {
            return Err(Error::argument(format!(
                "lcm's original steps {original_steps} must lie between 1 and {}",
                config.num_train_timesteps
            )));
        }
        // PNDM's class does not know the field.
        let rescale_betas_zero_snr = config.rescale_betas_zero_snr && kind != SamplerKind::Pndm;
        let levels = ScheduleConfig { rescale_betas_zero_snr, ..config.clone() };
        let spacing = options.spacing.or(file_spacing).unwrap_or(class_spacing);
        if matches!(kind, SamplerKind::Ddim | SamplerKind::Pndm) && spacing == Spacing::Linspace {
            notes.push(format!(
                "{} with linspace spacing goes on by a whole stride from each timestep, as in diffusers, and misses the next \
                 one: noise is left over; leading and trailing spacing do not",
                kind.name()
            ));
        }
        Ok(Resolved {
            kind,
            spacing,
            notes,
            karras: karras && kind != SamplerKind::EulerA,
            set_alpha_to_one: from_file
                && config.set_alpha_to_one.unwrap_or(matches!(kind, SamplerKind::Ddim | SamplerKind::Lcm)),
            end_at_sigma_min: from_file
                && kind.has_final_sigmas_type()
                && config.final_sigmas_type.as_deref() == Some("sigma_min"),
            prediction: options.prediction.unwrap_or(config.prediction_type),
            original_steps,
            timestep_scaling: if from_file { config.timestep_scaling } else { 10.0 },
            zero_snr: levels.rescale_betas_zero_snr,
            alphas_cumprod: NoiseSchedule::new(&levels).alphas_cumprod,
        })
    }
}

/// What `error` says is wrong, without what to do about it.
/// Refuses a scheduler file whose class has settings that change the result and are not implemented.
fn refuse_variants(config: &ScheduleConfig, kind: SamplerKind) -> Result<(), String> {
    use serde_json::{Value, json};
    let common = [("thresholding", json!(false))];
    let sigma = [("use_exponential_sigmas", json!(false)), ("use_beta_sigmas", json!(false))];
    let own: Vec<(&str, Value)> = match kind {
        SamplerKind::Ddpm => vec![("variance_type", json!("fixed_small"))],
        SamplerKind::Euler => vec![
            ("interpolation_type", json!("linear")),
            ("timestep_type", json!("discrete")),
            ("sigma_min", Value::Null),
            ("sigma_max", Value::Null),
        ],
        SamplerKind::Dpmpp2m => vec![
            ("algorithm_type", json!("dpmsolver++")),
            ("solver_order", json!(2)),
            ("solver_type", json!("midpoint")),
            ("lower_order_final", json!(true)),
            ("euler_at_final", json!(false)),
            ("use_lu_lambdas", json!(false)),
            ("use_flow_sigmas", json!(false)),
            ("lambda_min_clipped", Value::Null),
        ],
        SamplerKind::UniPc => vec![
            ("predict_x0", json!(true)),
            ("solver_order", json!(2)),
            ("solver_type", json!("bh2")),
            ("lower_order_final", json!(true)),
            ("disable_corrector", json!([])),
            ("solver_p", Value::Null),
            ("use_flow_sigmas", json!(false)),
            ("sigma_min", Value::Null),
            ("sigma_max", Value::Null),
        ],
        _ => vec![],
    };
    let sigma = sigma.into_iter().filter(|_| !matches!(kind, SamplerKind::EulerA));
    for (field, supported) in common.into_iter().chain(sigma).chain(own) {
        if let Some(value) = config.rest.get(field)
            && *value != supported
        {
            let class = &config.class_name;
            return Err(format!(
                "the model's {class} has {field} {value}, which is not supported (only {supported})"
            ));
        }
    }
    let ends = config.final_sigmas_type.as_deref().filter(|_| kind.has_final_sigmas_type());
    if let Some(end) = ends.filter(|end| !["zero", "sigma_min"].contains(end)) {
        return Err(format!(
            "the model's {} has final_sigmas_type \"{end}\", which is not supported (only \"zero\" and \"sigma_min\")",
            config.class_name
        ));
    }
    if kind == SamplerKind::Pndm && !config.skip_prk_steps {
        return Err("the model's PNDMScheduler has skip_prk_steps false, which is not supported".into());
    }
    Ok(())
}

/// Steps and guidance where the user gives none: 4 and 1.0 for lcm and for a model whose own scheduler is Euler with trailing
/// spacing (SD Turbo), else 25 and 7.5. `kind` is the named sampler, if any.
pub fn default_steps_and_guidance(config: &ScheduleConfig, kind: Option<SamplerKind>) -> (usize, f32) {
    let own = SamplerKind::from_class(&config.class_name);
    let turbo = own == Some(SamplerKind::Euler) && config.timestep_spacing == Some(Spacing::Trailing);
    if turbo || kind.or(own) == Some(SamplerKind::Lcm) { (4, 1.0) } else { (25, 7.5) }
}
