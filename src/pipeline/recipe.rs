//! How a job samples, all defaults resolved.

use crate::diffusion::Trajectory;

/// A sampler with its steps and guidance.
pub(crate) struct Recipe {
    /// Coefficients of every step.
    pub trajectory: Trajectory,
    /// Steps that were asked for.
    pub steps: usize,
    /// Guidance.
    pub guidance: f64,
    /// Share of the guided prediction that gets the prompt's own spread; 0 without guidance.
    pub rescale: f64,
}

impl Recipe {
    /// Whether an unconditional pass runs.
    pub(crate) fn guided(&self) -> bool {
        self.guidance > 1.0
    }
}
