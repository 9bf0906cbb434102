//! The built `portray` as a user runs it: exit codes, one-line errors, nothing half-written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

mod bad_input;
mod captions;
#[path = "../common/mod.rs"]
mod common;
mod demo;
mod embed;
mod evaluate;
mod golden;
mod identifier;
mod inpaint;
#[path = "../inputs/mod.rs"]
mod inputs;
#[path = "../interop/mod.rs"]
mod interop;
mod killed;
mod lycoris;
#[path = "../../examples/make_model/random_model.rs"]
mod random_model;
mod runs;
mod sdxl;
mod single_file;
mod support;
mod watching;
#[cfg(feature = "window")]
#[path = "../window/mod.rs"]
mod window;
