//! DDPM, ancestral, with the small fixed variance (Ho et al. 2020).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::timesteps;
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "ddpm",
    class: "DDPMScheduler",
    only: &[&[("variance_type", Setting::Text("fixed_small"))]],
    recurrence,
    ..Sampler::AT_TIMESTEPS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    timesteps::recurrence(r, SAMPLER.name, run, &timesteps::timesteps(r, run.steps), |visited, i| {
        step(r, visited[i], visited.get(i + 1).copied())
    })
}

/// Eq. 7, with the posterior variance, at least 1e-20 as in diffusers.
fn step(r: &Resolved, t: i64, next: Option<i64>) -> (Vec<Form>, bool) {
    let io = Inputs::new(1);
    let (bar, to) = (r.bar(t), next.map_or(1.0, |t| r.bar(t)));
    let (x0, _) = r.split(bar, &io.slots[0], &io.output);
    let beta = 1.0 - bar / to;
    let mean = x0 * (to.sqrt() * beta / (1.0 - bar)) + &io.slots[0] * ((1.0 - beta).sqrt() * (1.0 - to) / (1.0 - bar));
    if t == 0 {
        return (vec![mean], false);
    }
    let variance = ((1.0 - to) / (1.0 - bar) * beta).max(1e-20);
    (vec![mean + io.noise * variance.sqrt()], true)
}
