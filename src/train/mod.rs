//! Training: images of a subject to a LoRA, or to a whole UNet (DreamBooth). Options, checks, data, plans, the optimizer step,
//! state and results.

mod buckets;
mod check;
mod class_images;
mod context;
mod data;
pub mod dataset;
mod evaluation;
mod idle_options;
mod init_lora;
pub mod masks;
pub mod micro_batch;
pub mod optimizer;
mod options;
mod places;
pub mod plan;
pub(crate) mod plans;
mod prepare;
mod record;
pub mod replay;
mod run;
mod samples;
mod sanity;
mod save;
pub mod schedule;
mod setup;
pub mod state;
pub mod trainer;
mod training_set;
mod update;
mod views;
mod words;

pub use class_images::class_folder;
pub use dataset::{Dataset, Draw, Photo, Variant};
pub use evaluation::History;
pub use micro_batch::MicroBatch;
pub use options::{BucketStep, Checkpointing, Crop, LrSchedule, Method, Optimizer, Stop, Targets, TrainOptions};
pub use places::{best_path, sample_file, samples_folder};
pub use plan::{Recomputed, Setup, TrainPlan};
pub use plans::plan_train;
pub use replay::{Conditioning, Replay};
pub use run::Trained;
pub(crate) use run::train;
pub use state::{State, Values};
pub use trainer::Trainer;
pub use views::SizeIds;
