//! The built `portray` as a user runs it: exit codes, one-line errors, nothing half-written.

mod bad_input;
mod runs;
mod support;
