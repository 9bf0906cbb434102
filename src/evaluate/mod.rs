//! Evaluation: how well a subject was learned and how much of everything else was kept, by the figures of the DreamBooth paper.

mod check;
pub mod colour;
mod compared;
mod earlier;
mod embeddings;
mod figures;
mod judge;
mod judges;
mod make;
mod measures;
mod options;
mod photos;
mod prompts;
mod report;
mod run;

pub use embeddings::{EmbeddingFigures, figures_of_file};
pub use figures::Sets;
pub(crate) use judges::Vision;
pub use make::Role;
pub use measures::{Estimate, Figure, Figures, UnitVectors};
pub(crate) use measures::{among, likeness};
pub use options::{EvaluateOptions, ScaledLora};
pub use prompts::{BUILT_IN, Prompt};
pub use report::{Column, Image, Judges, Nearest, PromptFigures, Report, SCHEMA, Twin};
pub use run::Evaluation;
pub(crate) use run::evaluate;
