//! What the autoencoder makes of an image: a distribution of latents.

/// The distribution of an image's latents that the encoder gives, NHWC, not scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// Means.
    pub mean: Vec<f32>,
    /// Standard deviations.
    pub std: Vec<f32>,
}

impl Posterior {
    /// From the encoder's moments: NHWC, `channels` means before as many logarithms of variances.
    pub(crate) fn new(moments: &[f32], channels: usize) -> Posterior {
        let mut mean = Vec::with_capacity(moments.len() / 2);
        let mut std = Vec::with_capacity(moments.len() / 2);
        for pixel in moments.chunks(2 * channels) {
            mean.extend_from_slice(&pixel[..channels]);
            std.extend(pixel[channels..].iter().map(|l| (0.5 * l.clamp(-30.0, 20.0)).exp()));
        }
        Posterior { mean, std }
    }

    /// Latents drawn by `noise` (normal values, NHWC) and scaled by `factor`.
    pub fn sample(&self, noise: &[f32], factor: f64) -> Vec<f32> {
        let value =
            |((m, s), n): ((&f32, &f32), &f32)| ((f64::from(*m) + f64::from(*s) * f64::from(*n)) * factor) as f32;
        self.mean.iter().zip(&self.std).zip(noise).map(value).collect()
    }
}
