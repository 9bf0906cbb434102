//! The facade: an [`Engine`] on a device, and the [`Job`]s that a host application advances.

mod calls;
#[allow(clippy::module_inception, reason = "the room is called by its main type")]
mod engine;
mod job;
mod prepared;
mod tune;

pub(crate) use calls::Call;
pub use engine::{Engine, EngineOptions, required_features, required_limits};
pub use job::Job;
pub use prepared::Prepared;
