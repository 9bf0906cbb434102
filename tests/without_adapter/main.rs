//! What needs no adapter: kernels as texts, gradient rules by their references, plans, schedules, files, and the layers
//! of the sources.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod diffusion;
mod grads;
#[path = "../io/mod.rs"]
mod io;
mod layers;
mod plan;
mod published_models;
mod schema;
mod shaders;
