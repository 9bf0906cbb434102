//! Noise levels: the forward process `x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise` (Ho et al. 2020, eq. 4).

use super::prediction::Prediction;
use super::schedule_config::{BetaSchedule, ScheduleConfig};

/// The noise levels a model was trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    /// `alphas_cumprod[t]`, the share of signal power left at timestep t; f32 values, equal to PyTorch's on
    /// x86 with FMA to the last bit.
    pub alphas_cumprod: Vec<f64>,
    /// Prediction type.
    pub prediction: Prediction,
}

impl NoiseSchedule {
    /// The noise levels `config` describes.
    pub fn new(config: &ScheduleConfig) -> Self {
        let mut betas = betas(config);
        if config.rescale_betas_zero_snr {
            betas = zero_terminal_snr(&betas);
        }
        NoiseSchedule {
            alphas_cumprod: cumprod(&betas).into_iter().map(f64::from).collect(),
            prediction: config.prediction_type,
        }
    }

    /// Number of timesteps.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Never true of a schedule that was built.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// `abar_t`; past the ends, that of the nearest timestep.
    fn alpha_bar(&self, t: usize) -> f64 {
        self.alphas_cumprod.get(t).or(self.alphas_cumprod.last()).copied().unwrap_or(1.0)
    }

    /// (a, b) of the noisy sample `a x0 + b noise` at timestep `t` (diffusers `add_noise`).
    pub fn noise_coefficients(&self, t: usize) -> (f32, f32) {
        let abar = self.alpha_bar(t);
        (abar.sqrt() as f32, (1.0 - abar).sqrt() as f32)
    }

    /// (a, b) of what the network must learn to give, `a noise + b x0`: the noise, the velocity
    /// `sqrt(abar) noise - sqrt(1 - abar) x0` (diffusers `get_velocity`), or x0.
    pub fn target_coefficients(&self, t: usize) -> (f32, f32) {
        match self.prediction {
            Prediction::Epsilon => (1.0, 0.0),
            Prediction::V => {
                let (a, b) = self.noise_coefficients(t);
                (a, -b)
            }
            Prediction::Sample => (0.0, 1.0),
        }
    }

    /// Returns the noisy sample at timestep `t`; `x0` and `noise` have the same length.
    pub fn add_noise(&self, x0: &[f32], noise: &[f32], t: usize) -> Vec<f32> {
        let (a, b) = self.noise_coefficients(t);
        x0.iter().zip(noise).map(|(x, n)| a * x + b * n).collect()
    }

    /// Returns the velocity at timestep `t`, whatever the model predicts; `x0` and `noise` have the same length.
    pub fn velocity(&self, x0: &[f32], noise: &[f32], t: usize) -> Vec<f32> {
        let (a, b) = self.noise_coefficients(t);
        x0.iter().zip(noise).map(|(x, n)| a * n - b * x).collect()
    }

    /// The signal-to-noise ratio `abar / (1 - abar)`.
    pub fn snr(&self, t: usize) -> f64 {
        let abar = self.alpha_bar(t);
        abar / (1.0 - abar)
    }

    /// The min-SNR loss weight (Hang et al. 2023): `min(snr, gamma) / snr` for noise, `min(snr, gamma) / (snr + 1)` for
    /// velocity, `min(snr, gamma)` for x0. At zero SNR its limit, 1 for noise and 0 for the others.
    pub fn min_snr_weight(&self, t: usize, gamma: f64) -> f64 {
        let snr = self.snr(t);
        match self.prediction {
            Prediction::Epsilon if snr == 0.0 => 1.0,
            Prediction::Epsilon => snr.min(gamma) / snr,
            Prediction::V => snr.min(gamma) / (snr + 1.0),
            Prediction::Sample => snr.min(gamma),
        }
    }
}

/// The betas in f32 as diffusers computes them.
fn betas(config: &ScheduleConfig) -> Vec<f32> {
    if let Some(betas) = &config.trained_betas {
        return betas.clone();
    }
    let (start, end, n) = (config.beta_start, config.beta_end, config.num_train_timesteps);
    match config.beta_schedule {
        BetaSchedule::Linear => linspace(start as f32, end as f32, n),
        BetaSchedule::ScaledLinear => {
            linspace(start.sqrt() as f32, end.sqrt() as f32, n).into_iter().map(|b| b * b).collect()
        }
        BetaSchedule::SquaredcosCapV2 => {
            let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
            let beta = |i: usize| 1.0 - bar((i + 1) as f64 / n as f64) / bar(i as f64 / n as f64);
            (0..n).map(|i| beta(i).min(0.999) as f32).collect()
        }
    }
}

/// `torch.linspace` in f32: from both ends to the middle, each product added without a rounding in between.
fn linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = (end - start) / (n - 1) as f32;
    let at = |i: usize| {
        if i < n / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((n - 1 - i) as f32, end) }
    };
    (0..n).map(at).collect()
}

/// `torch.cumprod(1 - betas)`: PyTorch accumulates in f64 on the CPU and stores f32.
fn cumprod(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// Betas whose last level is pure noise (Lin et al. 2023, algorithm 1).
fn zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = cumprod(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    for root in &mut roots {
        *root = (*root - last) * scale;
    }
    let bars: Vec<f32> = roots.iter().map(|r| r * r).collect();
    (0..bars.len()).map(|i| 1.0 - if i == 0 { bars[0] } else { bars[i] / bars[i - 1] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_pytorchs() {
        // alphas_cumprod of diffusers' DDIMScheduler with Stable Diffusion's betas.
        let schedule = NoiseSchedule::new(&ScheduleConfig::stable_diffusion(Prediction::Epsilon));
        assert_eq!(schedule.len(), 1000);
        for (t, expected) in [(0, 0.999_15f32), (500, 0.276_332_47), (999, 0.004_660_095)] {
            let value = schedule.alphas_cumprod[t];
            assert!((value - f64::from(expected)).abs() < 1e-7, "abar[{t}] = {value}");
        }
    }

    #[test]
    fn min_snr_is_velocity_aware() {
        let eps = NoiseSchedule::new(&ScheduleConfig::stable_diffusion(Prediction::Epsilon));
        let v = NoiseSchedule::new(&ScheduleConfig::stable_diffusion(Prediction::V));
        let snr = eps.snr(10);
        assert!(snr > 5.0);
        assert_eq!(eps.min_snr_weight(10, 5.0), 5.0 / snr);
        assert_eq!(v.min_snr_weight(10, 5.0), 5.0 / (snr + 1.0));
        assert_eq!(eps.min_snr_weight(999, 5.0), 1.0);
        assert_eq!(v.min_snr_weight(999, 5.0), v.snr(999) / (v.snr(999) + 1.0));
        let x0 = NoiseSchedule::new(&ScheduleConfig::stable_diffusion(Prediction::Sample));
        assert_eq!((x0.min_snr_weight(10, 5.0), x0.min_snr_weight(999, 5.0)), (5.0, x0.snr(999)));
        assert_eq!(x0.target_coefficients(500), (0.0, 1.0));
    }

    #[test]
    fn noise_and_velocity_undo_each_other() {
        let v = NoiseSchedule::new(&ScheduleConfig::stable_diffusion(Prediction::V));
        let (x0, noise) = ([0.5f32, -1.0], [0.25f32, 2.0]);
        let (x, velocity) = (v.add_noise(&x0, &noise, 700), v.velocity(&x0, &noise, 700));
        let (a, b) = v.noise_coefficients(700);
        for i in 0..2 {
            assert!((a * x[i] - b * velocity[i] - x0[i]).abs() < 1e-6);
            assert!((b * x[i] + a * velocity[i] - noise[i]).abs() < 1e-6);
        }
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise() {
        let config = ScheduleConfig { rescale_betas_zero_snr: true, ..ScheduleConfig::stable_diffusion(Prediction::V) };
        let schedule = NoiseSchedule::new(&config);
        assert_eq!(schedule.alphas_cumprod[999], 0.0);
        assert_eq!(schedule.min_snr_weight(999, 5.0), 0.0);
        assert_eq!(schedule.target_coefficients(999), (0.0, -1.0));
    }
}
