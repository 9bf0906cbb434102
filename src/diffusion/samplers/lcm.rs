//! Latent consistency (Luo et al. 2023).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::timesteps;
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "lcm",
    class: "LCMScheduler",
    set_alpha_to_one: true,
    distilled: true,
    defaults: &[
        ("beta_start", Setting::Number(0.00085)),
        ("beta_end", Setting::Number(0.012)),
        ("beta_schedule", Setting::Text("scaled_linear")),
    ],
    recurrence,
    ..Sampler::AT_TIMESTEPS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    timesteps::recurrence(r, SAMPLER.name, run, &distilled(r, run.steps), |visited, i| {
        step(r, visited[i], visited.get(i + 1).copied())
    })
}

/// Every `original / steps`th entry of the distilled schedule, from its noisy end.
fn distilled(r: &Resolved, steps: usize) -> Vec<i64> {
    let original = r.original_steps;
    let stride = r.alphas_cumprod.len() / original;
    let spread = original as f64 / steps as f64;
    (0..steps).map(|i| ((original - (i as f64 * spread) as usize) * stride) as i64 - 1).collect()
}

/// Algorithm 3: the consistency function (eq. 9, sigma_data 0.5), then noise up to the next timestep.
fn step(r: &Resolved, t: i64, next: Option<i64>) -> (Vec<Form>, bool) {
    let io = Inputs::new(1);
    let (x0, _) = r.split(r.bar(t), &io.slots[0], &io.output);
    let scaled = t as f64 * r.timestep_scaling;
    let norm = scaled * scaled + 0.25;
    let denoised = x0 * (scaled / norm.sqrt()) + &io.slots[0] * (0.25 / norm);
    match next {
        None => (vec![denoised], false),
        Some(next) => {
            let to = r.bar(next);
            (vec![denoised * to.sqrt() + io.noise * (1.0 - to).sqrt()], true)
        }
    }
}
