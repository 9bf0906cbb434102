//! PyTorch's CPU generator: mt19937 and the normal distribution on top of it.

use std::f64::consts::TAU;

const N: usize = 624;
const M: usize = 397;

/// Mersenne Twister (Matsumoto and Nishimura 1998, `mt19937`), 32 bits a draw.
#[derive(Debug, Clone)]
struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Mt19937 { state, next: N }
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

/// `torch.Generator(device="cpu").manual_seed(seed)`.
///
/// Values agree with PyTorch's within 2e-6: its vector code approximates the logarithm, the sine and the cosine, this
/// takes them in f64.
#[derive(Debug, Clone)]
pub struct TorchRng {
    engine: Box<Mt19937>,
    /// The second value of the last Box-Muller pair of the scalar path. PyTorch keeps it in the generator, so an odd
    /// number of scalar draws leaves one for the next scalar draw, however many block draws come between.
    second: Option<f64>,
}

impl TorchRng {
    /// Starts the stream. As PyTorch's engine, it uses the low 32 bits of `seed`.
    pub fn new(seed: u64) -> Self {
        TorchRng { engine: Box::new(Mt19937::new(seed as u32)), second: None }
    }

    /// `torch.randn(n, generator=self)`, f32, contiguous.
    ///
    /// 16 values and more are filled in blocks (ATen `normal_fill`), fewer one by one in f64
    /// (`normal_distribution<double>`).
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < 16 {
            return (0..n).map(|_| self.scalar() as f32).collect();
        }
        let mut values: Vec<f32> = (0..n).map(|_| self.uniform24()).collect();
        for block in values.chunks_exact_mut(16) {
            box_muller_block(block);
        }
        if !n.is_multiple_of(16) {
            // The last 16 values are drawn anew, over part of the last whole block.
            let tail = &mut values[n - 16..];
            for value in tail.iter_mut() {
                *value = self.uniform24();
            }
            box_muller_block(tail);
        }
        values
    }

    /// Uniform in [0, 1) with 24 bits, exact in f32.
    fn uniform24(&mut self) -> f32 {
        (self.engine.u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// Uniform in [0, 1) with 53 bits out of two words, the high one first.
    fn uniform53(&mut self) -> f64 {
        let high = u64::from(self.engine.u32());
        let low = u64::from(self.engine.u32());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn scalar(&mut self) -> f64 {
        if let Some(value) = self.second.take() {
            return value;
        }
        let angle = TAU * self.uniform53();
        let radius = (-2.0 * (-self.uniform53()).ln_1p()).sqrt();
        self.second = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Box-Muller over 16 uniforms: values i and i + 8 make a pair.
fn box_muller_block(block: &mut [f32]) {
    for i in 0..8 {
        let radius = (-2.0 * (1.0 - f64::from(block[i])).ln()).sqrt();
        let angle = TAU * f64::from(block[i + 8]);
        block[i] = (radius * angle.cos()) as f32;
        block[i + 8] = (radius * angle.sin()) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_gives_the_published_numbers() {
        // C++11 [rand.predef]: the 10000th draw of a default-seeded mt19937.
        let mut engine = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| engine.u32()).last(), Some(4_123_659_995));
    }

    #[test]
    fn the_cached_value_survives_a_block_draw() {
        // torch 2.15: g = manual_seed(1234); [randn(n, generator=g)[:2] for n in (7, 20, 3, 5)]
        let expected = [
            [0.046_130_463, 0.402_402_82],
            [0.798_832_6, -0.092_287_53],
            [0.693_077_3, -0.862_494_23],
            [0.818_413_2, -0.764_891_5],
        ];
        let mut rng = TorchRng::new(1234);
        for (n, expected) in [7, 20, 3, 5].into_iter().zip(expected) {
            let values = rng.randn(n);
            assert_eq!(values.len(), n);
            for (a, b) in values.iter().zip(expected) {
                assert!((a - b).abs() < 2e-6, "randn({n}): {a} against {b}");
            }
        }
    }

    #[test]
    fn only_the_low_32_bits_of_a_seed_count() {
        assert_eq!(TorchRng::new(7).randn(16), TorchRng::new((1 << 40) + 7).randn(16));
        assert_ne!(TorchRng::new(7).randn(16), TorchRng::new(8).randn(16));
    }
}
