//! Recording, differentiation, memory planning and replay of computations with static shapes.
//!
//! Models record nodes into a [`Graph`]; [`grad`] appends their backward pass; [`Plan`] assigns memory; [`Session`]
//! replays the plan on a device. This module knows the trait [`Op`], never a concrete operation.

mod depends;
mod dump;
mod eval;
mod grad;
#[allow(clippy::module_inception, reason = "the room is called by its main type")]
mod graph;
mod launch;
mod overwrites;
mod placement;
mod plan;
mod run;
mod tensor;

pub use eval::eval;
pub(crate) use eval::reference;
pub use grad::{Gradients, grad};
pub use graph::{Graph, Node, Op, Vjp};
pub use launch::{Binding, Dispatch, KernelLaunch, Launch, Slot};
pub(crate) use plan::GUARD_BYTES;
pub use plan::{Plan, PlanOptions};
pub use run::{Compared, NodeTime, Replayed, Session};
pub use tensor::{NodeId, Source, Tensor, TensorInfo};
