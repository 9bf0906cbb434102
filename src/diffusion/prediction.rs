//! Prediction type of a diffusion model.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Meaning of the UNet's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity `sqrt(abar) noise - sqrt(1 - abar) x0` (Salimans and Ho 2022).
    #[serde(alias = "v_prediction")]
    V,
    /// The clean sample x0: models distilled to one step.
    Sample,
}

impl Prediction {
    /// Name in a `scheduler_config.json`.
    pub fn diffusers_name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        }
    }
}

impl FromStr for Prediction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "epsilon" => Ok(Prediction::Epsilon),
            "v" | "v_prediction" => Ok(Prediction::V),
            "sample" => Ok(Prediction::Sample),
            _ => Err(Error::value("prediction", name, "not supported; use epsilon, v or sample")),
        }
    }
}
