//! DPM-Solver++ 2M, midpoint (Lu et al. 2022).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{OTHER_SIGMAS, Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::sigmas::{Levels, lambda, signal_and_noise, x0_of};
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "dpm++2m",
    class: "DPMSolverMultistepScheduler",
    karras: true,
    final_sigmas: true,
    only: &[
        OTHER_SIGMAS,
        &[
            ("algorithm_type", Setting::Text("dpmsolver++")),
            ("solver_order", Setting::Whole(2)),
            ("solver_type", Setting::Text("midpoint")),
            ("lower_order_final", Setting::Bool(true)),
            ("euler_at_final", Setting::Bool(false)),
            ("use_lu_lambdas", Setting::Bool(false)),
            ("use_flow_sigmas", Setting::Bool(false)),
            ("lambda_min_clipped", Setting::Null),
        ],
    ],
    recurrence,
    ..Sampler::AT_SIGMAS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let levels = Levels::whole(r, run.steps);
    Ok(levels.scaled_recurrence(run, |i| step(r, &levels.sigmas, i, run.start)))
}

/// Algorithm 2. Slots: the sample, the last x0.
fn step(r: &Resolved, sigmas: &[f64], i: usize, start: usize) -> Vec<Form> {
    let io = Inputs::new(2);
    let x0 = x0_of(r, sigmas[i], &io.slots[0], &io.output);
    let (_, s_from) = signal_and_noise(sigmas[i]);
    let (a, s) = signal_and_noise(sigmas[i + 1]);
    let h = lambda(sigmas[i + 1]) - lambda(sigmas[i]);
    let factor = -a * (-h).exp_m1();
    let mut next = &io.slots[0] * (s / s_from) + &x0 * factor;
    let steps = sigmas.len() - 1;
    let first_order = i == start || (i == steps - 1 && (steps < 15 || !r.end_at_sigma_min));
    if !first_order {
        let h_last = lambda(sigmas[i]) - lambda(sigmas[i - 1]);
        next = next + (x0.clone() - io.slots[1].clone()) * (0.5 * factor * h / h_last);
    }
    vec![next, x0]
}
