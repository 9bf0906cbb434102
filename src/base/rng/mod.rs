//! Random streams.
//!
//! Two of them reproduce what other programs draw, so that a seed means the same image there and here: [`TorchRng`]
//! (PyTorch's CPU generator, the default) and [`PhiloxRng`] (PyTorch's CUDA generator, as A1111 reproduces it). They
//! are sequential: what a draw gives depends on the draws before it. Everything else in the project is random by
//! position, not by order: see [`CounterRng`].

mod counter;
mod philox;
mod torch;

use std::str::FromStr;

pub use counter::{CounterRng, Stream};
pub use philox::PhiloxRng;
pub use torch::TorchRng;

use crate::error::{Error, Result};

/// Which program's noise a seed stands for (`--rng torch|philox`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum RngKind {
    /// `torch.randn(…, generator=torch.Generator().manual_seed(seed))` on the CPU.
    #[default]
    Torch,
    /// `torch.randn` of CUDA builds.
    Philox,
}

impl FromStr for RngKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "torch" => Ok(RngKind::Torch),
            "philox" => Ok(RngKind::Philox),
            _ => Err(Error::value("rng", name, "not a generator; use torch or philox")),
        }
    }
}

/// The sequential noise stream of one image.
#[derive(Debug, Clone)]
pub enum NoiseRng {
    /// PyTorch's CPU stream.
    Torch(TorchRng),
    /// PyTorch's CUDA stream.
    Philox(PhiloxRng),
}

impl NoiseRng {
    /// The stream of `kind` that `seed` starts.
    pub fn new(kind: RngKind, seed: u64) -> Self {
        match kind {
            RngKind::Torch => NoiseRng::Torch(TorchRng::new(seed)),
            RngKind::Philox => NoiseRng::Philox(PhiloxRng::new(seed)),
        }
    }

    /// The next `n` values of N(0, 1), as one call of `torch.randn(n)` gives them. Two calls of `n` differ from one of
    /// `2 n`.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        match self {
            NoiseRng::Torch(rng) => rng.randn(n),
            NoiseRng::Philox(rng) => rng.randn(n),
        }
    }
}
