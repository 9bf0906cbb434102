//! Where a run stands on disk: its state, saved, resumed, and what is said where that fails.

use std::path::PathBuf;

use crate::error::{Error, Result, message, option};
use crate::io::Place;
use crate::pipeline::events::EventSink;

use super::TrainOptions;
use super::evaluation::History;
use super::state::{STATE_FILE, State, state_folder};

/// Where a run's state lies, and what must not change before it is gone on with.
pub(super) struct Record {
    pub folder: PathBuf,
    pub options: serde_json::Value,
    /// Evaluations so far.
    pub evaluations: History,
    /// Whether what lies there is this run's.
    pub ours: bool,
    /// The update after which it was saved last.
    pub last: Option<usize>,
}

impl Record {
    /// Of a run by `job` that has saved nothing.
    pub fn new(job: &TrainOptions) -> Result<Record> {
        let (folder, options) = (state_folder(&job.out), job.deciding()?);
        Ok(Record { folder, options, evaluations: History::default(), ours: false, last: None })
    }

    /// The run's saved state; `None` for one that was stopped before its first.
    pub fn load(&mut self, events: &mut EventSink<'_>) -> Result<Option<State>> {
        let folder = &self.folder;
        let Some(state) = State::load(folder)? else {
            events.note(message![crate::error::path(folder), " holds no checkpoint yet: starting at step 0"]);
            return Ok(None);
        };
        state.refuse_changed(folder, &self.options)?;
        (self.ours, self.last) = (true, Some(state.step));
        self.evaluations = state.evaluations.clone();
        Ok(Some(state))
    }

    /// Saves `state` in place of this run's last, or of another's where the job may.
    pub fn save(&mut self, state: &State, force: bool) -> Result<()> {
        if !self.ours && !force && State::is_at(&self.folder)? {
            return Err(Error::file(&self.folder, "another run's state appeared there"));
        }
        state.save(&self.folder)?;
        (self.ours, self.last) = (true, Some(state.step));
        Ok(())
    }

    /// What is said of a run that ends with `state` because it is asked to, which could not be saved for `reason`: it is put
    /// where results go that have no place of their own.
    pub fn unsaved(&self, state: &State, reason: &Error) -> Error {
        let (folder, step) = (self.folder.display(), state.step);
        let left = match Place::folder(&self.folder, vec![STATE_FILE.into()], false).put(|at| state.save(at)) {
            Ok(placed) => {
                let moved = format!("it is {}: move it to {folder} and go on with ", placed.path.display());
                message![moved, option("resume")]
            }
            Err(_) => self.last.map_or_else(
                || "nothing of the run is left".into(),
                |n| message![format!("the checkpoint of step {n} is left, go on from it with "), option("resume")],
            ),
        };
        let reason = match reason {
            Error::File { message, .. } => message.clone(),
            other => other.message(),
        };
        let fault = message![format!("the state after step {step} could not be saved: "), reason];
        Error::file(&self.folder, message![fault, "; ", left])
    }

    /// What is said of a run that came to its end with `state`, and whose result can be written nowhere for `reason`: its
    /// state is kept, of which the result can be made.
    pub fn unwritten(&mut self, state: &State, reason: &Error, force: bool) -> Error {
        match self.save(state, force) {
            Ok(()) => {
                let message = "holds the finished training, whose result could not be written";
                let remedy = message!["mend that, and the same command with ", option("resume"), " writes it"];
                Error::file(&self.folder, message![message, " (", reason, "): ", remedy])
            }
            Err(also) => self.unsaved(state, &also),
        }
    }
}
