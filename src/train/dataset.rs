//! Batches: cached posteriors, noise and timesteps, every draw a function of (seed, stream, step, index).

use crate::base::rng::{CounterRng, Stream};
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::pipeline::{Masked, Posterior};

/// A picture in one or more variants (crops, mirrored).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Photo {
    /// Variants of one size.
    pub variants: Vec<Posterior>,
    /// Masked images of each variant, for an inpainting model; else empty.
    pub masked: Vec<Vec<Masked>>,
    /// Which of the sizes that are trained on it has.
    pub size: usize,
    /// Which of the prompts describes it.
    pub prompt: usize,
}

impl From<Vec<Posterior>> for Photo {
    /// Of the only size, described by the first prompt.
    fn from(variants: Vec<Posterior>) -> Photo {
        Photo { variants, ..Photo::default() }
    }
}

/// Latents, noise and timesteps of one micro-batch: instances, then class pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Which size they have.
    pub size: usize,
    /// Prompt of each sample.
    pub prompts: Vec<usize>,
    /// Scaled latents, NHWC.
    pub latents: Vec<f32>,
    /// Noise, NHWC.
    pub noise: Vec<f32>,
    /// Masks and masked latents, NHWC, for an inpainting model; else empty.
    pub extra: Vec<f32>,
    /// Timestep of each sample.
    pub timesteps: Vec<usize>,
    /// How many of the samples are instances.
    pub instances: usize,
}

/// A micro-batch as the training graph reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroBatch {
    /// Which size its pictures have.
    pub size: usize,
    /// Prompt of each sample.
    pub prompts: Vec<usize>,
    /// Noised latents.
    pub noisy: Vec<f32>,
    /// Masks and masked latents for an inpainting model; else empty.
    pub extra: Vec<f32>,
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

/// Latents of all pictures.
pub struct Dataset {
    instances: Vec<Photo>,
    classes: Vec<Photo>,
    /// Elements of a picture of each size.
    elements: Vec<usize>,
    channels: usize,
    scaling_factor: f64,
    seed: u64,
    batch: usize,
    offset_noise: f64,
    train_steps: usize,
}

/// What a [`Dataset`] draws by.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// Latent channels.
    pub channels: usize,
    /// The VAE's scaling factor.
    pub scaling_factor: f64,
    /// Seed.
    pub seed: u64,
    /// Instances a micro-batch, each with one class picture.
    pub batch: usize,
    /// Strength of a constant added to each channel's noise.
    pub offset_noise: f64,
    /// Timesteps of the noise schedule.
    pub train_steps: usize,
}

impl Dataset {
    /// Over these pictures; `classes` may be empty, else there must be one of each size.
    pub fn new<P: Into<Photo>>(instances: Vec<P>, classes: Vec<P>, drawing: Drawing) -> Result<Dataset> {
        let photos = |list: Vec<P>| list.into_iter().map(Into::into).collect::<Vec<Photo>>();
        let (instances, classes) = (photos(instances), photos(classes));
        let sizes = instances.iter().map(|p| p.size + 1).max().unwrap_or(0);
        let of_size = |list: &[Photo], size: usize| list.iter().filter(|p| p.size == size).count();
        let mut elements = vec![0; sizes];
        for photo in instances.iter().chain(&classes) {
            let known = elements.get_mut(photo.size);
            let known = known.ok_or_else(|| Error::Internal("a class picture of a size that no picture has".into()))?;
            for cached in &photo.variants {
                let count = if *known == 0 { cached.mean.len() } else { *known };
                *known = count;
                if count == 0 || cached.mean.len() != count || cached.std.len() != count {
                    return Err(Error::Internal("pictures of different sizes in one".into()));
                }
            }
            if photo.variants.is_empty() {
                return Err(Error::Internal("a picture without a variant".into()));
            }
        }
        if sizes == 0 || (0..sizes).any(|size| of_size(&instances, size) == 0) {
            return Err(Error::Internal("no pictures".into()));
        }
        if !classes.is_empty() && (0..sizes).any(|size| of_size(&classes, size) == 0) {
            let message = format!("{} class pictures for {sizes} shapes: one of each is needed", classes.len());
            return Err(Error::argument(message));
        }
        let Drawing { channels, scaling_factor, seed, batch, offset_noise, train_steps } = drawing;
        Ok(Dataset { instances, classes, elements, channels, scaling_factor, seed, batch, offset_noise, train_steps })
    }

    /// Samples of each kind a micro-batch.
    pub fn samples(&self) -> [usize; 2] {
        [self.batch, if self.classes.is_empty() { 0 } else { self.batch }]
    }

    /// The micro-batch `index`.
    pub fn draw(&self, index: usize) -> Draw {
        let rng = |stream| CounterRng::new(self.seed, stream);
        let (size, photos) = self.photos(index);
        let elements = self.elements[size];
        let mut draw = Draw {
            size,
            prompts: photos.iter().map(|p| p.prompt).collect(),
            latents: Vec::new(),
            noise: Vec::new(),
            extra: Vec::new(),
            timesteps: Vec::new(),
            instances: self.batch,
        };
        for (sample, photo) in photos.into_iter().enumerate() {
            let variants = &photo.variants;
            let (step, base) = (index as u32, (sample * elements) as u64);
            let variant = rng(Stream::Flip).below(step, sample as u64, variants.len() as u64) as usize;
            let cached = &variants[variant];
            let posterior = rng(Stream::Posterior).normals(step, base, elements);
            draw.latents.extend(cached.sample(&posterior, self.scaling_factor));
            if let Some(masked) = photo.masked.get(variant).filter(|masked| !masked.is_empty()) {
                let choice = rng(Stream::MaskChoice).below(step, sample as u64, masked.len() as u64) as usize;
                let noise = rng(Stream::MaskedPosterior).normals(step, base, elements);
                draw.extra.extend(masked[choice].extra(&noise, self.scaling_factor, self.channels));
            }
            let mut noise = rng(Stream::Noise).normals(step, base, elements);
            if self.offset_noise != 0.0 {
                let offsets = rng(Stream::OffsetNoise).normals(step, (sample * self.channels) as u64, self.channels);
                for (i, x) in noise.iter_mut().enumerate() {
                    *x += self.offset_noise as f32 * offsets[i % self.channels];
                }
            }
            draw.noise.extend(noise);
            draw.timesteps.push(rng(Stream::Timestep).below(step, sample as u64, self.train_steps as u64) as usize);
        }
        draw
    }

    /// The pictures of micro-batch `index`, instances first, and their size.
    fn photos(&self, index: usize) -> (usize, Vec<&Photo>) {
        let order = CounterRng::new(self.seed, Stream::Order);
        if self.elements.len() > 1 {
            return self.photos_of_a_size(index, order);
        }
        let mut photos = Vec::new();
        for (kind, list) in [&self.instances, &self.classes].into_iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            for slot in 0..self.batch {
                // Every picture once an epoch, in an order of its own each time.
                let at = index * self.batch + slot;
                let (epoch, place) = (at / list.len(), at % list.len());
                photos.push(&list[order.permutation((2 * epoch + kind) as u32, list.len())[place]]);
            }
        }
        (0, photos)
    }

    /// The same where pictures have different sizes, of which a micro-batch holds one: in an epoch every picture comes at
    /// least once; a size whose pictures do not fill its last micro-batch shows some twice.
    fn photos_of_a_size(&self, index: usize, order: CounterRng) -> (usize, Vec<&Photo>) {
        let of_size = |list: &'_ [Photo], size: usize| list.iter().filter(|p| p.size == size).count();
        let batches: Vec<usize> = (0..self.elements.len())
            .flat_map(|size| vec![size; of_size(&self.instances, size).div_ceil(self.batch)])
            .collect();
        let (epoch, place) = (index / batches.len(), index % batches.len());
        // Sizes in the order of this epoch; the draw's number is above those that order pictures.
        let shuffled = order.permutation(u32::MAX - epoch as u32, batches.len());
        let size = batches[shuffled[place]];
        let earlier = shuffled[..place].iter().filter(|&&i| batches[i] == size).count();
        let mixed = order.permutation((2 * epoch) as u32, self.instances.len());
        let mine: Vec<&Photo> = mixed.iter().map(|&i| &self.instances[i]).filter(|p| p.size == size).collect();
        let mut photos: Vec<&Photo> =
            (0..self.batch).map(|slot| mine[(earlier * self.batch + slot) % mine.len()]).collect();
        let classes: Vec<&Photo> = self.classes.iter().filter(|p| p.size == size).collect();
        for slot in (0..self.batch).filter(|_| !classes.is_empty()) {
            let pick = order.below(index as u32, (1 << 32) + slot as u64, classes.len() as u64);
            photos.push(classes[pick as usize]);
        }
        (size, photos)
    }
}

/// Noises `draw` and weighs its samples, so that the weighted sum of their mean squared errors is the instances' mean
/// loss + `prior_weight` times the class pictures'. Min-SNR (Hang et al. 2023, arXiv 2303.09556) weighs both.
pub fn micro_batch(draw: &Draw, schedule: &NoiseSchedule, min_snr: Option<f64>, prior_weight: f64) -> MicroBatch {
    let samples = draw.timesteps.len();
    let each = draw.latents.len() / samples.max(1);
    let priors = samples - draw.instances;
    let mut batch = MicroBatch {
        size: draw.size,
        prompts: draw.prompts.clone(),
        noisy: Vec::with_capacity(draw.latents.len()),
        extra: draw.extra.clone(),
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
    /// The instances' mean loss and the class pictures' (before its weight), from each sample's mean squared error.
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

    fn dataset(offset_noise: f64) -> Dataset {
        let picture = |x: f32| vec![Posterior { mean: vec![x; 8], std: vec![0.0; 8] }];
        let drawing = Drawing { channels: 4, scaling_factor: 0.5, seed: 3, batch: 1, offset_noise, train_steps: 1000 };
        Dataset::new((0..4).map(|i| picture(i as f32)).collect(), vec![picture(9.0)], drawing).unwrap()
    }

    #[test]
    fn every_picture_comes_once_an_epoch() {
        let data = dataset(0.0);
        for epoch in 0..3 {
            let mut seen: Vec<f32> = (0..4).map(|i| data.draw(epoch * 4 + i).latents[0] * 2.0).collect();
            seen.sort_by(f32::total_cmp);
            assert_eq!(seen, [0.0, 1.0, 2.0, 3.0]);
        }
        assert_eq!(data.draw(5), data.draw(5));
        assert_ne!(data.draw(5).noise, data.draw(6).noise);
        assert_ne!(data.draw(5).noise, dataset(0.1).draw(5).noise);
    }

    #[test]
    fn weights_make_the_two_means() {
        let data = dataset(0.0);
        let schedule =
            NoiseSchedule::new(&crate::diffusion::ScheduleConfig::stable_diffusion(crate::diffusion::Prediction::V));
        let batch = micro_batch(&data.draw(0), &schedule, None, 0.5);
        assert_eq!(batch.weights, [1.0, 0.5]);
        assert_eq!(batch.losses(&[2.0, 4.0]), (2.0, Some(4.0)));
    }

    fn drawing(batch: usize) -> Drawing {
        Drawing { channels: 4, scaling_factor: 0.2, seed: 3, batch, offset_noise: 0.0, train_steps: 1000 }
    }

    #[test]
    fn epochs_may_end_within_a_micro_batch() {
        let pictures = |n: usize| (0..n).map(|i| vec![Posterior { mean: vec![5.0 * i as f32; 8], std: vec![0.0; 8] }]);
        let data = Dataset::new(pictures(5).collect(), pictures(3).collect(), drawing(2)).unwrap();
        let (mut instances, mut classes) = (Vec::new(), Vec::new());
        for draw in (0..15).map(|step| data.draw(step)) {
            instances.extend([0, 1].map(|i| draw.latents[i * 8] as usize));
            classes.extend([2, 3].map(|i| draw.latents[i * 8] as usize));
            for (i, j) in [(0, 1), (0, 2), (1, 3)] {
                assert_ne!(draw.noise[i * 8..][..8], draw.noise[j * 8..][..8], "samples share no noise");
            }
        }
        for (seen, n) in [(&instances, 5), (&classes, 3)] {
            for epoch in seen.chunks_exact(n) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                assert_eq!(epoch, (0..n).collect::<Vec<_>>());
            }
        }
        let orders: std::collections::BTreeSet<_> = instances.chunks_exact(5).collect();
        assert!(orders.len() > 1, "each epoch has its own order");
    }

    #[test]
    fn sizes_are_not_mixed_and_every_picture_comes() {
        let photo = |i: usize, size: usize| Photo {
            variants: vec![Posterior { mean: vec![5.0 * i as f32; 8 + 4 * size], std: vec![0.0; 8 + 4 * size] }],
            size,
            prompt: i % 3,
            ..Photo::default()
        };
        let instances: Vec<Photo> = [0, 1, 0, 0, 1, 2, 0].iter().enumerate().map(|(i, &s)| photo(i, s)).collect();
        let classes: Vec<Photo> = [0, 1, 2, 1].iter().enumerate().map(|(i, &s)| photo(10 + i, s)).collect();
        let data = Dataset::new(instances.clone(), classes, drawing(2)).unwrap();
        for epoch in 0..5 {
            // Two micro-batches of the first size, one of each other.
            let mut seen = std::collections::BTreeSet::new();
            for draw in (0..4).map(|i| data.draw(4 * epoch + i)) {
                let elements = 8 + 4 * draw.size;
                assert_eq!((draw.latents.len(), draw.prompts.len()), (4 * elements, 4));
                for (sample, prompt) in draw.latents.chunks(elements).zip(&draw.prompts) {
                    let picture = sample[0] as usize;
                    assert_eq!(picture % 3, *prompt, "{picture}");
                    if picture < 10 {
                        assert_eq!(instances[picture].size, draw.size);
                        seen.insert(picture);
                    }
                }
            }
            assert_eq!(seen.len(), 7, "epoch {epoch}: {seen:?}");
        }
        let lone = vec![photo(10, 0)];
        assert!(Dataset::new(instances, lone, drawing(2)).is_err_and(|e| e.to_string().contains("3 shapes")));
    }

    #[test]
    fn draws_have_their_distributions() {
        let picture = vec![Posterior { mean: vec![3.0; 24], std: vec![0.5; 24] }];
        let data = Dataset::new(vec![picture], Vec::new(), drawing(4)).unwrap();
        let draws: Vec<Draw> = (0..100).map(|i| data.draw(i)).collect();
        let moments = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
        };
        let (mean, std) = moments(draws.iter().flat_map(|d| &d.latents).map(|&x| f64::from(x)).collect());
        assert!((mean - 0.6).abs() < 0.01 && (std - 0.1).abs() < 0.005, "{mean} {std}");
        let (mean, std) = moments(draws.iter().flat_map(|d| &d.noise).map(|&x| f64::from(x)).collect());
        assert!(mean.abs() < 0.04 && (std - 1.0).abs() < 0.03, "{mean} {std}");
        let (mean, std) = moments(draws.iter().flat_map(|d| &d.timesteps).map(|&t| t as f64).collect());
        assert!((mean - 499.5).abs() < 60.0 && (std - 288.7).abs() < 30.0, "{mean} {std}");
    }

    #[test]
    fn offset_noise_shifts_whole_channels() {
        let (plain, offset) = (dataset(0.0).draw(0).noise, dataset(0.5).draw(0).noise);
        let shifts: Vec<f32> = offset.iter().zip(plain).map(|(a, b)| a - b).collect();
        assert!(shifts[..4].iter().all(|s| s.abs() > 1e-4) && (shifts[0] - shifts[1]).abs() > 1e-4);
        assert!((0..4).all(|c| (shifts[c] - shifts[c + 4]).abs() < 1e-6));
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
