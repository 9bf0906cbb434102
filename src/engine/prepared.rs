//! [`Prepared`]: a generation that is planned and not yet run.

use std::sync::Arc;

use crate::error::Result;
use crate::event::{Event, Flow, Listener};
use crate::generate::planned::Planned;
use crate::generate::{self, GenerateOptions, Generated};
use crate::pipeline::events::EventSink;
use crate::pipeline::{Model, PlanReport};

use super::Engine;
use super::calls::Call;

/// Generation with an open model, planned for an engine's device: its memory and work are known before it runs, and what
/// was planned is what runs. It holds no memory of the device.
pub struct Prepared {
    engine: Engine,
    model: Arc<Model>,
    options: GenerateOptions,
    planned: Planned,
    report: PlanReport,
}

impl Engine {
    /// Plans the images of `options` with an open model. Ignores the model, the LoRAs and the merging that `options` names.
    /// `listener` hears warnings about the options.
    ///
    /// # Errors
    /// Those of [`Engine::generate`] that are known before it runs: among them, that the job takes more than
    /// `options.model.memory`.
    pub async fn prepare(
        &self,
        model: &Arc<Model>,
        options: &GenerateOptions,
        mut listener: impl FnMut(Event) -> Flow,
    ) -> Result<Prepared> {
        self.plan(model, options, &mut listener).await
    }

    fn plan<'a>(
        &'a self,
        model: &'a Arc<Model>,
        options: &'a GenerateOptions,
        listener: Listener<'a>,
    ) -> Call<'a, Prepared> {
        Box::pin(async move {
            let context = self.context();
            let mut events = EventSink::new(listener, &context.cancel);
            options.check()?;
            options.check_mask(model)?;
            let planned = Planned::new(options, model, context.planning(), &mut |event| events.say(event)).await?;
            let (report, _) = planned.report(options, model, Vec::new())?;
            Ok(Prepared { engine: self.clone(), model: model.clone(), options: options.clone(), planned, report })
        })
    }
}

impl Prepared {
    /// Memory and work of the job.
    pub fn report(&self) -> &PlanReport {
        &self.report
    }

    /// Generates the images. May be called again; the same images come out.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub async fn run(&self, mut listener: impl FnMut(Event) -> Flow) -> Result<Generated> {
        self.made(&mut listener).await
    }

    fn made<'a>(&'a self, listener: Listener<'a>) -> Call<'a, Generated> {
        Box::pin(async move {
            let Prepared { engine, model, options, planned, .. } = self;
            let made = generate::generate_planned(&engine.context(), model, options, planned, listener).await;
            model.settle_weights(&made);
            made
        })
    }
}
