//! Tools that use an engine: benchmarks, comparison with other implementations, checks of a device.

mod bench;
mod bench_steps;
mod forward;
mod self_test;

pub use bench::{BenchRow, bench};
pub use bench_steps::bench_steps;
pub use forward::{CHECK_BOUND, ForwardInputs, ForwardPart, check_forward, forward};
pub use self_test::{Stopwatch, check_kernel, stopwatch};
