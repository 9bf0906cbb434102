//! How the demo samples and trains.

use portray::SamplerKind;

/// Sampler of every picture.
pub const SAMPLER: SamplerKind = SamplerKind::Dpmpp2m;
/// Guidance of every picture.
pub const GUIDANCE: f64 = 4.0;
/// Rank of the LoRAs.
pub const RANK: usize = 8;
/// Learning rate of the LoRAs, the same to the end: one that falls makes smoother pictures, and class pictures all
/// alike.
pub const LEARNING_RATE: f64 = 1e-3;
/// Class pictures that training with prior preservation sees.
pub const CLASS_PICTURES: usize = 12;
/// How far the seeds of the pictures that are shown lie from those of the class pictures.
pub const SEED_GAP: u64 = 1000;
