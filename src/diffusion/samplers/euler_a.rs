//! Euler with ancestral noise.

use super::euler;
use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{Recurrence, Resolved, Run, Sampler};
use crate::diffusion::sigmas::Levels;
use crate::error::Result;

pub(super) const SAMPLER: Sampler =
    Sampler { name: "euler-a", class: "EulerAncestralDiscreteScheduler", recurrence, ..Sampler::AT_SIGMAS };

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let levels = Levels::fractional(r, run.steps);
    let steps = (run.start..run.steps)
        .map(|i| levels.unscaled(i, vec![step(r, levels.sigmas[i], levels.sigmas[i + 1])], true))
        .collect();
    Ok(levels.unscaled_recurrence(r, run, steps))
}

/// Euler to `down`, then fresh noise up to `to`.
fn step(r: &Resolved, sigma: f64, to: f64) -> Form {
    let up = (to * to * (sigma * sigma - to * to) / (sigma * sigma)).max(0.0).sqrt();
    let down = (to * to - up * up).max(0.0).sqrt();
    euler::step(r, sigma, down) + Inputs::new(1).noise * up
}
