//! Portray: personalize text-to-image diffusion models on any GPU.
pub mod base;
pub mod diffusion;
pub mod error;
pub mod io;

pub use error::{Error, Result};
