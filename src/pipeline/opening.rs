//! Opening the model of a job, which checks what the job reads of it: to run, or for a plan, which computes nothing.

use crate::error::{Message, Result, message, option};
use crate::event::{Event, Flow, Phase};

use super::context::Context;
use super::events::EventSink;
use super::probe::predicts_velocity;
use super::reads::Reads;
use super::{LoraArg, Model, ModelOptions};

/// Opens a model for a job that `reads` these parts of it, and hears its own caller.
pub(crate) async fn open(
    context: &Context,
    options: &ModelOptions,
    loras: &[LoraArg],
    reads: Reads,
    events: &mut EventSink<'_>,
) -> Result<Model> {
    let mut model = Model::open(options, loras, &mut |event| events.say(event))?;
    events.go_on()?;
    let known = model.checkpoint.prediction_known() || options.prediction.is_some();
    // Before the probe, which loads the UNet and computes.
    for note in model.check_reads(Reads { unet: reads.unet || !known, ..reads })? {
        events.note(note);
    }
    if known {
        return Ok(model);
    }
    events.phase(Phase::DetectingPrediction)?;
    let velocity = context.gpu.in_error_scopes(predicts_velocity(context, &model)).await?;
    if velocity {
        model.predicts_velocity()?;
    }
    let (found, other) = if velocity { ("velocity", "epsilon") } else { ("noise", "v") };
    let name = model.checkpoint.name();
    let seen = "by one prediction of the network, for it does not say";
    let wrong = message!["; where that is wrong: ", option("prediction"), format!(" {other}")];
    events.note(message![format!("{name} seems to predict {found}, {seen}"), wrong]);
    Ok(model)
}

/// Keeps what a job says of its inputs, for a plan's notes.
pub(crate) fn told_of(told: &mut Vec<Message>, event: Event) -> Flow {
    match event {
        Event::Note(text) => told.push(text),
        Event::Warning(text) => told.push(message!["warning: ", text]),
        _ => {}
    }
    Flow::Continue
}

/// Opens the model of a job that `reads` these parts, and gives what is to be said of it: nothing is computed for a plan.
pub(crate) fn open_for_plan(options: &ModelOptions, loras: &[LoraArg], reads: Reads) -> Result<(Model, Vec<Message>)> {
    let mut notes = Vec::new();
    let model = Model::open(options, loras, &mut |event| told_of(&mut notes, event))?;
    notes.extend(model.check_reads(reads)?.into_iter().map(Message::from));
    if !model.checkpoint.prediction_known() && options.prediction.is_none() {
        let name = model.checkpoint.name();
        let planned = "does not say what it predicts: planned as for noise; a job looks at one prediction, or ";
        notes.push(message![format!("{name} {planned}"), option("prediction"), " says it"]);
    }
    Ok((model, notes))
}
