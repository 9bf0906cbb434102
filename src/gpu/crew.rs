//! Threads that compile kernels while a job does something else.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::base::lock;

/// Threads that compile at once, the job's own among them: drivers compile on the calling thread, and two at a time halve the
/// wait on small machines.
const MOST: usize = 4;

/// Queue of kernel numbers, in compile order.
#[derive(Default)]
pub(super) struct Queue {
    /// The numbers, and whether the queue was closed.
    left: Mutex<(VecDeque<usize>, bool)>,
    changed: Condvar,
}

impl Queue {
    /// Moves `numbers` to the front.
    pub fn put_first(&self, numbers: &[usize]) {
        let mut left = lock(&self.left);
        numbers.iter().rev().for_each(|&number| left.0.push_front(number));
        self.changed.notify_all();
    }

    /// Waits for the next number; `None` once the queue is closed.
    fn next(&self) -> Option<usize> {
        let mut left = lock(&self.left);
        loop {
            match (left.1, left.0.pop_front()) {
                (true, _) => return None,
                (false, Some(number)) => return Some(number),
                (false, None) => left = self.changed.wait(left).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn end(&self) {
        lock(&self.left).1 = true;
        self.changed.notify_all();
    }
}

/// Threads that work on a queue. When it is dropped, each ends after its current kernel.
pub(super) struct Crew {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts threads that call `build` with each of `numbers`, and with those put in front later.
    pub fn new(numbers: Vec<usize>, build: impl Fn(usize) + Clone + Send + 'static) -> Crew {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        // The caller's thread compiles too, where it waits for a kernel.
        let count = (cores.min(MOST) - 1).clamp(1, numbers.len().max(1));
        let queue = Arc::new(Queue { left: Mutex::new((numbers.into(), false)), ..Queue::default() });
        let spawn = |i: usize| {
            let (queue, build) = (queue.clone(), build.clone());
            let run = move || std::iter::from_fn(|| queue.next()).for_each(&build);
            // Where there is no thread to be had, the caller compiles what it needs.
            std::thread::Builder::new().name(format!("portray-compile-{i}")).spawn(run).ok()
        };
        Crew { threads: (0..count).filter_map(spawn).collect(), queue }
    }

    /// The queue of these threads.
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.queue.end();
        for thread in self.threads.drain(..) {
            // One that panicked has said so; what it was at is wanted again.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn all_is_done_and_what_comes_later_too() {
        let (done, seen) = mpsc::channel();
        let crew = Crew::new((0..20).collect(), move |number| done.send(number).unwrap());
        let mut first: Vec<usize> = seen.iter().take(20).collect();
        first.sort_unstable();
        assert_eq!(first, (0..20).collect::<Vec<_>>());
        crew.queue().put_first(&[30, 31]);
        let mut later: Vec<usize> = seen.iter().take(2).collect();
        later.sort_unstable();
        assert_eq!(later, [30, 31]);
        drop(crew);
        assert!(seen.recv().is_err(), "its threads are gone");
    }

    #[test]
    fn what_nobody_waits_for_is_left() {
        let (begun, seen) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let crew = Crew::new((0..1000).collect(), move |number| {
            begun.send(number).unwrap();
            let _ = lock(&wait).recv();
        });
        seen.recv().unwrap();
        crew.queue.end();
        drop(go);
        drop(crew);
        assert!(seen.iter().count() < 1000);
    }
}
