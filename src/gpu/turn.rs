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
    /// How long the last step took where it left the device nothing to do.
    idle: Option<f64>,
    /// Time between two steps where the job had next to nothing to do: the host's own.
    frame: f64,
    /// Submitted since the step began: a driver may be done with it before the step is.
    dispatches: usize,
    spent: f64,
    /// What the step did on its thread before it submitted anything.
    lead: Option<f64>,
    /// Of earlier steps, and still on the device.
    before: f64,
    /// Submits on the device, and the seconds that they should take.
    flying: usize,
    pending: f64,
    /// Since when the device was at work on what was done since the last step, until when, and its cost.
    since: Instant,
    until: Instant,
    done: f64,
}

/// What a device did between two steps of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Done {
    /// Cost units.
    cost: f64,
    /// Seconds from the first submit until the last was seen to be done, which is when the host polls.
    seconds: f64,
    /// The time between two steps that the host needs for itself.
    frame: f64,
}

impl Done {
    /// Seconds that a cost unit takes, where it was thought to take `old`.
    pub fn pace(&self, old: f64) -> f64 {
        if self.seconds <= self.cost * old {
            0.7 * old + 0.3 * self.seconds / self.cost
        } else if self.seconds > 1.5 * self.frame {
            // It was done at some time within the last frame.
            0.7 * old + 0.3 * (self.seconds - self.frame / 2.0) / self.cost
        } else {
            // The host's own rhythm hides it: a little more, until it shows.
            old * 0.97
        }
    }
}

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
        let account = Account {
            budget,
            began,
            idle: None,
            frame: 0.0,
            dispatches: 0,
            spent: 0.0,
            lead: None,
            before: 0.0,
            flying: 0,
            pending: 0.0,
            since: began,
            until: began,
            done: 0.0,
        };
        Turn(Arc::new(Mutex::new(account)))
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's next step begins. Returns what was done since the last.
    pub fn grant(&self, budget: Budget) -> Option<Done> {
        let mut account = self.account();
        let frame = account.began.elapsed().as_secs_f64();
        if account.idle.take().is_some_and(|step| step < frame / 2.0) {
            account.frame = frame;
        }
        (account.budget, account.began, account.dispatches) = (budget, Instant::now(), 0);
        (account.spent, account.lead, account.before) = (0.0, None, account.pending);
        let (cost, seconds) = (account.done, account.until.duration_since(account.since).as_secs_f64());
        if cost == 0.0 {
            return None;
        }
        (account.since, account.done) = (account.until, 0.0);
        Some(Done { cost, seconds, frame: account.frame })
    }

    /// The host's step ends.
    pub fn end(&self) {
        let mut account = self.account();
        account.idle = (account.flying == 0).then(|| account.began.elapsed().as_secs_f64());
    }

    /// Waits until a dispatch of `cost` units fits, or as much of it as may run at once, if it `can_be_cut`; a unit takes
    /// `pace` seconds.
    pub async fn allowed(&self, pace: Option<f64>, class: AdapterClass, cost: f64, can_be_cut: bool) -> Allowance {
        // The host polls at each of its steps: nobody needs waking.
        std::future::poll_fn(|_| {
            let mut account = self.account();
            let elapsed = account.began.elapsed().as_secs_f64();
            let lead = *account.lead.get_or_insert(elapsed);
            let pace = pace.unwrap_or_else(|| guess(class));
            let left = account.budget.seconds - lead - account.spent - account.before;
            let most = account.budget.seconds / 2.0 / pace;
            let piece = if can_be_cut { cost.min(most) } else { cost };
            // What cannot be cut and takes more than a step has it to itself.
            let alone = account.flying == 0 && account.dispatches == 0;
            let dispatches = account.budget.dispatches.saturating_sub(account.dispatches);
            match dispatches > 0 && (piece * pace <= left || alone) {
                true => Poll::Ready(Allowance { cost: (left / pace).max(piece), most, dispatches }),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Notes a submit of `dispatches` and `cost` units that should take `seconds`; what is returned ends it.
    pub fn submitted(&self, cost: f64, seconds: f64, dispatches: usize) -> impl FnOnce() + Send + 'static {
        let mut account = self.account();
        (account.dispatches, account.spent) = (account.dispatches + dispatches, account.spent + seconds);
        if account.flying == 0 && account.done == 0.0 {
            account.since = Instant::now();
        }
        (account.flying, account.pending) = (account.flying + 1, account.pending + seconds);
        let turn = self.clone();
        move || {
            let mut account = turn.account();
            (account.done, account.until) = (account.done + cost, Instant::now());
            account.flying -= 1;
            account.pending = if account.flying == 0 { 0.0 } else { account.pending - seconds };
            account.before = account.before.min(account.pending);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_what_is_seen() {
        let settled = |mut pace: f64, seen: &dyn Fn(f64) -> Done| {
            (0..100).for_each(|_| pace = seen(pace).pace(pace));
            pace
        };
        // Fifty milliseconds are asked for; a unit takes 1e-10 seconds, the host five milliseconds.
        let work = |pace: f64| 0.05 / pace;
        for start in [1e-12, 1e-10, 1e-8] {
            let waits = |pace| Done { cost: work(pace), seconds: work(pace) * 1e-10 + 0.005, frame: 0.005 };
            let pace = settled(start, &waits);
            assert!((0.8e-10..1.3e-10).contains(&pace), "{start:e}: {pace:e}");
        }
        // A host at 60 Hz sees all that takes less only with its next frame.
        let short = |pace: f64| 0.008 / pace;
        for start in [1e-12, 1e-10, 1e-9] {
            let frames = |seconds: f64| (seconds / 0.0166).ceil() * 0.0166;
            let seen = |pace| Done { cost: short(pace), seconds: frames(short(pace) * 1e-10), frame: 0.0166 };
            let pace = settled(start, &seen);
            let taken = short(pace) * 1e-10;
            assert!((0.004..0.020).contains(&taken), "{start:e}: {taken}");
        }
    }

    #[test]
    fn an_account_is_drawn_on_and_filled() {
        let turn = Turn::new();
        let allowed = |cost: f64, can_be_cut: bool| {
            let mut asked = Box::pin(turn.allowed(Some(1e-3), AdapterClass::Cpu, cost, can_be_cut));
            match asked.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
                Poll::Ready(allowed) => Some(allowed),
                Poll::Pending => None,
            }
        };
        assert_eq!(turn.grant(Budget::time(Duration::from_millis(50)).at_most(3)), None);
        let first = allowed(20.0, true).unwrap();
        assert!((first.cost - 50.0).abs() < 5.0 && (first.most - 25.0).abs() < 1e-9 && first.dispatches == 3);
        let end = turn.submitted(40.0, 0.04, 1);
        // Ten are left: neither the whole nor half of a step's time fits; nor does what cannot be cut, beside others.
        assert!(allowed(20.0, true).is_none() && allowed(100.0, true).is_none() && allowed(100.0, false).is_none());
        assert!(allowed(9.0, true).is_some());
        // Of what is still at work the next step has that much less.
        turn.grant(Budget::time(Duration::from_millis(50)).at_most(3));
        assert!(allowed(20.0, true).is_none() && allowed(9.0, true).is_some());
        end();
        assert!(allowed(100.0, false).is_some_and(|a| a.dispatches == 3));
        // What is done within the step is spent all the same.
        turn.submitted(45.0, 0.045, 1)();
        assert!(allowed(9.0, true).is_none() && allowed(4.0, true).is_some());
        turn.submitted(1.0, 0.001, 2)();
        assert!(allowed(1.0, true).is_none(), "three dispatches were all");
        let done = turn.grant(Budget::dispatches(1)).unwrap();
        assert_eq!(done.cost, 86.0);
        assert!(allowed(1e9, true).is_some());
    }
}
