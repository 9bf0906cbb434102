//! Models, trainings and whole generations against what PyTorch, PEFT and diffusers gave.

#[path = "../common/mod.rs"]
mod common;
mod inpaint;
mod models;
mod samplers;
mod train;
