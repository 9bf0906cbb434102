//! Generation: prompts to images. Options, checks, plans and the run.

mod batch;
mod check;
mod generated;
mod making;
mod options;
mod parameters;
pub(crate) mod planned;
pub(crate) mod plans;
mod run;
mod start_image;

pub use generated::{Generated, Latents};
pub use options::{GenerateOptions, MOST_PICTURES};
pub use plans::plan_generate;
pub(crate) use run::{generate, generate_planned, generate_unmasked, generate_with};
