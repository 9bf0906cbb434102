//! Files: what is read, what is refused and in which words, and what is written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod checkpoints;
mod folders_xl;
mod image;
mod lora_file;
mod lora_xl;
mod lycoris;
#[path = "../../examples/make_model/random_model.rs"]
mod random_model;
mod replaced_parts;
mod safetensors;
mod single_file;
mod single_file_xl;
mod support;
mod tokenizer;
