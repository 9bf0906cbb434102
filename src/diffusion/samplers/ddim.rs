//! DDIM with eta 0 (Song et al. 2021).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{Recurrence, Resolved, Run, Sampler};
use crate::diffusion::timesteps;
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddim",
    class: "DDIMScheduler",
    set_alpha_to_one: true,
    whole_strides: true,
    recurrence,
    ..Sampler::AT_TIMESTEPS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let stride = timesteps::stride(r, run);
    timesteps::recurrence(r, SAMPLER.name, run, &timesteps::timesteps(r, run.steps), |visited, i| {
        (step(r, visited[i], visited[i] - stride), false)
    })
}

/// Eq. 12 with sigma 0. The previous timestep is a stride away, whatever the spacing.
fn step(r: &Resolved, t: i64, previous: i64) -> Vec<Form> {
    let io = Inputs::new(1);
    let (x0, noise) = r.split(r.bar(t), &io.slots[0], &io.output);
    let to = r.bar(previous);
    vec![x0 * to.sqrt() + noise * (1.0 - to).sqrt()]
}
