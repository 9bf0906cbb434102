//! Generation: prompts to images. Options, checks, plans and the run.

mod check;
mod options;
mod parameters;
pub(crate) mod plans;
mod run;
mod start_image;

pub use options::{GenerateOptions, MOST_PICTURES};
pub use plans::plan_generate;
pub use run::{Generated, Latents};
pub(crate) use run::{generate, generate_unmasked, generate_with};
