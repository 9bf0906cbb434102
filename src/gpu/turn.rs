//! What a job may ask of a device that a host application renders with: so much at each of the host's steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use web_time::Instant;

use super::AdapterClass;

/// What a host gives a job at a step: time on the device and on the calling thread, or dispatches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    seconds: f64,
    dispatches: usize,
}

impl Budget {
    /// So much that all which the job has on the device takes about `time`, and that the step returns after about as long.
    /// A dispatch that would take more than half of it is run in slices.
    pub fn time(time: Duration) -> Budget {
        Budget { seconds: time.as_secs_f64().max(1e-4), dispatches: usize::MAX }
    }

    /// At most `count` dispatches, whatever they take.
    pub fn dispatches(count: usize) -> Budget {
        Budget { seconds: f64::INFINITY, dispatches: count.max(1) }
    }

    /// The same with at most `count` dispatches.
    pub fn at_most(self, count: usize) -> Budget {
        Budget { dispatches: count.max(1), ..self }
    }
}

/// What the next submit may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allowance {
    /// Cost units in all.
    pub cost: f64,
    /// Cost units of one dispatch; what has more is cut.
    pub most: f64,
    /// Dispatches.
    pub dispatches: usize,
}

/// The account of one job: its host fills it at each step, its submits draw on it.
#[derive(Clone)]
pub(crate) struct Turn(Arc<Mutex<Account>>);

struct Account {
    budget: Budget,
    began: Instant,
    /// The shortest time between two steps: what the host needs for itself.
    frame: Option<f64>,
    /// Submitted since the step began.
    dispatches: usize,
    /// Submits on the device, and the seconds that they should take.
    flying: usize,
    pending: f64,
}

/// Steps nearer to each other than this do not tell how often a host draws.
const SHORTEST_FRAME: f64 = 2e-3;

/// Seconds that a cost unit takes on a device that has not shown it yet.
pub(super) fn guess(class: AdapterClass) -> f64 {
    match class {
        AdapterClass::Cpu => 1e-10,
        AdapterClass::Gpu => 1e-12,
    }
}

impl Turn {
    pub fn new() -> Turn {
        let budget = Budget::dispatches(1);
        let began = Instant::now();
        let account = Account { budget, began, frame: None, dispatches: 0, flying: 0, pending: 0.0 };
        Turn(Arc::new(Mutex::new(account)))
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's next step begins.
    pub fn grant(&self, budget: Budget) {
        let mut account = self.account();
        let frame = account.began.elapsed().as_secs_f64();
        if frame > SHORTEST_FRAME {
            account.frame = Some(account.frame.map_or(frame, |least| least.min(frame)));
        }
        (account.budget, account.began, account.dispatches) = (budget, Instant::now(), 0);
    }

    /// Waits until a dispatch of `cost` units fits, or as much of it as may run at once, if it `can_be_cut`; a unit takes
    /// `pace` seconds.
    pub async fn allowed(&self, pace: Option<f64>, class: AdapterClass, cost: f64, can_be_cut: bool) -> Allowance {
        // The host polls at each of its steps: nobody needs waking.
        std::future::poll_fn(|_| {
            let account = self.account();
            let pace = pace.unwrap_or_else(|| guess(class));
            let left = account.budget.seconds - account.pending;
            let most = account.budget.seconds / 2.0 / pace;
            let piece = if can_be_cut { cost.min(most) } else { cost };
            // What cannot be cut and takes more than a step has it to itself.
            let alone = account.flying == 0;
            let dispatches = account.budget.dispatches.saturating_sub(account.dispatches);
            match dispatches > 0 && (piece * pace <= left || alone) {
                true => Poll::Ready(Allowance { cost: left / pace, most, dispatches }),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Notes a submit of `dispatches` that should take `seconds`; what is returned ends it.
    pub fn submitted(&self, seconds: f64, dispatches: usize) -> impl FnOnce() + Send + 'static {
        let mut account = self.account();
        account.dispatches += dispatches;
        (account.flying, account.pending) = (account.flying + 1, account.pending + seconds);
        let turn = self.clone();
        move || {
            let mut account = turn.account();
            account.flying -= 1;
            account.pending = if account.flying == 0 { 0.0 } else { account.pending - seconds };
        }
    }

    /// Gives the thread back to the host where this step has had its time.
    pub async fn breathe(&self) {
        let mut over = self.is_over();
        std::future::poll_fn(|_| match std::mem::take(&mut over) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    fn is_over(&self) -> bool {
        let account = self.account();
        account.began.elapsed().as_secs_f64() >= account.budget.seconds
    }

    /// A device's pace after a submit of `cost` units was seen done within `seconds`, which hold what the host did
    /// beside: callbacks come when it polls.
    pub fn pace(&self, old: Option<f64>, class: AdapterClass, cost: f64, seconds: f64) -> f64 {
        let frame = self.account().frame.unwrap_or(0.0);
        let old = old.unwrap_or_else(|| guess(class));
        if seconds <= cost * old {
            0.7 * old + 0.3 * seconds / cost
        } else if seconds > 1.5 * frame {
            0.7 * old + 0.3 * (seconds - frame) / cost
        } else {
            // The host's own rhythm hides it: a little more, until it shows.
            old * 0.97
        }
    }
}
