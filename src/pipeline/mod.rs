//! Running a model: opening it, its weights on the device, prompts to hidden states, denoising, latents to images. Nothing here
//! depends on a job.

mod adapters;
pub(crate) mod autoencode;
mod cache;
pub(crate) mod check;
pub(crate) mod context;
pub(crate) mod denoise;
mod eight_bits;
pub(crate) mod encode;
pub(crate) mod events;
mod fits;
pub(crate) mod hidden;
pub(crate) mod image_plans;
pub(crate) mod inpaint;
pub(crate) mod kernel_texts;
mod load;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod opening;
mod options;
mod plan_images;
pub(crate) mod planning;
mod posterior;
mod probe;
pub(crate) mod prompt;
pub(crate) mod reads;
pub(crate) mod recipe;
pub(crate) mod report;
pub(crate) mod resident;
mod sampling;
mod sizes;
pub(crate) mod text;
mod text_plans;
pub(crate) mod textures;
pub(crate) mod vision;

pub use crate::models::vision::VisionKind;
pub use cache::cache_folder;
pub use inpaint::Masked;
pub use memory::PlanReport;
pub use model::{Model, open_checkpoint};
#[cfg(feature = "cli")]
pub use options::lora_parser;
pub(crate) use options::split_scale;
pub use options::{LoraArg, ModelOptions, SamplingOptions, WeightType, parse_bytes, parse_count};
pub use posterior::Posterior;
pub use report::{LoraReport, ModelReport, PartReport, native_size};
pub use sizes::{PixelOffset, PixelSize};
pub use vision::VisionModel;
