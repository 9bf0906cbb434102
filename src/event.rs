//! What long jobs tell their caller, and how it stops them.

/// Something a job has to say.
#[derive(Clone, Debug)]
pub enum Event {
    /// A phase begins, for people: "encoding prompts", "making class pictures".
    Phase(String),
    /// A fact worth a line: what was chosen, what matched.
    Note(String),
    /// Something odd that does not stop the job.
    Warning(String),
    /// `done` of `total` of the current phase's units (sampler steps, pictures).
    Progress {
        /// Unit's name: "step", "picture", or of sample pictures while training "sample step".
        unit: &'static str,
        /// Units done.
        done: usize,
        /// Units in all.
        total: usize,
    },
    /// `done` of the `total` kernels that the job has to have compiled are: those that its device did not have when it began.
    /// A kernel is done where it can run at once: since the driver made its pipeline or, of drivers that compile later, since
    /// it ran. Kernels of class pictures join when they are begun with. Comes whenever the numbers change, and not at all
    /// where nothing is to be compiled.
    Compiling {
        /// Kernels compiled.
        done: usize,
        /// Kernels in all.
        total: usize,
    },
    /// What a picture will be, from its latent after a step: rough, of as many pixels as the latent.
    Preview {
        /// Index of the picture among the job's.
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
        rgb: Vec<u8>,
    },
    /// A finished picture.
    Picture(Picture),
    /// A training step.
    Step(StepReport),
    /// A picture made while training.
    Sample {
        /// Training step that it shows.
        step: usize,
        /// The picture.
        picture: Picture,
    },
    /// A file was written.
    Saved(std::path::PathBuf),
}

/// One optimizer update.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// Index, from 0.
    pub step: usize,
    /// Updates in all.
    #[serde(skip)]
    pub steps: usize,
    /// Instance loss + prior weight x prior loss.
    pub loss: f64,
    /// Loss on the instance pictures.
    pub instance: f64,
    /// Loss on the class pictures, before its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate of this update.
    pub lr: f64,
}

/// A picture with what it was made from.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// RGB, 8 bits each, row by row.
    pub rgb: Vec<u8>,
    /// Prompt.
    pub prompt: String,
    /// Its own seed.
    pub seed: u64,
    /// Index among the job's pictures.
    pub index: usize,
    /// The text that goes into the PNG's `parameters`.
    pub parameters: String,
}

/// Whether a job goes on.
///
/// The strongest answer that was given to any event so far holds: [`Stop`](Flow::Stop) over [`Finish`](Flow::Finish) over
/// [`Continue`](Flow::Continue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Save what has to be saved and return [`crate::Error::Interrupted`]: a training its state, where an update was done;
    /// a generation gives the pictures that were sampled to their end. A job that has nothing left to do comes to its
    /// end as if it had not been stopped.
    Stop,
    /// Training: end with this update, and save what there is as the result; asked before the first update, it goes on
    /// until that is done. Elsewhere as [`Flow::Stop`].
    Finish,
}

/// The caller's ear: called between steps, often.
pub type Listener<'a> = &'a mut dyn FnMut(Event) -> Flow;
