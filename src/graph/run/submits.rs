//! A run: submits of bounded time.

use std::sync::atomic::Ordering;

use super::pieces::{Piece, take};
use super::session::Session;
use crate::error::Result;
use crate::gpu::Flight;

impl Session {
    /// Runs the plan, in submits of bounded time. A dispatch that takes too long runs in slices of its workgroups.
    /// Returns once everything is submitted and at most the last submit is in flight.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device fails.
    pub async fn run(&self) -> Result<()> {
        // A run that was given up may have left a slice behind.
        self.tell_slice(None);
        let limit = self.plan.caps.max_workgroups_per_dimension;
        let mut flight = Flight::new(&self.gpu);
        flight.begin().await?;
        let (mut next, mut first) = (0, 0);
        while let Some(step) = self.steps.get(next) {
            let rest = step.cost * f64::from(step.workgroups() - first) / f64::from(step.workgroups());
            let (piece, cost) =
                take(&self.steps, limit, next, first, flight.next_allowance(rest, step.can_be_cut).await);
            match piece {
                Piece::Steps(steps) => {
                    let whole = steps.clone().map(|step| (step, self.steps[step].grid));
                    flight.submit(self.encode(whole), steps.len(), cost).await?;
                    next = steps.end;
                }
                Piece::Slice { step, workgroups } => {
                    self.tell_slice(Some((step, workgroups.start)));
                    flight.submit(self.encode([(step, [workgroups.len() as u32, 1, 1])]), 1, cost).await?;
                    first = workgroups.end;
                    if first == self.steps[step].workgroups() {
                        self.tell_slice(None);
                        (next, first) = (step + 1, 0);
                    }
                }
            }
        }
        flight.settle().await?;
        self.steps.iter().for_each(|step| step.pipeline.set_ready());
        Ok(())
    }

    /// Sets what the next submits run: `slice`, a step from a workgroup on, or every step whole.
    pub(super) fn tell_slice(&self, slice: Option<(usize, u32)>) {
        let Some(uniforms) = &self.uniforms else { return };
        let told = self.sliced.swap(slice.map_or(0, |(step, _)| step + 1), Ordering::Relaxed);
        let restored = told.checked_sub(1).filter(|&told| slice.is_none_or(|(step, _)| step != told));
        for (step, first) in restored.map(|step| (step, 0)).into_iter().chain(slice) {
            self.gpu.queue.write_buffer(uniforms, self.steps[step].uniform, &first.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::base::DType;
    use crate::gpu::{Allowance, Budget, Gpu, Pool, Store, Turn, Variants};
    use crate::graph::{Graph, Plan, PlanOptions, Tensor};

    const ROWS: usize = 3000;

    /// Two ops, the first of many workgroups, with what they read.
    fn session(gpu: &Gpu) -> (Session, Tensor, Tensor) {
        let mut g = Graph::new();
        let x = g.input("x", [ROWS, 64], DType::F32);
        let y = crate::ops::unary(&mut g, x, crate::ops::Activation::Gelu).unwrap();
        let z = crate::ops::add(&mut g, y, x).unwrap();
        g.output(z);
        let plan =
            Plan::new(&g, gpu.caps(), &Variants::default(), &PlanOptions { sentinels: true, ..Default::default() })
                .unwrap();
        let store = Store::new(gpu);
        let session = pollster::block_on(Session::new(gpu, plan, &mut Pool::default(), &store)).unwrap();
        (session, x, z)
    }

    /// Steps of `budget` until the run is over, or `most` of them.
    fn step(session: &Session, budget: Budget, most: usize) -> usize {
        let mut run = Box::pin(session.run());
        for steps in 1..=most {
            let host_step = session.gpu.begin_step(budget);
            let polled = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            drop(host_step);
            session.gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
            if let Poll::Ready(done) = polled {
                done.unwrap();
                return steps;
            }
        }
        most
    }

    #[test]
    fn slices_give_what_whole_dispatches_give() {
        let own = pollster::block_on(async { Gpu::request(&Default::default()).await }).unwrap();
        let gpu = own.for_host(Turn::new());
        let (mut session, x, z) = session(&gpu);
        let values: Vec<f32> = (0..ROWS * 64).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        session.write(x, &values).unwrap();
        let read = |session: &Session| {
            let at = session.place(z).unwrap();
            pollster::block_on(own.read(&at.buffer, at.offset, at.bytes)).unwrap()
        };
        assert_eq!(step(&session, Budget::dispatches(usize::MAX), 9), 1);
        let whole = read(&session);

        // A pace at which the first dispatch takes a second.
        own.set_pace(1.0 / session.steps[0].cost);
        let budget = Budget::time(Duration::from_millis(20));
        let allowance = |most| Allowance { cost: session.steps[0].cost, most, dispatches: 9 };
        let (piece, cost) = take(&session.steps, 65535, 0, 0, allowance(session.steps[0].cost / 10.0));
        assert!(matches!(piece, Piece::Slice { step: 0, workgroups } if workgroups.start == 0 && workgroups.end > 1));
        assert!(cost <= session.steps[0].cost / 10.0);
        session.plant_sentinels().unwrap();
        assert!(read(&session) != whole);
        let steps = step(&session, budget, 5000);
        assert!(steps > 5, "{steps}");
        assert!(read(&session) == whole);

        // A run that is given up in the middle of a dispatch leaves the next one whole.
        own.set_pace(1.0 / session.steps[0].cost);
        assert_eq!(step(&session, budget, 3), 3);
        assert!(session.sliced.load(Ordering::Relaxed) > 0);
        step(&session, Budget::dispatches(usize::MAX), 9);
        assert!(read(&session) == whole);

        // What cannot be cut is not.
        session.steps[0].can_be_cut = false;
        let (piece, _) = take(&session.steps, 65535, 0, 0, Allowance { cost: 1.0, most: 1.0, dispatches: 9 });
        assert!(matches!(piece, Piece::Steps(steps) if steps == (0..1)));
    }
}
