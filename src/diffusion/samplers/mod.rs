//! Samplers: one file each.
//!
//! A new sampler is a file with its `SAMPLER`, its `mod` line and its entry in the list below; then its runs in
//! `tests/fixtures/make_samplers.py` and `make_trajectories.py`, and its name in the lists that a test holds.

mod ddim;
mod ddpm;
mod dpmpp_2m;
mod euler;
mod euler_a;
mod heun;
mod lcm;
mod pndm;
mod unipc;

use std::str::FromStr;

use super::recurrence::{Sampler, Setting};
use crate::error::{Error, Result};

macro_rules! samplers {
    ($($(#[$doc:meta])* $kind:ident: $file:ident,)*) => {
        /// A sampler by its command-line name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
        #[serde(try_from = "String")]
        pub enum SamplerKind {
            $($(#[$doc])* $kind,)*
        }

        impl SamplerKind {
            /// Every sampler.
            pub const ALL: &[SamplerKind] = &[$(SamplerKind::$kind),*];

            pub(in crate::low_level::diffusion) fn sampler(self) -> &'static Sampler {
                match self {
                    $(SamplerKind::$kind => const { &$file::SAMPLER },)*
                }
            }
        }
    };
}

samplers! {
    /// DDIM with eta 0 (Song et al. 2021).
    Ddim: ddim,
    /// DDPM, ancestral, with the small fixed variance (Ho et al. 2020).
    Ddpm: ddpm,
    /// PNDM without Runge-Kutta start, that is PLMS (Liu et al. 2022).
    Pndm: pndm,
    /// Euler (Karras et al. 2022, algorithm 2 without churn).
    Euler: euler,
    /// Euler with ancestral noise.
    EulerA: euler_a,
    /// Heun, second order (Karras et al. 2022, algorithm 1).
    Heun: heun,
    /// DPM-Solver++ 2M, midpoint (Lu et al. 2022).
    Dpmpp2m: dpmpp_2m,
    /// UniPC of order 2, B(h) = expm1(h) (Zhao et al. 2023).
    UniPc: unipc,
    /// Latent consistency (Luo et al. 2023).
    Lcm: lcm,
}

impl SamplerKind {
    /// Command-line name.
    pub fn name(self) -> &'static str {
        self.sampler().name
    }

    /// Returns the sampler of a diffusers class, if it is supported.
    pub fn from_class(class: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.sampler().class == class)
    }

    /// Every name, separated by commas.
    pub fn names() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
        names.join(", ")
    }

    /// Fields of a scheduler file whose defaults are this class's alone.
    pub(in crate::low_level::diffusion) fn class_defaults(self) -> &'static [(&'static str, Setting)] {
        self.sampler().defaults
    }
}

impl TryFrom<String> for SamplerKind {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl FromStr for SamplerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|kind| kind.name() == name);
        found.ok_or_else(|| Error::value("sampler", name, format!("not supported; use one of {}", Self::names())))
    }
}
