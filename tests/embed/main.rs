//! The engine inside somebody else's application: on the host's device, within its frames, to its textures.

mod asked;
#[path = "../common/mod.rs"]
mod common;
mod compiling;
mod host;
mod jobs;
mod pace;
mod textures;
