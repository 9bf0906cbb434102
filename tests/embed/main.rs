//! The engine inside somebody else's application: on the host's device, within its frames, to its textures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

mod asked;
#[path = "../common/mod.rs"]
mod common;
mod compiling;
mod host;
mod jobs;
mod pace;
mod textures;
