//! Euler (Karras et al. 2022, algorithm 2 without churn).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{OTHER_SIGMAS, Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::sigmas::{Levels, derivative};
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "euler",
    class: "EulerDiscreteScheduler",
    karras: true,
    final_sigmas: true,
    only: &[
        OTHER_SIGMAS,
        &[
            ("interpolation_type", Setting::Text("linear")),
            ("timestep_type", Setting::Text("discrete")),
            ("sigma_min", Setting::Null),
            ("sigma_max", Setting::Null),
        ],
    ],
    recurrence,
    ..Sampler::AT_SIGMAS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let levels = Levels::fractional(r, run.steps);
    let steps = (run.start..run.steps)
        .map(|i| levels.unscaled(i, vec![step(r, levels.sigmas[i], levels.sigmas[i + 1])], false))
        .collect();
    Ok(levels.unscaled_recurrence(r, run, steps))
}

/// Algorithm 1, first order: from noise level `sigma` to level `to`.
pub(super) fn step(r: &Resolved, sigma: f64, to: f64) -> Form {
    let io = Inputs::new(1);
    io.slots[0].clone() + derivative(r, sigma, &io.slots[0], &io.output) * (to - sigma)
}
