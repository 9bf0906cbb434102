//! Families of models. Each has a file with everything that is its own: the parts, how prompts are encoded, the names and
//! configurations of its single files, and the words of its LoRA files.
//!
//! Checkpoints and LoRA files are opened here ([`Checkpoint::open`](crate::io::Checkpoint::open),
//! [`LoraFile::open`](crate::io::LoraFile::open)), because only families tell what a folder or file is.

mod description;
mod encoder;
mod folder;
mod known;
pub mod lora;
mod open;
mod refusals;
mod replace;
mod sd1;
mod sd2;
mod sdxl;
pub mod single_file;
pub mod vision;

pub use description::{Encoder, Family, Heads, TextFlavour, Words};
pub use known::FAMILIES;
pub use refusals::{TAKES, TAKES_LORAS, by_input_channels};
