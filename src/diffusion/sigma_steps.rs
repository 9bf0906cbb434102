//! Samplers whose levels are noise-to-signal ratios: euler, euler-a, dpm++2m, unipc.

use super::linear::{Form, Inputs};
use super::sampler::{Recurrence, Resolved, SamplerKind};
use super::schedule_config::Prediction;
use super::spacing::{self, Spacing};

/// What `alphas_cumprod[-1]` of a model with zero terminal SNR is taken for, so that its sigma is finite.
const SMALLEST_ABAR: f64 = 1.0 / (1 << 24) as f64;

/// The recurrence of `r.kind` in `steps` steps, begun at entry `start` of its timesteps.
pub(super) fn recurrence(r: &Resolved, steps: usize, start: usize) -> Recurrence {
    let (timesteps, sigmas) = levels(r, steps);
    let euler = matches!(r.kind, SamplerKind::Euler | SamplerKind::EulerA);
    let (a, s) = signal_and_noise(sigmas[start]);
    let max = sigmas.iter().fold(0.0f64, |a, b| a.max(*b));
    let mut last_order = None;
    let step = |i: usize| {
        let sigma = sigmas[i];
        let rows = match r.kind {
            SamplerKind::Euler => vec![euler_step(r, sigma, sigmas[i + 1])],
            SamplerKind::EulerA => vec![euler_ancestral_step(r, sigma, sigmas[i + 1])],
            SamplerKind::Dpmpp2m => dpmpp_2m_step(r, &sigmas, i, start),
            _ => {
                let order = (steps - i).min(i - start + 1).min(2);
                unipc_step(r, &sigmas, i, order, last_order.replace(order))
            }
        };
        let input_scale = if euler { 1.0 / (sigma * sigma + 1.0).sqrt() } else { 1.0 };
        (timesteps[i], input_scale, rows, r.kind == SamplerKind::EulerA)
    };
    Recurrence {
        init_scale: match (euler, r.spacing) {
            (false, _) => 1.0,
            (true, Spacing::Leading) => (max * max + 1.0).sqrt(),
            (true, _) => max,
        },
        image: if euler { (1.0, sigmas[start]) } else { (a, s) },
        steps: (start..steps).map(step).collect(),
    }
}

/// The timesteps and, one longer, the noise levels: f32 values, as diffusers keeps them.
fn levels(r: &Resolved, steps: usize) -> (Vec<f64>, Vec<f64>) {
    let train = r.alphas_cumprod.len();
    let sigma_of = |abar: &f64| f64::from((((1.0 - *abar as f32) / *abar as f32) as f64).sqrt() as f32);
    let mut table: Vec<f64> = r.alphas_cumprod.iter().map(sigma_of).collect();
    if r.zero_snr {
        table[train - 1] = sigma_of(&SMALLEST_ABAR);
    }
    let logs: Vec<f64> = table.iter().map(|s| f64::from((*s as f32).ln())).collect();
    let euler = matches!(r.kind, SamplerKind::Euler | SamplerKind::EulerA);
    let mut timesteps = if euler {
        spacing::even(r.spacing, train, steps, false)
    } else {
        spacing::without_last(r.spacing, train, steps)
    };
    let mut sigmas: Vec<f64> = timesteps.iter().map(|t| spacing::interpolate(&table, *t)).collect();
    if r.karras {
        // Euler spans the levels of its own timesteps, the multistep solvers all trained ones.
        let (max, min) = if euler { (sigmas[0], sigmas[steps - 1]) } else { (table[train - 1], table[0]) };
        sigmas = spacing::karras(max, min, steps);
        timesteps = sigmas.iter().map(|s| spacing::timestep_of(*s, &logs)).collect();
        if !euler {
            timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
    }
    let last = match r.end_at_sigma_min {
        // UniPC ends Karras levels by repeating the last; the others go to the smallest trained one.
        true if r.karras && r.kind == SamplerKind::UniPc => sigmas[steps - 1],
        true => table[0],
        false => 0.0,
    };
    sigmas.push(last);
    let single = |values: Vec<f64>| values.into_iter().map(|v| f64::from(v as f32)).collect();
    (single(timesteps), single(sigmas))
}

/// (sqrt(abar), sqrt(1 - abar)) at noise level `sigma`.
fn signal_and_noise(sigma: f64) -> (f64, f64) {
    let a = 1.0 / (sigma * sigma + 1.0).sqrt();
    (a, sigma * a)
}

/// The logarithm of the signal-to-noise amplitude; infinite at the clean end.
fn lambda(sigma: f64) -> f64 {
    -sigma.ln()
}

/// x0 from a sample kept at scale `x0 + sigma noise`, as Euler keeps it.
fn x0_of_unscaled(r: &Resolved, sigma: f64, sample: &Form, output: &Form) -> Form {
    match r.prediction {
        Prediction::Epsilon => sample.clone() - output * sigma,
        Prediction::V => sample * (1.0 / (sigma * sigma + 1.0)) - output * (sigma / (sigma * sigma + 1.0).sqrt()),
    }
}

/// x0 from a sample kept at unit variance, as the multistep solvers keep it.
fn x0_of(r: &Resolved, sigma: f64, sample: &Form, output: &Form) -> Form {
    let (a, s) = signal_and_noise(sigma);
    match r.prediction {
        Prediction::Epsilon => (sample.clone() - output * s) * (1.0 / a),
        Prediction::V => sample * a - output * s,
    }
}

/// Karras et al. 2022, algorithm 1, first order.
fn euler_step(r: &Resolved, sigma: f64, to: f64) -> Form {
    let io = Inputs::new(1);
    let x0 = x0_of_unscaled(r, sigma, &io.slots[0], &io.output);
    let derivative = (io.slots[0].clone() - x0) * (1.0 / sigma);
    io.slots[0].clone() + derivative * (to - sigma)
}

/// Euler to `down`, then fresh noise up to `to`.
fn euler_ancestral_step(r: &Resolved, sigma: f64, to: f64) -> Form {
    let up = (to * to * (sigma * sigma - to * to) / (sigma * sigma)).max(0.0).sqrt();
    let down = (to * to - up * up).max(0.0).sqrt();
    euler_step(r, sigma, down) + Inputs::new(1).noise * up
}

/// Lu et al. 2022, algorithm 2. Slots: the sample, the last x0.
fn dpmpp_2m_step(r: &Resolved, sigmas: &[f64], i: usize, start: usize) -> Vec<Form> {
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

/// Zhao et al. 2023, algorithms 5 to 8 with B(h) = expm1(-h): correct the sample that the last step predicted, now that
/// the network was seen there, then predict. Slots: the sample, the last two x0, the last corrected sample.
fn unipc_step(r: &Resolved, sigmas: &[f64], i: usize, order: usize, last_order: Option<usize>) -> Vec<Form> {
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
