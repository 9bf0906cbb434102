//! Portray: personalize text-to-image diffusion models on any GPU.
pub mod base;
pub mod diffusion;
pub mod engine;
pub mod error;
pub mod event;
pub mod gpu;
pub mod graph;
pub mod io;
pub mod job;
pub mod models;
pub mod nn;
pub mod ops;
pub mod train;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
mod web;

pub use error::{Error, Result};
pub use wgpu;
