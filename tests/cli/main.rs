//! The built `portray` as a user runs it: exit codes, one-line errors, nothing half-written.

mod bad_input;
mod captions;
#[path = "../common/mod.rs"]
mod common;
mod demo;
mod golden;
mod killed;
mod lycoris;
#[path = "../../examples/make_model/random_model.rs"]
mod random_model;
mod runs;
mod single_file;
mod support;
