//! Reports of long jobs to their caller, and the answers that stop them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use std::path::Path;

use serde::Serializer;
use serde::ser::SerializeMap as _;
use serde_json::Value;

use crate::error::{Message, Words};

/// Report of a running job.
///
/// Serializes as an object with the variant's name as `event`: `{"event":"progress","unit":"step","done":3,"total":25}`.
/// Pixels are left out. `docs/json.md` lists every field.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A phase of the job begins.
    Phase(Phase),
    /// A fact worth a line, such as a choice that was made. For people.
    Note(#[serde(serialize_with = "as_text")] Message),
    /// Something odd that does not stop the job. For people.
    Warning(#[serde(serialize_with = "as_text")] Message),
    /// `done` of `total` of the current phase's units (sampler steps, images).
    Progress {
        /// Unit's name: "step", "image", or of validation samples while training "sample step".
        unit: &'static str,
        /// Units done.
        done: usize,
        /// Units in all.
        total: usize,
    },
    /// `done` of the `total` kernels that the job has to have compiled are: those that its device did not have when it began.
    /// A kernel is done where it can run at once: since the driver made its pipeline or, of drivers that compile later, since
    /// it ran. Kernels of class images join when they are begun with. Comes whenever the numbers change, and not at all
    /// where nothing is to be compiled.
    Compiling {
        /// Kernels compiled.
        done: usize,
        /// Kernels in all.
        total: usize,
    },
    /// Rough view of an image from its latent after a step, of as many pixels as the latent.
    Preview {
        /// Index of the image among the job's.
        index: usize,
        /// Steps done, from 1.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
        /// RGB, 8 bits each, row by row.
        #[serde(skip)]
        rgb: Vec<u8>,
    },
    /// A finished image.
    Picture(Picture),
    /// A training step.
    Step(StepReport),
    /// An image made while training.
    Sample {
        /// Training steps done.
        step: usize,
        /// The image.
        #[serde(flatten)]
        picture: Picture,
    },
    /// An evaluation of a training, between its steps.
    Evaluation(EvaluationReport),
    /// A file or folder was written.
    Saved(#[serde(serialize_with = "as_path")] std::path::PathBuf),
}

impl Event {
    /// JSON of the event with its text in `words`.
    pub fn to_json(&self, words: &dyn Words) -> Value {
        // Nothing in an event fails to serialize.
        let mut said = serde_json::to_value(self).unwrap_or_default();
        if let Event::Note(text) | Event::Warning(text) = self {
            said["text"] = text.in_words(words).into();
        }
        said
    }
}

fn as_text<S: Serializer>(text: &Message, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("text", text)?;
    map.end()
}

fn as_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("path", &path.to_string_lossy())?;
    map.end()
}

/// Phase of a job. [`Display`](std::fmt::Display) gives its name for people.
///
/// Serializes as `{"phase":"loading_model","name":"loading the model"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// One prediction of a network whose files do not say what it predicts.
    DetectingPrediction,
    /// Prompts to hidden states.
    EncodingPrompts,
    /// Training images to latents.
    EncodingImages,
    /// Generation of the class images that a training lacks.
    MakingClassImages {
        /// Images to make.
        count: usize,
        /// Prompt of the class.
        prompt: String,
    },
    /// Weights to the device.
    LoadingModel,
    /// Sampler steps.
    Sampling,
    /// Latents to images.
    Decoding,
    /// Predictions that show what words mean to a model.
    MeasuringWords,
    /// Optimizer steps.
    Training,
    /// Judging of images.
    Measuring,
}

impl Phase {
    /// Stable name for programs, in snake case.
    pub fn code(&self) -> &'static str {
        match self {
            Phase::DetectingPrediction => "detecting_prediction",
            Phase::EncodingPrompts => "encoding_prompts",
            Phase::EncodingImages => "encoding_images",
            Phase::MakingClassImages { .. } => "making_class_images",
            Phase::LoadingModel => "loading_model",
            Phase::Sampling => "sampling",
            Phase::Decoding => "decoding",
            Phase::MeasuringWords => "measuring_words",
            Phase::Training => "training",
            Phase::Measuring => "measuring",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::DetectingPrediction => "detecting the prediction type",
            Phase::EncodingPrompts => "encoding the prompts",
            Phase::EncodingImages => "encoding the images",
            Phase::MakingClassImages { count, prompt } => {
                return write!(f, "making {count} class images of \"{prompt}\"");
            }
            Phase::LoadingModel => "loading the model",
            Phase::Sampling => "sampling",
            Phase::Decoding => "decoding",
            Phase::MeasuringWords => "measuring the words",
            Phase::Training => "training",
            Phase::Measuring => "measuring the images",
        })
    }
}

impl serde::Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("phase", self.code())?;
        map.serialize_entry("name", &self.to_string())?;
        map.end()
    }
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// Index, from 0.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Instance loss + prior weight x prior loss.
    pub loss: f64,
    /// Loss on the instance images.
    pub instance: f64,
    /// Loss on the class images, before its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub lr: f64,
}

/// Evaluation of a training after some of its steps, at fixed seeds and fixed noise.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EvaluationReport {
    /// Optimizer steps done.
    pub step: usize,
    /// Mean squared error of predictions for photos, averaged over some timesteps.
    pub loss: f64,
    /// Whether those photos are kept out of the training; else they are trained on.
    pub held_out: bool,
    /// Change of predictions under the class prompt (without one, the empty prompt) since the training started, relative to
    /// their norm.
    pub drift: f64,
    /// Likeness of images of the subject to its photos: 0 as alike as before the training, 1 as the photos are among
    /// themselves. `None` if this evaluation made no images, as of the next five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeness: Option<f64>,
    /// Standard error of `likeness` over the images; `None` of a single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeness_error: Option<f64>,
    /// Likeness of these images to the class prompt by CLIP, relative to that of the base model's images. `None` without a
    /// CLIP model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_fidelity: Option<f64>,
    /// Score: `likeness`, at most 1, times `prompt_fidelity` where it is above 0, minus `drift`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Step of the best score so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<usize>,
}

/// Generated image with what it was made from.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Picture {
    /// Index among the job's images.
    pub index: usize,
    /// Prompt.
    pub prompt: String,
    /// Its own seed.
    pub seed: u64,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// RGB, 8 bits each, row by row.
    #[serde(skip)]
    pub rgb: Vec<u8>,
    /// Text of the PNG's `parameters`.
    pub parameters: String,
}

/// Answer to an [`Event`]: go on, or end.
///
/// The strongest answer that was given to any event so far holds: [`Stop`](Flow::Stop) over [`Finish`](Flow::Finish) over
/// [`Continue`](Flow::Continue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// Go on.
    Continue,
    /// Save what has to be saved and return [`crate::Error::Interrupted`]: a training its state, where an update was done;
    /// a generation gives the images that were sampled to their end. A job that has nothing left to do comes to its
    /// end as if it had not been stopped.
    Stop,
    /// Training: end with this update, and save what there is as the result; asked before the first update, it goes on
    /// until that is done. Elsewhere as [`Flow::Stop`].
    Finish,
}

impl Flow {
    /// The stronger of two answers.
    pub fn or(self, other: Flow) -> Flow {
        match (self, other) {
            (Flow::Stop, _) | (_, Flow::Stop) => Flow::Stop,
            (Flow::Finish, _) | (_, Flow::Finish) => Flow::Finish,
            _ => Flow::Continue,
        }
    }
}

/// Listener of a job, called between steps.
pub type Listener<'a> = &'a mut dyn FnMut(Event) -> Flow;

/// Request to end jobs, which any thread may make: clones share it.
///
/// An engine made by [`Engine::with_cancel`](crate::Engine::with_cancel) heeds it in every call, and a
/// [`Job`](crate::Job) has one of its own ([`Job::cancel_token`](crate::Job::cancel_token)). Jobs look at it wherever they
/// look at their listener's answers, with the same effect; see [`Flow`]. It cannot be taken back.
///
/// ```
/// let token = portray::CancelToken::new();
/// let other = token.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The strongest request so far.
    asked: AtomicU8,
    /// Request that counts here too.
    parent: Option<CancelToken>,
}

const FINISH: u8 = 1;
const STOP: u8 = 2;

impl CancelToken {
    /// Creates a token that asks for nothing yet.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Creates a token that also asks for what this one does, but not the reverse: to end one of several jobs.
    pub fn child(&self) -> CancelToken {
        CancelToken(Arc::new(State { asked: AtomicU8::new(0), parent: Some(self.clone()) }))
    }

    /// Asks to stop, as [`Flow::Stop`] does.
    pub fn cancel(&self) {
        self.0.asked.fetch_max(STOP, Ordering::SeqCst);
    }

    /// Asks to finish early, as [`Flow::Finish`] does.
    pub fn finish(&self) {
        self.0.asked.fetch_max(FINISH, Ordering::SeqCst);
    }

    /// Returns whether [`CancelToken::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.flow() == Flow::Stop
    }

    /// Request as a listener would answer it.
    pub fn flow(&self) -> Flow {
        let own = match self.0.asked.load(Ordering::SeqCst) {
            STOP => Flow::Stop,
            FINISH => Flow::Finish,
            _ => Flow::Continue,
        };
        self.0.parent.as_ref().map_or(own, |parent| own.or(parent.flow()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_request_holds_and_reaches_children_alone() {
        let whole = CancelToken::new();
        let (one, other) = (whole.child(), whole.child());
        one.finish();
        assert_eq!([&whole, &one, &other].map(CancelToken::flow), [Flow::Continue, Flow::Finish, Flow::Continue]);
        one.cancel();
        one.finish();
        assert_eq!([&whole, &one, &other].map(CancelToken::is_cancelled), [false, true, false]);
        whole.finish();
        assert_eq!([&whole, &one, &other].map(CancelToken::flow), [Flow::Finish, Flow::Stop, Flow::Finish]);
    }
}
