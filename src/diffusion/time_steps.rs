//! Samplers whose levels are whole timesteps: ddim, ddpm, pndm, lcm.

use super::linear::{Form, Inputs};
use super::sampler::{Recurrence, Resolved, SamplerKind};
use super::schedule_config::Prediction;
use super::spacing;
use crate::error::{Error, Result, message, option};

/// The recurrence of `r.kind` in `steps` steps, begun at entry `start` of its timesteps.
pub(super) fn recurrence(r: &Resolved, steps: usize, start: usize) -> Result<Recurrence> {
    let train = r.alphas_cumprod.len();
    let all: Vec<i64> = match r.kind {
        SamplerKind::Lcm => lcm_timesteps(train, r.original_steps, steps),
        SamplerKind::Pndm => {
            let mut timesteps = timesteps(r, train, steps);
            if steps > 1 {
                // The second evaluation corrects the first step (a Heun step in place of the missing history).
                timesteps.insert(1, timesteps[1]);
            }
            timesteps
        }
        _ => timesteps(r, train, steps),
    };
    let run = &all[start..];
    let Some(first) = run.first().filter(|t| **t < train as i64) else {
        let (name, last) = (r.kind.name(), train - 1);
        let problem = format!("{name} would begin past the model's last timestep {last}; take fewer steps or another ");
        return Err(Error::value("steps", steps, message![problem, option("spacing")]));
    };
    let stride = (train / steps) as i64;
    let rows = |i: usize| match r.kind {
        SamplerKind::Ddpm => ddpm(r, run[i], run.get(i + 1).copied()),
        SamplerKind::Lcm => lcm(r, run[i], run.get(i + 1).copied()),
        SamplerKind::Pndm => (pndm(r, i, run[i], stride), false),
        _ => (ddim(r, run[i], run[i] - stride), false),
    };
    let abar = r.bar(*first);
    Ok(Recurrence {
        init_scale: 1.0,
        image: (abar.sqrt(), (1.0 - abar).sqrt()),
        steps: (0..run.len())
            .map(|i| {
                let (rows, noise) = rows(i);
                (run[i] as f64, 1.0, rows, noise)
            })
            .collect(),
    })
}

fn timesteps(r: &Resolved, train: usize, steps: usize) -> Vec<i64> {
    spacing::even(r.spacing, train, steps, true).into_iter().map(|t| t as i64).collect()
}

/// Every `original / steps`th entry of the distilled schedule, from its noisy end.
fn lcm_timesteps(train: usize, original: usize, steps: usize) -> Vec<i64> {
    let stride = train / original;
    let spread = original as f64 / steps as f64;
    (0..steps).map(|i| ((original - (i as f64 * spread) as usize) * stride) as i64 - 1).collect()
}

impl Resolved {
    /// `alphas_cumprod[t]`, and before the first timestep what the sampler ends at.
    fn bar(&self, t: i64) -> f64 {
        match usize::try_from(t) {
            Ok(t) => self.alphas_cumprod.get(t).copied().unwrap_or(f64::NAN),
            Err(_) if self.set_alpha_to_one => 1.0,
            Err(_) => self.alphas_cumprod[0],
        }
    }

    /// (x0, noise) that the network's output stands for at `abar`.
    fn split(&self, abar: f64, sample: &Form, output: &Form) -> (Form, Form) {
        let (a, b) = (abar.sqrt(), (1.0 - abar).sqrt());
        match self.prediction {
            Prediction::Epsilon => ((sample.clone() - output * b) * (1.0 / a), output.clone()),
            Prediction::V => (sample * a - output * b, output * a + sample * b),
        }
    }
}

/// Song et al. 2021, eq. 12 with sigma 0. The previous timestep is a stride away, whatever the spacing.
fn ddim(r: &Resolved, t: i64, previous: i64) -> Vec<Form> {
    let io = Inputs::new(1);
    let (x0, noise) = r.split(r.bar(t), &io.slots[0], &io.output);
    let to = r.bar(previous);
    vec![x0 * to.sqrt() + noise * (1.0 - to).sqrt()]
}

/// Ho et al. 2020, eq. 7, with the posterior variance, at least 1e-20 as in diffusers.
fn ddpm(r: &Resolved, t: i64, next: Option<i64>) -> (Vec<Form>, bool) {
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

/// Liu et al. 2022: linear multistep on the outputs (eq. 12), then their transfer (eq. 11).
///
/// Slots: the sample; the last three outputs, newest first; the sample before the first step.
fn pndm(r: &Resolved, i: usize, t: i64, stride: i64) -> Vec<Form> {
    let io = Inputs::new(5);
    let [sample, e1, e2, e3, saved] = [0, 1, 2, 3, 4].map(|i| io.slots[i].clone());
    let out = io.output;
    if i == 1 {
        // The first step again, with the mean of the outputs at both its ends.
        let next = pndm_transfer(r, t + stride, t, &saved, (out + e1.clone()) * 0.5);
        return vec![next, e1, e2, e3, saved];
    }
    let direction = match i {
        0 => out.clone(),
        2 => &out * 1.5 - &e1 * 0.5,
        3 => (&out * 23.0 - &e1 * 16.0 + &e2 * 5.0) * (1.0 / 12.0),
        _ => (&out * 55.0 - &e1 * 59.0 + &e2 * 37.0 - &e3 * 9.0) * (1.0 / 24.0),
    };
    let next = pndm_transfer(r, t, t - stride, &sample, direction);
    vec![next, out, e1, e2, if i == 0 { sample } else { saved }]
}

fn pndm_transfer(r: &Resolved, t: i64, previous: i64, sample: &Form, output: Form) -> Form {
    let (bar, to) = (r.bar(t), r.bar(previous));
    let noise = match r.prediction {
        Prediction::Epsilon => output,
        Prediction::V => output * bar.sqrt() + sample * (1.0 - bar).sqrt(),
    };
    let denominator = bar * (1.0 - to).sqrt() + (bar * (1.0 - bar) * to).sqrt();
    sample * (to / bar).sqrt() - noise * ((to - bar) / denominator)
}

/// Luo et al. 2023, algorithm 3: the consistency function (eq. 9, sigma_data 0.5), then noise up to the next timestep.
fn lcm(r: &Resolved, t: i64, next: Option<i64>) -> (Vec<Form>, bool) {
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
