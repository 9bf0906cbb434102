//! UniPC of order 2, B(h) = expm1(h) (Zhao et al. 2023).

use crate::diffusion::linear::{Form, Inputs};
use crate::diffusion::recurrence::{OTHER_SIGMAS, Recurrence, Resolved, Run, Sampler, Setting};
use crate::diffusion::sigmas::{Levels, lambda, signal_and_noise, x0_of};
use crate::error::Result;

pub(super) const SAMPLER: Sampler = Sampler {
    name: "unipc",
    class: "UniPCMultistepScheduler",
    karras: true,
    final_sigmas: true,
    only: &[
        OTHER_SIGMAS,
        &[
            ("predict_x0", Setting::Bool(true)),
            ("solver_order", Setting::Whole(2)),
            ("solver_type", Setting::Text("bh2")),
            ("lower_order_final", Setting::Bool(true)),
            ("disable_corrector", Setting::Nothing),
            ("solver_p", Setting::Null),
            ("use_flow_sigmas", Setting::Bool(false)),
            ("sigma_min", Setting::Null),
            ("sigma_max", Setting::Null),
        ],
    ],
    recurrence,
    ..Sampler::AT_SIGMAS
};

fn recurrence(r: &Resolved, run: Run) -> Result<Recurrence> {
    let mut levels = Levels::whole(r, run.steps);
    if r.end_at_sigma_min && r.karras {
        // This class ends Karras levels by repeating the last, not at the smallest trained one.
        levels.sigmas[run.steps] = levels.sigmas[run.steps - 1];
    }
    let mut last_order = None;
    Ok(levels.scaled_recurrence(run, |i| {
        let order = (run.steps - i).min(i - run.start + 1).min(2);
        step(r, &levels.sigmas, i, order, last_order.replace(order))
    }))
}

/// Algorithms 5 to 8 with B(h) = expm1(-h): correct the sample that the last step predicted, now that
/// the network was seen there, then predict. Slots: the sample, the last two x0, the last corrected sample.
fn step(r: &Resolved, sigmas: &[f64], i: usize, order: usize, last_order: Option<usize>) -> Vec<Form> {
    let io = Inputs::new(4);
    let [sample, m0, m1, before] = [0, 1, 2, 3].map(|i| io.slots[i].clone());
    let x0 = x0_of(r, sigmas[i], &sample, &io.output);
    let sample = match last_order {
        None => sample,
        Some(last_order) => {
            let from = Transfer::new(sigmas[i - 1], sigmas[i]);
            let mut change = (x0.clone() - m0.clone()) * 0.5;
            if last_order == 2 {
                let ratio = (lambda(sigmas[i - 2]) - lambda(sigmas[i - 1])) / from.h;
                let [outer, inner] = from.corrector(ratio);
                change = (m1 - m0.clone()) * (outer / ratio) + (x0.clone() - m0.clone()) * inner;
            }
            from.apply(&before, &m0, Some(change))
        }
    };
    let to = Transfer::new(sigmas[i], sigmas[i + 1]);
    let change = (order == 2).then(|| {
        let ratio = (lambda(sigmas[i - 1]) - lambda(sigmas[i])) / to.h;
        (m0.clone() - x0.clone()) * (0.5 / ratio)
    });
    let next = to.apply(&sample, &x0, change);
    vec![next, x0, m0, sample]
}

/// UniPC's move between two noise levels.
struct Transfer {
    /// Step in lambda; infinite to the clean end.
    h: f64,
    sample: f64,
    signal: f64,
    /// `expm1(-h)`, which is both phi_1 and B(h).
    b: f64,
}

impl Transfer {
    fn new(from: f64, to: f64) -> Self {
        let ((_, s_from), (a, s)) = (signal_and_noise(from), signal_and_noise(to));
        let h = lambda(to) - lambda(from);
        Transfer { h, sample: s / s_from, signal: a, b: (-h).exp_m1() }
    }

    fn apply(&self, sample: &Form, x0: &Form, change: Option<Form>) -> Form {
        let base = sample * self.sample - x0 * (self.signal * self.b);
        match change {
            Some(change) => base - change * (self.signal * self.b),
            None => base,
        }
    }

    /// The order-2 weights: the solution of [[1, 1], [ratio, 1]] rho = b, b_k = k! phi_(k+1)(-h) / B(h).
    fn corrector(&self, ratio: f64) -> [f64; 2] {
        let hh = -self.h;
        let phi_2 = self.b / hh - 1.0;
        let phi_3 = phi_2 / hh - 0.5;
        let (b1, b2) = (phi_2 / self.b, 2.0 * phi_3 / self.b);
        let outer = (b1 - b2) / (1.0 - ratio);
        [outer, b1 - outer]
    }
}
