//! Tools that use an engine: benchmarks, comparison with other implementations, checks of a device.

mod bench;
mod bench_row;
mod bench_steps;
mod forward;
mod model_steps;
mod self_test;
mod stopwatch;

pub use bench::bench;
pub use bench_row::BenchRow;
pub use bench_steps::bench_steps;
pub use forward::{CHECK_BOUND, ForwardInputs, ForwardPart, check_forward, forward};
pub use self_test::{check_kernel, stopwatch};
pub use stopwatch::Stopwatch;
