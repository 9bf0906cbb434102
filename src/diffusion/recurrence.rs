//! Parts of a sampler: its facts, the choices for a run, and the run as a linear recurrence.

use super::linear::Form;
use super::prediction::Prediction;
use super::spacing::Spacing;
use crate::error::Result;

/// A sampler: its names, what its diffusers class reads and leaves out, and its recurrence. Each is a constant in a file
/// of its own, in `samplers/`.
pub(super) struct Sampler {
    /// Command-line name.
    pub(super) name: &'static str,
    /// Its diffusers class.
    pub(super) class: &'static str,
    /// Spacing of timesteps where neither option nor file says one.
    pub(super) spacing: Spacing,
    /// `set_alpha_to_one` where the file does not say it.
    pub(super) set_alpha_to_one: bool,
    /// The class takes Karras noise levels.
    pub(super) karras: bool,
    /// The class reads `final_sigmas_type`.
    pub(super) final_sigmas: bool,
    /// The class reads `rescale_betas_zero_snr`.
    pub(super) zero_snr: bool,
    /// The update holds for networks that predict the sample.
    pub(super) sample_prediction: bool,
    /// A step goes a whole stride on, even where the next timestep lies elsewhere.
    pub(super) whole_strides: bool,
    /// Distilled: takes its steps from a schedule of `original_inference_steps`, few of them by default, and without
    /// guidance.
    pub(super) distilled: bool,
    /// Fields of a scheduler file whose defaults are this class's alone.
    pub(super) defaults: &'static [(&'static str, Setting)],
    /// Fields of which no other value is implemented.
    pub(super) only: &'static [&'static [(&'static str, Setting)]],
    /// Computes the steps of a run.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where no run has so many steps.
    pub(super) recurrence: fn(&Resolved, Run) -> Result<Recurrence>,
}

impl Sampler {
    /// Base of samplers whose levels are whole timesteps.
    pub(super) const AT_TIMESTEPS: Sampler = Sampler {
        name: "",
        class: "",
        spacing: Spacing::Leading,
        set_alpha_to_one: false,
        karras: false,
        final_sigmas: false,
        zero_snr: true,
        sample_prediction: true,
        whole_strides: false,
        distilled: false,
        defaults: &[],
        only: &[],
        recurrence: |_, _| Ok(Recurrence { init_scale: 1.0, image: (1.0, 0.0), steps: Vec::new() }),
    };

    /// Base of samplers whose levels are noise-to-signal ratios.
    pub(super) const AT_SIGMAS: Sampler = Sampler { spacing: Spacing::Linspace, ..Sampler::AT_TIMESTEPS };
}

/// A value in a scheduler file.
#[derive(Clone, Copy)]
pub(super) enum Setting {
    Null,
    Bool(bool),
    Whole(u64),
    Number(f64),
    Text(&'static str),
    /// An empty list.
    Nothing,
}

impl Setting {
    /// The value as JSON.
    pub(super) fn json(self) -> serde_json::Value {
        match self {
            Setting::Null => serde_json::Value::Null,
            Setting::Bool(value) => value.into(),
            Setting::Whole(value) => value.into(),
            Setting::Number(value) => value.into(),
            Setting::Text(value) => value.into(),
            Setting::Nothing => serde_json::Value::Array(Vec::new()),
        }
    }
}

/// Spacings of noise levels that no sampler here has.
pub(super) const OTHER_SIGMAS: &[(&str, Setting)] =
    &[("use_exponential_sigmas", Setting::Bool(false)), ("use_beta_sigmas", Setting::Bool(false))];

/// Number of steps, and the first one that runs: 0 except for image to image.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) steps: usize,
    pub(super) start: usize,
}

/// Every choice made: options, else the model's file or the named class.
#[derive(Debug)]
pub(super) struct Resolved {
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
}

/// A sampler's run before it is packed.
pub(super) struct Recurrence {
    /// Factor of the noise in the first sample of a run from noise.
    pub(super) init_scale: f64,
    /// Factors of image and noise in the first sample of a run from an image.
    pub(super) image: (f64, f64),
    /// Every evaluation of the network with the update after it.
    pub(super) steps: Vec<Evaluation>,
}

/// One evaluation of the network, and the update after it.
pub(super) struct Evaluation {
    /// Timestep that the UNet receives.
    pub(super) timestep: f64,
    /// Factor of slot 0 for the UNet's input.
    pub(super) input_scale: f64,
    /// The new slots.
    pub(super) slots: Vec<Form>,
    /// Draws fresh noise.
    pub(super) noise: bool,
}
