//! Random by position: a value depends on (seed, stream, step, index) alone.

use std::f64::consts::TAU;

use super::philox::philox4x32;

/// What a draw is for. Streams never overlap; the numbers are part of the format of a resumed run and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Noise added to training latents.
    Noise = 0,
    /// Training timesteps.
    Timestep = 1,
    /// The sample drawn from a latent's posterior.
    Posterior = 2,
    /// The per-channel shift of offset noise.
    OffsetNoise = 3,
    /// The order of images within an epoch.
    Order = 4,
    /// Crop positions.
    Crop = 5,
    /// Horizontal flips.
    Flip = 6,
    /// First values of new weights.
    Init = 7,
    /// Inputs of benchmarks and self-checks.
    Bench = 8,
    /// Shapes of the masks of an inpainting model's training.
    Mask = 9,
    /// Which of an image's masks is shown.
    MaskChoice = 10,
    /// The sample drawn from a masked latent's posterior.
    MaskedPosterior = 11,
    /// Noise of the predictions that judge a training.
    Evaluation = 12,
}

/// Counter-based draws: Philox 4x32-10 under the key `seed`, at the counter (index low, index high, step, stream).
///
/// Nothing is consumed by a draw, so the same four numbers give the same value in any order, on any thread, after any
/// resume. One (step, index) holds one value: take another index for another value, of whatever type. Integers and
/// uniform values are the same on every platform; normal values go through the platform's `ln`, `sin` and `cos` in f64
/// and are rounded to f32, which hides their last-bit differences except in rare ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterRng {
    seed: u64,
    stream: Stream,
}

impl CounterRng {
    /// The draws of `stream` under `seed`.
    pub fn new(seed: u64, stream: Stream) -> Self {
        CounterRng { seed, stream }
    }

    /// The 128 bits at (step, index).
    fn block(&self, step: u32, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, step, self.stream as u32];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// A uniform 32-bit integer: the block's first word.
    pub fn u32(&self, step: u32, index: u64) -> u32 {
        self.block(step, index)[0]
    }

    /// A uniform 64-bit integer: the first word is the low half, the second the high half.
    pub fn u64(&self, step: u32, index: u64) -> u64 {
        let words = self.block(step, index);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    /// Uniform in [0, 1): the upper 53 bits of [`Self::u64`].
    pub fn uniform(&self, step: u32, index: u64) -> f64 {
        unit(self.u64(step, index))
    }

    /// A uniform integer in 0..n (0 for n = 0): the high word of `u64 * n` (Lemire 2019 without the rejection; the bias
    /// is below n / 2^64).
    pub fn below(&self, step: u32, index: u64, n: u64) -> u64 {
        ((u128::from(self.u64(step, index)) * u128::from(n)) >> 64) as u64
    }

    /// A value of N(0, 1): Box-Muller of two 53-bit uniforms, cosine branch.
    pub fn normal(&self, step: u32, index: u64) -> f32 {
        let words = self.block(step, index);
        let radius = unit(u64::from(words[0]) | u64::from(words[1]) << 32);
        let angle = unit(u64::from(words[2]) | u64::from(words[3]) << 32);
        ((-2.0 * (-radius).ln_1p()).sqrt() * (TAU * angle).cos()) as f32
    }

    /// `n` values of N(0, 1) at the indices first..first + n.
    pub fn normals(&self, step: u32, first: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| self.normal(step, first + i)).collect()
    }

    /// A uniform permutation of 0..n: Fisher-Yates from the back, the swap of place i drawn at index i.
    pub fn permutation(&self, step: u32, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(step, i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

/// The upper 53 bits as a number in [0, 1).
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_pinned() {
        // A change here breaks resuming of runs that others have begun.
        let rng = CounterRng::new(0, Stream::Noise);
        assert_eq!(rng.u64(0, 0), 0xe169_c58d_6627_e8d5);
        let rng = CounterRng::new(0x0123_4567_89ab_cdef, Stream::Order);
        let same = CounterRng::new(0x0123_4567_89ab_cdef, Stream::Order);
        assert_eq!(rng.permutation(3, 20), same.permutation(3, 20));
        assert_eq!(rng.u32(7, 1 << 33), philox4x32([0, 2, 7, 4], [0x89ab_cdef, 0x0123_4567])[0]);
    }

    #[test]
    fn every_coordinate_counts() {
        let base = CounterRng::new(1, Stream::Noise).u64(2, 3);
        assert_ne!(base, CounterRng::new(2, Stream::Noise).u64(2, 3));
        assert_ne!(base, CounterRng::new(1 + (1 << 32), Stream::Noise).u64(2, 3));
        assert_ne!(base, CounterRng::new(1, Stream::Crop).u64(2, 3));
        assert_ne!(base, CounterRng::new(1, Stream::Noise).u64(3, 3));
        assert_ne!(base, CounterRng::new(1, Stream::Noise).u64(2, 4));
        assert_ne!(base, CounterRng::new(1, Stream::Noise).u64(2, 3 + (1 << 32)));
    }

    #[test]
    fn distributions_have_their_moments() {
        let rng = CounterRng::new(42, Stream::Noise);
        let n = 40_000;
        let values = rng.normals(0, 0, n);
        let moment = |k: i32| values.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / n as f64;
        for (k, expected, tolerance) in [(1, 0.0, 0.02), (2, 1.0, 0.03), (3, 0.0, 0.06), (4, 3.0, 0.15)] {
            assert!((moment(k) - expected).abs() < tolerance, "moment {k}: {}", moment(k));
        }
        let mut counts = [0usize; 7];
        for i in 0..7000 {
            counts[rng.below(1, i, 7) as usize] += 1;
            assert!((0.0..1.0).contains(&rng.uniform(2, i)));
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
        assert_eq!(rng.below(0, 0, 0), 0);
    }

    #[test]
    fn a_permutation_holds_each_index_once() {
        let rng = CounterRng::new(5, Stream::Order);
        for n in [0, 1, 2, 17] {
            let mut order = rng.permutation(0, n);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(rng.permutation(0, 17), rng.permutation(1, 17), "each epoch has its own order");
    }
}
