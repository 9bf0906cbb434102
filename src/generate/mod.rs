//! `generate`: prompts to pictures.

mod check;
mod options;
pub(crate) mod plans;
mod run;
mod start_image;

pub use options::{GenerateOptions, MOST_PICTURES};
pub use plans::plan_generate;
pub use run::{Generated, Latents};
pub(crate) use run::{generate, generate_with};
