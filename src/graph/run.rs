//! Replay of a plan on a device.

mod guards;
mod nodes;
mod pieces;
mod session;
mod submits;

pub use nodes::{Compared, NodeTime, Replayed};
pub use session::Session;
