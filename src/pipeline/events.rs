//! The caller's events, and what it has answered.

use std::pin::pin;
use std::task::Poll;

use crate::error::{Error, Message, Result};
use crate::event::{CancelToken, Event, Flow, Listener, Phase};
use crate::gpu::Gpu;
use crate::io::files;

/// Tells a job's caller how it goes, and remembers the strongest answer: what is asked for at any event holds from then on,
/// wherever the job looks next.
pub(crate) struct EventSink<'a> {
    listener: Listener<'a>,
    /// Strongest answer of the listener.
    flow: Flow,
    cancel: CancelToken,
    /// Kernels that were said to be compiled, of how many.
    compiled: (usize, usize),
    /// What [`Flow::Finish`] means to the job.
    finish: Flow,
}

impl<'a> EventSink<'a> {
    /// Of a job that has nothing to finish: [`Flow::Finish`] stops it.
    pub fn new(listener: Listener<'a>, cancel: &CancelToken) -> EventSink<'a> {
        let cancel = cancel.clone();
        EventSink { listener, flow: Flow::Continue, cancel, compiled: (0, 0), finish: Flow::Stop }
    }

    /// Of a training.
    pub fn of_training(listener: Listener<'a>, cancel: &CancelToken) -> EventSink<'a> {
        EventSink { finish: Flow::Finish, ..EventSink::new(listener, cancel) }
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
        self.flow = self.flow.or((self.listener)(event));
        self.flow()
    }

    /// What the job is to do, by all answers and by its token.
    fn flow(&self) -> Flow {
        match self.flow.or(self.cancel.flow()) {
            Flow::Finish => self.finish,
            other => other,
        }
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
        self.flow() == Flow::Finish
    }

    /// Whether the job is to stop.
    pub fn stopped(&self) -> bool {
        self.flow() == Flow::Stop
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
        let sink = if training { EventSink::of_training } else { EventSink::new };
        let mut events = sink(&mut listener, &CancelToken::new());
        answers.iter().map(|_| events.say(Event::Phase(Phase::Sampling))).collect()
    }

    #[test]
    fn the_strongest_answer_holds() {
        use Flow::{Continue, Finish, Stop};
        let all = [Continue, Finish, Continue, Stop, Finish, Continue];
        assert_eq!(heard(&all, true), [Continue, Finish, Finish, Stop, Stop, Stop]);
        assert_eq!(heard(&all, false), [Continue, Stop, Stop, Stop, Stop, Stop]);
    }

    #[test]
    fn a_token_counts_as_an_answer_before_the_next_event() {
        let (token, mut listener) = (CancelToken::new(), |_: Event| Flow::Continue);
        let events = EventSink::of_training(&mut listener, &token);
        assert!(!events.finished() && events.go_on().is_ok());
        token.finish();
        assert!(events.finished() && events.go_on().is_ok());
        token.cancel();
        assert!(events.stopped() && events.go_on().is_err());
    }
}
