//! DreamBooth: data, optimizer, checkpoints, metrics.

pub mod checkpoint;
pub mod dataset;
pub mod dreambooth;
pub mod metrics;
pub mod replay;
pub mod schedule;

pub use checkpoint::State;
pub use dataset::{Cached, Dataset, Draw, MicroBatch};
pub use dreambooth::{Setup, TrainPlan, Trainer};
pub use replay::{Conditioning, Replay};
