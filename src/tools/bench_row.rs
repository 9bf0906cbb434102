//! What a benchmark tells.

/// One line of a benchmark.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BenchRow {
    /// What ran, for people.
    pub name: String,
    /// Median seconds of one run.
    pub seconds: f64,
    /// FLOPs of one run.
    pub flops: u64,
    /// Bytes that one run must read and write at least once.
    pub bytes: u64,
    /// For an op, its rate relative to the adapter's peak, of arithmetic or memory, whichever is nearer. For a whole step, its
    /// rate relative to that of its contractions alone.
    pub share: Option<f64>,
    /// Seconds that preparation and the first run took beyond a warm run: the driver's compile time.
    pub first_extra: Option<f64>,
}
