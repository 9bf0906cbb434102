//! Tools on an engine: measuring, comparing with other implementations, checking a device.

mod bench;
mod bench_steps;
mod forward;
mod self_test;

pub use bench::{BenchRow, bench};
pub use bench_steps::bench_steps;
pub use forward::{ForwardPart, forward};
pub use self_test::{Stopwatch, check_kernel, stopwatch};
