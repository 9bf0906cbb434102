//! Hosts and devices in virtual time: whatever the host's rhythm, a job finds out how fast the device is.

use std::collections::VecDeque;
use std::time::Duration;

use super::pace::Pacer;
use super::turn::{Account, Budget};

/// How a host's frame ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rhythm {
    /// It waits until the device has done all.
    Waits,
    /// It waits until the device has drawn its frame, and then for the display, every so many seconds.
    Displays(f64),
    /// It waits for the display, but for the device only where that is two frames behind, and polls where it submits, just
    /// behind the job's step.
    RunsAhead(f64),
}

/// A host, a device, and a job without end.
struct Simulation {
    rhythm: Rhythm,
    budget_secs: f64,
    /// What a cost unit takes.
    unit_secs: f64,
    /// What the host's own frame takes on the device.
    host_secs: f64,
    now: f64,
    /// When the device is done with everything.
    device_free_at: f64,
    account: Account,
    pace: f64,
    /// Submits on the device: when they are done, their cost, what they should take.
    flying: VecDeque<(f64, f64, f64)>,
    /// The dispatches' costs, and where the job is: a dispatch, and how much of it has run.
    dispatches: Vec<f64>,
    next: usize,
    run: f64,
}

/// Dispatches as a UNet has them, from 1e6 to 3e9 units.
fn dispatches() -> Vec<f64> {
    (0..211).map(|i| 1e6 * 3000f64.powf(f64::from(i * 97 % 211) / 211.0)).collect()
}

impl Simulation {
    fn new(rhythm: Rhythm, budget_secs: f64, unit_secs: f64, pace: f64) -> Simulation {
        Simulation {
            rhythm,
            budget_secs,
            unit_secs,
            host_secs: 0.002,
            now: 0.0,
            device_free_at: 0.0,
            account: Account::new(),
            pace,
            flying: VecDeque::new(),
            dispatches: dispatches(),
            next: 0,
            run: 0.0,
        }
    }

    fn poll(&mut self) {
        while let Some(&(_, cost, secs)) = self.flying.front().filter(|(done_at, ..)| *done_at <= self.now) {
            self.flying.pop_front();
            self.account.done(self.now, cost, secs);
        }
    }

    fn work(&mut self, secs: f64) -> f64 {
        self.device_free_at = self.device_free_at.max(self.now) + secs;
        self.device_free_at
    }

    /// A frame: the job's step and what the host does. Returns the seconds that it gave the device to do for the job, and
    /// those that it took.
    fn frame(&mut self) -> (f64, f64) {
        let began_at = self.now;
        if !self.flying.is_empty() {
            self.poll();
        }
        self.pace = self.account.grant(self.now, Budget::time(Duration::from_secs_f64(self.budget_secs)), self.pace);
        let mut given = 0.0;
        // A run of the dispatches waits where more than two of its submits are on their way.
        let mut ahead = self.flying.len();
        while ahead <= 2 {
            let rest = self.dispatches[self.next] - self.run;
            let Some(allowed) = self.account.next_allowance(self.now, self.pace, rest, true) else { break };
            let (mut cost, mut count) = (0.0, 0);
            if self.run > 0.0 || rest > allowed.most {
                let one = self.dispatches[self.next] / 4096.0;
                let slice = (allowed.most.min(allowed.cost) / one).floor().max(1.0) * one;
                (cost, count) = (rest.min(slice), 1);
                self.run = if cost == rest { 0.0 } else { self.run + cost };
                self.next += usize::from(cost == rest);
            } else {
                while let Some(&more) = self.dispatches.get(self.next + count) {
                    if count > 0 && (more > allowed.most || cost + more > allowed.cost) {
                        break;
                    }
                    (cost, count) = (cost + more, count + 1);
                }
                self.next += count;
            }
            ahead += 1;
            if self.next == self.dispatches.len() {
                (self.next, ahead) = (0, 0);
            }
            self.now += 20e-6 + 3e-6 * count as f64;
            let (expected, secs) = (cost * self.pace, cost * self.unit_secs);
            self.account.submitted(self.now, expected, count);
            let done_at = self.work(secs + 10e-6);
            self.flying.push_back((done_at, cost, expected));
            given += secs;
            self.poll();
        }
        self.account.end(self.now);
        self.now += 0.0005;
        let drawn_at = self.work(self.host_secs);
        match self.rhythm {
            Rhythm::Waits => self.now = drawn_at,
            Rhythm::Displays(every) => self.now = (drawn_at.max(self.now) / every).ceil() * every,
            Rhythm::RunsAhead(every) => {
                self.poll();
                self.now = (self.now.max(drawn_at - 2.0 * every) / every).ceil() * every;
            }
        }
        if !matches!(self.rhythm, Rhythm::RunsAhead(_)) {
            self.poll();
        }
        (given, self.now - began_at)
    }

    /// Device time a frame over `frames`, as a share of the budget.
    fn share(&mut self, frames: usize) -> f64 {
        (0..frames).map(|_| self.frame().0).sum::<f64>() / frames as f64 / self.budget_secs
    }
}

/// The shares of the budget that the device worked for a job in each fifty frames, the first hundred apart, if more than
/// `apart` of them are not about one.
fn unsettled(simulation: &mut Simulation, apart: usize) -> Option<Vec<f64>> {
    simulation.share(100);
    let shares: Vec<f64> = (0..12).map(|_| simulation.share(50)).collect();
    (shares.iter().filter(|share| !(0.4..1.3).contains(*share)).count() > apart).then_some(shares)
}

fn rhythms() -> Vec<(Rhythm, f64)> {
    let mut all = vec![(Rhythm::Waits, 0.004), (Rhythm::Waits, 0.05)];
    for every in [1.0 / 60.0, 1.0 / 75.0, 1.0 / 120.0] {
        for share in [0.3, 0.7, 1.2] {
            all.extend([(Rhythm::Displays(every), share * every), (Rhythm::RunsAhead(every), share * every)]);
        }
    }
    all
}

#[test]
fn every_host_gives_the_device_what_its_budget_says() {
    let mut wrong = String::new();
    for (rhythm, budget_secs) in rhythms() {
        for unit_secs in [1e-13, 1e-12, 1e-11, 1e-10] {
            for pace in [1e-12, 1e-11, 1e-10, 1e-9, 1e-8] {
                let mut simulation = Simulation::new(rhythm, budget_secs, unit_secs, pace);
                if let Some(shares) = unsettled(&mut simulation, 0) {
                    wrong +=
                        &format!("{rhythm:?}, budget {budget_secs:.4}, {unit_secs:e} thought {pace:e}: {shares:.2?}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Asserts that a job finds its pace again after `disturb`.
fn assert_recovers(disturb: impl Fn(&mut Simulation)) {
    let mut wrong = String::new();
    for (rhythm, budget_secs) in rhythms() {
        let mut simulation = Simulation::new(rhythm, budget_secs, 1e-12, 1e-10);
        disturb(&mut simulation);
        // Within these, it may once look again what a frame holds.
        if let Some(shares) = unsettled(&mut simulation, 1) {
            wrong += &format!("{rhythm:?}, budget {budget_secs:.4}: {shares:.2?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_pause_of_the_host_changes_nothing() {
    // In the first frames, as the job looks for the device's pace, and when it has long found it.
    for at in (0..40).chain(60..70).chain([200]) {
        assert_recovers(|simulation| {
            simulation.share(at);
            simulation.now += 10.0;
            simulation.poll();
        });
    }
}

#[test]
fn a_host_that_was_slow_for_a_while_does_not_leave_the_job_slow() {
    assert_recovers(|simulation| {
        simulation.share(100);
        for _ in 0..100 {
            simulation.frame();
            simulation.now += 0.1;
        }
        simulation.share(1200);
    });
}

#[test]
fn a_device_that_slows_down_or_speeds_up_is_followed() {
    for unit_secs in [1e-13, 1e-11] {
        assert_recovers(|simulation| {
            simulation.share(300);
            simulation.unit_secs = unit_secs;
            simulation.share(1200);
        });
    }
}

#[test]
fn looking_for_the_pace_costs_a_host_few_frames() {
    for every in [1.0 / 60.0, 1.0 / 120.0] {
        let mut simulation = Simulation::new(Rhythm::Displays(every), 0.3 * every, 1e-12, 1e-11);
        let late = (0..1000).filter(|_| simulation.frame().1 > 1.5 * every).count();
        assert!(late <= 6, "{late} of 1000 frames were late");
    }
}

#[test]
fn a_simulation_can_fail() {
    // A job that thinks the device a thousand times slower, and does not learn.
    let mut simulation = Simulation::new(Rhythm::Waits, 0.05, 1e-13, 1e-10);
    for _ in 0..100 {
        simulation.account = Account::new();
        simulation.frame();
    }
    assert!(simulation.share(1) < 0.4);
    assert!(Pacer::new().wants_rest());
}
