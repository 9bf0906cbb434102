//! DreamBooth: data, optimizer, checkpoints, metrics.

pub mod checkpoint;
pub mod dataset;
pub mod dreambooth;
pub mod masks;
pub mod metrics;
pub mod optimizer;
pub mod replay;
pub mod schedule;
pub mod trainer;
mod update;

pub use checkpoint::{State, Values};
pub use dataset::{Cached, Dataset, Draw, MicroBatch, Photo};
pub use dreambooth::{Setup, TrainPlan};
pub use masks::Masked;
pub use optimizer::Optimizer;
pub use replay::{Conditioning, Replay};
pub use trainer::Trainer;
