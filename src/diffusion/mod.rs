//! Noise schedules and samplers, in f64, without a GPU.
//!
//! [`ScheduleConfig`] is a model's `scheduler_config.json`; [`NoiseSchedule`] its noise levels, for training;
//! [`Trajectory`] all the numbers of a sampling run, known before it starts.

mod linear;
mod sampler;
mod schedule;
mod schedule_config;
mod sigma_steps;
mod spacing;
mod time_steps;

pub use sampler::{SamplerKind, SamplerOptions, Step, Trajectory, default_steps_and_guidance};
pub use schedule::NoiseSchedule;
pub use schedule_config::{BetaSchedule, Prediction, ScheduleConfig};
pub use spacing::Spacing;
