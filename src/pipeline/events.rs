//! The caller's events, and what it has answered.

use std::pin::pin;
use std::task::Poll;

use crate::error::{Error, Message, Result};
use crate::event::{Event, Flow, Listener, Phase};
use crate::gpu::Gpu;
use crate::io::files;

/// Tells a job's caller how it goes, and remembers the strongest answer: what is asked for at any event holds from then on,
/// wherever the job looks next.
pub(crate) struct EventSink<'a> {
    listener: Listener<'a>,
    flow: Flow,
    /// Kernels that were said to be compiled, of how many.
    compiled: (usize, usize),
    /// What [`Flow::Finish`] means to the job.
    finish: Flow,
}

impl<'a> EventSink<'a> {
    /// Of a job that has nothing to finish: [`Flow::Finish`] stops it.
    pub fn new(listener: Listener<'a>) -> EventSink<'a> {
        EventSink { listener, flow: Flow::Continue, compiled: (0, 0), finish: Flow::Stop }
    }

    /// Of a training.
    pub fn of_training(listener: Listener<'a>) -> EventSink<'a> {
        EventSink { finish: Flow::Finish, ..EventSink::new(listener) }
    }

    /// Says something that does not stop the job.
    pub fn warn(&mut self, text: impl Into<Message>) {
        self.say(Event::Warning(text.into()));
    }

    /// Says what was chosen, or matched.
    pub fn note(&mut self, text: impl Into<Message>) {
        self.say(Event::Note(text.into()));
    }

    /// Tells of `event`; what the job is to do, by all answers so far.
    pub fn say(&mut self, event: Event) -> Flow {
        if let Some(warning) = files::unsynced() {
            self.tell(Event::Warning(warning.into()));
        }
        self.tell(event)
    }

    fn tell(&mut self, event: Event) -> Flow {
        self.flow = match ((self.listener)(event), self.flow) {
            (Flow::Stop, _) | (_, Flow::Stop) => Flow::Stop,
            (Flow::Finish, _) => self.finish,
            (Flow::Continue, before) => before,
        };
        self.flow
    }

    /// Says that a phase begins.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where it is not to.
    pub fn phase(&mut self, phase: Phase) -> Result<()> {
        self.say(Event::Phase(phase));
        self.go_on()
    }

    /// Does a `part` of a job on `gpu` to its end, and tells meanwhile how many of the job's kernels are compiled.
    pub async fn during<T>(&mut self, gpu: &Gpu, part: impl Future<Output = Result<T>>) -> Result<T> {
        self.attend(gpu, part, false).await
    }

    /// The same of a part that leaves nothing behind.
    ///
    /// # Errors
    /// The part's, and [`Error::Interrupted`] where the job is to stop before a kernel that the part waits for is compiled.
    pub async fn until_stopped<T>(&mut self, gpu: &Gpu, part: impl Future<Output = Result<T>>) -> Result<T> {
        self.attend(gpu, part, true).await
    }

    async fn attend<T>(&mut self, gpu: &Gpu, part: impl Future<Output = Result<T>>, stops: bool) -> Result<T> {
        let mut part = pin!(part);
        std::future::poll_fn(|cx| {
            let polled = part.as_mut().poll(cx);
            self.tell_compiled(gpu);
            match self.go_on().err().filter(|_| stops && polled.is_pending()) {
                Some(interrupted) => Poll::Ready(Err(interrupted)),
                None => polled,
            }
        })
        .await
    }

    /// Says how many of the job's kernels are compiled, where that is news.
    pub fn tell_compiled(&mut self, gpu: &Gpu) {
        if let Some((done, total)) = gpu.compiled().filter(|compiled| *compiled != self.compiled) {
            self.compiled = (done, total);
            self.say(Event::Compiling { done, total });
        }
    }

    /// Whether the job is to save what there is as its result.
    pub fn finished(&self) -> bool {
        self.flow == Flow::Finish
    }

    /// Whether the job is to stop.
    pub fn stopped(&self) -> bool {
        self.flow == Flow::Stop
    }

    /// Nothing, unless the job is to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where it is.
    pub fn go_on(&self) -> Result<()> {
        if self.stopped() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(answers: &[Flow], training: bool) -> Vec<Flow> {
        let mut left = answers.iter().copied();
        let mut listener = |_: Event| left.next().unwrap();
        let mut events = if training { EventSink::of_training(&mut listener) } else { EventSink::new(&mut listener) };
        answers.iter().map(|_| events.say(Event::Phase(Phase::Sampling))).collect()
    }

    #[test]
    fn the_strongest_answer_holds() {
        use Flow::{Continue, Finish, Stop};
        let all = [Continue, Finish, Continue, Stop, Finish, Continue];
        assert_eq!(heard(&all, true), [Continue, Finish, Finish, Stop, Stop, Stop]);
        assert_eq!(heard(&all, false), [Continue, Stop, Stop, Stop, Stop, Stop]);
    }
}
