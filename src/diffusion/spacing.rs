//! Timesteps that a sampler visits, as diffusers' `set_timesteps` spreads them (Lin et al. 2023, table 2).

use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Spacing of timesteps over the training range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of a whole stride from the clean end, plus 1.
    Leading,
    /// Both ends included.
    Linspace,
    /// Strides from the noisy end.
    Trailing,
}

impl FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "leading" => Ok(Spacing::Leading),
            "linspace" => Ok(Spacing::Linspace),
            "trailing" => Ok(Spacing::Trailing),
            _ => Err(Error::value("spacing", name, "not supported; use leading, linspace or trailing")),
        }
    }
}

/// Added to `leading` timesteps. `StableDiffusionPipeline` sets it so in every scheduler it is given, old files say 0.
const STEPS_OFFSET: usize = 1;

/// `np.linspace(0, last, n)`.
pub(super) fn linspace(last: f64, n: usize) -> Vec<f64> {
    if n < 2 {
        return vec![0.0; n];
    }
    let stride = last / (n - 1) as f64;
    (0..n).map(|i| if i == n - 1 { last } else { i as f64 * stride }).collect()
}

/// `steps` timesteps of `train`, from noisy to clean. `whole` rounds `linspace`, halves to even.
pub(super) fn even(spacing: Spacing, train: usize, steps: usize, whole: bool) -> Vec<f64> {
    match spacing {
        Spacing::Linspace => {
            let round = |t: f64| if whole { t.round_ties_even() } else { f64::from(t as f32) };
            linspace((train - 1) as f64, steps).into_iter().rev().map(round).collect()
        }
        Spacing::Leading => {
            let stride = train / steps;
            (0..steps).rev().map(|i| (i * stride + STEPS_OFFSET) as f64).collect()
        }
        Spacing::Trailing => trailing(train, steps),
    }
}

/// Spacing of the multistep solvers: as [`even`], but with one timestep more, whose cleanest is left out.
pub(super) fn without_last(spacing: Spacing, train: usize, steps: usize) -> Vec<f64> {
    match spacing {
        Spacing::Linspace | Spacing::Leading => {
            let mut timesteps = even(spacing, train, steps + 1, true);
            timesteps.pop();
            timesteps
        }
        Spacing::Trailing => trailing(train, steps),
    }
}

/// `np.arange(train, 0, -train / steps).round() - 1`.
///
/// For some counts (61, 103, …) rounding makes NumPy's range one longer, which gives diffusers a last timestep of -1;
/// here it always has `steps` entries.
fn trailing(train: usize, steps: usize) -> Vec<f64> {
    let start = train as f64;
    // NumPy fills a range with multiples of the difference of its first two entries.
    let stride = (start - start / steps as f64) - start;
    (0..steps).map(|i| (start + i as f64 * stride).round_ties_even() - 1.0).collect()
}

/// Karras et al. 2022, eq. 5 with rho 7: `n` noise levels from `max` to `min`.
pub(super) fn karras(max: f64, min: f64, n: usize) -> Vec<f64> {
    let rho = 7.0;
    let (low, high) = (min.powf(1.0 / rho), max.powf(1.0 / rho));
    linspace(1.0, n).into_iter().map(|ramp| (high + ramp * (low - high)).powf(rho)).collect()
}

/// `np.interp(t, arange(len), table)`.
pub(super) fn interpolate(table: &[f64], t: f64) -> f64 {
    let low = (t.max(0.0) as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    table[low] + (table[high] - table[low]) * (t - low as f64).clamp(0.0, 1.0)
}

/// The fractional timestep whose noise level is `sigma`: diffusers' `_sigma_to_t` on rising `log_sigmas`.
pub(super) fn timestep_of(sigma: f64, log_sigmas: &[f64]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let low = log_sigmas.partition_point(|l| *l <= log_sigma).saturating_sub(1).min(log_sigmas.len() - 2);
    let w = ((log_sigmas[low] - log_sigma) / (log_sigmas[low] - log_sigmas[low + 1])).clamp(0.0, 1.0);
    (1.0 - w) * low as f64 + w * (low + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_never_leaves_the_range() {
        for steps in 1..=1000 {
            let timesteps = trailing(1000, steps);
            assert_eq!(timesteps.len(), steps);
            assert!(timesteps[0] == 999.0 && timesteps[steps - 1] >= 0.0, "{steps}");
        }
    }

    #[test]
    fn one_step_is_spread_as_numpy_does() {
        assert_eq!(even(Spacing::Linspace, 1000, 1, true), [0.0]);
        assert_eq!(even(Spacing::Leading, 1000, 1, true), [1.0]);
        assert_eq!(even(Spacing::Trailing, 1000, 1, true), [999.0]);
        assert_eq!(without_last(Spacing::Linspace, 1000, 1), [999.0]);
    }

    #[test]
    fn a_noise_level_finds_its_timestep() {
        let logs: Vec<f64> = [0.1f64, 0.2, 0.4, 0.8].iter().map(|s| s.ln()).collect();
        assert_eq!(timestep_of(0.2, &logs), 1.0);
        assert!((timestep_of(0.08f64.sqrt(), &logs) - 1.5).abs() < 1e-12);
        assert_eq!((timestep_of(0.01, &logs), timestep_of(9.0, &logs)), (0.0, 3.0));
    }
}
