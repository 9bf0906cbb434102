//! Waiting for the device: by blocking the thread, or by giving it back to the host that drives the job.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use web_time::Instant;

use super::Gpu;
use super::pace::guess;
#[cfg(not(target_arch = "wasm32"))]
use super::runs::Running;
use super::turn::{Allowance, Budget, DISPATCH_SECS, SUBMIT_SECS, Turn};
use crate::base::lock;
#[cfg(not(target_arch = "wasm32"))]
use crate::error::Error;
use crate::error::Result;

/// Cost units of the first submit on a device of unknown speed.
const FIRST_COST: f64 = 2e8;
/// Submits in flight.
const IN_FLIGHT: usize = 2;

/// Future of a value that a wgpu callback delivers.
pub(crate) struct Signal<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    done: Option<T>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> Signal<T> {
    /// Creates a signal and the function that resolves it.
    pub fn new() -> (Signal<T>, impl FnOnce(T) + Send + 'static) {
        let state = Arc::new(Mutex::new(State { done: None, waker: None }));
        let given = state.clone();
        let give = move |value| {
            let mut state = lock(&given);
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
        let mut state = lock(&self.0);
        match state.done.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Submit in flight: how to wait for it, when it began, and its cost.
struct Flown {
    index: wgpu::SubmissionIndex,
    done: Signal<Instant>,
    began: Instant,
    cost: f64,
}

/// Queue of submits in flight: few at a time, each of bounded time.
pub(crate) struct Flight<'g> {
    gpu: &'g Gpu,
    submits: VecDeque<Flown>,
    last_done: Instant,
    #[cfg(not(target_arch = "wasm32"))]
    _running: Running<'g>,
}

impl<'g> Flight<'g> {
    pub fn new(gpu: &'g Gpu) -> Flight<'g> {
        Flight {
            gpu,
            submits: VecDeque::new(),
            last_done: Instant::now(),
            #[cfg(not(target_arch = "wasm32"))]
            _running: gpu.runs().begin(),
        }
    }

    /// Waits for a kernel that is being compiled on the queue: the device would seem slow.
    pub async fn begin(&mut self) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        if self.gpu.turn.is_none() && self.gpu.runs().compiling() {
            self.gpu.wait().await?;
            self.last_done = Instant::now();
        }
        Ok(())
    }

    /// Returns the allowance of the next submit, which begins with a dispatch of `cost` that perhaps `can_be_cut`.
    /// Waits for the host's next step if it has none left.
    pub async fn next_allowance(&self, cost: f64, can_be_cut: bool) -> Allowance {
        let pace = self.gpu.pace();
        if let Some(turn) = &self.gpu.turn {
            return turn.next_allowance(pace, self.gpu.caps().class, cost, can_be_cut).await;
        }
        Allowance {
            cost: pace.map_or(FIRST_COST, |pace| SUBMIT_SECS / pace),
            most: pace.map_or(f64::INFINITY, |pace| DISPATCH_SECS / pace),
            dispatches: usize::MAX,
        }
    }

    /// Submits `commands` of so many dispatches and cost units, and waits if too many submits are in flight.
    pub async fn submit(&mut self, commands: wgpu::CommandBuffer, dispatches: usize, cost: f64) -> Result<()> {
        let (done, give) = Signal::new();
        let turn = self.gpu.turn.as_ref();
        let ended = turn.map(|turn| turn.submitted(cost, self.gpu.expected_seconds(cost), dispatches));
        let index = self.gpu.queue.submit([commands]);
        self.gpu.queue.on_submitted_work_done(move || {
            if let Some(ended) = ended {
                ended();
            }
            give(Instant::now());
        });
        self.submits.push_back(Flown { index, done, began: Instant::now(), cost });
        while self.submits.len() > IN_FLIGHT {
            self.land().await?;
        }
        Ok(())
    }

    /// Waits for all submits but the last.
    pub async fn settle(&mut self) -> Result<()> {
        while self.submits.len() > 1 {
            self.land().await?;
        }
        self.gpu.check()
    }

    /// Waits for the oldest submit and learns the device's speed from it.
    async fn land(&mut self) -> Result<()> {
        let Some(Flown { index, done, began, cost }) = self.submits.pop_front() else { return Ok(()) };
        let done = self.gpu.wait_for(Some(index), done).await?;
        let seconds = done.duration_since(began.max(self.last_done)).as_secs_f64();
        self.last_done = done;
        // Where a host polls, several submits land at once: its steps tell more.
        if cost > 0.0 && seconds > 1e-4 && self.gpu.turn.is_none() {
            let seen = seconds / cost;
            self.gpu.set_pace(self.gpu.pace().map_or(seen, |old| (0.7 * old + 0.3 * seen).max(seen * 0.5)));
        }
        Ok(())
    }
}

impl Gpu {
    /// Expected seconds of work of `cost` units.
    fn expected_seconds(&self, cost: f64) -> f64 {
        cost * self.pace().unwrap_or_else(|| guess(self.caps().class))
    }

    /// Begins a step of the job's host, which ends with what is returned: fills the job's account, and learns the device's
    /// pace from what was done since the last step.
    pub(crate) fn begin_step(&self, budget: Budget) -> HostStep<'_> {
        IN_STEP.set(true);
        let step = HostStep { turn: self.turn.as_ref() };
        let Some(turn) = step.turn else { return step };
        if turn.is_busy() {
            // wgpu looks for what is done at each submit, natively: a host that does so only behind the step would leave
            // every other frame unused.
            self.queue.submit([]);
        }
        let pace = self.pace().unwrap_or_else(|| guess(self.caps().class));
        let learnt = turn.grant(budget, pace);
        if learnt != pace {
            self.set_pace(learnt);
        }
        step
    }

    /// Gives the thread back to the host if its step has used its time.
    pub(crate) async fn breathe(&self) {
        if let Some(turn) = &self.turn {
            turn.breathe().await;
        }
    }

    /// Waits until everything submitted is done.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub async fn wait(&self) -> Result<()> {
        let (done, give) = Signal::new();
        self.queue.on_submitted_work_done(move || give(()));
        self.wait_for(None, done).await?;
        self.check()
    }

    /// Waits for the submit `index`, or for all, which `done` reports. Polls and blocks only on a thread of our own;
    /// otherwise the browser, or the host that polls the device, calls back.
    pub(super) async fn wait_for<T>(&self, index: Option<wgpu::SubmissionIndex>, done: Signal<T>) -> Result<T> {
        #[cfg(not(target_arch = "wasm32"))]
        if self.turn.is_none() {
            self.poll(index)?;
        }
        #[cfg(target_arch = "wasm32")]
        let _ = index;
        Ok(done.await)
    }

    /// Blocks this thread, which must be our own, until the submit `index` is done.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn wait_here(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(Some(index))
    }

    /// Blocks the thread until the submit `index`, or everything, is done. The library polls its device here and nowhere
    /// else.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost, and inside a host's step, which promises not to wait: only a handle that
    /// is not the job's own gets here then.
    #[cfg(not(target_arch = "wasm32"))]
    fn poll(&self, index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        if IN_STEP.get() {
            let name = &self.info().name;
            return Err(Error::Device(format!("{name}: a job waits for the device inside a step of its host")));
        }
        let poll = wgpu::PollType::Wait { submission_index: index, timeout: None };
        self.device.poll(poll).map_err(|e| Error::Device(format!("{}: {e}", self.info().name)))?;
        Ok(())
    }
}

std::thread_local! {
    /// A host's step is under way on this thread.
    static IN_STEP: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A step of a job's host, until it is dropped.
pub(crate) struct HostStep<'g> {
    turn: Option<&'g Turn>,
}

impl Drop for HostStep<'_> {
    fn drop(&mut self) {
        IN_STEP.set(false);
        self.turn.iter().for_each(|turn| turn.end());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gpu::DeviceOptions;

    #[test]
    fn nothing_waits_inside_a_hosts_step() {
        let own = pollster::block_on(Gpu::request(&DeviceOptions::default())).unwrap();
        let driven = own.for_host(Turn::new());
        let step = driven.begin_step(Budget::dispatches(1));
        // The handle that is not the job's own would block.
        let error = pollster::block_on(own.wait()).unwrap_err().to_string();
        assert!(error.contains("inside a step of its host"), "{error}");
        drop(step);
        pollster::block_on(own.wait()).unwrap();
    }

    /// Finds files below `folder` whose text, but for tests, names a way to poll a device.
    fn polling(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                polling(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text
                    .split(
                        "#[cfg(test)]
mod ",
                    )
                    .next()
                    .unwrap_or_default();
                let times = code.matches("PollType::").count() + code.matches("poll_all(").count();
                found.extend(std::iter::repeat_n(path.file_name().unwrap().to_string_lossy().into_owned(), times));
            }
        }
    }

    /// `portray watch` is a host itself.
    #[test]
    fn the_device_is_polled_in_one_place() {
        let mut found = Vec::new();
        polling(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        found.sort();
        assert_eq!(found, ["stage.rs", "waiting.rs"]);
    }
}
