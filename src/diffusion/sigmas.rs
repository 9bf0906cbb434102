//! Runs over noise-to-signal ratios, which euler, euler-a, dpm++2m and unipc share.

use super::linear::Form;
use super::prediction::Prediction;
use super::recurrence::{Evaluation, Recurrence, Resolved, Run};
use super::spacing::{self, Spacing};

/// Taken for `alphas_cumprod[-1]` of a model with zero terminal SNR, so that its sigma is finite.
const SMALLEST_ABAR: f64 = 1.0 / (1 << 24) as f64;

/// A run's timesteps and, one longer, its noise levels: f32 values, as diffusers keeps them.
pub(super) struct Levels {
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Vec<f64>,
}

impl Levels {
    /// Fractional timesteps; Karras levels span those of the timesteps (Euler's classes).
    pub(super) fn fractional(r: &Resolved, steps: usize) -> Self {
        let (table, logs) = trained(r);
        let mut timesteps = spacing::even(r.spacing, table.len(), steps, false);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|t| spacing::interpolate(&table, *t)).collect();
        if r.karras {
            sigmas = spacing::karras(sigmas[0], sigmas[steps - 1], steps);
            timesteps = sigmas.iter().map(|s| spacing::timestep_of(*s, &logs)).collect();
        }
        Self::ending(r, timesteps, sigmas, table[0])
    }

    /// Whole timesteps; Karras levels span all trained ones (the multistep solvers).
    pub(super) fn whole(r: &Resolved, steps: usize) -> Self {
        let (table, logs) = trained(r);
        let mut timesteps = spacing::without_last(r.spacing, table.len(), steps);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|t| spacing::interpolate(&table, *t)).collect();
        if r.karras {
            sigmas = spacing::karras(table[table.len() - 1], table[0], steps);
            timesteps = sigmas.iter().map(|s| spacing::timestep_of(*s, &logs).round_ties_even()).collect();
        }
        Self::ending(r, timesteps, sigmas, table[0])
    }

    fn ending(r: &Resolved, timesteps: Vec<f64>, mut sigmas: Vec<f64>, smallest: f64) -> Self {
        sigmas.push(if r.end_at_sigma_min { smallest } else { 0.0 });
        let single = |values: Vec<f64>| values.into_iter().map(|v| f64::from(v as f32)).collect();
        Levels { timesteps: single(timesteps), sigmas: single(sigmas) }
    }

    /// An evaluation at level `i`, of a sample that is kept at scale `x0 + sigma noise`.
    pub(super) fn unscaled(&self, i: usize, slots: Vec<Form>, noise: bool) -> Evaluation {
        let input_scale = 1.0 / (self.sigmas[i] * self.sigmas[i] + 1.0).sqrt();
        Evaluation { timestep: self.timesteps[i], input_scale, slots, noise }
    }

    /// The recurrence of samples that are kept at scale `x0 + sigma noise`.
    pub(super) fn unscaled_recurrence(&self, r: &Resolved, run: Run, steps: Vec<Evaluation>) -> Recurrence {
        let max = self.sigmas.iter().fold(0.0f64, |a, b| a.max(*b));
        let init_scale = if r.spacing == Spacing::Leading { (max * max + 1.0).sqrt() } else { max };
        Recurrence { init_scale, image: (1.0, self.sigmas[run.start]), steps }
    }

    /// The recurrence of samples that are kept at unit variance; `slots` gives the new slots after step `i`.
    pub(super) fn scaled_recurrence(&self, run: Run, slots: impl FnMut(usize) -> Vec<Form>) -> Recurrence {
        let slots = (run.start..run.steps).map(slots);
        let steps = self.timesteps[run.start..].iter().zip(slots);
        let evaluation =
            |(timestep, slots): (&f64, _)| Evaluation { timestep: *timestep, input_scale: 1.0, slots, noise: false };
        Recurrence {
            init_scale: 1.0,
            image: signal_and_noise(self.sigmas[run.start]),
            steps: steps.map(evaluation).collect(),
        }
    }
}

/// The noise levels of all trained timesteps, and their logarithms.
fn trained(r: &Resolved) -> (Vec<f64>, Vec<f64>) {
    let sigma_of = |abar: &f64| f64::from((((1.0 - *abar as f32) / *abar as f32) as f64).sqrt() as f32);
    let mut table: Vec<f64> = r.alphas_cumprod.iter().map(sigma_of).collect();
    if r.zero_snr
        && let Some(last) = table.last_mut()
    {
        *last = sigma_of(&SMALLEST_ABAR);
    }
    let logs = table.iter().map(|s| f64::from((*s as f32).ln())).collect();
    (table, logs)
}

/// (sqrt(abar), sqrt(1 - abar)) at noise level `sigma`.
pub(super) fn signal_and_noise(sigma: f64) -> (f64, f64) {
    let a = 1.0 / (sigma * sigma + 1.0).sqrt();
    (a, sigma * a)
}

/// The logarithm of the signal-to-noise amplitude; infinite at the clean end.
pub(super) fn lambda(sigma: f64) -> f64 {
    -sigma.ln()
}

/// The derivative of a sample kept at scale `x0 + sigma noise` by sigma: `(sample - x0) / sigma` (Karras et al. 2022,
/// eq. 3).
pub(super) fn derivative(r: &Resolved, sigma: f64, sample: &Form, output: &Form) -> Form {
    let x0 = match r.prediction {
        Prediction::Epsilon => sample.clone() - output * sigma,
        Prediction::V => sample * (1.0 / (sigma * sigma + 1.0)) - output * (sigma / (sigma * sigma + 1.0).sqrt()),
        Prediction::Sample => output.clone(),
    };
    (sample.clone() - x0) * (1.0 / sigma)
}

/// x0 of a sample kept at unit variance.
pub(super) fn x0_of(r: &Resolved, sigma: f64, sample: &Form, output: &Form) -> Form {
    let (a, s) = signal_and_noise(sigma);
    match r.prediction {
        Prediction::Epsilon => (sample.clone() - output * s) * (1.0 / a),
        Prediction::V => sample * a - output * s,
        Prediction::Sample => output.clone(),
    }
}
