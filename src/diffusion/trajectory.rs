//! Samplers as linear recurrences.
//!
//! Every supported sampler updates the sample by a linear combination of itself, the network's output, fresh noise and a
//! few remembered tensors, with coefficients that depend on the step alone. So a whole run is a list of small matrices,
//! computed here in f64 before it starts, and one GPU op serves all samplers.

use super::recurrence::{Evaluation, Run};
use super::resolve::{SamplerOptions, resolve};
use super::samplers::SamplerKind;
use super::schedule_config::ScheduleConfig;
use crate::error::{Error, Result, message, option};

/// One evaluation of the network and the update after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Timestep that the UNet receives; fractional for some samplers.
    pub timestep: f64,
    /// Factor of slot 0 for the UNet's input.
    pub input_scale: f32,
    /// `[slots][slots + 2]`, row-major: the new slots are this times (slots.., network output, noise).
    pub matrix: Vec<f32>,
    /// Takes a fresh draw of N(0, 1) of the sample's shape. It is drawn even if its coefficient is 0, so that the
    /// stream stays in step with diffusers'.
    pub noise: bool,
}

/// Coefficients of a whole sampling run. Before its first step slot 0 holds the first sample and the other slots zeros;
/// after its last one slot 0 holds the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// The sampler that was chosen.
    pub kind: SamplerKind,
    /// Number of tensors of the sample's shape that the sampler keeps, 1 to 5; the first is the sample.
    pub slots: usize,
    /// Factor of a starting image's (scaled) latent in the first sample; 0 where there is none.
    pub image_scale: f32,
    /// Factor of N(0, 1) noise in the first sample: `image_scale * latent + init_scale * noise`.
    pub init_scale: f32,
    /// The steps, first to last.
    pub steps: Vec<Step>,
    /// The timesteps of `steps`: diffusers' `scheduler.timesteps`.
    pub timesteps: Vec<f64>,
    /// Notes for the user on choices that may be unexpected, one sentence each.
    pub notes: Vec<String>,
}

impl Trajectory {
    /// A run from noise in `steps` steps.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sampler cannot take so many steps, the options do not fit it, or the model's scheduler
    /// is one that is not supported.
    pub fn new(config: &ScheduleConfig, options: &SamplerOptions, steps: usize) -> Result<Self> {
        Self::from_step(config, options, steps, 0, false)
    }

    /// A run from an image, as diffusers' `StableDiffusionImg2ImgPipeline`: the last `floor(steps * strength)` of
    /// `steps` steps, begun at the image's latent with the noise of the first of them. `image_scale` and `init_scale`
    /// say how the two are mixed.
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
            let fault = " leaves no step to run; raise one of them until their product is 1";
            let named =
                message![option("strength"), format!(" {strength:?} of "), option("steps"), format!(" {steps}")];
            return Err(Error::usage("strength", named + fault));
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
        let (kind, resolved, notes) = resolve(config, options)?;
        let sampler = kind.sampler();
        let name = sampler.name;
        let most = if sampler.distilled { resolved.original_steps } else { config.num_train_timesteps };
        if steps == 0 || steps > most {
            return Err(Error::value("steps", steps, format!("{name} takes 1 to {most}")));
        }
        let recurrence = (sampler.recurrence)(&resolved, Run { steps, start })?;
        let (image, noise) = if from_image { recurrence.image } else { (0.0, recurrence.init_scale) };
        let slots = recurrence.steps.first().map_or(1, |step| step.slots.len());
        let steps_out: Vec<Step> = recurrence.steps.iter().map(Step::new).collect();
        if let Some(step) = steps_out.iter().find(|s| s.matrix.iter().any(|c| !c.is_finite())) {
            let fault =
                format!(" {steps} has no finite step from timestep {}: try fewer steps, another ", step.timestep);
            let named = message![format!("{name} with "), option("steps"), fault, option("spacing"), ", or euler"];
            return Err(Error::usage("steps", named));
        }
        Ok(Trajectory {
            kind,
            slots,
            image_scale: image as f32,
            init_scale: noise as f32,
            timesteps: steps_out.iter().map(|s| s.timestep).collect(),
            steps: steps_out,
            notes,
        })
    }
}

impl Step {
    fn new(evaluation: &Evaluation) -> Step {
        Step {
            timestep: evaluation.timestep,
            input_scale: evaluation.input_scale as f32,
            matrix: evaluation.slots.iter().flat_map(|row| row.0.iter().map(|c| *c as f32)).collect(),
            noise: evaluation.noise,
        }
    }
}
