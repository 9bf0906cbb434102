//! Philox 4x32-10 and PyTorch's CUDA normal stream on top of it.

use std::f64::consts::PI;

/// Philox 4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
pub(super) fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9e37_79b9);
            key[1] = key[1].wrapping_add(0xbb67_ae85);
        }
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// `torch.randn` of a CUDA build, as A1111's `rng_philox.py` reproduces it: value i of draw k comes from the counter
/// (k, 0, i, 0) under the seed as key.
#[derive(Debug, Clone)]
pub struct PhiloxRng {
    key: [u32; 2],
    /// How many draws came before.
    draw: u32,
}

impl PhiloxRng {
    /// Starts the stream; all 64 bits of `seed` count.
    pub fn new(seed: u64) -> Self {
        PhiloxRng { key: [seed as u32, (seed >> 32) as u32], draw: 0 }
    }

    /// The next `n` values of N(0, 1).
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        let draw = self.draw;
        self.draw = draw.wrapping_add(1);
        (0..n).map(|i| normal(philox4x32([draw, 0, i as u32, 0], self.key))).collect()
    }
}

/// Box-Muller with cuRAND's constants as f32 holds them; only the sine is used.
fn normal(words: [u32; 4]) -> f32 {
    let scale = f64::from(2.328_306_4e-10f32);
    let scale_angle = f64::from((2.328_306_4e-10f64 * f64::from(2.0 * PI as f32)) as f32);
    let u = f64::from(words[0]) * scale + scale / 2.0;
    let v = f64::from(words[1]) * scale_angle + scale_angle / 2.0;
    ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_numbers() {
        // Random123's known answers (kat_vectors, philox4x32 10).
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn randn_gives_the_values_of_cuda() {
        // torch.randn(3, 4) on CUDA after manual_seed(0).
        let expected = [
            -0.924_662_6,
            -0.425_344_14,
            -2.643_845_8,
            0.145_183_88,
            -0.120_866_47,
            -0.579_725_6,
            -0.622_851_2,
            -0.328_387_08,
            -1.074_542_3,
            -0.363_144_07,
            -1.671_050_7,
            2.265_505f32,
        ];
        let mut rng = PhiloxRng::new(0);
        for (a, b) in rng.randn(12).into_iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{a} against {b}");
        }
        assert_ne!(rng.randn(12)[0], expected[0], "the second draw is another one");
    }
}
