//! Runs over whole timesteps, which ddim, ddpm, pndm and lcm share.

use super::linear::Form;
use super::prediction::Prediction;
use super::recurrence::{Evaluation, Recurrence, Resolved, Run};
use super::spacing;
use crate::error::{Error, Result, message, option};

/// The timesteps of `steps` steps, from noisy to clean.
pub(super) fn timesteps(r: &Resolved, steps: usize) -> Vec<i64> {
    spacing::even(r.spacing, r.alphas_cumprod.len(), steps, true).into_iter().map(|t| t as i64).collect()
}

/// The recurrence over `all` timesteps from `run.start` on: `step` gives the new slots after evaluation `i` of those that
/// run, and whether it draws noise. `name` is the sampler's, for the error.
///
/// # Errors
/// [`Error::Usage`] where the first timestep is none of the model's.
pub(super) fn recurrence(
    r: &Resolved,
    name: &str,
    run: Run,
    all: &[i64],
    step: impl Fn(&[i64], usize) -> (Vec<Form>, bool),
) -> Result<Recurrence> {
    let train = r.alphas_cumprod.len();
    let visited = &all[run.start..];
    let Some(first) = visited.first().filter(|t| **t < train as i64) else {
        let last = train - 1;
        let fault = format!("{name} would begin past the model's last timestep {last}; take fewer steps or another ");
        return Err(Error::value("steps", run.steps, message![fault, option("spacing")]));
    };
    let abar = r.bar(*first);
    let evaluation = |i: usize| {
        let (slots, noise) = step(visited, i);
        Evaluation { timestep: visited[i] as f64, input_scale: 1.0, slots, noise }
    };
    Ok(Recurrence {
        init_scale: 1.0,
        image: (abar.sqrt(), (1.0 - abar).sqrt()),
        steps: (0..visited.len()).map(evaluation).collect(),
    })
}

/// Timesteps between two of `steps` evenly spread ones.
pub(super) fn stride(r: &Resolved, run: Run) -> i64 {
    (r.alphas_cumprod.len() / run.steps) as i64
}

impl Resolved {
    /// `alphas_cumprod[t]`, and before the first timestep what the sampler ends at.
    pub(super) fn bar(&self, t: i64) -> f64 {
        match usize::try_from(t) {
            Ok(t) => self.alphas_cumprod.get(t).copied().unwrap_or(f64::NAN),
            Err(_) if self.set_alpha_to_one => 1.0,
            Err(_) => self.alphas_cumprod[0],
        }
    }

    /// (x0, noise) that the network's output stands for at `abar`.
    pub(super) fn split(&self, abar: f64, sample: &Form, output: &Form) -> (Form, Form) {
        let (a, b) = (abar.sqrt(), (1.0 - abar).sqrt());
        match self.prediction {
            Prediction::Epsilon => ((sample.clone() - output * b) * (1.0 / a), output.clone()),
            Prediction::V => (sample * a - output * b, output * a + sample * b),
            Prediction::Sample => (output.clone(), (sample.clone() - output * a) * (1.0 / b)),
        }
    }
}
