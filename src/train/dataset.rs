//! What a micro-batch is made of: cached posteriors, noise and timesteps, every draw a function of (seed, stream, step,
//! index).

use crate::base::rng::{CounterRng, Stream};
use crate::error::{Error, Result};
use crate::pipeline::{Masked, Posterior};

use super::views::SizeIds;

/// An encoded view of an image: one crop of it, mirrored or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// The distribution of its latents.
    pub posterior: Posterior,
    /// Masked images of it, for an inpainting model; else empty.
    pub masked: Vec<Masked>,
    /// What SDXL is told of its size.
    pub size_ids: SizeIds,
}

/// An image in one or more variants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Photo {
    /// Variants of one size.
    pub variants: Vec<Variant>,
    /// Each showing takes the next variant, and begins anew behind the last; else any of them, drawn for each showing.
    pub in_turn: bool,
    /// Which of the sizes that are trained on it has.
    pub size: usize,
    /// Which of the prompts describes it.
    pub prompt: usize,
}

impl From<Vec<Posterior>> for Photo {
    /// Of the only size, described by the first prompt.
    fn from(variants: Vec<Posterior>) -> Photo {
        let variant = |posterior| Variant { posterior, masked: Vec::new(), size_ids: SizeIds::default() };
        Photo { variants: variants.into_iter().map(variant).collect(), ..Photo::default() }
    }
}

/// An image in a micro-batch.
struct Showing<'a> {
    photo: &'a Photo,
    /// How often it was shown before, or more: a number that no other showing of it has.
    number: usize,
}

/// Latents, noise and timesteps of one micro-batch: instances, then class images.
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
    /// Six numbers of each sample, those of [`SizeIds::numbers`]; empty in a replay of a model without them.
    pub time_ids: Vec<f32>,
    /// Timestep of each sample.
    pub timesteps: Vec<usize>,
    /// How many of the samples are instances.
    pub instances: usize,
}

/// Latents of all images.
pub struct Dataset {
    instances: Vec<Photo>,
    classes: Vec<Photo>,
    /// Elements of an image of each size.
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
    /// Instances a micro-batch, each with one class image.
    pub batch: usize,
    /// Strength of a constant added to each channel's noise.
    pub offset_noise: f64,
    /// Timesteps of the noise schedule.
    pub train_steps: usize,
}

impl Dataset {
    /// Over these images; `classes` may be empty, else there must be one of each size.
    pub fn new<P: Into<Photo>>(instances: Vec<P>, classes: Vec<P>, drawing: Drawing) -> Result<Dataset> {
        let photos = |list: Vec<P>| list.into_iter().map(Into::into).collect::<Vec<Photo>>();
        let (instances, classes) = (photos(instances), photos(classes));
        let sizes = instances.iter().map(|p| p.size + 1).max().unwrap_or(0);
        let of_size = |list: &[Photo], size: usize| list.iter().filter(|p| p.size == size).count();
        let mut elements = vec![0; sizes];
        for photo in instances.iter().chain(&classes) {
            let known = elements.get_mut(photo.size);
            let known = known.ok_or_else(|| Error::Internal("a class image of a size that no image has".into()))?;
            for Variant { posterior: cached, .. } in &photo.variants {
                let count = if *known == 0 { cached.mean.len() } else { *known };
                *known = count;
                if count == 0 || cached.mean.len() != count || cached.std.len() != count {
                    return Err(Error::Internal("images of different sizes in one".into()));
                }
            }
            if photo.variants.is_empty() {
                return Err(Error::Internal("an image without a variant".into()));
            }
        }
        if sizes == 0 || (0..sizes).any(|size| of_size(&instances, size) == 0) {
            return Err(Error::Internal("no images".into()));
        }
        if !classes.is_empty() && (0..sizes).any(|size| of_size(&classes, size) == 0) {
            let message = format!("{} class images for {sizes} shapes: one of each is needed", classes.len());
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
        let (size, showings) = self.showings(index);
        let elements = self.elements[size];
        let mut draw = Draw {
            size,
            prompts: showings.iter().map(|showing| showing.photo.prompt).collect(),
            latents: Vec::new(),
            noise: Vec::new(),
            extra: Vec::new(),
            time_ids: Vec::new(),
            timesteps: Vec::new(),
            instances: self.batch,
        };
        for (sample, Showing { photo: Photo { variants, in_turn, .. }, number }) in showings.into_iter().enumerate() {
            let (step, base) = (index as u32, (sample * elements) as u64);
            let variant = match in_turn {
                true => number % variants.len(),
                false => rng(Stream::Flip).below(step, sample as u64, variants.len() as u64) as usize,
            };
            let Variant { posterior: cached, masked, size_ids } = &variants[variant];
            let posterior = rng(Stream::Posterior).normals(step, base, elements);
            draw.latents.extend(cached.sample(&posterior, self.scaling_factor));
            draw.time_ids.extend(size_ids.numbers());
            if !masked.is_empty() {
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

    /// The images of micro-batch `index`, instances first, and their size.
    fn showings(&self, index: usize) -> (usize, Vec<Showing<'_>>) {
        let order = CounterRng::new(self.seed, Stream::Order);
        if self.elements.len() > 1 {
            return self.showings_of_a_size(index, order);
        }
        let mut showings = Vec::new();
        for (kind, list) in [&self.instances, &self.classes].into_iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            for slot in 0..self.batch {
                // Every image once an epoch, in an order of its own each time.
                let at = index * self.batch + slot;
                let (epoch, place) = (at / list.len(), at % list.len());
                let photo = &list[order.permutation((2 * epoch + kind) as u32, list.len())[place]];
                showings.push(Showing { photo, number: epoch });
            }
        }
        (0, showings)
    }

    /// The same where images have different sizes, of which a micro-batch holds one: in an epoch every image comes at
    /// least once; a size whose images do not fill its last micro-batch shows some twice.
    fn showings_of_a_size(&self, index: usize, order: CounterRng) -> (usize, Vec<Showing<'_>>) {
        let of_size = |list: &'_ [Photo], size: usize| list.iter().filter(|p| p.size == size).count();
        let batches: Vec<usize> = (0..self.elements.len())
            .flat_map(|size| vec![size; of_size(&self.instances, size).div_ceil(self.batch)])
            .collect();
        let (epoch, place) = (index / batches.len(), index % batches.len());
        // Sizes in the order of this epoch; the draw's number is above those that order images.
        let shuffled = order.permutation(u32::MAX - epoch as u32, batches.len());
        let size = batches[shuffled[place]];
        let earlier = shuffled[..place].iter().filter(|&&i| batches[i] == size).count();
        let mixed = order.permutation((2 * epoch) as u32, self.instances.len());
        let mine: Vec<&Photo> = mixed.iter().map(|&i| &self.instances[i]).filter(|p| p.size == size).collect();
        // In an epoch an image comes this often at most.
        let often = (mine.len().div_ceil(self.batch) * self.batch).div_ceil(mine.len());
        let showing = |slot: usize| {
            let at = earlier * self.batch + slot;
            Showing { photo: mine[at % mine.len()], number: epoch * often + at / mine.len() }
        };
        let mut showings: Vec<Showing> = (0..self.batch).map(showing).collect();
        let classes: Vec<&Photo> = self.classes.iter().filter(|p| p.size == size).collect();
        for slot in (0..self.batch).filter(|_| !classes.is_empty()) {
            let pick = order.below(index as u32, (1 << 32) + slot as u64, classes.len() as u64);
            showings.push(Showing { photo: classes[pick as usize], number: index });
        }
        (size, showings)
    }
}

#[cfg(test)]
mod tests {
    use super::super::views::showings;
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
            size,
            prompt: i % 3,
            ..vec![Posterior { mean: vec![5.0 * i as f32; 8 + 4 * size], std: vec![0.0; 8 + 4 * size] }].into()
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
    fn every_showing_takes_the_next_variant() {
        let variants = showings(&[3, 2, 1], 2, 40);
        for sizes in [&[0, 0, 0, 0, 0][..], &[0, 1, 0, 2, 1, 0]] {
            let shown = match sizes.contains(&1) {
                true => variants.clone(),
                false => showings(&[sizes.len()], 2, 40),
            };
            let photo = |(i, &size): (usize, &usize)| {
                let variant = |k| Posterior { mean: vec![5.0 * (100 * i + k) as f32; 8], std: vec![0.0; 8] };
                let mut photo: Photo = (0..shown[size]).map(variant).collect::<Vec<_>>().into();
                (photo.size, photo.in_turn) = (size, true);
                for (k, variant) in photo.variants.iter_mut().enumerate() {
                    variant.size_ids.crop = [i, k];
                }
                photo
            };
            let data = Dataset::new(sizes.iter().enumerate().map(photo).collect(), Vec::new(), drawing(2)).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for draw in (0..40).map(|i| data.draw(i)) {
                for (latents, ids) in draw.latents.chunks(8).zip(draw.time_ids.chunks(6)) {
                    assert!(seen.insert(latents[0] as usize), "variant {} comes twice", latents[0]);
                    assert_eq!(latents[0], 100.0 * ids[2] + ids[3], "sizes are those of the variant");
                }
            }
            assert_eq!(seen.len(), 80);
        }
        // Fewer variants than showings: they repeat in their order.
        let picture =
            (0..3).map(|k| Posterior { mean: vec![5.0 * k as f32; 8], std: vec![0.0; 8] }).collect::<Vec<_>>();
        let photo = Photo { in_turn: true, ..picture.into() };
        let data = Dataset::new(vec![photo], Vec::new(), drawing(1)).unwrap();
        assert_eq!((0..7).map(|i| data.draw(i).latents[0]).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
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
}
