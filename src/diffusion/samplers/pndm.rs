//! PNDM without Runge-Kutta start, that is PLMS (Liu et al. 2022).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::prediction::Prediction;
use crate::diffusion::recurrence::{Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::timesteps;
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "pndm",
    class: "PNDMScheduler",
    zero_snr: false,
    sample_prediction: false,
    whole_strides: true,
    defaults: &[("skip_prk_steps", Setting::Bool(false))],
    only: &[&[("skip_prk_steps", Setting::Bool(true))]],
    recurrence,
    ..Sampler::AT_TIMESTEPS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let mut all = timesteps::timesteps(r, run.steps);
    if run.steps > 1 {
        // The second evaluation corrects the first step (a Heun step in place of the missing history).
        all.insert(1, all[1]);
    }
    let stride = timesteps::stride(r, run);
    timesteps::recurrence(r, SAMPLER.name, run, &all, |visited, i| (step(r, i, visited[i], stride), false))
}

/// Linear multistep on the outputs (eq. 12), then their transfer (eq. 11).
///
/// Slots: the sample; the last three outputs, newest first; the sample before the first step.
fn step(r: &Resolved, i: usize, t: i64, stride: i64) -> Vec<Form> {
    let io = Inputs::new(5);
    let [sample, e1, e2, e3, saved] = [0, 1, 2, 3, 4].map(|i| io.slots[i].clone());
    let out = io.output;
    if i == 1 {
        // The first step again, with the mean of the outputs at both its ends.
        let next = transfer(r, t + stride, t, &saved, (out + e1.clone()) * 0.5);
        return vec![next, e1, e2, e3, saved];
    }
    let direction = match i {
        0 => out.clone(),
        2 => &out * 1.5 - &e1 * 0.5,
        3 => (&out * 23.0 - &e1 * 16.0 + &e2 * 5.0) * (1.0 / 12.0),
        _ => (&out * 55.0 - &e1 * 59.0 + &e2 * 37.0 - &e3 * 9.0) * (1.0 / 24.0),
    };
    let next = transfer(r, t, t - stride, &sample, direction);
    vec![next, out, e1, e2, if i == 0 { sample } else { saved }]
}

/// The sample at timestep `previous`, from that at `t` and what the network is taken to give there.
fn transfer(r: &Resolved, t: i64, previous: i64, sample: &Form, output: Form) -> Form {
    let (bar, to) = (r.bar(t), r.bar(previous));
    let noise = match r.prediction {
        Prediction::V => output * bar.sqrt() + sample * (1.0 - bar).sqrt(),
        // No run predicts the sample.
        Prediction::Epsilon | Prediction::Sample => output,
    };
    let denominator = bar * (1.0 - to).sqrt() + (bar * (1.0 - bar) * to).sqrt();
    sample * (to / bar).sqrt() - noise * ((to - bar) / denominator)
}
