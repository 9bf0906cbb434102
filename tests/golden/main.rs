//! Models, trainings and whole generations against what PyTorch, PEFT and diffusers gave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

mod adapters;
mod batches;
#[path = "../common/mod.rs"]
mod common;
mod four_bits;
mod inpaint;
mod models;
mod samplers;
mod train;
mod vision;
mod xl;
