//! Waiting for the adapter: blocking the thread, or giving it back to whoever drives the job.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use web_time::Instant;

use super::Gpu;
use crate::error::Result;

/// A submit is cut where it would take longer than this: Windows kills jobs after about two seconds, pages must paint.
const SUBMIT_SECONDS: f64 = 0.1;
/// Cost units of the first submit on a device whose pace is unknown.
const FIRST_COST: f64 = 2e8;
/// Submits in flight.
const IN_FLIGHT: usize = 2;

/// The end of something that wgpu calls back for.
pub(crate) struct Signal<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    done: Option<T>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> Signal<T> {
    /// A signal, and the call that gives it.
    pub fn new() -> (Signal<T>, impl FnOnce(T) + Send + 'static) {
        let state = Arc::new(Mutex::new(State { done: None, waker: None }));
        let given = state.clone();
        let give = move |value| {
            let mut state = given.lock().unwrap_or_else(PoisonError::into_inner);
            state.done = Some(value);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        };
        (Signal(state), give)
    }
}

impl<T> Future for Signal<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.done.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A submit on its way: how to wait for it, when it began, and what it costs.
struct Flown {
    index: wgpu::SubmissionIndex,
    done: Signal<()>,
    began: Instant,
    cost: f64,
}

/// Submits on their way, few at a time, each of bounded time.
pub(crate) struct Flight<'g> {
    gpu: &'g Gpu,
    submits: VecDeque<Flown>,
    last_done: Instant,
}

impl<'g> Flight<'g> {
    pub fn new(gpu: &'g Gpu) -> Flight<'g> {
        Flight { gpu, submits: VecDeque::new(), last_done: Instant::now() }
    }

    /// Cost units that the next submit may have.
    pub fn budget(&self) -> f64 {
        self.gpu.pace().map_or(FIRST_COST, |pace| SUBMIT_SECONDS / pace)
    }

    /// Submits `commands`, and waits where too many are on their way.
    pub async fn submit(&mut self, commands: wgpu::CommandBuffer, cost: f64) -> Result<()> {
        let (done, give) = Signal::new();
        let index = self.gpu.queue.submit([commands]);
        self.gpu.queue.on_submitted_work_done(move || give(()));
        self.submits.push_back(Flown { index, done, began: Instant::now(), cost });
        while self.submits.len() > IN_FLIGHT {
            self.land().await?;
        }
        Ok(())
    }

    /// Waits for all but the last.
    pub async fn settle(&mut self) -> Result<()> {
        while self.submits.len() > 1 {
            self.land().await?;
        }
        self.gpu.check()
    }

    /// Waits for the oldest submit and learns the device's pace from it.
    async fn land(&mut self) -> Result<()> {
        let Some(Flown { index, done, began, cost }) = self.submits.pop_front() else { return Ok(()) };
        self.gpu.landed(Some(index), done).await?;
        let seconds = began.max(self.last_done).elapsed().as_secs_f64();
        self.last_done = Instant::now();
        if cost > 0.0 && seconds > 1e-4 {
            let seen = seconds / cost;
            self.gpu.set_pace(self.gpu.pace().map_or(seen, |old| (0.7 * old + 0.3 * seen).max(seen * 0.5)));
        }
        Ok(())
    }
}

impl Gpu {
    /// Waits until everything submitted is done.
    pub async fn wait(&self) -> Result<()> {
        let (done, give) = Signal::new();
        self.queue.on_submitted_work_done(move || give(()));
        self.landed(None, done).await?;
        self.check()
    }

    /// Waits for the submit `index`, or all of them, which `done` tells of: here where the thread is ours, else when
    /// the browser, or the host that polls the device, calls back.
    pub(super) async fn landed<T>(&self, index: Option<wgpu::SubmissionIndex>, done: Signal<T>) -> Result<T> {
        #[cfg(not(target_arch = "wasm32"))]
        if self.blocks {
            let poll = wgpu::PollType::Wait { submission_index: index, timeout: None };
            self.device.poll(poll).map_err(|e| crate::Error::Device(format!("{}: {e}", self.info().name)))?;
        }
        #[cfg(target_arch = "wasm32")]
        let _ = index;
        Ok(done.await)
    }
}
