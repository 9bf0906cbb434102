//! A plan that is run to be timed, over stored tensors of zeros.

use std::sync::Arc;

use web_time::Instant;

use crate::engine::{Call, Engine};
use crate::error::Result;
use crate::gpu::{Pool, Store};
use crate::graph::{Plan, Session};

/// Whole step of a model that can be timed repeatedly.
pub struct Stopwatch {
    pub(super) session: Session,
    _store: Store,
}

impl Stopwatch {
    pub(super) async fn new(engine: &Engine, plan: Arc<Plan>) -> Result<Stopwatch> {
        let store = zeroed(engine, &plan)?;
        Ok(Stopwatch { session: Session::new(&engine.gpu, plan, &mut Pool::default(), &store).await?, _store: store })
    }

    /// Runs the step once and returns its seconds.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub fn run(&self) -> Call<'_, f64> {
        Box::pin(self.run_times(1))
    }

    /// Runs the step `times` in a row and returns the seconds of one run.
    pub(super) async fn run_times(&self, times: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            self.session.run().await?;
        }
        self.session.gpu().wait().await?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    }
}

/// Room for all that `plan` expects stored.
fn zeroed(engine: &Engine, plan: &Plan) -> Result<Store> {
    let mut store = Store::new(&engine.gpu);
    let tensors: Vec<(String, u64)> = plan.stored.iter().map(|(k, b)| (k.clone(), *b)).collect();
    store.allocate("zeros", &tensors)?;
    Ok(store)
}

/// Median of some values; of an even number, the upper of the two in the middle.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
