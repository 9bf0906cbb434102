//! Text encoder, UNet, VAE and image towers; field names are checkpoint keys.
//!
//! Tensors are channels-last: images `[n, h, w, c]`, tokens `[n, t, c]`. Each model is built from its `config.json`
//! over a [`crate::nn::Scope`], which then knows its parameters, and records itself into a [`crate::graph::Graph`].

mod attention;
mod bands;
mod build;
mod conditioning;
pub mod config;
mod denoiser;
mod resnet;
mod text_encoder;
mod transformer;
mod unet;
mod unet_blocks;
mod vae;
mod vae_blocks;
pub mod vision;

pub use conditioning::{Added, Conditioning};
pub use config::{TextEncoderConfig, UnetConfig, VaeConfig};
pub use denoiser::{Denoiser, LatentSpec};
pub use text_encoder::{Encoded, Taps, TextEncoder};
pub use unet::{Context, KeyValue, Sample, UNet};
pub use vae::{MapSizes, Vae};
