//! Noise schedules and samplers, in f64, without a GPU.
//!
//! [`ScheduleConfig`] is a model's `scheduler_config.json`; [`NoiseSchedule`] its noise levels, for training;
//! [`Trajectory`] all the numbers of a sampling run, known before it starts. A [`SamplerKind`] is one file in
//! `samplers/`.

mod linear;
mod prediction;
mod recurrence;
mod resolve;
mod samplers;
mod schedule;
mod schedule_config;
mod sigmas;
mod spacing;
mod timesteps;
mod trajectory;

pub use prediction::Prediction;
pub use resolve::{SamplerOptions, default_steps_and_guidance};
pub use samplers::SamplerKind;
pub use schedule::NoiseSchedule;
pub use schedule_config::{BetaSchedule, ScheduleConfig};
pub use spacing::Spacing;
pub use trajectory::{Step, Trajectory};
