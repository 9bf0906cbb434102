//! Heun's method, second order (Karras et al. 2022, algorithm 1): two evaluations a step but for the last, as diffusers'
//! `HeunDiscreteScheduler` counts them. `--steps N` evaluates the network 2 N - 1 times.

use crate::diffusion::linear::Inputs;
use crate::diffusion::recurrence::{Evaluation, OTHER_SIGMAS, Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::sigmas::{Levels, derivative};
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "heun",
    class: "HeunDiscreteScheduler",
    karras: true,
    zero_snr: false,
    defaults: &[("beta_start", Setting::Number(0.00085)), ("beta_end", Setting::Number(0.012))],
    only: &[OTHER_SIGMAS],
    recurrence,
    ..Sampler::AT_SIGMAS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let levels = Levels::fractional(r, run.steps);
    let steps = (run.start..run.steps).flat_map(|i| {
        // The last step ends at level 0, where no second derivative is to be had.
        [Some(predict(r, &levels, i)), (i + 1 < run.steps).then(|| correct(r, &levels, i))].into_iter().flatten()
    });
    Ok(levels.unscaled_recurrence(r, run, steps.collect()))
}

/// Euler's step from level `i`. Slots: the sample, the sample before the step, the derivative there.
fn predict(r: &Resolved, levels: &Levels, i: usize) -> Evaluation {
    let io = Inputs::new(3);
    let (sigma, to) = (levels.sigmas[i], levels.sigmas[i + 1]);
    let sample = io.slots[0].clone();
    let slope = derivative(r, sigma, &sample, &io.output);
    levels.unscaled(i, vec![sample.clone() + &slope * (to - sigma), sample, slope], false)
}

/// Repeats the step from where it began, by the mean of the derivatives at both its ends.
fn correct(r: &Resolved, levels: &Levels, i: usize) -> Evaluation {
    let io = Inputs::new(3);
    let (sigma, to) = (levels.sigmas[i], levels.sigmas[i + 1]);
    let [before, slope] = [1, 2].map(|slot| io.slots[slot].clone());
    let mean = (slope.clone() + derivative(r, to, &io.slots[0], &io.output)) * 0.5;
    levels.unscaled(i + 1, vec![before.clone() + mean * (to - sigma), before, slope], false)
}
