//! Micro-batches as the training graph reads them: noised latents, targets and the weights of their errors.

use crate::diffusion::NoiseSchedule;

use super::dataset::Draw;

/// A micro-batch as the training graph reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroBatch {
    /// Which size its images have.
    pub size: usize,
    /// Prompt of each sample.
    pub prompts: Vec<usize>,
    /// Noised latents.
    pub noisy: Vec<f32>,
    /// Masks and masked latents for an inpainting model; else empty.
    pub extra: Vec<f32>,
    /// Six numbers of each sample that SDXL is told of its size, as in [`Draw`].
    pub time_ids: Vec<f32>,
    /// What the network should say.
    pub target: Vec<f32>,
    /// Timesteps.
    pub timesteps: Vec<f32>,
    /// Weight of each sample's mean squared error in the loss.
    pub weights: Vec<f32>,
    /// The part of the weight that min-SNR gives.
    pub snr: Vec<f64>,
    /// How many of the samples are instances.
    pub instances: usize,
}

/// Noises `draw` and weighs its samples, so that the weighted sum of their mean squared errors is the instances' mean
/// loss + `prior_weight` times the class images'. Min-SNR (Hang et al. 2023, arXiv 2303.09556) weighs both.
pub fn micro_batch(draw: &Draw, schedule: &NoiseSchedule, min_snr: Option<f64>, prior_weight: f64) -> MicroBatch {
    let samples = draw.timesteps.len();
    let each = draw.latents.len() / samples.max(1);
    let priors = samples - draw.instances;
    let mut batch = MicroBatch {
        size: draw.size,
        prompts: draw.prompts.clone(),
        noisy: Vec::with_capacity(draw.latents.len()),
        extra: draw.extra.clone(),
        time_ids: draw.time_ids.clone(),
        target: Vec::with_capacity(draw.latents.len()),
        timesteps: draw.timesteps.iter().map(|&t| t as f32).collect(),
        weights: Vec::with_capacity(samples),
        snr: Vec::with_capacity(samples),
        instances: draw.instances,
    };
    for (i, &t) in draw.timesteps.iter().enumerate() {
        let (x0, noise) = (&draw.latents[i * each..(i + 1) * each], &draw.noise[i * each..(i + 1) * each]);
        batch.noisy.extend(schedule.add_noise(x0, noise, t));
        let (a, b) = schedule.target_coefficients(t);
        batch.target.extend(x0.iter().zip(noise).map(|(x, n)| a * n + b * x));
        let snr = min_snr.map_or(1.0, |gamma| schedule.min_snr_weight(t, gamma));
        let share = if i < draw.instances { 1.0 / draw.instances as f64 } else { prior_weight / priors as f64 };
        batch.snr.push(snr);
        batch.weights.push((snr * share) as f32);
    }
    batch
}

impl MicroBatch {
    /// The instances' mean loss and the class images' (before its weight), from each sample's mean squared error.
    pub fn losses(&self, errors: &[f32]) -> (f64, Option<f64>) {
        let mean = |range: std::ops::Range<usize>| {
            let n = range.len() as f64;
            range.map(|i| self.snr[i] * f64::from(errors[i])).sum::<f64>() / n
        };
        let prior = (errors.len() > self.instances).then(|| mean(self.instances..errors.len()));
        (mean(0..self.instances), prior)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_make_the_two_means() {
        let draw = Draw {
            size: 0,
            prompts: vec![0, 1],
            latents: vec![1.0; 4],
            noise: vec![0.5; 4],
            extra: Vec::new(),
            time_ids: vec![7.0; 12],
            timesteps: vec![3, 500],
            instances: 1,
        };
        let schedule =
            NoiseSchedule::new(&crate::diffusion::ScheduleConfig::stable_diffusion(crate::diffusion::Prediction::V));
        let batch = micro_batch(&draw, &schedule, None, 0.5);
        assert_eq!((&batch.weights[..], batch.time_ids.len()), (&[1.0, 0.5][..], 12));
        assert_eq!(batch.losses(&[2.0, 4.0]), (2.0, Some(4.0)));
    }

    #[test]
    fn weighted_errors_sum_to_the_losses() {
        use crate::diffusion::{Prediction, ScheduleConfig};
        let timesteps = vec![1, 500, 999, 20, 700, 3];
        let draw = Draw {
            size: 0,
            prompts: vec![0; 6],
            latents: vec![1.0; 12],
            noise: vec![0.5; 12],
            extra: Vec::new(),
            time_ids: Vec::new(),
            timesteps,
            instances: 3,
        };
        let errors = [0.5, 0.25, 1.0, 2.0, 0.125, 4.0];
        for prediction in [Prediction::Epsilon, Prediction::V] {
            for min_snr in [None, Some(5.0)] {
                let schedule = NoiseSchedule::new(&ScheduleConfig::stable_diffusion(prediction));
                let batch = micro_batch(&draw, &schedule, min_snr, 0.5);
                let (instance, prior) = batch.losses(&errors);
                let sum: f64 = batch.weights.iter().zip(errors).map(|(w, e)| f64::from(*w) * f64::from(e)).sum();
                assert!((sum - (instance + 0.5 * prior.unwrap())).abs() < 1e-6, "{prediction:?} {min_snr:?}");
                assert!((sum - (instance + 0.6 * prior.unwrap())).abs() > 1e-3, "the comparison can fail");
                assert_eq!(min_snr.is_none(), (instance - 1.75 / 3.0).abs() < 1e-9);
                let (a, b) = schedule.noise_coefficients(500);
                let target = if prediction == Prediction::V { 0.5 * a - b } else { 0.5 };
                assert!((batch.target[2] - target).abs() < 1e-6);
                assert!((batch.noisy[2] - (a + 0.5 * b)).abs() < 1e-6);
            }
        }
    }
}
