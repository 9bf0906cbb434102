//! Frame budget: what a job may submit in each step of a host application.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use web_time::Instant;

use super::AdapterClass;
use super::pace::{Pacer, Seen, guess};
use crate::base::lock;

/// Budget of one step: time on the device and on the calling thread, or a number of dispatches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    device_secs: f64,
    thread_secs: f64,
    dispatches: usize,
}

/// Smallest time budget.
const LEAST_SECS: f64 = 1e-4;
/// Thread time of a step whose budget counts dispatches.
const THREAD_SECS: f64 = 0.05;
/// Longest submit: Windows kills jobs after about two seconds, and pages must paint.
pub(super) const SUBMIT_SECS: f64 = 0.1;
/// Longest dispatch; longer ones run in slices.
pub(super) const DISPATCH_SECS: f64 = 0.5;

impl Budget {
    /// Bounds the job's queued device time, including that of earlier steps, and the step's own time on the calling
    /// thread, except for [what happens in one piece](crate::embedding#budgets). A dispatch that would take more than
    /// half of it runs in slices. Less than 0.1 ms counts as 0.1 ms, so a job always advances.
    pub fn time(time: Duration) -> Budget {
        let secs = time.as_secs_f64().max(LEAST_SECS);
        Budget { device_secs: secs, thread_secs: secs, dispatches: usize::MAX }
    }

    /// Allows `count` dispatches per step, whatever they take; 0 counts as 1. The step returns after about 50 ms on the
    /// calling thread, so loading weights or compiling kernels spreads over several steps.
    pub fn dispatches(count: usize) -> Budget {
        Budget { device_secs: f64::INFINITY, thread_secs: THREAD_SECS, dispatches: count.max(1) }
    }

    /// Returns this budget with at most `count` dispatches; 0 counts as 1.
    pub fn at_most(self, count: usize) -> Budget {
        Budget { dispatches: count.max(1), ..self }
    }
}

/// Allowance of the next submit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allowance {
    /// Total cost units.
    pub cost: f64,
    /// Largest cost of one dispatch; a larger one is cut into slices.
    pub most: f64,
    /// Dispatches.
    pub dispatches: usize,
}

/// Account of one job: its host fills it at each step, its submits draw on it.
#[derive(Clone)]
pub(crate) struct Turn {
    opened: Instant,
    account: Arc<Mutex<Account>>,
}

/// State of a [`Turn`]. Every `now`, and every field `…_at`, counts seconds from one moment.
pub(super) struct Account {
    pacer: Pacer,
    budget: Budget,
    began_at: f64,
    /// Thread time of the last step, once it has ended.
    thread_secs: f64,
    /// Whether the step submits nothing, to show the host's own frame time.
    rests: bool,
    /// Whether the device had no work of the job when the step began.
    began_idle: bool,
    /// Dispatches submitted since the step began: a driver may finish them before the step ends.
    dispatches: usize,
    spent_secs: f64,
    /// Thread time of the step before its first submit.
    lead_secs: Option<f64>,
    /// Device time that earlier steps left.
    carried_secs: f64,
    /// Submits on the device, and their expected time.
    flying: usize,
    pending_secs: f64,
    /// Period of the device's work that was done since the last observation: start, end and cost.
    since_at: f64,
    until_at: f64,
    done_cost: f64,
    /// Whether other work of the job was on the device at `since_at`.
    chained: bool,
}

impl Account {
    pub fn new() -> Account {
        Account {
            pacer: Pacer::new(),
            budget: Budget::dispatches(1),
            began_at: 0.0,
            thread_secs: 0.0,
            rests: false,
            began_idle: false,
            dispatches: 0,
            spent_secs: 0.0,
            lead_secs: None,
            carried_secs: 0.0,
            flying: 0,
            pending_secs: 0.0,
            since_at: 0.0,
            until_at: 0.0,
            done_cost: 0.0,
            chained: false,
        }
    }

    /// Starts the host's next step; a cost unit takes `pace` seconds. Returns the updated pace.
    pub fn grant(&mut self, now: f64, budget: Budget, pace: f64) -> f64 {
        let passed = now - self.began_at;
        let nothing_ran = self.began_idle && self.dispatches == 0 && self.flying == 0;
        if nothing_ran && self.thread_secs < passed / 2.0 {
            self.pacer.rested(passed);
        }
        let mut learnt = pace;
        let secs = self.until_at - self.since_at;
        // What is seen of a part says little: when it began is not known.
        if self.done_cost > 0.0 && (self.flying == 0 || self.pacer.is_long(secs)) {
            let seen = Seen { cost: self.done_cost, secs, chained: self.chained, budget_secs: self.budget.device_secs };
            learnt = self.pacer.learn(seen, pace);
            (self.since_at, self.done_cost, self.chained) = (self.until_at, 0.0, self.flying > 0);
        }
        (self.budget, self.began_at, self.began_idle) = (budget, now, self.flying == 0);
        (self.dispatches, self.spent_secs, self.lead_secs) = (0, 0.0, None);
        self.carried_secs = self.pending_secs;
        // Dispatches are counted whatever they take.
        self.rests = budget.device_secs.is_finite() && self.pacer.wants_rest();
        learnt
    }

    /// Ends the host's step.
    pub fn end(&mut self, now: f64) {
        self.thread_secs = now - self.began_at;
    }

    /// Returns the allowance of the next submit, which begins with a dispatch of `cost` units, or with as much of it as
    /// may run at once if it `can_be_cut`. `None` if it must wait for another step.
    pub fn next_allowance(&mut self, now: f64, pace: f64, cost: f64, can_be_cut: bool) -> Option<Allowance> {
        let elapsed = now - self.began_at;
        let lead = *self.lead_secs.get_or_insert(elapsed);
        let left = self.budget.device_secs - lead - self.spent_secs - self.carried_secs;
        let most = (self.budget.device_secs / 2.0).min(DISPATCH_SECS) / pace;
        let piece = if can_be_cut { cost.min(most) } else { cost };
        let dispatches = self.budget.dispatches.saturating_sub(self.dispatches);
        // What cannot be cut and takes more than a step has it to itself.
        let alone = self.flying == 0 && self.dispatches == 0;
        let fits = piece * pace <= left && elapsed < self.budget.thread_secs;
        let allowed = Allowance { cost: (left.min(SUBMIT_SECS) / pace).max(piece), most, dispatches };
        (!self.rests && dispatches > 0 && (fits || alone)).then_some(allowed)
    }

    /// Records a submit of `dispatches` and `cost` units that should take `secs`.
    pub fn submitted(&mut self, now: f64, secs: f64, dispatches: usize) {
        (self.dispatches, self.spent_secs) = (self.dispatches + dispatches, self.spent_secs + secs);
        if self.flying == 0 && self.done_cost == 0.0 {
            (self.since_at, self.chained) = (now, false);
        }
        (self.flying, self.pending_secs) = (self.flying + 1, self.pending_secs + secs);
    }

    /// Records that such a submit was seen done.
    pub fn done(&mut self, now: f64, cost: f64, secs: f64) {
        (self.done_cost, self.until_at) = (self.done_cost + cost, now);
        self.flying -= 1;
        self.pending_secs = if self.flying == 0 { 0.0 } else { self.pending_secs - secs };
        self.carried_secs = self.carried_secs.min(self.pending_secs);
    }

    fn is_over(&self, now: f64) -> bool {
        now - self.began_at >= self.budget.thread_secs
    }
}

impl Turn {
    pub fn new() -> Turn {
        Turn { opened: Instant::now(), account: Arc::new(Mutex::new(Account::new())) }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }

    fn now(&self) -> f64 {
        self.opened.elapsed().as_secs_f64()
    }

    /// Returns whether work of the job is on the device, as far as was observed.
    pub fn is_busy(&self) -> bool {
        self.account().flying > 0
    }

    /// Starts the host's next step; a cost unit takes `pace` seconds. Returns the updated pace.
    pub fn grant(&self, budget: Budget, pace: f64) -> f64 {
        self.account().grant(self.now(), budget, pace)
    }

    /// Ends the host's step.
    pub fn end(&self) {
        self.account().end(self.now());
    }

    /// Waits until a dispatch of `cost` units fits, or as much of it as may run at once if it `can_be_cut`; a unit
    /// takes `pace` seconds.
    pub async fn next_allowance(
        &self,
        pace: Option<f64>,
        class: AdapterClass,
        cost: f64,
        can_be_cut: bool,
    ) -> Allowance {
        let pace = pace.unwrap_or_else(|| guess(class));
        // The host polls at each of its steps: nobody needs waking.
        std::future::poll_fn(|_| match self.account().next_allowance(self.now(), pace, cost, can_be_cut) {
            Some(allowed) => Poll::Ready(allowed),
            None => Poll::Pending,
        })
        .await
    }

    /// Records a submit of `dispatches` and `cost` units that should take `secs`. Call the returned function when it is
    /// done.
    pub fn submitted(&self, cost: f64, secs: f64, dispatches: usize) -> impl FnOnce() + Send + 'static {
        self.account().submitted(self.now(), secs, dispatches);
        let turn = self.clone();
        move || turn.account().done(turn.now(), cost, secs)
    }

    /// Gives the thread back to the host if this step has used its time.
    pub async fn breathe(&self) {
        let mut over = self.account().is_over(self.now());
        std::future::poll_fn(|_| match std::mem::take(&mut over) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cost unit takes a millisecond.
    const PACE: f64 = 1e-3;

    fn budget() -> Budget {
        Budget::time(Duration::from_millis(50)).at_most(3)
    }

    /// An account whose host's rhythm is known.
    fn rested() -> Account {
        let mut account = Account::new();
        for second in 0..3 {
            account.grant(f64::from(second), budget(), PACE);
            account.end(f64::from(second));
        }
        account
    }

    #[test]
    fn an_account_is_drawn_on_and_filled() {
        let mut account = rested();
        let mut now = 3.0;
        account.grant(now, budget(), PACE);
        let first = account.next_allowance(now, PACE, 20.0, true).unwrap();
        assert!((first.cost - 50.0).abs() < 1e-9 && (first.most - 25.0).abs() < 1e-9 && first.dispatches == 3);
        account.submitted(now, 0.04, 1);
        // Ten are left: neither the whole nor half of a step's time fits; nor does what cannot be cut, beside others.
        for (cost, can_be_cut) in [(20.0, true), (100.0, true), (100.0, false)] {
            assert_eq!(account.next_allowance(now, PACE, cost, can_be_cut), None);
        }
        assert!(account.next_allowance(now, PACE, 9.0, true).is_some());
        // Nor does anything where the thread has had its time.
        assert_eq!(account.next_allowance(now + 0.051, PACE, 9.0, true), None);
        // Of what is still at work the next step has that much less.
        now += 0.03;
        account.grant(now, budget(), PACE);
        assert_eq!(account.next_allowance(now, PACE, 20.0, true), None);
        assert!(account.next_allowance(now, PACE, 9.0, true).is_some());
        account.done(now, 40.0, 0.04);
        assert_eq!(account.next_allowance(now, PACE, 100.0, false).unwrap().dispatches, 3);
        // What is done within the step is spent all the same.
        account.submitted(now, 0.045, 1);
        account.done(now, 45.0, 0.045);
        assert_eq!(account.next_allowance(now, PACE, 9.0, true), None);
        assert!(account.next_allowance(now, PACE, 4.0, true).is_some());
        account.submitted(now, 0.001, 2);
        assert_eq!(account.next_allowance(now, PACE, 1.0, true), None, "three dispatches were all");
        account.grant(now + 1.0, Budget::dispatches(1), PACE);
        assert!(account.next_allowance(now + 1.0, PACE, 1e9, true).is_some());
    }

    #[test]
    fn no_submit_and_no_dispatch_is_long_however_large_the_budget() {
        let mut account = rested();
        for budget in [Budget::time(Duration::MAX), Budget::dispatches(usize::MAX)] {
            account.grant(3.0, budget, PACE);
            let allowed = account.next_allowance(3.0, PACE, 1.0, true).unwrap();
            assert_eq!([allowed.cost, allowed.most], [SUBMIT_SECS / PACE, DISPATCH_SECS / PACE]);
        }
    }

    #[test]
    fn a_step_of_counted_dispatches_gives_the_thread_back_too() {
        let mut account = Account::new();
        account.grant(1.0, Budget::dispatches(usize::MAX), PACE);
        assert!(!account.is_over(1.049) && account.is_over(1.051));
        account.grant(2.0, Budget::time(Duration::ZERO).at_most(0), PACE);
        assert!(!account.is_over(2.00009) && account.is_over(2.00011));
        assert_eq!(account.budget.dispatches, 1);
    }
}
