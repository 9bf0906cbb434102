//! How the demo samples and trains.

use portray::SamplerKind;

/// Sampler of every image.
pub const SAMPLER: SamplerKind = SamplerKind::Dpmpp2m;
/// Guidance of every image.
pub const GUIDANCE: f64 = 4.0;
/// Images that are sampled together.
pub const BATCH: usize = 4;
/// Rank of the LoRAs.
pub const RANK: usize = 8;
/// Learning rate of the LoRAs, the same to the end: one that falls makes smoother images, and class images all
/// alike.
pub const LEARNING_RATE: f64 = 1e-3;
/// Class images that training with prior preservation sees.
pub const CLASS_PICTURES: usize = 12;
/// How far the seeds of the images that are shown lie from those of the class images.
pub const SEED_GAP: u64 = 1000;
