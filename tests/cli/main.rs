//! The built `portray` as a user runs it: exit codes, one-line errors, nothing half-written.

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod golden;
mod killed;
mod runs;
mod support;
