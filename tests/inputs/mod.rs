//! Inputs that people have: files of other tools, odd folders and systems, and what has to come of each. Tests begin with
//! the number of the report that they hold (`r01` to `r27`, `n01` to `n19`), or with `kind` for more of the same kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod loras;
mod models;
mod outputs;
mod pictures;
mod shapes;
mod system;

use crate::support;
